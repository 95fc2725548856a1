/**
 * What happened lately, and what was measured in the last hour.
 *
 * The members remember both. The page begins with what they tell and goes on with what it sees itself: the events
 * of its own node as they happen, those of the others when it asks again. What it alone knows is the connection.
 */
import type { ClusterEvent, Recent } from '$lib/api';
import { bytes, plural } from '$lib/format/format';
import { nodeOf } from '$lib/format/names';
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
	/** What makes it the same as another, where it is not its text. */
	what?: string;
	/** One of many of its kind, each of which means little. */
	fine?: boolean;
	/** The member that tells it, where it is not the one that serves this page. */
	by?: string;
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
const SAVE_ENTRIES = 100;
/** Clocks differ, and an event takes its time: so far apart two that say the same are one. */
const SAME_MS = 5_000;
const SAME_ELSEWHERE_MS = 30_000;
/** What every member sees for itself. */
const SHARED = new Set<ClusterEvent['type']>(['written', 'member', 'roster', 'health', 'conflict', 'leaving']);
/** Frames of a graph, in milliseconds. */
const SPANS = [120_000, 300_000, 600_000, 1_800_000];

/** An event in plain words; `by`: the member that tells it, where it is not the one that serves this page. */
export function describe(event: ClusterEvent, by?: string): Omit<Entry, 'id' | 'at'> | null {
	const here = by ? `on ${by}` : 'here';
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
				? { topic: 'membership', tone: 'good', text: `${by ?? 'This node'} is ready` }
				: { topic: 'membership', tone: 'warn', text: `${by ?? 'This node'} is not ready any more` };
		case 'written':
			return {
				topic: 'writes',
				tone: 'plain',
				text: `${event.deleted ? 'Deleted' : 'Stored'} ${event.name} through ${nodeOf(event.version)}`,
				what: event.version,
				...(event.deleted ? {} : { name: event.name })
			};
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
				fine: true,
				node: event.to
			};
		case 'released':
			return {
				topic: 'repair',
				tone: 'plain',
				text: `Removed ${plural(event.chunks, 'surplus copy', 'surplus copies')} ${here}: the owners have theirs`
			};
		case 'collected':
			return {
				topic: 'repair',
				tone: 'plain',
				text: `Collected ${plural(event.chunks, 'chunk')} (${bytes(event.bytes)}) of deleted files ${here}`
			};
		case 'leaving':
			return {
				topic: 'membership',
				tone: 'info',
				text: `${event.node} is draining: ${plural(event.left_chunks, 'chunk')} left to hand over`,
				node: event.node
			};
		case 'quarantined':
			return { topic: 'scrub', tone: 'bad', text: `A chunk failed its hash ${here} and was set aside: ${event.cid}` };
		case 'scrubbed':
			return event.bad > 0
				? {
						topic: 'scrub',
						tone: 'bad',
						text: `Scrub ended ${here}: ${event.bad} of ${plural(event.checked, 'chunk')} failed`
					}
				: { topic: 'scrub', tone: 'good', text: `Scrub ended ${here}: ${plural(event.checked, 'chunk')} intact` };
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

/** The start of the slot that a member's sample adds to. */
const slot = (at: number, seconds: number) => Math.floor(at / (seconds * 1000)) * seconds * 1000;

export class Activity {
	entries = $state.raw<Entry[]>(load('session', 'entries', (v) => (Array.isArray(v) ? (v as Entry[]) : null)) ?? []);
	samples = $state.raw<Measured[]>([]);
	/** Members whose past is missing, for they did not answer. */
	silent = $state.raw<string[]>([]);
	#next = this.entries.reduce((most, entry) => Math.max(most, entry.id), 0) + 1;
	/** When this page began to see for itself. */
	#began = Infinity;
	#known = new Set<string>();
	/** What came as an event of its own, also where it was cleared since. */
	#heard: Pick<Entry, 'text' | 'what' | 'at'>[] = [];
	#pending: Entry[] = [];
	#flushing = false;

	record(event: ClusterEvent): void {
		const described = describe(event);
		if (described) this.note(described);
	}

