/**
 * Makes the build what the node serves: no inline script, everything compressed once and for all.
 *
 * The node's content security policy allows scripts from files alone, so the few lines that start the
 * app move into a file of their own, hashed like the others. Fails if the app has grown beyond its
 * budget, counting every screen and not only the first.
 */
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const BUILD = new URL('../build/', import.meta.url).pathname;
const BUDGET_BYTES = 200_000;
const COMPRESSED = /\.(js|css|html|svg|json|txt|webmanifest)$/;

// Cargo looks at this file's time to see that there is something new to embed. Before the page is
// written, whose time says to make that it is newer than its sources.
const now = new Date();
utimesSync(new URL('../svelte.config.js', import.meta.url), now, now);

const page = join(BUILD, 'index.html');
let html = readFileSync(page, 'utf8');
const scripts = [...html.matchAll(/<script>([\s\S]*?)<\/script>/g)];
if (scripts.length !== 1) throw new Error(`index.html has ${scripts.length} inline scripts, not one`);
const [whole, code = ''] = /** @type {RegExpMatchArray} */ (scripts[0]);
const hash = createHash('sha256').update(code).digest('base64url').slice(0, 8);
writeFileSync(join(BUILD, `_app/immutable/boot.${hash}.js`), code.trim());
html = html.replace(whole, () => `<script src="/_app/immutable/boot.${hash}.js"></script>`);
if (/\sstyle=|\son\w+=/.test(html)) throw new Error('index.html has inline styles or handlers');
writeFileSync(page, html);

// Inline styles are allowed by their hash alone: one that is not the router's would not be applied.
const bundle = readdirSync(join(BUILD, '_app/immutable')).find((name) => /^bundle.*\.js$/.test(name));
const styles = readFileSync(join(BUILD, '_app/immutable', bundle ?? ''), 'utf8').matchAll(/[^:\w]style="([^"]*)"/g);
const policy = readFileSync(new URL('../../node/src/gateway/assets.rs', import.meta.url), 'utf8');
for (const [, style = ''] of styles) {
	const allowed = `sha256-${createHash('sha256').update(style).digest('base64')}`;
	if (!policy.includes(allowed)) throw new Error(`the node's policy does not allow style="${style}": ${allowed}`);
}

/** @param {string} folder @returns {string[]} */
const walk = (folder) =>
	readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
		entry.isDirectory() ? walk(join(folder, entry.name)) : [join(folder, entry.name)]
	);

let [total, all] = [0, 0];
for (const path of walk(BUILD)) {
	if (!COMPRESSED.test(path)) continue;
	const bytes = readFileSync(path);
	const br = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
	const gz = gzipSync(bytes, { level: 9 });
	if (br.length < bytes.length) writeFileSync(`${path}.br`, br);
	if (gz.length < bytes.length) writeFileSync(`${path}.gz`, gz);
	total += Math.min(br.length, bytes.length);
	all += statSync(path).size;
}
console.log(`the whole app: ${all} bytes, ${total} compressed`);
if (total > BUDGET_BYTES) throw new Error(`over the budget of ${BUDGET_BYTES} bytes`);
