/** Files to look at, for screens that are not empty. */
import { randomBytes } from 'node:crypto';
import { deflateSync } from 'node:zlib';

const crcTable = Array.from({ length: 256 }, (_, n) => {
	let c = n;
	for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
	return c >>> 0;
});

function chunk(type, data) {
	const body = Buffer.concat([Buffer.from(type), data]);
	let crc = 0xffffffff;
	for (const byte of body) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
	const out = Buffer.alloc(body.length + 8);
	out.writeUInt32BE(data.length, 0);
	body.copy(out, 4);
	out.writeUInt32BE((crc ^ 0xffffffff) >>> 0, body.length + 4);
	return out;
}

/** A sun and the planets that cross it, as a PNG. */
export function sky(width = 720, height = 450, seed = 1) {
	const rows = Buffer.alloc(height * (1 + width * 3));
	const bodies = [[0.34, 0.56, 92, 255, 190, 90], [0.72, 0.28, 17, 120, 150, 235], [0.55 + 0.02 * seed, 0.66, 7, 210, 120, 90]];
	for (let y = 0; y < height; y += 1) {
		for (let x = 0; x < width; x += 1) {
			const at = y * (1 + width * 3) + 1 + x * 3;
			let [r, g, b] = [12 + (18 * y) / height, 16 + (14 * x) / width, 40 + 26 * (1 - y / height)];
			for (const [cx, cy, radius, br, bg, bb] of bodies) {
				const d = Math.hypot(x - cx * width, y - cy * height);
				const light = d < radius ? 1 : Math.max(0, 1 - (d - radius) / (radius * 2.4)) ** 2 * 0.55;
				r += (br - r) * light;
				g += (bg - g) * light;
				b += (bb - b) * light;
			}
			rows[at] = r;
			rows[at + 1] = g;
			rows[at + 2] = b;
		}
	}
	const head = Buffer.alloc(13);
	head.writeUInt32BE(width, 0);
	head.writeUInt32BE(height, 4);
	head.set([8, 2, 0, 0, 0], 8);
	return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', head), chunk('IDAT', deflateSync(rows)), chunk('IEND', Buffer.alloc(0))]);
}

export async function pictures(node) {
	await node.put('photos/2026/transit.png', sky(720, 450, 1), 'image/png');
	await node.put('photos/2026/conjunction.png', sky(720, 450, 4), 'image/png');
	await node.put('photos/2026/eclipse.png', sky(720, 450, 7), 'image/png');
	await node.put('photos/cover.png', sky(480, 300, 2), 'image/png');
	await node.put('backups/2026-03-01.tar.zst', randomBytes(23_500_000), 'application/zstd');
	await node.put('backups/2026-03-02.tar.zst', randomBytes(9_100_000), 'application/zstd');
	await node.put('notes/kepler.md', '# Laws\n\n1. Orbits are ellipses.\n2. Equal areas in equal times.\n3. Periods squared go as distances cubed.\n', 'text/markdown');
	await node.put('notes/todo.txt', 'look up\n', 'text/plain');
	await node.put('planets.csv', 'name,days\nMercury,88\nVenus,225\nEarth,365\nMars,687\n', 'text/csv');
	await node.put('ephemeris.json', '{"epoch": "J2000", "bodies": 8}\n', 'application/json');
	await node.put('lecture.pdf', randomBytes(1_400_000), 'application/pdf');
	await node.put('harmony.flac', randomBytes(6_200_000), 'audio/flac');
}

/** Something to see in the log and the graphs. */
pictures.stir = async (node, cluster) => {
	const last = cluster.nodes.at(-1);
	const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
	const work = async (from, to) => {
		for (let i = from; i < to; i += 1) {
			await node.put(`imports/batch-${i}.bin`, randomBytes(3_000_000 + (i % 5) * 1_400_000));
			for (let reads = 0; reads < 1 + (i % 3); reads += 1) {
				await node.fetch(`/v1/files/imports/batch-${Math.max(0, i - reads)}.bin`).then((r) => r.arrayBuffer());
			}
			await pause(2_000);
		}
	};
	await work(0, 7);
	await last.kill();
	await work(7, 17);
	last.start();
	await cluster.settled();
	await work(17, 21);
	await pause(6_000);
};
