/**
 * SHA-256, for pages that are not a secure context: browsers hide theirs from those (plain HTTP off
 * localhost). FIPS 180-4, section 6.2.
 */
const K = new Uint32Array(64);
const START = new Uint32Array(8);
{
	const fraction = (x: number) => ((x - Math.floor(x)) * 2 ** 32) >>> 0;
	let found = 0;
	for (let candidate = 2; found < 64; candidate += 1) {
		let prime = true;
		for (let d = 2; d * d <= candidate; d += 1) if (candidate % d === 0) prime = false;
		if (!prime) continue;
		K[found] = fraction(Math.cbrt(candidate));
		if (found < 8) START[found] = fraction(Math.sqrt(candidate));
		found += 1;
	}
}

export function sha256(data: Uint8Array): Uint8Array<ArrayBuffer> {
	const padded = new Uint8Array(((data.length + 8) >> 6) * 64 + 64);
	padded.set(data);
	padded[data.length] = 0x80;
	const view = new DataView(padded.buffer);
	view.setUint32(padded.length - 8, Math.floor(data.length / 2 ** 29));
	view.setUint32(padded.length - 4, (data.length << 3) >>> 0);
	const h = START.slice();
	const w = new Uint32Array(64);
	const at = (words: Uint32Array, i: number) => words[i] as number;
	for (let block = 0; block < padded.length; block += 64) {
		for (let i = 0; i < 16; i += 1) w[i] = view.getUint32(block + i * 4);
		for (let i = 16; i < 64; i += 1) {
			const a = at(w, i - 15);
			const b = at(w, i - 2);
			const s0 = ((a >>> 7) | (a << 25)) ^ ((a >>> 18) | (a << 14)) ^ (a >>> 3);
			const s1 = ((b >>> 17) | (b << 15)) ^ ((b >>> 19) | (b << 13)) ^ (b >>> 10);
			w[i] = (at(w, i - 16) + s0 + at(w, i - 7) + s1) | 0;
		}
		let [a, b, c, d, e, f, g, hh] = h as unknown as [number, number, number, number, number, number, number, number];
		for (let i = 0; i < 64; i += 1) {
			const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
			const t1 = (hh + s1 + ((e & f) ^ (~e & g)) + at(K, i) + at(w, i)) | 0;
			const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
			const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
			hh = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
		}
		[a, b, c, d, e, f, g, hh].forEach((value, i) => (h[i] = (at(h, i) + value) | 0));
	}
	const out = new Uint8Array(32);
	const outView = new DataView(out.buffer);
	h.forEach((word, i) => outView.setUint32(i * 4, word >>> 0));
	return out;
}

/** The browser's own where it lets us. */
export async function digest(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
	const subtle = globalThis.crypto?.subtle;
	return subtle ? new Uint8Array(await subtle.digest('SHA-256', data)) : sha256(data);
}
