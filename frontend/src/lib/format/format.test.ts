import { describe, expect, it } from 'vitest';
import * as f from './format';
import * as names from './names';
import { kindOf, typeOf } from './kind';

describe('bytes', () => {
	it('are shown in units also where a node counts them one by one', () => {
		expect(f.inUnits('7 chunks (21594304 bytes) are on the way')).toBe('7 chunks (20.6 MiB) are on the way');
		expect(f.inUnits('1000 bytes and 2 chunks', 'decimal')).toBe('1 kB and 2 chunks');
		expect(f.inUnits('node-4 is dead')).toBe('node-4 is dead');
	});

	it('have three significant digits and the unit that was asked for', () => {
		const cases: [number, string, string][] = [
			[0, '0 B', '0 B'],
			[1, '1 B', '1 B'],
			[999, '999 B', '999 B'],
			[1000, '1000 B', '1 kB'],
			[1023, '1023 B', '1.02 kB'],
			[1024, '1 KiB', '1.02 kB'],
			[1536, '1.5 KiB', '1.54 kB'],
			[10 * 1024, '10 KiB', '10.2 kB'],
			[4 << 20, '4 MiB', '4.19 MB'],
			[1024 ** 2 - 1, '1 MiB', '1.05 MB'],
			[999_999, '977 KiB', '1 MB'],
			[100 * 2 ** 30, '100 GiB', '107 GB'],
			[2 ** 60, '1 EiB', '1.15 EB']
		];
		for (const [value, binary, decimal] of cases) {
			expect(f.bytes(value, 'binary'), `${value}`).toBe(binary);
			expect(f.bytes(value, 'decimal'), `${value}`).toBe(decimal);
		}
		expect(f.bytes(NaN)).toBe('–');
		expect(f.bytes(-1)).toBe('–');
	});
});

describe('durations', () => {
	it('have at most two neighbouring units', () => {
		expect(f.duration(0)).toBe('0 s');
		expect(f.duration(59.6)).toBe('1 min');
		expect(f.duration(200)).toBe('3 min 20 s');
		expect(f.duration(3600)).toBe('1 h');
		expect(f.duration(3605)).toBe('1 h');
		expect(f.duration(90_000)).toBe('1 d 1 h');
		expect(f.duration(Infinity)).toBe('–');
	});

	it('say what is left', () => {
		expect(f.timeLeft(100, 0)).toBe('waiting');
		expect(f.timeLeft(0, 10)).toBe('finishing');
		expect(f.timeLeft(100, 10)).toBe('10 s left');
		expect(f.timeLeft(1, 1000)).toBe('1 s left');
	});
});

describe('times', () => {
	it('are told by how long ago they were', () => {
		const now = Date.parse('2026-03-01T12:00:00Z');
		expect(f.ago('2026-03-01T11:59:58Z', now)).toBe('just now');
		expect(f.ago('2026-03-01T12:00:30Z', now)).toBe('just now');
		expect(f.ago('2026-03-01T11:59:20Z', now)).toBe('40 s ago');
		expect(f.ago('2026-03-01T09:00:00Z', now)).toBe('3 h ago');
		expect(f.ago('2025-01-01T12:00:00Z', now)).toBe('2025-01-01');
		expect(f.ago('nonsense', now)).toBe('–');
	});
});

describe('shares, counts and ids', () => {
	it('are short', () => {
		expect(f.percent(0)).toBe('0 %');
		expect(f.percent(1 / 3)).toBe('33.3 %');
		expect(f.percent(0.0001)).toBe('< 0.1 %');
		expect(f.percent(1)).toBe('100 %');
		expect(f.plural(1, 'copy', 'copies')).toBe('1 copy');
		expect(f.plural(1234, 'copy', 'copies')).toBe('1,234 copies');
		expect(f.shortId('bafybeigdyrzt5sfp7udm7hu76')).toBe('bafybeigd…7hu76');
		expect(f.shortId('short')).toBe('short');
	});
});

describe('names', () => {
	it('have folders by their slashes', () => {
		expect(names.base('a/b/c.txt')).toBe('c.txt');
		expect(names.base('a/b/')).toBe('b/');
		expect(names.base('a')).toBe('a');
		expect(names.folder('a/b/c.txt')).toBe('a/b/');
		expect(names.folder('a/b/')).toBe('a/');
		expect(names.folder('a')).toBe('');
		expect(names.crumbs('a/b/')).toEqual([
			{ label: 'a', prefix: 'a/' },
			{ label: 'b', prefix: 'a/b/' }
		]);
	});

	it('are refused by the rules of the API', () => {
		for (const good of ['a', 'a/b', 'ü', '<img src=x>', 'a b', '...', '.a', 'a\\b']) expect(names.refuse(good), good).toBeNull();
		for (const bad of ['', '/', '/a', 'a/', 'a//b', '.', 'a/..', 'a/./b', 'a\nb', 'a\u0085', 'x'.repeat(1025), '\ud800']) {
			expect(names.refuse(bad), JSON.stringify(bad)).not.toBeNull();
		}
		expect(names.refuse('ü'.repeat(512))).toBeNull();
		expect(names.refuse('ü'.repeat(513))).not.toBeNull();
	});

	it('show what would hide', () => {
		expect(names.visible('a\u202egpj.exe')).toBe('a\ufffdgpj.exe');
		expect(names.visible('日本語 ü.txt')).toBe('日本語 ü.txt');
	});

	it('have free ones beside them', () => {
		expect(names.beside('a/b.tar', 1)).toBe('a/b (1).tar');
		expect(names.beside('a.b/c', 2)).toBe('a.b/c (2)');
		expect(names.beside('.env', 1)).toBe('.env (1)');
	});

	it('are one word for a shell', () => {
		expect(names.shellWord('a/b.txt')).toBe('a/b.txt');
		expect(names.shellWord("it's $HOME")).toBe(`'it'\\''s $HOME'`);
	});
});

describe('kinds', () => {
	it('follow the type, and the name where there is none', () => {
		expect(kindOf('a', 'image/png')).toBe('image');
		expect(kindOf('a.mp4', null)).toBe('video');
		expect(kindOf('a.MP4', 'application/octet-stream')).toBe('video');
		expect(kindOf('a.png', 'text/plain')).toBe('text');
		expect(kindOf('a.html', 'text/html')).toBe('text');
		expect(kindOf('a', 'application/pdf')).toBe('pdf');
		expect(kindOf('a.tar.gz')).toBe('archive');
		expect(kindOf('a')).toBe('other');
		expect(typeOf('a.md')).toBe('text/markdown');
		expect(typeOf('a.md', 'text/plain; charset=utf-8')).toBe('text/plain');
		expect(typeOf('a', 'nonsense')).toBe('application/octet-stream');
	});
});
