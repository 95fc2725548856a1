/**
 * `GET /v1/events` by streaming fetch: unlike EventSource it can carry the token, and says why it failed.
 */
import { request, Unreachable } from './http';
import { EVENTS, type ClusterEvent, type EventKind } from './shapes';

/** No byte for this long, heartbeats included, and the connection is taken for lost. */
const SILENCE_MS = 40_000;
const MAX_LINE = 1 << 20;

/** Cuts a stream of text into server-sent events' data; comments and unknown fields are skipped. */
export class EventParser {
	#rest = '';
	#data: string[] = [];

	push(text: string): string[] {
		const found: string[] = [];
		const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
		this.#rest = (lines.pop() ?? '').slice(-MAX_LINE);
		for (const line of lines) {
			if (line === '') {
				if (this.#data.length) found.push(this.#data.join('\n'));
				this.#data = [];
			} else if (line.startsWith('data:')) {
				this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
			}
		}
		return found;
	}
}

/** An event, or null where it is of a kind that this app does not know. */
export function readEvent(data: string): ClusterEvent | null {
	try {
		const value: unknown = JSON.parse(data);
		const kind = (value as { type?: unknown }).type;
		if (typeof kind !== 'string' || !Object.hasOwn(EVENTS, kind)) return null;
		return EVENTS[kind as EventKind].check(value, '', false) as ClusterEvent;
	} catch {
		return null;
	}
}

/**
 * Follows the events until the connection ends, which always throws; `onOpen` when the node has answered.
 *
 * @throws {ApiError}, {@link Unreachable}, or an AbortError when `signal` says so.
 */
export async function follow(
	onOpen: () => void,
	onEvent: (event: ClusterEvent) => void,
	signal: AbortSignal
): Promise<never> {
	const silence = new AbortController();
	const response = await request('/v1/events', { signal: AbortSignal.any([signal, silence.signal]) });
	if (!response.body) throw new Unreachable();
	onOpen();
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	const parser = new EventParser();
	let timer = setTimeout(() => silence.abort(), SILENCE_MS);
	try {
		for (;;) {
			const { done, value } = await reader.read();
			if (done) throw new Unreachable('the node closed the connection');
			clearTimeout(timer);
			timer = setTimeout(() => silence.abort(), SILENCE_MS);
			for (const data of parser.push(value)) {
				const event = readEvent(data);
				if (event) onEvent(event);
			}
		}
	} catch (error) {
		if (signal.aborted) throw error;
		throw error instanceof Unreachable ? error : new Unreachable('the connection broke');
	} finally {
		clearTimeout(timer);
		reader.cancel().catch(() => {});
	}
}
