/** The JSON of the HTTP API, as docs/API.md describes it. */
import { flag, list, maybe, number, object, oneOf, text, type Infer, type Shape } from './shape';

export const Durability = oneOf('fast', 'quorum', 'all');
export type Durability = Infer<typeof Durability>;

export const MemberStatus = oneOf('joining', 'alive', 'suspect', 'dead', 'leaving', 'left');
export type MemberStatus = Infer<typeof MemberStatus>;

const Queued = object({ node: text, chunks: number });

export const Receipt = object({
	name: text,
	cid: text,
	size: number,
	chunks: number,
	version: text,
	created_at: text,
	durability: Durability,
	replicas: object({ wanted: number, acked: number, nodes: list(text), queued: list(Queued) })
});
export type Receipt = Infer<typeof Receipt>;

export const FileEntry = object({
	name: text,
	cid: text,
	size: number,
	content_type: maybe(text),
	created_at: text,
	etag: text,
	conflicts: number
});
export type FileEntry = Infer<typeof FileEntry>;

export const Listing = object({ files: list(FileEntry), prefixes: list(text), next: maybe(text) });
export type Listing = Infer<typeof Listing>;

export const VersionInfo = object({
	version: text,
	head: flag,
	cid: text,
	size: number,
	chunks: number,
	content_type: maybe(text),
	created_at: text,
	supersedes: list(text)
});
export type VersionInfo = Infer<typeof VersionInfo>;

export const ChunkInfo = object({
	cid: text,
	size: maybe(number),
	owners: list(text),
	holders: list(text),
	verified_at: maybe(text)
});
export type ChunkInfo = Infer<typeof ChunkInfo>;

export const Stat = object({
	name: text,
	versions: list(VersionInfo),
	chunks: list(ChunkInfo),
	consistency: oneOf('majority', 'local')
});
export type Stat = Infer<typeof Stat>;

export const EarlierVersion = object({
	version: text,
	cid: text,
	size: number,
	chunks: number,
	content_type: maybe(text),
	created_at: text,
	gone_at: text,
	held: flag
});
export type EarlierVersion = Infer<typeof EarlierVersion>;

export const Earlier = object({ name: text, versions: list(EarlierVersion) });
export type Earlier = Infer<typeof Earlier>;

export const Member = object({
	id: text,
	status: MemberStatus,
	incarnation: number,
	addr: text,
	gossip_port: number,
	transfer_port: number,
	http_port: number,
	zone: maybe(text),
	capacity: number,
	used: number,
	version: text,
	share: number,
	last_seen: maybe(text)
});
export type Member = Infer<typeof Member>;

const RingInfo = object({ version: text, digest: text });

export const Cluster = object({
	members: list(Member),
	ring: RingInfo,
	roster: maybe(
		object({ number: number, members: list(text), replication_factor: maybe(number), forget_after_secs: maybe(number) })
	)
});
export type Cluster = Infer<typeof Cluster>;

export const Ring = object({
	ring: RingInfo,
	replication_factor: number,
	tokens: list(object({ token: text, node: text }))
});
export type Ring = Infer<typeof Ring>;

const Waiting = object({ what: text, until_secs: maybe(number) });

export const NodeHealth = object({
	node: text,
	answered: flag,
	under_replicated: maybe(number),
	single_copy: maybe(number),
	missing: maybe(number),
	surplus: maybe(number),
	moving: maybe(number),
	moving_bytes: maybe(number),
	queue_depth: maybe(number),
	queue_oldest_secs: maybe(number),
	scrub: maybe(
		object({
			at: maybe(text),
			checked: maybe(number),
			bad: maybe(number),
			running: maybe(flag),
			progress: maybe(number),
			paused: maybe(flag)
		})
	),
	paused: maybe(flag),
	breaker: maybe(flag),
	waiting: maybe(list(Waiting))
});
export type NodeHealth = Infer<typeof NodeHealth>;

export const HealthWord = oneOf('ok', 'degraded', 'at-risk', 'unavailable');
export type HealthWord = Infer<typeof HealthWord>;

