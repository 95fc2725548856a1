import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { encodeName, filePath, readCounters } from './client';
import { EventParser, readEvent } from './events';
import { object, text, number, maybe, list, type Shape } from './shape';
import * as shapes from './shapes';

const description = readFileSync(new URL('../../../../docs/API.md', import.meta.url), 'utf8');

/** The first block of JSON under each heading of the description. */
function example(heading: string): unknown {
	const section = description.split(/^## /m).find((part) => part.startsWith(heading));
	const block = section?.match(/```json\n([\s\S]*?)```/)?.[1];
	if (!block) throw new Error(`docs/API.md has no JSON under "${heading}"`);
	// "…" stands for fields that are described elsewhere.
	return JSON.parse(block, (key, value: unknown) => (key === '…' ? undefined : value));
}

describe('the shapes are those of docs/API.md', () => {
	const cases: [string, Shape<unknown>][] = [
		['Errors', shapes.Problem],
		['PUT /v1/files/{name}', shapes.Receipt],
		['GET /v1/files\n', shapes.Listing],
		['GET /v1/stat/{name}', shapes.Stat],
		['GET /v1/earlier/{name}', shapes.Earlier],
		['GET /v1/recent', shapes.Recent],
		['POST /v1/links', shapes.Link],
		['GET /v1/cluster', shapes.Cluster],
		['GET /v1/ring', shapes.Ring],
		['GET /v1/status', shapes.NodeStatus],
		['GET /v1/health', shapes.Health]
	];
	for (const [heading, shape] of cases) {
		it(heading.trim(), () => {
			expect(() => shape.check(example(heading), '', true)).not.toThrow();
		});
	}

	it('every event that it lists is known, with its fields', () => {
		const section = description.split('## GET /v1/events')[1]?.split(/^## /m)[0] ?? '';
		const rows = [...section.matchAll(/^\| `(\w+)` \| ([^|]*)\|/gm)].filter((row) => row[1] !== 'type');
		expect(rows.length).toBeGreaterThan(5);
		for (const [, kind, fields] of rows) {
			const shape = shapes.EVENTS[kind as keyof typeof shapes.EVENTS];
			expect(shape, `event ${kind}`).toBeDefined();
			for (const [, field] of (fields ?? '').split(':')[0]?.matchAll(/`(\w+)`/g) ?? []) {
				// A field that the shape has is missed where it is absent.
				expect(() => shape.check({ type: kind }, '', false), `${kind}.${field}`).toThrow();
			}
		}
	});
});

describe('shapes', () => {
	const Shape = object({ a: text, b: maybe(number), c: list(text) });

	it('ignore what they do not know, unless they are strict', () => {
		expect(Shape.check({ a: 'x', c: [], d: 1 }, '', false)).toEqual({ a: 'x', c: [] });
		expect(() => Shape.check({ a: 'x', c: [], d: 1 }, '', true)).toThrow(/d/);
	});

	it('say where the fault is', () => {
		expect(() => Shape.check({ a: 'x', c: ['y', 2] }, '', false)).toThrow(/c\[1\]/);
		expect(() => Shape.check({ c: [] }, '', false)).toThrow(/a should be text/);
		expect(() => Shape.check(null, '', false)).toThrow(/an object/);
	});
});

describe('names in paths', () => {
	it('keep their slashes and nothing else', () => {
		expect(encodeName('a b/ü?#%/c')).toBe('a%20b/%C3%BC%3F%23%25/c');
		expect(encodeName('a\\b')).toBe('a%5Cb');
		expect(filePath('x', { version: 'n.1.2', download: true })).toBe('/v1/files/x?version=n.1.2&download=1');
		expect(filePath('x', { download: false })).toBe('/v1/files/x');
	});
});

describe('events', () => {
	it('are cut from any pieces', () => {
		const stream = 'retry: 2000\n\n: heartbeat\n\nevent: ready\ndata: {"type":"ready","ready":true}\n\ndata: a\ndata: b\n\n';
		for (let size = 1; size < stream.length; size += 1) {
			const parser = new EventParser();
			const found: string[] = [];
			for (let at = 0; at < stream.length; at += size) found.push(...parser.push(stream.slice(at, at + size)));
			expect(found, `pieces of ${size}`).toEqual(['{"type":"ready","ready":true}', 'a\nb']);
		}
	});

	it('of unknown kinds and broken ones are nothing', () => {
		expect(readEvent('{"type":"ready","ready":true}')).toEqual({ type: 'ready', ready: true });
		for (const bad of ['', '{', 'null', '[]', '{"type":"constructor"}', '{"type":"new"}', '{"type":"ready"}']) {
			expect(readEvent(bad), bad).toBeNull();
		}
	});
});

describe('counters', () => {
	it('are summed over their labels', () => {
		const body = '# TYPE a counter\na_total{x="1"} 2\na_total{x="2 }"} 3.5\nb_total 7\nab_total 1\n';
		expect(readCounters(body, ['a_total', 'b_total', 'c_total'])).toEqual({ a_total: 5.5, b_total: 7, c_total: 0 });
	});
});
