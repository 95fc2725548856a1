/** What a file is, as far as showing it goes. */

export type Kind = 'image' | 'audio' | 'video' | 'pdf' | 'text' | 'archive' | 'other';

const BY_EXTENSION: Record<string, string> = {
	txt: 'text/plain', log: 'text/plain', md: 'text/markdown', csv: 'text/csv', json: 'application/json',
	js: 'text/javascript', ts: 'text/plain', css: 'text/css', html: 'text/html', htm: 'text/html', xml: 'application/xml',
	yaml: 'application/yaml', yml: 'application/yaml', toml: 'application/toml', rs: 'text/plain', py: 'text/x-python',
	sh: 'text/x-shellscript', c: 'text/plain', h: 'text/plain', go: 'text/plain', svelte: 'text/plain', sql: 'text/plain',
	png: 'image/png', jpg: 'image/jpeg', jpeg: 'image/jpeg', gif: 'image/gif', webp: 'image/webp', avif: 'image/avif',
	svg: 'image/svg+xml', bmp: 'image/bmp', ico: 'image/x-icon',
	mp3: 'audio/mpeg', wav: 'audio/wav', ogg: 'audio/ogg', flac: 'audio/flac', m4a: 'audio/mp4', aac: 'audio/aac', opus: 'audio/ogg',
	mp4: 'video/mp4', webm: 'video/webm', mov: 'video/quicktime', mkv: 'video/x-matroska', ogv: 'video/ogg',
	pdf: 'application/pdf', zip: 'application/zip', gz: 'application/gzip', tar: 'application/x-tar', xz: 'application/x-xz',
	zst: 'application/zstd', '7z': 'application/x-7z-compressed', wasm: 'application/wasm'
};

const TYPE = /^[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+$/;

/** The type to store a file under: what the browser says, else what the name says. */
export function typeOf(name: string, given = ''): string {
	const essence = given.split(';')[0]?.trim().toLowerCase() ?? '';
	if (TYPE.test(essence)) return essence;
	return byName(name) ?? 'application/octet-stream';
}

function byName(name: string): string | null {
	const dot = name.lastIndexOf('.');
	return dot < 0 ? null : (BY_EXTENSION[name.slice(dot + 1).toLowerCase()] ?? null);
}

/** How a file can be shown. The name helps where nobody gave a type. */
export function kindOf(name: string, contentType?: string | null): Kind {
	const stored = contentType?.split(';')[0]?.trim().toLowerCase() ?? '';
	const type = stored === '' || stored === 'application/octet-stream' ? (byName(name) ?? stored) : stored;
	if (type.startsWith('image/')) return 'image';
	if (type.startsWith('audio/')) return 'audio';
	if (type.startsWith('video/')) return 'video';
	if (type === 'application/pdf') return 'pdf';
	if (/zip|tar|compressed|zstd|x-xz/.test(type)) return 'archive';
	if (type.startsWith('text/') || /\b(json|xml|javascript|yaml|toml|x-sh|sql)\b/.test(type)) return 'text';
	return 'other';
}