export const Health = object({
	status: HealthWord,
	reasons: list(text),
	nodes: list(NodeHealth),
	under_replicated: number,
	single_copy: number,
	missing: number,
	surplus: maybe(number),
	moving: number,
	moving_bytes: number,
	queue_depth: number,
	queue_oldest_secs: maybe(number)
});
export type Health = Infer<typeof Health>;

export const NodeStatus = object({
	id: text,
	version: text,
	uptime_secs: number,
	ready: flag,
	waiting_for: maybe(text),
	storage: object({ chunks: number, bytes: number, free: number, reserve: number }),
	queue: object({ depth: number, oldest_secs: maybe(number), targets: list(Queued) }),
	files: number,
	transfers: number,
	healing: maybe(NodeHealth),
	bandwidth: maybe(object({ cap_bytes_per_second: number, used_bytes_per_second: number }))
});
export type NodeStatus = Infer<typeof NodeStatus>;

export const Located = object({
	name: text,
	version: maybe(text),
	replication_factor: maybe(number),
	if_down: maybe(text),
	chunks: list(
		object({
			cid: text,
			size: maybe(number),
			key: text,
			tokens_walked: number,
			walk: maybe(list(object({ token: text, node: text, zone: maybe(text), owner: flag, why: text }))),
			owners: list(text),
			holders: list(object({ node: text, verified_at: maybe(text) })),
			owners_if_down: maybe(list(text))
		})
	)
});
export type Located = Infer<typeof Located>;

export const Accepted = object({
	nodes: list(object({ node: text, accepted: flag, detail: maybe(text) }))
});
export type Accepted = Infer<typeof Accepted>;

export const Link = object({ url: text, expires_in_secs: number });
export type Link = Infer<typeof Link>;

export const Problem = object({
	type: text,
	title: text,
	status: number,
	detail: text,
	answered: maybe(number),
	needed: maybe(number)
});
export type Problem = Infer<typeof Problem>;

/** Each kind of event of `GET /v1/events`, by its `type`. */
export const EVENTS = {
	member: object({ type: text, node: text, status: MemberStatus }),
	written: object({ type: text, name: text, version: text, deleted: flag }),
	delivered: object({ type: text, node: text, chunks: number }),
	quarantined: object({ type: text, cid: text }),
	roster: object({ type: text, number: number, members: list(text) }),
	ready: object({ type: text, ready: flag }),
	repair_started: object({ type: text, node: text, chunks: number }),
	repaired: object({ type: text, node: text, chunks: number, bytes: number }),
	moved: object({ type: text, cid: text, from: text, to: text, bytes: number }),
	released: object({ type: text, chunks: number }),
	collected: object({ type: text, chunks: number, bytes: number }),
	scrubbed: object({ type: text, checked: number, bad: number }),
	conflict: object({ type: text, name: text }),
	leaving: object({ type: text, node: text, left_chunks: number }),
	health: object({ type: text, status: HealthWord }),
	lagged: object({ type: text, missed: number })
} as const;

export type EventKind = keyof typeof EVENTS;
export type ClusterEvent = {
	[K in EventKind]: Omit<Infer<(typeof EVENTS)[K]>, 'type'> & { type: K };
}[EventKind];

const Sample = object({ at: text, received: number, sent: number, queue: number, under_replicated: number, moving: number });

/** An event of which the kind is looked at where it is read: one that is not known is left out. */
const Happened: Shape<ClusterEvent | null> = {
	check(value, at, strict) {
		const type = object({ type: text }).check(value, at, false).type;
		if (!Object.hasOwn(EVENTS, type)) return null;
		return EVENTS[type as EventKind].check(value, at, strict) as ClusterEvent;
	}
};

export const Recent = object({
	node: text,
	interval_secs: number,
	samples: list(Sample),
	cluster: maybe(list(Sample)),
	events: list(object({ node: text, at: text, number: number, event: Happened })),
	silent: list(text)
});
export type Recent = Infer<typeof Recent>;
