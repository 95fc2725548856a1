import { afterEach, describe, expect, it, vi } from 'vitest';
import { ApiError, type Receipt } from '$lib/api';
import { upload } from '$lib/api/upload';
import { cidOf } from '$lib/content/cid';
import { uploads } from './uploads.svelte';

vi.mock('$lib/api/upload', () => ({ upload: vi.fn() }));

const receipt = (name: string, acked: number): Receipt => ({
	name, cid: 'c', size: 3, chunks: 1, version: 'n.1.2', created_at: '2026-03-01T00:00:00.000Z', durability: 'quorum',
	replicas: { wanted: 3, acked, nodes: ['a', 'b', 'c'].slice(0, acked), queued: [] }
});
const body = new File(['abc'], 'f.txt', { type: 'text/plain' });
const until = (check: () => void) => vi.waitFor(check, { timeout: 5_000, interval: 5 });

/** A node that has the bytes already; `answers` to each copy, in order. */
async function node(answers: Response[]) {
	const cid = await cidOf(body, 4 << 20, {});
	const copies: { body: unknown; match: string | null }[] = [];
	vi.stubGlobal('fetch', async (path: string, init: RequestInit = {}) => {
		if (init.method === 'HEAD') return new Response(null, { headers: { 'Content-Length': '3', ETag: '"n.1.1"', 'Kepler-Cid': cid } });
		expect(path).toBe('/v1/copy');
		copies.push({ body: JSON.parse(String(init.body)), match: new Headers(init.headers).get('If-Match') });
		return answers.shift() ?? new Response(null, { status: 500 });
	});
	return { cid, copies };
}
const json = (value: unknown, status = 200) => new Response(JSON.stringify(value), { status, headers: { 'Content-Type': 'application/json' } });
const problem = (type: string, status: number) => json({ type, title: type, status, detail: `it is ${type}` }, status);

describe('an upload that is tried again', () => {
	afterEach(() => {
		vi.unstubAllGlobals();
		vi.mocked(upload).mockReset();
		uploads.cancelAll();
		uploads.clear();
	});

	it('is done only with a receipt for the durability that was asked for, without sending its bytes again', async () => {
		vi.mocked(upload).mockRejectedValue(new ApiError('no-quorum', 503, '2 of the 3 needed replicas answered'));
		const { cid, copies } = await node([problem('no-quorum', 503), json(receipt('r/f.txt', 3))]);
		const stored: Receipt[] = [];
		const stop = uploads.whenStored((r) => stored.push(r));
		uploads.add([{ file: body, name: 'r/f.txt' }]);
		const item = uploads.items.at(-1)!;
		await until(() => expect(item.state).toBe('failed'));

		// Its bytes are there, the owner is still away.
		uploads.retry(item);
		await until(() => expect(copies).toHaveLength(1));
		await until(() => expect([item.state, item.error]).toEqual(['failed', 'it is no-quorum']));
		expect([item.receipt, stored]).toEqual([null, []]);

		uploads.retry(item);
		await until(() => expect(item.state).toBe('done'));
		expect(item.receipt?.replicas.acked).toBe(3);
		expect(item.skipped).toBe(true);
		expect(stored).toEqual([item.receipt]);
		expect(copies[1]).toEqual({ body: { cid, content_type: 'text/plain', to: 'r/f.txt', durability: item.durability }, match: '"n.1.1"' });
		expect(upload).toHaveBeenCalledTimes(1);
		stop();
	});

	it('sends its bytes after all where what was there is gone or replaced', async () => {
		for (const answer of [problem('precondition-failed', 412), problem('not-found', 404)]) {
			vi.mocked(upload).mockReset().mockRejectedValueOnce(new ApiError('no-quorum', 503, 'too few')).mockResolvedValueOnce(receipt('r/g.txt', 2));
			const { copies } = await node([answer]);
			uploads.add([{ file: body, name: 'r/g.txt' }]);
			const item = uploads.items.at(-1)!;
			await until(() => expect(item.state).toBe('failed'));
			uploads.retry(item);
			await until(() => expect(item.state).toBe('done'));
			expect([copies.length, item.skipped, item.receipt?.replicas.acked]).toEqual([1, false, 2]);
			expect(upload).toHaveBeenCalledTimes(2);
		}
	});
});
