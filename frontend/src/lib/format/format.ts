/** Numbers, times and names as people read them. Pure: the present is an argument. */

export type Units = 'binary' | 'decimal';

const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
const DECIMAL = ['B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB'];

/** Bytes with three significant digits: `4 MiB`, `1.25 GB`. */
export function bytes(count: number, units: Units = 'binary'): string {
	if (!Number.isFinite(count) || count < 0) return '–';
	const [base, names] = units === 'binary' ? [1024, BINARY] : [1000, DECIMAL];
	let value = count;
	let step = 0;
	// 999.5 would be printed as 1,000: the next unit begins where three digits end.
	while (step < names.length - 1 && value >= (value < base ? 999.5 : base) && (step > 0 || value >= base)) {
		value /= base;
		step += 1;
	}
	return `${step === 0 ? String(Math.round(value)) : significant(value)} ${names[step]}`;
}

function significant(value: number): string {
	const digits = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
	return String(Number(value.toFixed(digits)));
}

/** A sentence of a node with its bytes as people read them: a node counts them one by one. */
export function inUnits(sentence: string, units: Units = 'binary'): string {
	return sentence.replace(/\b(\d+) bytes\b/g, (_, number: string) => bytes(Number(number), units));
}

/** Bytes a second. */
export function rate(bytesPerSecond: number, units: Units = 'binary'): string {
	return `${bytes(bytesPerSecond, units)}/s`;
}

/** A whole number with its thousands apart. */
export function count(value: number): string {
	return Math.round(value).toLocaleString('en-US');
}

/** `1 file`, `2 files`. */
export function plural(value: number, one: string, many = `${one}s`): string {
	return `${count(value)} ${value === 1 ? one : many}`;
}

/** A share of one: `34.1 %`. */
export function percent(share: number): string {
	if (!Number.isFinite(share)) return '–';
	const value = share * 100;
	if (value > 0 && value < 0.1) return '< 0.1 %';
	return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

const UNITS: [number, string][] = [
	[86_400, 'd'],
	[3_600, 'h'],
	[60, 'min'],
	[1, 's']
];

/** Seconds in at most two units: `3 min 20 s`. */
export function duration(seconds: number): string {
	if (!Number.isFinite(seconds) || seconds < 0) return '–';
	let left = Math.round(seconds);
	if (left === 0) return '0 s';
	const parts: string[] = [];
	for (const [size, name] of UNITS) {
		const whole = Math.floor(left / size);
		if (whole > 0) {
			parts.push(`${whole} ${name}`);
			left -= whole * size;
		} else if (parts.length) break;
		if (parts.length === 2) break;
	}
	return parts.join(' ');
}

/** How long ago, roughly: `just now`, `5 min ago`. */
export function ago(time: string | number, now: number): string {
	const then = typeof time === 'number' ? time : Date.parse(time);
	if (!Number.isFinite(then)) return '–';
	const seconds = Math.max(0, (now - then) / 1000);
	if (seconds < 5) return 'just now';
	const [size, name] = UNITS.find(([size]) => seconds >= size) ?? [1, 's'];
	if (name === 'd' && seconds >= 45 * 86_400) return day(then);
	return `${Math.floor(seconds / size)} ${name} ago`;
}

const two = (value: number) => String(value).padStart(2, '0');

/** A day in the reader's zone: `2026-03-01`. */
export function day(time: number): string {
	const date = new Date(time);
	return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** A day and a time in the reader's zone. */
export function dateTime(time: string | number): string {
	const value = typeof time === 'number' ? time : Date.parse(time);
	if (!Number.isFinite(value)) return '–';
	return `${day(value)} ${clock(value)}`;
}

/** A time of day in the reader's zone. */
export function clock(time: number): string {
	const date = new Date(time);
	return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** The middle of a long id left out: `bafybei…fbzdi`. */
export function shortId(id: string, head = 9, tail = 5): string {
	return id.length <= head + tail + 1 ? id : `${id.slice(0, head)}…${id.slice(-tail)}`;
}

/** Seconds that `left` bytes take at `bytesPerSecond`, in words. */
export function timeLeft(left: number, bytesPerSecond: number): string {
	if (left <= 0) return 'finishing';
	if (!(bytesPerSecond > 0)) return 'waiting';
	return `${duration(Math.max(1, left / bytesPerSecond))} left`;
}
