/** Every call of the HTTP API that this app makes, by name. */
import { encodeName } from '$lib/format/names';
import { ApiError, currentToken, json, request } from './http';
import {
	Accepted,
	Cluster,
	Earlier,
	Health,
	Link,
	Listing,
	Located,
	NodeStatus,
	Receipt,
	Recent,
	Ring,
	Stat,
	type Durability
} from './shapes';

export { encodeName };

const query = (parameters: Record<string, string | number | boolean | null | undefined>): string => {
	const set = Object.entries(parameters).filter(([, v]) => v !== null && v !== undefined && v !== false);
	const pairs = set.map(([k, v]) => `${k}=${encodeURIComponent(v === true ? '1' : String(v))}`);
	return pairs.length ? `?${pairs.join('&')}` : '';
};

/** The path of a file's bytes. */
export function filePath(name: string, options: { version?: string; download?: boolean } = {}): string {
	return `/v1/files/${encodeName(name)}${query(options)}`;
}

export const cluster = (signal?: AbortSignal): Promise<Cluster> => json(Cluster, '/v1/cluster', { signal });
export const ring = (signal?: AbortSignal): Promise<Ring> => json(Ring, '/v1/ring', { signal });
export const status = (signal?: AbortSignal): Promise<NodeStatus> => json(NodeStatus, '/v1/status', { signal });

/** Null where the node is of a version that does not know the call. */
async function ifKnown<T>(answer: Promise<T>): Promise<T | null> {
	try {
		return await answer;
	} catch (error) {
		if (error instanceof ApiError && (error.status === 404 || error.status === 405)) return null;
		throw error;
	}
}

export const health = (signal?: AbortSignal): Promise<Health> => json(Health, '/v1/health', { signal });

export const list = (
	parameters: { prefix?: string; delimiter?: string; after?: string | null; limit?: number },
	signal?: AbortSignal
): Promise<Listing> => json(Listing, `/v1/files${query(parameters)}`, { signal });

export const stat = (name: string, signal?: AbortSignal): Promise<Stat> =>
	json(Stat, `/v1/stat/${encodeName(name)}`, { signal });

/** Versions that were replaced or deleted, as far as members remember them. */
export const earlier = (name: string, signal?: AbortSignal): Promise<Earlier> =>
	json(Earlier, `/v1/earlier/${encodeName(name)}`, { signal });

/** What all members measured and saw happen in the last `secs` seconds. */
export const recent = (secs: number, signal?: AbortSignal): Promise<Recent> =>
	json(Recent, `/v1/recent${query({ all: true, secs })}`, { signal });

export const locate = (name: string, ifDown?: string, signal?: AbortSignal): Promise<Located | null> =>
	ifKnown(json(Located, `/v1/locate/${encodeName(name)}${query({ if_down: ifDown })}`, { signal }));

export interface Head {
	size: number;
	etag: string;
	cid: string;
	contentType: string;
	modified: string | null;
	conflicts: number;
}

/** What a read would return, without its bytes; null where there is no such file. */
export async function head(name: string, signal?: AbortSignal): Promise<Head | null> {
	try {
		const { headers } = await request(filePath(name), { method: 'HEAD', signal });
		return {
			size: Number(headers.get('Content-Length') ?? 0),
			etag: headers.get('ETag') ?? '',
			cid: headers.get('Kepler-Cid') ?? '',
			contentType: headers.get('Content-Type') ?? '',
			modified: headers.get('Last-Modified'),
			conflicts: Number(headers.get('Kepler-Conflicts') ?? 0)
		};
	} catch (error) {
		if (error instanceof ApiError && error.status === 404) return null;
		throw error;
	}
}

/** The first `limit` bytes of a file and whether there are more. */
export async function readStart(
	name: string,
	limit: number,
	version?: string,
	signal?: AbortSignal
): Promise<{ bytes: Uint8Array; whole: boolean }> {
	let response: Response;
	try {
		response = await request(filePath(name, { version }), {
			headers: { Range: `bytes=0-${limit - 1}` },
			signal
		});
	} catch (error) {
		// An empty file has no first byte.
		if (error instanceof ApiError && error.status === 416) return { bytes: new Uint8Array(), whole: true };
		throw error;
	}
	const bytes = new Uint8Array(await response.arrayBuffer());
	const total = Number(response.headers.get('Content-Range')?.split('/')[1] ?? bytes.length);
	return { bytes, whole: total <= bytes.length };
}

/** A whole file, for previews that need the token or another type; the caller checks the size. */
export async function readAll(name: string, version?: string, signal?: AbortSignal): Promise<Blob> {
	return (await request(filePath(name, { version }), { signal })).blob();
}

