/**
 * One request to the node that served this page: token, deadline, problems.
 *
 * The rest of `lib/api` goes through here; nothing else in the app fetches.
 */
import { Problem } from './shapes';
import type { Shape } from './shape';

/** The node answered that it did not work, and why. */
export class ApiError extends Error {
	constructor(
		readonly kind: string,
		readonly status: number,
		detail: string,
		readonly title = '',
		readonly retryAfter: number | null = null
	) {
		super(detail);
		this.name = 'ApiError';
	}
}

/** The node did not answer. */
export class Unreachable extends Error {
	constructor(message = 'the node does not answer') {
		super(message);
		this.name = 'Unreachable';
	}
}

const READ_DEADLINE_MS = 15_000;
const WRITE_DEADLINE_MS = 120_000;

let token: string | null = null;
let onUnauthorized: () => void = () => {};

/** Sets the token that every request carries, or none. */
export function setToken(value: string | null): void {
	token = value;
}

export function currentToken(): string | null {
	return token;
}

/** Called whenever the node asks for a token, or for another one. */
export function whenUnauthorized(callback: () => void): void {
	onUnauthorized = callback;
}

export interface RequestOptions {
	method?: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE';
	headers?: Record<string, string>;
	body?: BodyInit;
	signal?: AbortSignal;
	/** 0 for none. */
	deadlineMs?: number;
}

export function authHeaders(): Record<string, string> {
	return { 'Kepler-Client': 'ui', ...(token ? { Authorization: `Bearer ${token}` } : {}) };
}

/**
 * Sends a request; the answer is a success.
 *
 * @throws {ApiError} the node said no. {@link Unreachable} it said nothing. AbortError: `signal`.
 */
export async function request(path: string, options: RequestOptions = {}): Promise<Response> {
	const method = options.method ?? 'GET';
	const reading = method === 'GET' || method === 'HEAD';
	const deadlineMs = options.deadlineMs ?? (reading ? READ_DEADLINE_MS : WRITE_DEADLINE_MS);
	const deadline = new AbortController();
	const timer = deadlineMs > 0 ? setTimeout(() => deadline.abort(), deadlineMs) : null;
	const signals = options.signal ? [options.signal, deadline.signal] : [deadline.signal];
	let response: Response;
	try {
		response = await fetch(path, {
			method,
			headers: { ...authHeaders(), ...options.headers },
			body: options.body ?? null,
			signal: AbortSignal.any(signals),
			cache: 'no-store',
			credentials: 'omit',
			redirect: 'error'
		});
	} catch (error) {
		if (options.signal?.aborted) throw error;
		throw new Unreachable(deadline.signal.aborted ? 'the node did not answer in time' : undefined);
	} finally {
		// The deadline is for the head of the answer; a body may take as long as it flows.
		if (timer !== null) clearTimeout(timer);
	}
	if (response.ok) return response;
	throw problem(response.status, await response.text().catch(() => ''), response.headers.get('Retry-After'));
}

/** Turns an answer that is no success into an error. */
export function problem(status: number, body: string, retryAfter: string | null): ApiError {
	if (status === 401) onUnauthorized();
	const seconds = retryAfter === null ? null : Number(retryAfter);
	const after = seconds !== null && Number.isFinite(seconds) ? seconds : null;
	try {
		const parsed = Problem.check(JSON.parse(body), '', false);
		return new ApiError(parsed.type, status, parsed.detail, parsed.title, after);
	} catch {
		return new ApiError('unknown-problem', status, `the node answered with status ${status}`, '', after);
	}
}

/** Sends a request and reads its JSON. */
export async function json<T>(shape: Shape<T>, path: string, options?: RequestOptions): Promise<T> {
	const response = await request(path, options);
	let value: unknown;
	try {
		value = await response.json();
	} catch {
		throw new Unreachable('the answer broke off');
	}
	return shape.check(value, '', false);
}
