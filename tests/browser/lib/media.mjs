/** Things to hear and to see, made here. */


/** A sound of `seconds`, 8-bit mono PCM at `rate` Hz: a slow siren, different at every second. */
export function wav(seconds, rate = 44_100) {
	const samples = seconds * rate;
	const out = Buffer.alloc(44 + samples);
	out.write('RIFF', 0);
	out.writeUInt32LE(36 + samples, 4);
	out.write('WAVEfmt ', 8);
	out.writeUInt32LE(16, 16);
	out.writeUInt16LE(1, 20);
	out.writeUInt16LE(1, 22);
	out.writeUInt32LE(rate, 24);
	out.writeUInt32LE(rate, 28);
	out.writeUInt16LE(1, 32);
	out.writeUInt16LE(8, 34);
	out.write('data', 36);
	out.writeUInt32LE(samples, 40);
	for (let i = 0; i < samples; i += 1) out[44 + i] = 128 + 60 * Math.sin((i / rate) * 2 * Math.PI * (220 + 3 * Math.floor(i / rate)));
	return out;
}

/** A small PDF with one line of text. */
export function pdf(line) {
	const objects = [
		'<</Type/Catalog/Pages 2 0 R>>',
		'<</Type/Pages/Kids[3 0 R]/Count 1>>',
		'<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 120]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>',
		`<</Length ${line.length + 34}>>stream\nBT /F1 18 Tf 20 60 Td (${line}) Tj ET\nendstream`,
		'<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>'
	];
	let out = '%PDF-1.4\n';
	const at = objects.map((body, i) => {
		const start = out.length;
		out += `${i + 1} 0 obj\n${body}\nendobj\n`;
		return start;
	});
	const xref = out.length;
	out += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${at.map((n) => `${String(n).padStart(10, '0')} 00000 n \n`).join('')}`;
	return Buffer.from(`${out}trailer<</Size ${objects.length + 1}/Root 1 0 R>>\nstartxref\n${xref}\n%%EOF\n`);
}

/** A number as EBML writes sizes, always eight bytes. */
const size8 = (n) => {
	const out = Buffer.alloc(8);
	out.writeBigUInt64BE(BigInt(n) | (1n << 56n));
	return out;
};
const uint = (n) => {
	const out = Buffer.alloc(8);
	out.writeBigUInt64BE(BigInt(n));
	return out;
};
const element = (id, ...parts) => {
	const body = Buffer.concat(parts.map((p) => (typeof p === 'string' ? Buffer.from(p) : p)));
	return Buffer.concat([Buffer.from(id, 'hex'), size8(body.length), body]);
};

/**
 * A WebM film from VP8 frames `{at, key, data}` (milliseconds), with an index, so that a player seeks by
 * ranges. One cluster for each key frame. (Matroska specification, RFC 9559.)
 */
function webm(frames, { width, height, duration }) {
	const clusters = [];
	for (const frame of frames) {
		if (frame.key) clusters.push({ at: frame.at, frames: [] });
		clusters.at(-1).frames.push(frame);
	}
	const bodies = clusters.map(({ at, frames }) =>
		element('1f43b675', element('e7', uint(at)), ...frames.map((frame) => {
			const head = Buffer.from([0x81, 0, 0, frame.key ? 0x80 : 0]);
			head.writeInt16BE(frame.at - at, 1);
			return element('a3', head, frame.data);
		}))
	);
	const seconds = Buffer.alloc(8);
	seconds.writeDoubleBE(duration);
	const info = element('1549a966', element('2ad7b1', uint(1_000_000)), element('4489', seconds), element('4d80', 'kepler'), element('5741', 'kepler'));
	const tracks = element('1654ae6b', element('ae', element('d7', uint(1)), element('73c5', uint(1)), element('83', uint(1)), element('86', 'V_VP8'),
		element('e0', element('b0', uint(width)), element('ba', uint(height)))));
	const cuesAt = (start) => {
		let at = start;
		return element('1c53bb6b', ...clusters.map((cluster, i) => {
			const point = element('bb', element('b3', uint(cluster.at)), element('b7', element('f7', uint(1)), element('f1', uint(at))));
			at += bodies[i].length;
			return point;
		}));
	};
	// All numbers have eight bytes, so the index has one size wherever it points.
	const start = info.length + tracks.length + cuesAt(0).length;
	const head = element('1a45dfa3', element('4286', uint(1)), element('42f7', uint(1)), element('42f2', uint(4)), element('42f3', uint(8)),
		element('4282', 'webm'), element('4287', uint(4)), element('4285', uint(2)));
	return Buffer.concat([head, element('18538067', info, tracks, cuesAt(start), ...bodies)]);
}

/** A film of noise, encoded by the browser itself: `seconds` long and some megabytes large. */
export async function film(page, seconds = 24) {
	const [width, height, rate] = [320, 240, 10];
	const frames = await page.evaluate(
		async ({ width, height, rate, seconds }) => {
			const found = [];
			const encoder = new VideoEncoder({
				output(chunk) {
					const data = new Uint8Array(chunk.byteLength);
					chunk.copyTo(data);
					let text = '';
					for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
					found.push({ at: Math.round(chunk.timestamp / 1000), key: chunk.type === 'key', data: btoa(text) });
				},
				error(error) {
					throw error;
				}
			});
			encoder.configure({ codec: 'vp8', width, height, bitrate: 8_000_000, framerate: rate });
			const pixels = new Uint8Array(width * height * 4);
			for (let i = 0; i < seconds * rate; i += 1) {
				for (let at = 0; at < pixels.length; at += 65_536) crypto.getRandomValues(pixels.subarray(at, at + 65_536));
				const frame = new VideoFrame(pixels, { format: 'RGBX', codedWidth: width, codedHeight: height, timestamp: (i * 1e6) / rate });
				encoder.encode(frame, { keyFrame: i % rate === 0 });
				frame.close();
				if (encoder.encodeQueueSize > 8) await new Promise((resolve) => (encoder.ondequeue = resolve));
			}
			await encoder.flush();
			return found;
		},
		{ width, height, rate, seconds }
	);
	return webm(frames.map((f) => ({ ...f, data: Buffer.from(f.data, 'base64') })), { width, height, duration: seconds * 1000 });
}
