/**
 * The cluster as the node that served this page sees it, kept current by its events.
 *
 * Events say *that* something changed; the state is read anew, so that a lost event costs a moment and
 * no truth. A slow poll carries what has no events: load, queue, rates.
 */
import { api, ApiError, type Cluster, type ClusterEvent, type Health, type NodeStatus, type Ring } from '$lib/api';
import { follow } from '$lib/api/events';
import { activity } from './activity.svelte';
import { session } from './session.svelte';
import { verdict } from './verdict';

export type Link = 'connecting' | 'live' | 'lost';

/** A chunk on its way, for as long as its picture lasts. */
export interface Movement {
	id: number;
	from: string;
	to: string;
}

const POLL_MS = 3_000;
const LEAST_MS = 500;
/** How often the other members are asked what happened to them, and how far back. */
const PAST_MS = 10_000;
const PAST_SECS = 60;
const HOUR_SECS = 3_600;
const HIDDEN_MS = 60_000;
const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 5_000;
const MOVEMENT_MS = 2_000;
const MOST_MOVEMENTS = 60;
/** Beyond this many members the tokens are too many to fetch; the picture shows shares alone. */
const RING_MEMBERS = 64;

class Live {
	link = $state<Link>('connecting');
	/** When the connection was lost. */
	lostAt = $state<number | null>(null);
	cluster = $state.raw<Cluster | null>(null);
	status = $state.raw<NodeStatus | null>(null);
	health = $state.raw<Health | null>(null);
	ring = $state.raw<Ring | null>(null);
	movements = $state.raw<Movement[]>([]);
	/** Bytes a second through this node's HTTP door. */
	received = $state<number | null>(null);
	sent = $state<number | null>(null);
	/** The node's clock minus this browser's, in seconds, to within one. */
	offset = $state<number | null>(null);
	/** The present, to the second. */
	now = $state(Date.now());

	readonly verdict = $derived(verdict(this.cluster, this.status, this.health));
	readonly members = $derived(
		[...(this.cluster?.members ?? [])].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
	);
	readonly alive = $derived(this.members.filter((m) => m.status === 'alive'));
	readonly me = $derived(this.status?.id ?? null);

	#listeners = new Set<(event: ClusterEvent) => void>();
	#abort: AbortController | null = null;
	#counters: { at: number; received: number; sent: number } | null = null;
	#refreshing: Promise<void> | null = null;
	#again = false;
	#movement = 1;
	#pastAt = 0;
	/** Whether the hour before was told since the connection began. */
	#told = false;
	#digest = '';

	/** Follows the cluster until the returned function is called. */
	start(): () => void {
		let hideTimer: ReturnType<typeof setTimeout> | undefined;
		const visibility = () => {
			clearTimeout(hideTimer);
			// A browser has six connections to a host for all its tabs: one that nobody sees gives its own up.
			if (document.hidden) hideTimer = setTimeout(() => this.#stop(), HIDDEN_MS);
			else if (!this.#abort) this.#run();
		};
		const leave = () => activity.save();
		document.addEventListener('visibilitychange', visibility);
		addEventListener('pagehide', leave);
		const clock = setInterval(() => (this.now = Date.now()), 1_000);
		const poll = setInterval(() => {
			if (!document.hidden && this.link === 'live') void this.#poll();
		}, POLL_MS);
		const unsubscribe = session.whenChanged(() => {
			this.#stop();
			this.#run();
		});
		this.#run();
		return () => {
			document.removeEventListener('visibilitychange', visibility);
			removeEventListener('pagehide', leave);
			clearInterval(clock);
			clearInterval(poll);
			clearTimeout(hideTimer);
			unsubscribe();
			this.#stop();
		};
	}

	/** Calls back with every event until the returned function is called. */
	whenEvent(callback: (event: ClusterEvent) => void): () => void {
		this.#listeners.add(callback);
		return () => this.#listeners.delete(callback);
	}

	/** Tries again at once. */
	retry(): void {
		this.#stop();
		this.#run();
	}

	#stop(): void {
		this.#abort?.abort();
		this.#abort = null;
	}

	#run(): void {
		const abort = new AbortController();
		this.#abort = abort;
		void this.#follow(abort.signal);
	}

	async #follow(signal: AbortSignal): Promise<void> {
		let wait = RETRY_FIRST_MS;
		while (!signal.aborted) {
			try {
				await follow(
					() => {
						wait = RETRY_FIRST_MS;
						if (this.lostAt !== null) {
							activity.note({ topic: 'connection', tone: 'good', text: 'Connected to the node again' });
						}
						this.link = 'live';
						this.lostAt = null;
						this.#told = false;
						void this.#past();
						void this.refresh();
						void this.#poll();
						// A rate is there with the second measurement.
						setTimeout(() => void this.#poll(), 1_000);
					},
					(event) => this.#take(event),
					signal
				);
			} catch (error) {
				if (signal.aborted) return;
				if (error instanceof ApiError && error.status === 401) return;
				if (this.lostAt === null) {
					this.lostAt = Date.now();
					activity.note({ topic: 'connection', tone: 'bad', text: 'The connection to the node was lost' });
				}
				this.link = 'lost';
				this.#counters = null;
			}
			await new Promise((resolve) => setTimeout(resolve, wait));
			wait = Math.min(wait * 1.6, RETRY_MOST_MS);
		}
	}

