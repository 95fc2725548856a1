/**
 * A network of namespaces on this machine whose links can be cut, as the cluster tests have it (tests/src/network.rs):
 * a host is a network namespace with one address, a bridge joins them with this machine, and faults are `nft` rules
 * inside the hosts. The machine's own rules are never touched. It needs root, iproute2 and nftables (tests/install).
 *
 * Everything is gone after `close`; what a killed test left is removed by the next one.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

/** The names of all namespaces begin with this, and go on with the process id. */
const PREFIX = 'kepler-';
let made = 0;

function run(program, args, input = '') {
	const done = spawnSync(program, args, { input, encoding: 'utf8' });
	if (done.error) throw new Error(`start ${program}: run tests/install (${done.error.message})`);
	if (done.status !== 0) throw new Error(`${program} ${args.join(' ')}: ${done.stderr}\n${input}`);
	return done.stdout;
}

/** Removes the namespaces of processes that are gone. */
function removeLeftOver() {
	for (const line of run('ip', ['netns', 'list']).split('\n')) {
		const [name = ''] = line.split(' ');
		const owner = name.startsWith(PREFIX) && name.slice(PREFIX.length).split('-')[0];
		if (owner && !existsSync(`/proc/${owner}`)) spawnSync('ip', ['netns', 'del', name]);
	}
}

export class Network {
	constructor() {
		removeLeftOver();
		const number = made++;
		this.tag = `${PREFIX}${process.pid}-${number}`;
		this.uplink = `kf${process.pid}n${number}`;
		this.hosts = 0;
		// In 198.18.0.0/15, which is set aside for tests.
		const free = Array.from({ length: 512 }, (_, i) => (process.pid * 7 + number + i) % 512)
			.map((n) => `198.${18 + (n >> 8)}.${n & 255}`)
			.find((range) => run('ip', ['-4', 'addr', 'show', 'to', `${range}.0/24`]) === '');
		if (!free) throw new Error('no free subnet in 198.18.0.0/15');
		this.subnet = free;
		try {
			run('ip', ['netns', 'add', this.hub]);
			run('ip', ['-n', this.hub, '-batch', '-'], 'link add bridge type bridge stp_state 0\nlink set bridge up\n');
			run('ip', ['-batch', '-'], `link add ${this.uplink} type veth peer name uplink netns ${this.hub}\naddr add ${free}.254/24 dev ${this.uplink}\nlink set ${this.uplink} up\n`);
			run('ip', ['-n', this.hub, '-batch', '-'], 'link set uplink master bridge up\n');
		} catch (error) {
			this.close();
			throw error;
		}
	}

	get hub() {
		return `${this.tag}-hub`;
	}

	namespace(host) {
		return `${this.tag}-${host}`;
	}

	address(host) {
		return `${this.subnet}.${host + 1}`;
	}

	/** Adds a host; its number. */
	add() {
		const host = this.hosts;
		const namespace = this.namespace(host);
		run('ip', ['netns', 'add', namespace]);
		this.hosts += 1;
		run('ip', ['-n', this.hub, '-batch', '-'], `link add port${host} type veth peer name eth0 netns ${namespace}\nlink set port${host} master bridge up\n`);
		run('ip', ['-n', namespace, '-batch', '-'], `link set lo up\naddr add ${this.address(host)}/24 dev eth0\nlink set eth0 up\n`);
		return host;
	}

	/** Hosts in different groups hear nothing of each other; this machine hears all of them. */
	split(...groups) {
		for (let host = 0; host < this.hosts; host += 1) {
			const mine = groups.find((group) => group.includes(host)) ?? [host];
			const others = Array.from({ length: this.hosts }, (_, i) => i).filter((other) => !mine.includes(other));
			this.#impose(host, others.map((other) => `ip saddr ${this.address(other)} counter drop\n`).join(''));
		}
	}

	/** Everybody hears everybody. */
	heal() {
		for (let host = 0; host < this.hosts; host += 1) this.#impose(host, '');
	}

	/** Packets that the present rules have stopped. */
	dropped() {
		let packets = 0;
		for (let host = 0; host < this.hosts; host += 1) {
			const rules = run('ip', ['netns', 'exec', this.namespace(host), 'nft', 'list', 'ruleset']);
			for (const [, n] of rules.matchAll(/counter packets (\d+)/g)) packets += Number(n);
		}
		return packets;
	}

	/** Replaces the rules of one host, in one transaction of its kernel. */
	#impose(host, rules) {
		const table = rules && `table ip faults {\nchain hears {\ntype filter hook input priority 0\n${rules}}\n}\n`;
		run('ip', ['netns', 'exec', this.namespace(host), 'nft', '-f', '-'], `add table ip faults\ndelete table ip faults\n${table}`);
	}

	/** The rules go with their namespaces. */
	close() {
		spawnSync('ip', ['link', 'del', this.uplink]);
		for (let host = 0; host < this.hosts; host += 1) spawnSync('ip', ['netns', 'del', this.namespace(host)]);
		spawnSync('ip', ['netns', 'del', this.hub]);
	}
}
