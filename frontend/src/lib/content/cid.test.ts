import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cidOf } from './cid';
import { digest, sha256 } from './sha256';

interface Vector {
	size: number;
	chunk_size: number;
	max_links: number;
	root: string;
}
const { vectors } = JSON.parse(readFileSync(new URL('../../../../tests/vectors/unixfs.json', import.meta.url), 'utf8')) as {
	vectors: Vector[];
};

const MIB = 1 << 20;
const BLOCK = new Uint8Array(MIB);
for (let i = 0; i < 32_768; i += 1) {
	const counter = new Uint8Array(8);
	new DataView(counter.buffer).setUint32(0, i, true);
	BLOCK.set(sha256(counter), i * 32);
}

/** The content that the vectors' file describes. */
function content(size: number): Uint8Array<ArrayBuffer> {
	const out = new Uint8Array(Math.ceil(size / MIB) * MIB);
	for (let i = 0; i * MIB < size; i += 1) {
		out.set(BLOCK, i * MIB);
		new DataView(out.buffer).setUint32(i * MIB, i, true);
		new DataView(out.buffer).setUint32(i * MIB + 4, 0, true);
	}
	return out.slice(0, size);
}

describe('sha-256', () => {
	it('agrees with the platform about every length around a block', async () => {
		for (const length of [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 1000]) {
			const data = new Uint8Array(length).map((_, i) => i * 7);
			expect(sha256(data), `length ${length}`).toEqual(await digest(data));
		}
	});
});

describe('the CID of a file', () => {
	const small = vectors.filter((v) => v.size <= 20 << 20);

	it('has enough vectors to say anything', () => expect(small.length).toBeGreaterThan(20));

	it('is what an independent implementation says', async () => {
		for (const v of small) {
			const cid = await cidOf(new Blob([content(v.size)]), v.chunk_size, { maxLinks: v.max_links });
			expect(cid, JSON.stringify(v)).toBe(v.root);
		}
	}, 60_000);
});