	note(entry: Omit<Entry, 'id' | 'at'>): void {
		const at = Date.now();
		this.#pending.push({ ...entry, id: this.#next++, at });
		this.#heard.push({ ...entry, at });
		if (this.#heard.length > 2 * MOST_ENTRIES) this.#heard.splice(0, MOST_ENTRIES);
		if (this.#flushing) return;
		// A storm of events is shown in one go.
		this.#flushing = true;
		setTimeout(() => {
			this.#flushing = false;
			this.#show(this.#pending);
			this.#pending = [];
		}, 50);
	}

	/**
	 * Takes what the members remember, and answers what of it other members have told for the first time.
	 * `ahead`: milliseconds by which the node's clock is before this one's.
	 */
	remember(past: Recent, ahead = 0): Recent['events'] {
		this.silent = past.silent;
		this.#measured(past, ahead);
		const found: Entry[] = [];
		const others: Recent['events'] = [];
		for (const { node, at: told, number, event } of past.events) {
			const key = `${node}/${told}/${number}`;
			if (event === null || this.#known.has(key)) continue;
			this.#known.add(key);
			const at = Date.parse(told) - ahead;
			const own = node === past.node;
			if (!own) others.push({ node, at: told, number, event });
			const shared = SHARED.has(event.type);
			const described = describe(event, own || shared ? undefined : node);
			if (!described) continue;
			const same = (entry: Pick<Entry, 'text' | 'what' | 'at'>) =>
				described.what !== undefined
					? entry.what === described.what
					: entry.text === described.text && Math.abs(entry.at - at) < (own ? SAME_MS : SAME_ELSEWHERE_MS);
			// It came as an event already; or another member has told what all see.
			if ((own || shared) && this.#heard.some(same)) continue;
			if (shared && (found.some(same) || this.entries.some(same))) continue;
			found.push({ ...described, id: this.#next++, at, ...(own || shared ? {} : { by: node }) });
		}
		if (found.length) this.#show(found);
		return others;
	}

	#measured(past: Recent, ahead: number): void {
		const sums = new Map((past.cluster ?? []).map((s) => [Date.parse(s.at), s]));
		// In the last slot not everybody has measured yet.
		const whole = Date.now() + ahead - 2_000 * past.interval_secs;
		const first = Math.min(this.#began, ...this.samples.slice(0, 1).map((s) => s.at));
		const told = new Map<number, Measured>();
		const before = past.samples
			.map((own) => {
				const sum = Date.parse(own.at) < whole ? sums.get(slot(Date.parse(own.at), past.interval_secs)) : undefined;
				const measured: Measured = {
					at: Date.parse(own.at) - ahead,
					received: own.received,
					sent: own.sent,
					queue: sum?.queue ?? null,
					under: sum?.under_replicated ?? null,
					moving: sum?.moving ?? null
				};
				if (sum) told.set(measured.at, measured);
				return measured;
			})
			.filter((s) => s.at < first);
		// By now the others have measured what was missing the last time.
		const late = (s: Measured) => s.queue === null && told.has(s.at);
		if (before.length || this.samples.some(late)) this.samples = [...before, ...this.samples.map((s) => (late(s) ? (told.get(s.at) ?? s) : s))];
	}

	#show(entries: Entry[]): void {
		this.entries = [...this.entries, ...entries].sort((a, b) => a.at - b.at || a.id - b.id).slice(-MOST_ENTRIES);
	}

	measure(sample: Measured): void {
		this.#began = Math.min(this.#began, sample.at);
		this.samples = [...this.samples.filter((s) => sample.at - s.at < KEEP_MS), sample];
	}

	/** The least frame that all that was measured fits into: a node that has just begun has no hour to show. */
	span(now: number): number {
		const age = now - (this.samples[0]?.at ?? now);
		return SPANS.find((span) => age <= span) ?? KEEP_MS;
	}

	series(key: Exclude<keyof Measured, 'at'>): Sample[] {
		return this.samples.flatMap((s) => (s[key] === null ? [] : { at: s.at, value: s[key] }));
	}

	clear(): void {
		this.entries = [];
	}

	/** Keeps over a reload what no node can tell: how the connection to it was. */
	save(): void {
		const own = this.entries.filter((e) => e.topic === 'connection' && Date.now() - e.at < KEEP_MS);
		save('session', 'entries', own.slice(-SAVE_ENTRIES));
	}
}

export const activity = new Activity();
