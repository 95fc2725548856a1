/**
 * Real nodes on this machine, for a browser to look at.
 *
 * Each cluster has ports and folders of its own and ends only what it started.
 */
import { spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from './eventually.mjs';
import { Network } from './network.mjs';

const ROOT = new URL('../../../', import.meta.url).pathname;
const BIN = join(process.env.KEPLER_BIN_DIR ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'debug'), 'kepler-node');

/** A port that is free now, for TCP and UDP. */
async function freePort() {
	for (;;) {
		const port = await new Promise((resolve, reject) => {
			const server = net.createServer().once('error', reject);
			server.listen(0, '127.0.0.1', () => {
				const { port } = server.address();
				server.close(() => resolve(port));
			});
		});
		const free = await new Promise((resolve) => {
			const socket = dgram.createSocket('udp4').once('error', () => resolve(false));
			socket.bind(port, '127.0.0.1', () => socket.close(() => resolve(true)));
		});
		// Below the ports that the system gives to outgoing connections would be safer still; a clash shows at once.
		if (free) return port;
	}
}

/** What a node needs to be off loopback. */
const CLUSTER_KEY = '6b65706c65722066732c20612074657374206f6620746865206e6574776f726b';
export const API_TOKEN = 'a-token-for-the-browser-tests-01';

export class Node {
	/** `namespace`: of the network it is on, if not on loopback. */
	constructor(id, ports, folder, env, namespace = null) {
		Object.assign(this, { id, ...ports, folder, env, namespace, child: null });
		this.url = `http://${env.BIND_ADDR ?? '127.0.0.1'}:${ports.http}`;
	}

	start() {
		const log = openSync(join(this.folder, `${this.id}.log`), 'a');
		// `ip netns exec` becomes the node: its process id is the node's.
		const [program, ...args] = this.namespace ? ['ip', 'netns', 'exec', this.namespace, BIN] : [BIN];
		this.child = spawn(program, args, {
			cwd: this.folder,
			stdio: ['ignore', log, log],
			env: {
				PATH: process.env.PATH,
				NODE_ID: this.id,
				HTTP_PORT: String(this.http),
				GOSSIP_PORT: String(this.gossip),
				TRANSFER_PORT: String(this.transfer),
				MIN_FREE_MB: '64',
				...this.env
			}
		});
		this.exited = new Promise((resolve) => this.child.once('exit', resolve));
	}

	/** Ends it at once, as a crash does. */
	async kill() {
		this.child.kill('SIGKILL');
		await this.exited;
		this.child = null;
	}

	async fetch(path, options = {}) {
		const headers = { 'Kepler-Client': 'test', ...(this.env.API_TOKEN ? { Authorization: `Bearer ${this.env.API_TOKEN}` } : {}) };
		return fetch(this.url + path, {
			...options,
			headers: { ...headers, ...options.headers },
			signal: options.signal ?? AbortSignal.timeout(20_000)
		});
	}

	async json(path) {
		const response = await this.fetch(path);
		if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
		return response.json();
	}

	/**
	 * When an event of this kind is told. It is listened for once this returns: the answer is a promise of the
	 * time in milliseconds, wrapped so that only the listening is awaited.
	 */
	async when(wanted) {
		const abort = new AbortController();
		const response = await this.fetch('/v1/events', { signal: AbortSignal.any([abort.signal, AbortSignal.timeout(60_000)]) });
		const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
		const told = (async () => {
			let text = '';
			for (;;) {
				const { value, done } = await reader.read();
				if (done) throw new Error('the events ended');
				const now = Date.now();
				const lines = (text + value).split('\n');
				text = lines.pop();
				const events = lines.filter((line) => line.startsWith('data: ')).map((line) => JSON.parse(line.slice(6)));
				if (events.some(wanted)) return now;
			}
		})().finally(() => abort.abort());
		// Nobody waits for it yet.
		told.catch(() => {});
		return { time: () => told };
	}

	async put(name, body, type = 'application/octet-stream', query = '') {
		const path = `/v1/files/${name.split('/').map(encodeURIComponent).join('/')}${query}`;
		const response = await this.fetch(path, { method: 'PUT', body, headers: { 'Content-Type': type } });
		if (!response.ok) throw new Error(`PUT ${name}: ${response.status} ${await response.text()}`);
		return response.json();
	}

	async ready() {
		return (await this.fetch('/readyz').catch(() => null))?.status === 200;
	}
}

export class Cluster {
	constructor(env, network = null) {
		this.env = env;
		this.network = network;
		this.folder = mkdtempSync(join(tmpdir(), 'kepler-browser-'));
		this.nodes = [];
	}

	/** Starts `count` nodes and waits until all know and admit each other. */
	static async start(count = 3, env = {}) {
		return new Cluster(env).#begun(count);
	}

	/** The same, each node on a host of its own, between which `network` can be cut. */
	static async startApart(count = 3, env = {}) {
		return new Cluster({ CLUSTER_KEY, API_TOKEN, ...env }, new Network()).#begun(count);
	}

	async #begun(count) {
		try {
			for (let i = 0; i < count; i += 1) await this.add();
			await this.settled();
		} catch (error) {
			await this.stop();
			throw error;
		}
		return this;
	}

	/** Starts one more. */
	async add() {
		const id = `node-${String.fromCharCode(97 + this.nodes.length)}`;
		const host = this.network?.add() ?? null;
		const ports = host === null ? { http: await freePort(), gossip: await freePort(), transfer: await freePort() } : { http: 3000, gossip: 4000, transfer: 5000 };
		const place = host === null ? {} : { BIND_ADDR: this.network.address(host) };
		const seeds = this.nodes.filter((n) => n.child).map((n) => `${n.env.BIND_ADDR ?? '127.0.0.1'}:${n.gossip}`);
		const env = { ...this.env, ...place, ...(seeds.length ? { SEEDS: seeds.join(',') } : {}) };
		const node = new Node(id, ports, this.folder, env, host === null ? null : this.network.namespace(host));
		node.start();
		this.nodes.push(node);
		await eventually(`${id} is ready`, () => node.ready(), 60_000).catch((error) => {
			error.message += `\n${this.log(node)}`;
			throw error;
		});
		return node;
	}

	/** All running nodes are ready, see each other alive and share a roster. */
	async settled() {
		const running = this.nodes.filter((n) => n.child);
		await eventually(
			'the cluster has settled',
			async () => {
				for (const node of running) {
					if (!(await node.ready())) return false;
					const { members, roster } = await node.json('/v1/cluster');
					if (members.filter((m) => m.status === 'alive').length !== running.length) return false;
					if ((roster?.members.length ?? 0) < running.length) return false;
				}
				return true;
			},
			60_000
		);
	}

	log(node) {
		return readFileSync(join(this.folder, `${node.id}.log`), 'utf8').split('\n').slice(-20).join('\n');
	}

	async stop() {
		for (const node of this.nodes) if (node.child) await node.kill();
		this.network?.close();
		rmSync(this.folder, { recursive: true, force: true });
	}
}