	#take(event: ClusterEvent): void {
		activity.record(event);
		if (event.type === 'member' && this.cluster) {
			// Shown at once; what else changed with it comes with the refresh.
			const members = this.cluster.members.map((m) => (m.id === event.node ? { ...m, status: event.status } : m));
			this.cluster = { ...this.cluster, members };
		}
		this.#fly(this.me, event);
		if (event.type !== 'written' && event.type !== 'moved') void this.refresh();
		for (const listener of this.#listeners) listener(event);
	}

	/** Shows a chunk on its way, if that is what the event of `node` tells. */
	#fly(node: string | null, event: ClusterEvent | null): void {
		if (event?.type === 'moved') this.#move(event.from, event.to);
		if (event?.type === 'delivered' && node) this.#move(node, event.node);
	}

	#move(from: string, to: string): void {
		const movement = { id: this.#movement++, from, to };
		this.movements = [...this.movements, movement].slice(-MOST_MOVEMENTS);
		setTimeout(() => {
			this.movements = this.movements.filter((m) => m !== movement);
		}, MOVEMENT_MS);
	}

	/** Reads members, ring and health anew; calls that come meanwhile share one more reading. */
	refresh(): Promise<void> {
		if (this.#refreshing) {
			this.#again = true;
			return this.#refreshing;
		}
		this.#refreshing = this.#read().finally(() => {
			this.#refreshing = null;
			if (this.#again) {
				this.#again = false;
				setTimeout(() => void this.refresh(), 200);
			}
		});
		return this.#refreshing;
	}

	async #read(): Promise<void> {
		try {
			const [cluster, status, health] = await Promise.all([
				api.cluster(),
				api.status(),
				// It asks all members: where that fails, the rest is still worth showing.
				api.health().catch(() => this.health)
			]);
			this.cluster = cluster;
			this.status = status;
			this.health = health;
			if (cluster.ring.digest !== this.#digest && cluster.members.length <= RING_MEMBERS) {
				this.ring = await api.ring();
				this.#digest = cluster.ring.digest;
			} else if (cluster.members.length > RING_MEMBERS) this.ring = null;
		} catch {
			// The stream of events notices a lost node and says so.
		}
	}

	/** What the members remember: an hour of it at first, and then what is new. */
	async #past(): Promise<void> {
		this.#pastAt = Date.now();
		try {
			const past = await api.recent(this.#told ? PAST_SECS : HOUR_SECS);
			// To within a second; less is no difference.
			const ahead = Math.abs(this.offset ?? 0) > 2 ? (this.offset ?? 0) * 1000 : 0;
			const told = this.#told;
			for (const event of activity.remember(past, ahead)) if (told) this.#fly(event.node, event.event);
			this.#told = true;
		} catch {
			// The stream of events notices a lost node and says so.
		}
	}

	async #poll(): Promise<void> {
		// What others send each other is told by them alone.
		const every = (this.health?.moving ?? 0) + (this.health?.queue_depth ?? 0) > 0 ? POLL_MS - LEAST_MS : PAST_MS;
		if (Date.now() - this.#pastAt >= every) void this.#past();
		try {
			const names = ['kepler_http_received_bytes_total', 'kepler_http_sent_content_bytes_total'];
			const refreshed = this.refresh();
			const { counters, date } = await api.counters(names);
			// Of the counters alone: what else is read may take longer.
			const at = Date.now();
			await refreshed;
			// The header has whole seconds, cut off: half of one is added.
			if (date !== null) this.offset = (date + 500 - at) / 1000;
			const received = counters[names[0] ?? ''] ?? 0;
			const sent = counters[names[1] ?? ''] ?? 0;
			const before = this.#counters;
			// Polls that lie so close together give no rate, but nonsense.
			if (before && at - before.at < LEAST_MS) return;
			this.#counters = { at, received, sent };
			if (before && at > before.at && received >= before.received) {
				const seconds = (at - before.at) / 1000;
				this.received = (received - before.received) / seconds;
				this.sent = Math.max(0, (sent - before.sent) / seconds);
			}
			activity.measure({
				at,
				received: this.received,
				sent: this.sent,
				queue: this.health?.queue_depth ?? this.status?.queue.depth ?? null,
				under: this.health?.under_replicated ?? null,
				moving: this.health?.moving ?? null
			});
		} catch {
			// As above.
		}
	}
}

export const live = new Live();
