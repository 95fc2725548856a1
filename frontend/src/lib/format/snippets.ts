/** Commands that use this very cluster. */
import type { Member } from '$lib/api';

export interface Snippet {
	title: string;
	about: string;
	code: string;
}

interface Facts {
	origin: string;
	members: Pick<Member, 'id' | 'addr' | 'gossip_port' | 'status'>[];
	me: string | null;
	token: boolean;
}

const ETC = '/etc/kepler';
/** Stands for what only the reader knows. */
const THIS_MACHINE = 'THIS_MACHINES_ADDRESS';

const isLoopback = (addr: string): boolean => /^(127\.|localhost$|::1$)/.test(addr);

export function snippets({ origin, members, token }: Facts): Snippet[] {
	const auth = token ? " \\\n  -H 'Authorization: Bearer TOKEN'" : '';
	const alive = members.filter((m) => m.status === 'alive').slice(0, 2);
	const host = (addr: string) => (addr.includes(':') ? `[${addr}]` : addr);
	const seeds = alive.map((m) => `${host(m.addr)}:${m.gossip_port}`).join(',') || '127.0.0.1:4001';
	const next = fresh(members.map((m) => m.id));
	const remote = members.some((m) => m.status !== 'left' && !isLoopback(m.addr));
	// A node is told of at the address that it is bound to: on loopback the others could not reach it.
	const place = remote
		? [
				`BIND_ADDR=${THIS_MACHINE}`,
				`CLUSTER_KEY_FILE=${ETC}/cluster.key`,
				`API_TOKEN_FILE=${ETC}/api.token`
			]
		: [];
	const code = (...parts: string[][]) => parts.filter((p) => p.length).map((p) => p.join(' ')).join(' \\\n  ');
	return [
		{
			title: 'curl',
			about: 'Store, read, list and delete, with nothing but HTTP.',
			code: [
				`curl -T photo.jpg${auth} \\\n  ${origin}/v1/files/photos/photo.jpg`,
				`curl -O${auth} \\\n  ${origin}/v1/files/photos/photo.jpg`,
				`curl${auth} \\\n  '${origin}/v1/files?prefix=photos/'`,
				`curl -X DELETE${auth} \\\n  ${origin}/v1/files/photos/photo.jpg`
			].join('\n')
		},
		{
			title: 'kepler',
			about: 'The command line: progress bars, folders, checks each chunk against its CID.',
			code: [
				`export KEPLER_URL=${origin}`,
				...(token ? ['export KEPLER_TOKEN=TOKEN'] : []),
				'kepler put photo.jpg photos/photo.jpg',
				'kepler get photos/photo.jpg',
				'kepler ls -l photos/',
				'kepler locate photos/photo.jpg',
				'kepler cluster status'
			].join('\n')
		},
		{
			title: 'Python',
			about: 'The standard library is enough.',
			code: [
				'import json, urllib.request',
				'',
				`NODE = "${origin}"`,
				`HEADERS = {${token ? '"Authorization": "Bearer TOKEN"' : ''}}`,
				'',
				'def call(method, path, data=None):',
				'    url = NODE + path',
				'    request = urllib.request.Request(url, data, HEADERS, method=method)',
				'    with urllib.request.urlopen(request) as answer:',
				'        return answer.read()',
				'',
				'receipt = json.loads(call("PUT", "/v1/files/notes/hello.txt", b"hello"))',
				'print(receipt["cid"], receipt["replicas"]["nodes"])',
				'print(call("GET", "/v1/files/notes/hello.txt"))'
			].join('\n')
		},
		{
			title: remote ? 'Another node' : 'Another node on this machine',
			about: remote
				? `Put the address at which the others reach it in place of ${THIS_MACHINE}. It joins through any member, takes its share of the ring and its chunks.`
				: 'It joins through any member, takes its share of the ring and its chunks.',
			code: code(
				[`NODE_ID=${next}`, ...place.slice(0, 1)],
				remote ? [] : ['HTTP_PORT=0', 'GOSSIP_PORT=0', 'TRANSFER_PORT=0'],
				[`SEEDS=${seeds}`],
				...place.slice(1).map((p) => [p]),
				['kepler-node']
			)
		},
		{
			title: 'systemd',
			about: `A node that starts with its machine: /etc/systemd/system/kepler-node.service${remote ? `, with the cluster's key and its token in ${ETC}` : ''}`,
			code: [
				'[Unit]',
				'Description=KeplerFS node',
				'After=network-online.target',
				'Wants=network-online.target',
				'',
				'[Service]',
				'DynamicUser=yes',
				'StateDirectory=kepler',
				'StateDirectoryMode=0700',
				'Environment=DATA_DIR=/var/lib/kepler',
				`Environment=NODE_ID=${next}`,
				`Environment=SEEDS=${seeds}`,
				...(remote
					? [
							`Environment=BIND_ADDR=${THIS_MACHINE}`,
							`LoadCredential=cluster.key:${ETC}/cluster.key`,
							`LoadCredential=api.token:${ETC}/api.token`,
							'Environment=CLUSTER_KEY_FILE=%d/cluster.key',
							'Environment=API_TOKEN_FILE=%d/api.token'
						]
					: ['Environment=HTTP_PORT=0 GOSSIP_PORT=0 TRANSFER_PORT=0']),
				'ExecStart=/usr/local/bin/kepler-node',
				'TimeoutStopSec=60',
				'Restart=on-failure',
				'RestartSec=2',
				'LimitNOFILE=65536',
				'',
				'[Install]',
				'WantedBy=multi-user.target'
			].join('\n')
		},
		{
			title: 'Live events',
			about: 'What happens, as server-sent events.',
			code: `curl -N${auth} ${origin}/v1/events`
		}
	];
}

/** The next name in the manner of those there are: node-d after node-c. */
export function fresh(ids: string[]): string {
	const taken = new Set(ids);
	for (let i = 0; i < 26; i += 1) {
		const id = `node-${String.fromCharCode(97 + i)}`;
		if (!taken.has(id)) return id;
	}
	for (let i = 27; ; i += 1) if (!taken.has(`node-${i}`)) return `node-${i}`;
}