const post = <T>(
	shape: Parameters<typeof json<T>>[0],
	path: string,
	body: unknown,
	options: { headers?: Record<string, string>; signal?: AbortSignal | undefined } = {}
): Promise<T> =>
	json(shape, path, {
		method: 'POST',
		body: JSON.stringify(body),
		headers: { 'Content-Type': 'application/json', ...options.headers },
		signal: options.signal
	});

/** Whether the browser has no token to send along: then a file's plain address is enough. */
export const isOpen = (): boolean => currentToken() === null;

/**
 * An address that the browser's own players and downloads can use. They send no token; where one is needed
 * the node makes an address that opens this file alone, for some minutes.
 */
export async function address(
	name: string,
	options: { version?: string | undefined; download?: boolean } = {},
	signal?: AbortSignal
): Promise<string> {
	const { version, download } = options;
	if (isOpen()) return filePath(name, { ...(version ? { version } : {}), ...(download ? { download } : {}) });
	return (await post(Link, '/v1/links', { name, version, download }, { signal })).url;
}

/** What a copy reads: the head of a name, a surviving version of it, or what a version had that is gone. */
export type CopySource = { from: string; version?: string } | { cid: string; content_type?: string | null };

/** Writes `to` from chunks that are there; no byte comes here. Only over `over`, a version, or else no file. */
export const copy = (source: CopySource, to: string, durability: Durability, over?: string, signal?: AbortSignal): Promise<Receipt> =>
	post(Receipt, '/v1/copy', { ...source, to, durability }, { headers: over ? { 'If-Match': `"${over}"` } : { 'If-None-Match': '*' }, signal });

export const move = (from: string, to: string, durability: Durability): Promise<Receipt> =>
	post(Receipt, '/v1/move', { from, to, durability });

/** Deletes a file, or one version of it. With `etag` only if that is still its head. */
export async function remove(name: string, options: { version?: string; etag?: string } = {}): Promise<void> {
	await request(filePath(name, { version: options.version }), {
		method: 'DELETE',
		headers: options.etag ? { 'If-Match': options.etag } : {}
	});
}

export const repair = (
	action: 'start' | 'pause' | 'resume',
	options: { bandwidth_mbps?: number; all?: boolean } = {}
): Promise<Accepted | null> => ifKnown(post(Accepted, '/v1/repair', { action, ...options }));

export const scrub = (action: 'start' | 'pause' | 'resume', all = true): Promise<Accepted | null> =>
	ifKnown(post(Accepted, '/v1/scrub', { action, all }));

/** Lets the node that is asked leave. */
export const leave = (): Promise<Accepted> => post(Accepted, '/v1/cluster/leave', {});

/** Takes a dead member from the roster now. */
export const forget = (node: string): Promise<Accepted> => post(Accepted, `/v1/cluster/forget/${encodeURIComponent(node)}`, {});

/** Whether the node takes the token that is set: any cheap call that needs it. */
export async function tokenWorks(): Promise<boolean> {
	try {
		await request('/v1/cluster');
		return true;
	} catch (error) {
		if (error instanceof ApiError && error.status === 401) return false;
		throw error;
	}
}

/** Counters of the node, summed over their labels, and what its clock says. */
export async function counters(
	names: string[],
	signal?: AbortSignal
): Promise<{ counters: Record<string, number>; date: number | null }> {
	const response = await request('/metrics', { signal });
	const date = Date.parse(response.headers.get('Date') ?? '');
	return { counters: readCounters(await response.text(), names), date: Number.isFinite(date) ? date : null };
}

/** Reads Prometheus text; exported for its test. */
export function readCounters(body: string, names: string[]): Record<string, number> {
	const found: Record<string, number> = Object.fromEntries(names.map((name) => [name, 0]));
	for (const line of body.split('\n')) {
		if (line.startsWith('#')) continue;
		const end = line.search(/[{ ]/);
		const name = line.slice(0, end);
		if (end > 0 && name in found) found[name] = (found[name] ?? 0) + Number(line.slice(line.lastIndexOf(' ') + 1));
	}
	return found;
}

/**
 * Whether another member answers a page of this origin at all. The answer itself cannot be read across
 * origins; that there is one is enough.
 */
export async function answers(origin: string): Promise<boolean> {
	try {
		await fetch(`${origin}/healthz`, {
			mode: 'no-cors',
			cache: 'no-store',
			credentials: 'omit',
			signal: AbortSignal.timeout(3000)
		});
		return true;
	} catch {
		return false;
	}
}
