/**
 * The ring as a picture: arcs by share, the weave of tokens, paths of moving chunks.
 *
 * Angles are turns: 0 is twelve o'clock, clockwise, 1 all the way round.
 */

export interface Point {
	x: number;
	y: number;
}

/** The point at `turn` on a circle around the origin. */
export function at(turn: number, radius: number): Point {
	const angle = (turn - 0.25) * 2 * Math.PI;
	return { x: radius * Math.cos(angle), y: radius * Math.sin(angle) };
}

const n = (value: number): string => (Math.abs(value) < 5e-4 ? '0' : String(Math.round(value * 1000) / 1000));

/** An SVG path of a ring's piece between two turns and two radii. */
export function sector(from: number, to: number, inner: number, outer: number): string {
	const span = Math.min(Math.max(to - from, 0), 1);
	if (span >= 0.9999) {
		// An arc whose ends meet is nothing: two halves, twice.
		const circle = (r: number, sweep: 0 | 1) =>
			`M0 ${n(-r)}A${n(r)} ${n(r)} 0 1 ${sweep} 0 ${n(r)}A${n(r)} ${n(r)} 0 1 ${sweep} 0 ${n(-r)}Z`;
		return circle(outer, 1) + circle(inner, 0);
	}
	const [a, b, c, d] = [at(from, outer), at(from + span, outer), at(from + span, inner), at(from, inner)];
	const large = span > 0.5 ? 1 : 0;
	return (
		`M${n(a.x)} ${n(a.y)}A${n(outer)} ${n(outer)} 0 ${large} 1 ${n(b.x)} ${n(b.y)}` +
		`L${n(c.x)} ${n(c.y)}A${n(inner)} ${n(inner)} 0 ${large} 0 ${n(d.x)} ${n(d.y)}Z`
	);
}

export interface Slot<T> {
	item: T;
	from: number;
	to: number;
	/** Where its mark goes. */
	middle: number;
}

/**
 * Gives each item a piece of the circle in proportion to its weight, and those without weight a small
 * one, so that a dead member stays in sight. The gap is on both sides of each piece.
 */
export function slots<T>(items: T[], weight: (item: T) => number, gap = 0.004): Slot<T>[] {
	if (items.length === 0) return [];
	const least = Math.min(0.02, 0.25 / items.length);
	const weights = items.map((item) => Math.max(0, weight(item)) || 0);
	const total = weights.reduce((a, b) => a + b, 0);
	const raised = weights.map((w) => Math.max(total > 0 ? w / total : 1 / items.length, least));
	const sum = raised.reduce((a, b) => a + b, 0);
	const margin = items.length === 1 ? 0 : Math.min(gap, 0.2 / items.length);
	let turn = 0;
	return items.map((item, i) => {
		const span = (raised[i] ?? 0) / sum;
		const slot = { item, from: turn + margin / 2, to: turn + span - margin / 2, middle: turn + span / 2 };
		turn += span;
		return slot;
	});
}

/** Where a token of 16 hex digits is. */
export function turnOfToken(token: string): number {
	// 52 bits are exact and a thousand times finer than a pixel.
	return parseInt(token.slice(0, 13), 16) / 2 ** 52;
}

export interface Arc {
	from: number;
	to: number;
}

/**
 * Who owns which part of the circle, in `bins` steps: a picture has no room for more, whatever the
 * number of tokens. A key belongs to the first token at or after it; tokens ascend.
 */
export function weave(tokens: { token: string; node: string }[], bins = 1440): Map<string, Arc[]> {
	const arcs = new Map<string, Arc[]>();
	if (tokens.length === 0) return arcs;
	const turns = tokens.map((t) => turnOfToken(t.token));
	let next = 0;
	let lastNode: string | null = null;
	let lastArc: Arc = { from: 0, to: 0 };
	for (let bin = 0; bin < bins; bin += 1) {
		const middle = (bin + 0.5) / bins;
		while (next < turns.length && (turns[next] ?? 0) < middle) next += 1;
		const node = (tokens[next] ?? tokens[0])?.node ?? '';
		if (lastNode === node) {
			lastArc.to = (bin + 1) / bins;
			continue;
		}
		const arc: Arc = { from: bin / bins, to: (bin + 1) / bins };
		const own = arcs.get(node);
		if (own) own.push(arc);
		else arcs.set(node, [arc]);
		lastNode = node;
		lastArc = arc;
	}
	return arcs;
}

/** All arcs of one node as one path. */
export function bandPath(arcs: Arc[], inner: number, outer: number): string {
	return arcs.map((arc) => sector(arc.from, arc.to, inner, outer)).join('');
}

/** A curve from one place on the circle to another, bent towards the middle. */
export function chord(from: number, to: number, radius: number): string {
	const a = at(from, radius);
	const b = at(to, radius);
	const distance = Math.min(Math.abs(from - to), 1 - Math.abs(from - to));
	// Near neighbours bend less, or their curve would be a spike.
	const pull = 1 - Math.min(1, distance * 3);
	const middle = at(from + shortest(from, to) / 2, radius * pull * 0.85);
	return `M${n(a.x)} ${n(a.y)}Q${n(middle.x)} ${n(middle.y)} ${n(b.x)} ${n(b.y)}`;
}

function shortest(from: number, to: number): number {
	const forward = (((to - from) % 1) + 1) % 1;
	return forward > 0.5 ? forward - 1 : forward;
}
