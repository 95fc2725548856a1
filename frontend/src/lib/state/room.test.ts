import { describe, expect, it } from 'vitest';
import type { Member, NodeStatus } from '$lib/api';
import { room } from './room';

const member = (id: string, addr: string, capacity: number, used: number): Member => ({
	id, addr, capacity, used, status: 'alive', incarnation: 1, gossip_port: 1, transfer_port: 1, http_port: 1, version: '', share: 0
});
const status = (free: number, reserve = 0): NodeStatus => ({
	id: 'a', version: '', uptime_secs: 1, ready: true, storage: { chunks: 0, bytes: 0, free, reserve },
	queue: { depth: 0, targets: [] }, files: 0, transfers: 0
});

describe('the room of the members', () => {
	it('is what they offer, of the asked node no more than is free on its disk', () => {
		const members = [member('a', '10.0.0.1', 1000, 100), member('b', '10.0.0.2', 1000, 100)];
		expect(room(members, null)).toBe(2000);
		expect(room(members, status(5000))).toBe(2000);
		expect(room(members, status(300, 50))).toBe(100 + 250 + 1000);
		expect(room(members, status(10, 50))).toBe(100 + 1000);
	});

	it('counts the disk of one machine once', () => {
		const members = ['a', 'b', 'c'].map((id) => member(id, '127.0.0.1', 1000, 10));
		expect(room(members, status(400))).toBe(430);
		expect(room(members.map((m) => ({ ...m, capacity: 50 })), status(400))).toBe(150);
		expect(room([], status(400))).toBe(0);
	});
});
