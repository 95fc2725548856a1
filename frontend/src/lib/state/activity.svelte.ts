/** What happened lately, and what was measured in the last hour: kept for this tab alone. */
import type { ClusterEvent } from '$lib/api';
import { bytes, plural } from '$lib/format/format';
import type { Sample } from '$lib/ring/chart';
import { load, save } from './stored';

export type Topic = 'membership' | 'writes' | 'repair' | 'scrub' | 'conflicts' | 'connection';
export type Tone = 'plain' | 'good' | 'warn' | 'bad' | 'info';

export interface Entry {
	id: number;
	at: number;
	topic: Topic;
	tone: Tone;
	text: string;
	/** What it is about, for a link. */
	node?: string;
	name?: string;
}

export interface Measured {
	at: number;
	received: number | null;
	sent: number | null;
	queue: number | null;
	under: number | null;
	moving: number | null;
}

const MOST_ENTRIES = 2_000;
const KEEP_MS = 3_600_000;
const SAVE_ENTRIES = 400;
/** Frames of a graph, in milliseconds. */
const SPANS = [120_000, 300_000, 600_000, 1_800_000];

/** An event in plain words. */
export function describe(event: ClusterEvent): Omit<Entry, 'id' | 'at'> | null {
	switch (event.type) {
		case 'member': {
			const said = {
				joining: ['info', 'is joining'],
				alive: ['good', 'is alive'],
				suspect: ['warn', 'does not answer and is suspected'],
				dead: ['bad', 'is taken for dead'],
				leaving: ['info', 'is leaving'],
				left: ['plain', 'has left']
			} as const;
			const [tone, words] = said[event.status];
			return { topic: 'membership', tone, text: `${event.node} ${words}`, node: event.node };
		}
		case 'roster':
			return {
				topic: 'membership',
				tone: 'info',
				text: `Roster ${event.number} was agreed on: ${event.members.join(', ')}`
			};
		case 'ready':
			return event.ready
				? { topic: 'membership', tone: 'good', text: 'This node is ready' }
				: { topic: 'membership', tone: 'warn', text: 'This node is not ready any more' };
		case 'written':
			return event.deleted
				? { topic: 'writes', tone: 'plain', text: `Deleted ${event.name}` }
				: { topic: 'writes', tone: 'plain', text: `Stored ${event.name}`, name: event.name };
		case 'delivered':
			return {
				topic: 'repair',
				tone: 'good',
				text: `${event.node} was given ${plural(event.chunks, 'copy', 'copies')} it was owed`,
				node: event.node
			};
		case 'repair_started':
			// Whom it was for turned out to have everything.
			if (event.chunks === 0) return null;
			return {
				topic: 'repair',
				tone: 'info',
				text: `Bringing ${plural(event.chunks, 'chunk')} to ${event.node}`,
				node: event.node
			};
		case 'repaired':
			if (event.chunks === 0) return null;
			return {
				topic: 'repair',
				tone: 'good',
				text: `Brought ${plural(event.chunks, 'chunk')} (${bytes(event.bytes)}) to ${event.node}`,
				node: event.node
			};
		case 'moved':
			return {
				topic: 'repair',
				tone: 'plain',
				text: `A chunk of ${bytes(event.bytes)} went from ${event.from} to ${event.to}`,
				node: event.to
			};
		case 'released':
			return {
				topic: 'repair',
				tone: 'plain',
				text: `Removed ${plural(event.chunks, 'surplus copy', 'surplus copies')} here: the owners have theirs`
			};
		case 'collected':
			return {
				topic: 'repair',
				tone: 'plain',
				text: `Collected ${plural(event.chunks, 'chunk')} (${bytes(event.bytes)}) of deleted files here`
			};
		case 'leaving':
			return {
				topic: 'membership',
				tone: 'info',
				text: `${event.node} is draining: ${plural(event.left_chunks, 'chunk')} left to hand over`,
				node: event.node
			};
		case 'quarantined':
			return { topic: 'scrub', tone: 'bad', text: `A chunk failed its hash and was set aside: ${event.cid}` };
		case 'scrubbed':
			return event.bad > 0
				? {
						topic: 'scrub',
						tone: 'bad',
						text: `Scrub ended: ${event.bad} of ${plural(event.checked, 'chunk')} failed`
					}
				: { topic: 'scrub', tone: 'good', text: `Scrub ended: ${plural(event.checked, 'chunk')} intact` };
		case 'conflict':
			return { topic: 'conflicts', tone: 'warn', text: `${event.name} has concurrent versions`, name: event.name };
		case 'health': {
			const words = {
				ok: ['good', 'healthy'],
				degraded: ['warn', 'degraded'],
				'at-risk': ['bad', 'at risk'],
				unavailable: ['bad', 'partly unavailable']
			} as const;
			const [tone, word] = words[event.status];
			return { topic: 'repair', tone, text: `The cluster is ${word}` };
		}
		case 'lagged':
			return {
				topic: 'connection',
				tone: 'warn',
				text: `${plural(event.missed, 'event')} came too fast and were left out`
			};
	}
}

class Activity {
	entries = $state.raw<Entry[]>(load('session', 'entries', (v) => (Array.isArray(v) ? (v as Entry[]) : null)) ?? []);
	samples = $state.raw<Measured[]>(
		load('session', 'samples', (v) => (Array.isArray(v) ? (v as Measured[]) : null)) ?? []
	);
	#next = (this.entries.at(-1)?.id ?? 0) + 1;
	#pending: Entry[] = [];
	#flushing = false;

	record(event: ClusterEvent): void {
		const described = describe(event);
		if (described) this.note(described);
	}

	note(entry: Omit<Entry, 'id' | 'at'>): void {
		this.#pending.push({ ...entry, id: this.#next++, at: Date.now() });
		if (this.#flushing) return;
		// A storm of events is shown in one go.
		this.#flushing = true;
		setTimeout(() => {
			this.#flushing = false;
			this.entries = [...this.entries, ...this.#pending].slice(-MOST_ENTRIES);
			this.#pending = [];
		}, 50);
	}

	measure(sample: Measured): void {
		this.samples = [...this.samples.filter((s) => sample.at - s.at < KEEP_MS), sample];
	}

	/** The least frame that all that was measured fits into: a tab that was just opened has no hour to show. */
	span(now: number): number {
		const age = now - (this.samples[0]?.at ?? now);
		return SPANS.find((span) => age <= span) ?? KEEP_MS;
	}

	series(key: Exclude<keyof Measured, 'at'>): Sample[] {
		return this.samples.map((s) => ({ at: s.at, value: s[key] }));
	}

	clear(): void {
		this.entries = [];
	}

	/** Keeps it over a reload. */
	save(): void {
		save('session', 'entries', this.entries.slice(-SAVE_ENTRIES));
		save('session', 'samples', this.samples);
	}
}

export const activity = new Activity();
