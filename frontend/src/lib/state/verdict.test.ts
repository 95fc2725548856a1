import { describe, expect, it } from 'vitest';
import type { Cluster, MemberStatus, NodeStatus } from '$lib/api';
import { verdict } from './verdict';

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

	it('gives the worst reason first', () => {
		expect(verdict(cluster('alive', 'dead', 'dead'), status(5), null)?.reasons[0]).toContain('1 of 3');
	});
});
