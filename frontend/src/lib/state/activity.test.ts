import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { ClusterEvent, Recent } from '$lib/api';
import { Activity } from './activity.svelte';

const NOW = Date.parse('2026-03-01T12:00:00.000Z');
const at = (secondsAgo: number) => new Date(NOW - secondsAgo * 1000).toISOString();
const sample = (secondsAgo: number, queue: number) => ({ at: at(secondsAgo), received: 5, sent: 6, queue, under_replicated: 0, moving: 0 });
const past = (parts: Partial<Recent>): Recent => ({ node: 'a', interval_secs: 10, samples: [], cluster: [], events: [], silent: [], ...parts });
const event = (node: string, secondsAgo: number, number: number, what: ClusterEvent) => ({ node, at: at(secondsAgo), number, event: what });
const dead: ClusterEvent = { type: 'member', node: 'c', status: 'dead' };
const stored = (version = 'b.00.1'): ClusterEvent => ({ type: 'written', name: 'x', version, deleted: false });

describe('the past that the members tell', () => {
	let activity: Activity;
	beforeEach(() => {
		vi.useFakeTimers({ now: NOW });
		activity = new Activity();
	});
	const texts = () => activity.entries.map((e) => e.text);

	it('has what all see once, and what one member did with its name', () => {
		activity.remember(
			past({ events: [event('b', 60, 1, dead), event('a', 59, 1, dead), event('b', 50, 2, stored()), event('a', 49, 2, stored()), event('a', 48, 3, stored('b.00.2')), event('b', 30, 3, { type: 'ready', ready: true })] })
		);
		expect(texts()).toEqual(['c is taken for dead', 'Stored x through b', 'Stored x through b', 'b is ready']);
	});

	it('is told again without a double, and a member that dies twice dies twice', () => {
		const told = past({ events: [event('a', 600, 1, dead), event('a', 60, 2, dead), event('b', 59, 9, dead)] });
		activity.remember(told);
		activity.remember(told);
		expect(texts()).toHaveLength(2);
		activity.clear();
		activity.remember(told);
		expect(texts()).toEqual([]);
	});

	it('leaves out what came as an event already, and keeps its order by time', () => {
		activity.record(stored());
		activity.record(dead);
		vi.advanceTimersByTime(100);
		activity.remember(past({ events: [event('a', 300, 1, stored('a.00.7')), event('a', 1, 2, stored()), event('b', 0, 2, stored()), event('a', 0, 3, dead), event('b', 2, 3, dead)] }));
		expect(texts()).toEqual(['Stored x through a', 'Stored x through b', 'c is taken for dead']);
		expect(activity.entries[0]?.at).toBe(NOW - 300_000);
		expect(new Set(activity.entries.map((e) => e.id)).size).toBe(3);
	});

	it('says what others tell for the first time, so that it can be shown as it happens', () => {
		const moved: ClusterEvent = { type: 'moved', cid: 'c', from: 'b', to: 'a', bytes: 1 };
		const told = past({ events: [event('b', 2, 1, moved), event('a', 1, 1, moved)] });
		expect(activity.remember(told).map((e) => e.node)).toEqual(['b']);
		expect(activity.remember(told)).toEqual([]);
	});

	it('does not bring back what was cleared', () => {
		activity.record(stored());
		vi.advanceTimersByTime(100);
		activity.clear();
		activity.remember(past({ events: [event('a', 0, 1, stored()), event('b', 0, 1, stored())] }));
		expect(texts()).toEqual([]);
	});

	it('leaves out kinds that it does not know', () => {
		activity.remember(past({ events: [{ ...event('a', 1, 1, dead), event: null }] }));
		expect(texts()).toEqual([]);
	});

	it('begins the graphs, with sums where every member had measured', () => {
		activity.measure({ at: NOW - 500, received: 1, sent: 1, queue: 1, under: 0, moving: 0 });
		activity.remember(past({ samples: [sample(43, 2), sample(33, 2), sample(13, 2), sample(0, 2)], cluster: [sample(50, 7), sample(40, 8), sample(20, 9)] }));
		expect(activity.samples.map((s) => [s.at - NOW, s.received, s.queue])).toEqual([
			[-43_000, 5, 7],
			[-33_000, 5, 8],
			[-13_000, 5, null],
			[-500, 1, 1]
		]);
		expect(activity.series('queue').map((s) => s.value)).toEqual([7, 8, 1]);
		vi.setSystemTime(NOW + 20_000);
		activity.remember(past({ samples: [sample(43, 2), sample(13, 2)], cluster: [sample(20, 9)] }));
		expect(activity.samples).toHaveLength(4);
		expect(activity.series('queue').map((s) => s.value)).toEqual([7, 8, 9, 1]);
		expect(activity.span(NOW)).toBe(120_000);
	});

	it('counts in the time of this browser', () => {
		activity.remember(past({ events: [event('a', 0, 1, dead)], samples: [sample(60, 1)] }), 30_000);
		expect(activity.entries[0]?.at).toBe(NOW - 30_000);
		expect(activity.samples[0]?.at).toBe(NOW - 90_000);
	});
});
