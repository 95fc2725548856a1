/**
 * CIDs of files, computed here: version 1, sha2-256, raw leaves, balanced UnixFS, as the nodes do it.
 *
 * So the browser can tell whether what it is about to send is there already.
 */
import { digest } from './sha256';

const RAW = 0x55;
const DAG_PB = 0x70;
const MAX_LINKS = 1024;
const ALPHABET = 'abcdefghijklmnopqrstuvwxyz234567';

/** The bytes of a CID from its multihash digest. */
function cidBytes(codec: number, hash: Uint8Array): Uint8Array<ArrayBuffer> {
	const out = new Uint8Array(36);
	out.set([1, codec, 0x12, 32]);
	out.set(hash, 4);
	return out;
}

export function printCid(bytes: Uint8Array): string {
	let [text, bits, value] = ['b', 0, 0];
	for (const byte of bytes) {
		value = (value << 8) | byte;
		bits += 8;
		while (bits >= 5) {
			bits -= 5;
			text += ALPHABET[(value >> bits) & 31];
		}
		value &= (1 << bits) - 1;
	}
	return bits > 0 ? text + ALPHABET[(value << (5 - bits)) & 31] : text;
}

function varint(value: number): number[] {
	const out: number[] = [];
	let rest = value;
	while (rest >= 128) {
		out.push((rest % 128) | 128);
		rest = Math.floor(rest / 128);
	}
	return [...out, rest];
}

const field = (tag: number, body: ArrayLike<number>): number[] => [tag, ...varint(body.length), ...Array.from(body)];

interface Link {
	cid: Uint8Array<ArrayBuffer>;
	/** Bytes of the file below it. */
	size: number;
	/** Bytes of the blocks below it, its own included. */
	total: number;
}

/** A dag-pb node over `links`: Links (2) before Data (1); each Link has Hash, an empty Name, Tsize. */
function encodeNode(links: Link[]): Uint8Array<ArrayBuffer> {
	const size = links.reduce((sum, link) => sum + link.size, 0);
	const unixfs = [0x08, 2, 0x18, ...varint(size), ...links.flatMap((link) => [0x20, ...varint(link.size)])];
	const out = links.map((link) =>
		field(0x12, [...field(0x0a, link.cid), ...field(0x12, []), 0x18, ...varint(link.total)])
	);
	return new Uint8Array([...out.flat(), ...field(0x0a, unixfs)]);
}

/** The root CID that a node whose `CHUNK_SIZE_MB` is `chunkSize` bytes gives to `file`. */
export async function cidOf(
	file: Blob,
	chunkSize: number,
	options: { signal?: AbortSignal; onProgress?: (hashed: number) => void; maxLinks?: number } = {}
): Promise<string> {
	const maxLinks = options.maxLinks ?? MAX_LINKS;
	let level: Link[] = [];
	for (let start = 0; start === 0 || start < file.size; start += chunkSize) {
		options.signal?.throwIfAborted();
		const leaf = new Uint8Array(await file.slice(start, start + chunkSize).arrayBuffer());
		level.push({ cid: cidBytes(RAW, await digest(leaf)), size: leaf.length, total: leaf.length });
		options.onProgress?.(start + leaf.length);
	}
	while (level.length > 1) {
		const above: Link[] = [];
		for (let start = 0; start < level.length; start += maxLinks) {
			const links = level.slice(start, start + maxLinks);
			const node = encodeNode(links);
			above.push({
				cid: cidBytes(DAG_PB, await digest(node)),
				size: links.reduce((sum, link) => sum + link.size, 0),
				total: node.length + links.reduce((sum, link) => sum + link.total, 0)
			});
		}
		level = above;
	}
	return printCid((level[0] as Link).cid);
}
