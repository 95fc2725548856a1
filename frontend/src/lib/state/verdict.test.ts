import { describe, expect, it } from 'vitest';
import type { Cluster, MemberStatus, NodeStatus } from '$lib/api';
import { inCalm, onlyAway, verdict, writeMajority } from './verdict';

const cluster = (...states: MemberStatus[]): Cluster => ({
	members: states.map((status, i) => ({
		id: `n${i}`, status, incarnation: 1, addr: '', gossip_port: 1, transfer_port: 1, http_port: 1,
		capacity: 1, used: 0, version: '', share: 0
	})),
	ring: { version: '', digest: '' },
	roster: { number: 1, members: states.map((_, i) => `n${i}`) }
});
const status = (depth: number): NodeStatus => ({
	id: 'n0', version: '', uptime_secs: 1, ready: true, storage: { chunks: 0, bytes: 0, free: 0, reserve: 0 },
	queue: { depth, targets: [] }, files: 0, transfers: 0
});

describe('the verdict', () => {
	it('is what the node says, where it says something', () => {
		const health = { status: 'at-risk' as const, reasons: ['because'], nodes: [], under_replicated: 0, single_copy: 0, missing: 0, moving: 0, moving_bytes: 0, queue_depth: 0 };
		expect(verdict(cluster('alive'), null, health)).toEqual({ word: 'at-risk', reasons: ['because'] });
	});

	it('follows the members where the node says none', () => {
		expect(verdict(null, null, null)).toBeNull();
		expect(verdict(cluster('alive', 'alive', 'alive'), status(0), null)).toEqual({ word: 'ok', reasons: [] });
		expect(verdict(cluster('alive', 'alive', 'alive'), status(2), null)?.word).toBe('degraded');
		expect(verdict(cluster('alive', 'alive', 'dead'), null, null)?.word).toBe('at-risk');
		expect(verdict(cluster('alive', 'dead', 'suspect'), null, null)?.word).toBe('unavailable');
		expect(verdict(cluster('alive', 'alive', 'alive', 'alive', 'dead'), null, null)?.word).toBe('degraded');
	});

	it('is calm about a member that is gone once everything has its copies without it', () => {
		const here = cluster('alive', 'alive', 'alive', 'dead');
		here.roster = { number: 1, members: ['n0', 'n1', 'n2', 'n3'], replication_factor: 3, forget_after_secs: 3600 };
		const gone = here.members[3]!;
		gone.last_seen = '2026-03-01T12:00:00.000Z';
		const nodes = [0, 1, 2, 3].map((i) => ({ node: `n${i}`, answered: i < 3 }));
		const healed = { status: 'degraded' as const, reasons: ['n3 is dead'], nodes, under_replicated: 0, single_copy: 0, missing: 0, moving: 0, moving_bytes: 0, queue_depth: 0 };
		const now = Date.parse('2026-03-01T12:10:00.000Z');
		expect(onlyAway(here, healed)).toEqual([gone]);
		expect(inCalm([gone], here, now)).toEqual(['Every chunk has its 3 copies again.', 'n3 has been gone for 10 min: it is taken off the roster by itself in 50 min.']);
		for (const not of [{ under_replicated: 1 }, { moving: 1 }, { missing: 1 }, { status: 'at-risk' as const }, { nodes: nodes.map((n) => ({ ...n, answered: n.node === 'n0' })) }]) {
			expect(onlyAway(here, { ...healed, ...not }), JSON.stringify(not)).toBeNull();
		}
		here.roster.members = ['n0', 'n1', 'n3'];
		expect(inCalm([gone], here, now)[0]).toContain('on each of the 2 members');
		expect(inCalm([gone], here, now + 3_600_000)[1]).toContain('is being taken off');
		here.roster.members = ['n0', 'n1', 'n2'];
		expect(onlyAway(here, healed)).toBeNull();
	});

	it('gives the worst reason first', () => {
		expect(verdict(cluster('alive', 'dead', 'dead'), status(5), null)?.reasons[0]).toContain('1 of 3');
	});
});

describe('the votes that a write needs', () => {
	it('are a majority of the copies of a name, not of all members', () => {
		const needed = (members: number, replication_factor: number) =>
			writeMajority({ number: 1, members: Array.from({ length: members }, (_, i) => `n${i}`), replication_factor });
		expect([1, 2, 3, 5, 9].map((members) => needed(members, 3))).toEqual([1, 2, 2, 2, 2]);
		expect([3, 5, 9].map((members) => needed(members, 5))).toEqual([2, 3, 3]);
	});
});
