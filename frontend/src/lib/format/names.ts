/** File names: folders are only what their slashes say. */

/** A name as it stands in a path: each segment encoded, slashes kept. */
export function encodeName(name: string): string {
	return name.split('/').map(encodeURIComponent).join('/');
}

/** The last segment; of a folder prefix, its last segment with the slash. */
export function base(name: string): string {
	const at = name.replace(/\/$/, '').lastIndexOf('/');
	return name.slice(at + 1);
}

/** Everything up to and with the last slash; empty at the top. */
export function folder(name: string): string {
	return name.slice(0, name.replace(/\/$/, '').lastIndexOf('/') + 1);
}

/** The folders on the way to a prefix: `a/b/` gives `a/` and `a/b/`. */
export function crumbs(prefix: string): { label: string; prefix: string }[] {
	const segments = prefix.split('/').filter((s) => s !== '');
	return segments.map((label, i) => ({ label, prefix: `${segments.slice(0, i + 1).join('/')}/` }));
}

const ENCODER = new TextEncoder();

/** Why a name is none, or null where it is one. The rules are the API's. */
export function refuse(name: string): string | null {
	if (name === '') return 'Give it a name.';
	if (ENCODER.encode(name).length > 1024) return 'The name is longer than 1,024 bytes.';
	if (/\p{Cc}/u.test(name)) return 'The name has control characters.';
	if (!name.isWellFormed()) return 'The name is not valid text.';
	const segments = name.split('/');
	if (segments.includes('')) return 'A name does not begin or end with a slash, or have two in a row.';
	if (segments.includes('.') || segments.includes('..')) return 'A name has no “.” or “..” between slashes.';
	return null;
}

/**
 * A name with what reorders or hides text made visible, for showing alone: a right-to-left override
 * would let `exe.gpj` be read as `jpg.exe`.
 */
export function visible(name: string): string {
	return name.replace(/[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, '\ufffd');
}

/** A free name beside `name`: `a.txt` gives `a (1).txt`, then `a (2).txt`. */
export function beside(name: string, attempt: number): string {
	const dir = folder(name);
	const last = base(name);
	const dot = last.lastIndexOf('.');
	return dot > 0 ? `${dir}${last.slice(0, dot)} (${attempt})${last.slice(dot)}` : `${dir}${last} (${attempt})`;
}

/** The node that a version was written through: its token ends in a generation and a number. */
export const nodeOf = (version: string): string => version.split('.').slice(0, -2).join('.');

/** Where a folder is shown. */
export const folderHref = (prefix: string): string => `/files/${encodeName(prefix.replace(/\/$/, ''))}`;

/** What a shell takes as one word. */
export function shellWord(text: string): string {
	return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
