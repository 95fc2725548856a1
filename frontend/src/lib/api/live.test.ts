/** The shapes against a live node: with KEPLER_URL, as the browser tests run it. Strict: no field is unknown. */
import { describe, expect, it } from 'vitest';
import { readEvent } from './events';
import type { Shape } from './shape';
import * as shapes from './shapes';

const node = process.env.KEPLER_URL;
/** The CID of one letter a. */
const A = 'bafkreigks6arfsq3xxfpvqrrwonchxcnu6do76auprhhfomao6c273sixm';

describe.skipIf(!node)('a live node answers in these shapes', () => {
	const calls: [string, string, Shape<unknown>, RequestInit?][] = [
		['PUT a file', '/v1/files/shapes/a.txt', shapes.Receipt, { method: 'PUT', body: 'a', headers: { 'Content-Type': 'text/plain' } }],
		['copy', '/v1/copy', shapes.Receipt, { method: 'POST', body: JSON.stringify({ from: 'shapes/a.txt', to: 'shapes/b.txt' }), headers: { 'Kepler-Client': 't' } }],
		['copy of a CID', '/v1/copy', shapes.Receipt, { method: 'POST', body: JSON.stringify({ cid: A, content_type: 'text/plain', to: 'shapes/c.txt' }), headers: { 'Kepler-Client': 't' } }],
		['a link', '/v1/links', shapes.Link, { method: 'POST', body: JSON.stringify({ name: 'shapes/a.txt', download: true }), headers: { 'Kepler-Client': 't' } }],
		['list', '/v1/files?prefix=shapes/&delimiter=/&limit=1', shapes.Listing],
		['stat', '/v1/stat/shapes/a.txt', shapes.Stat],
		['PUT over it', '/v1/files/shapes/a.txt', shapes.Receipt, { method: 'PUT', body: 'aa', headers: { 'Content-Type': 'text/plain' } }],
		['earlier', '/v1/earlier/shapes/a.txt', shapes.Earlier],
		['recent', '/v1/recent?all=1', shapes.Recent],
		['locate', '/v1/locate/shapes/a.txt?if_down=node-b', shapes.Located],
		['cluster', '/v1/cluster', shapes.Cluster],
		['ring', '/v1/ring', shapes.Ring],
		['status', '/v1/status', shapes.NodeStatus],
		['health', '/v1/health', shapes.Health],
		['repair', '/v1/repair', shapes.Accepted, { method: 'POST', body: JSON.stringify({ action: 'start', all: true }), headers: { 'Kepler-Client': 't' } }],
		['scrub', '/v1/scrub', shapes.Accepted, { method: 'POST', body: JSON.stringify({ action: 'start', all: true }), headers: { 'Kepler-Client': 't' } }],
		['a problem', '/v1/files/shapes/none', shapes.Problem]
	];
	for (const [what, path, shape, init] of calls) {
		it(what, async () => {
			const response = await fetch(node + path, init);
			expect(() => shape.check(JSON.parse('null'), '', true)).toThrow();
			expect(shape.check(await response.json(), '', true)).toBeTruthy();
		});
	}

	it('events', async () => {
		const abort = new AbortController();
		const response = await fetch(`${node}/v1/events`, { signal: abort.signal });
		const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
		await reader.read();
		await fetch(`${node}/v1/files/shapes/c.txt`, { method: 'PUT', body: 'c' });
		let text = '';
		while (!/data: .*shapes\/c\.txt.*\n\n/.test(text)) text += (await reader.read()).value ?? '';
		abort.abort();
		const data = /data: (.*shapes\/c\.txt.*)\n\n/.exec(text)?.[1] ?? '';
		expect(readEvent(data)).toMatchObject({ type: 'written', name: 'shapes/c.txt', deleted: false });
	});
});
