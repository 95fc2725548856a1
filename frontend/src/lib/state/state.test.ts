import { describe, expect, it } from 'vitest';
import type { FileEntry } from '$lib/api';
import { EVENTS } from '$lib/api/shapes';
import { describe as words, type Entry } from './activity.svelte';
import { Folder } from './folder.svelte';
import { Upload } from './uploads.svelte';

const file = (name: string, size: number, day: number, content_type?: string): FileEntry => ({
	name, cid: 'c', size, created_at: `2026-03-0${day}T00:00:00.000Z`, etag: '"e"', conflicts: 0, ...(content_type ? { content_type } : {})
});

describe('a folder', () => {
	const folder = new Folder('a/');
	folder.files = [file('a/one', 1, 3, 'text/plain'), file('a/Three', 30, 1), file('a/two', 20, 2, 'image/png')];
	folder.prefixes = ['a/x/', 'a/y one/'];
	const names = () => folder.rows.map((row) => row.label);

	it('lists its folders first, by name as the node orders them', () => {
		expect(names()).toEqual(['x', 'y one', 'one', 'Three', 'two']);
	});

	it('is sorted by what was asked for, the greatest and the newest first', () => {
		folder.sortBy('size');
		expect(names().slice(2)).toEqual(['Three', 'two', 'one']);
		folder.sortBy('created_at');
		expect(names().slice(2)).toEqual(['one', 'two', 'Three']);
		folder.sortBy('created_at');
		expect(names().slice(2)).toEqual(['Three', 'two', 'one']);
		folder.sortBy('name');
		folder.sortBy('name');
		expect(names()).toEqual(['y one', 'x', 'two', 'Three', 'one']);
		folder.sortBy('name');
	});

	it('is filtered by any part of the name below it, never by the folder itself', () => {
		folder.filter = 'ONE';
		expect(names()).toEqual(['y one', 'one']);
		folder.filter = 'a/';
		expect(names()).toEqual([]);
		folder.filter = '';
	});
});

describe('an upload', () => {
	it('measures its rate over the last seconds, and finishes when all is sent', () => {
		const upload = new Upload(1, new File([new Uint8Array(10_000)], 'f'), 'f', 'quorum');
		for (let ms = 1; ms <= 4_001; ms += 250) upload.progress((ms - 1) * 2, ms);
		expect(upload.rate).toBeCloseTo(2_000, 0);
		upload.progress(10_000, 5_000);
		expect(upload.state).toBe('finishing');
		upload.reset();
		expect([upload.sent, upload.rate, upload.error]).toEqual([0, 0, null]);
	});

	it('never claims more than the file has: what is sent has headers too', () => {
		const upload = new Upload(1, new File(['four'], 'f'), 'f', 'quorum');
		upload.progress(700, 1);
		expect(upload.sent).toBe(4);
	});
});

describe('every event', () => {
	it('has words', () => {
		const event = {
			node: 'n', status: 'dead', name: 'f', version: 'v', deleted: false, chunks: 2, bytes: 3, cid: 'c', number: 1, members: ['n'],
			ready: true, from: 'a', to: 'b', checked: 4, bad: 1, left_chunks: 1, missed: 2
		};
		for (const type of Object.keys(EVENTS)) {
			const said = words({ ...event, ...(type === 'health' ? { status: 'ok' } : {}), type } as never) as Entry;
			expect(said.text.length, type).toBeGreaterThan(5);
			expect(said.text, type).not.toContain('undefined');
		}
	});
});
