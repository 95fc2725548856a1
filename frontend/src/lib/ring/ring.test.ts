import { describe, expect, it } from 'vitest';
import { linePath, niceCeiling, runs, thin } from './chart';
import { at, bandPath, chord, sector, slots, turnOfToken, weave } from './geometry';

describe('turns', () => {
	it('begin at twelve and go clockwise', () => {
		const near = (p: { x: number; y: number }, x: number, y: number) => {
			expect(p.x).toBeCloseTo(x);
			expect(p.y).toBeCloseTo(y);
		};
		near(at(0, 10), 0, -10);
		near(at(0.25, 10), 10, 0);
		near(at(0.5, 10), 0, 10);
		near(at(0.75, 10), -10, 0);
	});

	it('are read from tokens', () => {
		expect(turnOfToken('0000000000000000')).toBe(0);
		expect(turnOfToken('8000000000000000')).toBe(0.5);
		expect(turnOfToken('ffffffffffffffff')).toBeLessThan(1);
		expect(turnOfToken('ffffffffffffffff')).toBeGreaterThan(0.9999);
	});
});

describe('sectors', () => {
	it('know the long way round', () => {
		expect(sector(0, 0.25, 5, 10)).toBe('M0 -10A10 10 0 0 1 10 0L5 0A5 5 0 0 0 0 -5Z');
		expect(sector(0, 0.75, 5, 10)).toContain('A10 10 0 1 1');
	});

	it('of a whole turn are a ring, not nothing', () => {
		expect(sector(0, 1, 5, 10).match(/A/g)).toHaveLength(4);
	});
});

describe('slots', () => {
	it('fill the circle in proportion to the weights', () => {
		const found = slots([1, 2, 1], (w) => w, 0);
		expect(found.map((s) => s.to - s.from)).toEqual([0.25, 0.5, 0.25]);
		expect(found.at(-1)?.to).toBeCloseTo(1);
	});

	it('keep a dead member in sight', () => {
		const found = slots([1, 0], (w) => w, 0);
		expect(found[1] && found[1].to - found[1].from).toBeGreaterThan(0.015);
	});

	it('are equal where nobody has a weight, and none where there is nobody', () => {
		expect(slots([0, 0], (w) => w, 0).map((s) => s.middle)).toEqual([0.25, 0.75]);
		expect(slots([], () => 1)).toEqual([]);
	});

	it('never turn backwards, with a thousand nodes', () => {
		const found = slots(Array.from({ length: 1000 }, (_, i) => i), (i) => (i % 7 === 0 ? 0 : i));
		for (const slot of found) expect(slot.to).toBeGreaterThan(slot.from);
	});
});

describe('the weave', () => {
	it('gives a key to the first token at or after it, and wraps', () => {
		const arcs = weave([{ token: '4000000000000000', node: 'a' }, { token: '8000000000000000', node: 'b' }], 8);
		expect(arcs.get('a')).toEqual([{ from: 0, to: 0.25 }, { from: 0.5, to: 1 }]);
		expect(arcs.get('b')).toEqual([{ from: 0.25, to: 0.5 }]);
	});

	it('has no more arcs than bins, whatever the number of tokens', () => {
		const tokens = Array.from({ length: 50_000 }, (_, i) => ({
			token: Math.floor((i / 50_000) * 2 ** 48).toString(16).padStart(12, '0') + '0000',
			node: `n${i % 100}`
		}));
		const arcs = weave(tokens, 360);
		expect([...arcs.values()].flat().length).toBeLessThanOrEqual(360);
		expect(weave([]).size).toBe(0);
		expect(bandPath([...arcs.values()].flat(), 5, 10)).not.toContain('NaN');
	});
});

describe('chords', () => {
	it('begin and end where they should', () => {
		expect(chord(0, 0.5, 10)).toMatch(/^M0 -10Q.* 0 10$/);
		expect(chord(0.9, 0.1, 10)).not.toContain('NaN');
	});
});

describe('charts', () => {
	it('end at a round number', () => {
		expect([0, 0.3, 1, 1.1, 3, 7, 12, 99].map((v) => niceCeiling(v))).toEqual([1, 0.5, 1, 2, 5, 10, 20, 100]);
		expect(niceCeiling(1500, 1024)).toBe(2048);
		expect(niceCeiling(700 * 1024, 1024)).toBe(1000 * 1024);
	});

	it('break where nothing was measured', () => {
		const samples = [1, 2, 10, 11].map((at) => ({ at, value: 1 as number | null }));
		expect(runs(samples, 3).map((r) => r.length)).toEqual([2, 2]);
		samples[1] = { at: 2, value: null };
		expect(runs(samples, 30).map((r) => r.length)).toEqual([1, 2]);
	});

	it('keep their peaks when thinned', () => {
		const samples = Array.from({ length: 1000 }, (_, at) => ({ at, value: at === 777 ? 9 : 1 }));
		const thinned = thin(samples, 100);
		expect(thinned).toHaveLength(100);
		expect(Math.max(...thinned.map((s) => s.value ?? 0))).toBe(9);
	});

	it('are lines', () => {
		expect(linePath([{ at: 0, value: 1 }, { at: 1, value: 2 }], (x) => x * 10, (y) => y)).toBe('M0.0 1.0L10.0 2.0');
	});
});
