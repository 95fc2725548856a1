/** Files in a browser: in, out, changed, gone and back. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ALLOW, busy, launch, open } from './lib/browser.mjs';
import { Cluster } from './lib/cluster.mjs';
import { eventually } from './lib/eventually.mjs';
import { film, pdf, wav } from './lib/media.mjs';

let cluster, browser, node;
const folder = mkdtempSync(join(tmpdir(), 'kepler-files-'));
before(async () => {
	cluster = await Cluster.start(3);
	node = cluster.nodes[0];
	browser = await launch();
});
after(async () => {
	await browser?.close();
	await cluster?.stop();
	rmSync(folder, { recursive: true, force: true });
});

const sha = (bytes) => createHash('sha256').update(bytes).digest('hex');
const row = (page, name) => page.locator(`[data-row="${name}"]`);
const item = (page, name) => page.locator(`[data-testid=uploads] [data-name="${name}"]`);
const state = (page, name) => item(page, name).getAttribute('data-state');
const stored = async (name) => Buffer.from(await (await node.fetch(`/v1/files/${name.split('/').map(encodeURIComponent).join('/')}`)).arrayBuffer());
const act = async (page, name, label) => {
	await row(page, name).getByRole('button', { name: /^Actions/ }).click();
	await page.getByRole('menuitem', { name: label }).click();
};
/** Nothing was complained of, and nobody outside was asked: the browser's own PDF viewer is inside. */
const close = async (page) => {
	assert.deepEqual(page.complaints, [], 'the page complained');
	for (const url of page.requests) assert.ok(/^(http:\/\/127\.0\.0\.1:|blob:|data:|chrome(-extension|-untrusted)?:)/.test(url), `an outside request: ${url}`);
	await page.context().close();
};

test('a file that is picked is stored, receipted, listed and downloaded as it was', async () => {
	const bytes = randomBytes(9 << 20);
	const path = join(folder, 'picked.bin');
	writeFileSync(path, bytes);
	const page = await open(browser, `${node.url}/files/picked`);
	await page.getByTestId('empty').waitFor();
	await page.getByTestId('file-input').setInputFiles(path);
	await row(page, 'picked/picked.bin').waitFor();
	await item(page, 'picked/picked.bin').getByRole('button', { name: 'Receipt' }).click();
	const receipt = page.getByRole('dialog');
	await receipt.getByText(/[23] of 3 copies durable/).waitFor();
	await receipt.getByText('9 MiB in 3 chunks').waitFor();
	await page.keyboard.press('Escape');
	await receipt.waitFor({ state: 'detached' });
	assert.equal(sha(await stored('picked/picked.bin')), sha(bytes));

	const [download] = await Promise.all([page.waitForEvent('download'), act(page, 'picked/picked.bin', 'Download')]);
	assert.equal(download.suggestedFilename(), 'picked.bin');
	assert.equal(sha(readFileSync(await download.path())), sha(bytes));
	await close(page);
});

test('files that are dropped are stored in the folder that is open', async () => {
	const page = await open(browser, `${node.url}/files/dropped/here`);
	await page.getByTestId('empty').waitFor();
	const data = await page.evaluateHandle(() => {
		const transfer = new DataTransfer();
		transfer.items.add(new File(['one'], 'one.txt', { type: 'text/plain' }));
		transfer.items.add(new File(['two'], 'two.txt', { type: 'text/plain' }));
		return transfer;
	});
	await page.dispatchEvent('body', 'dragenter', { dataTransfer: data });
	await page.getByText('Drop to store in dropped/here/').waitFor();
	await page.dispatchEvent('body', 'drop', { dataTransfer: data });
	await row(page, 'dropped/here/one.txt').waitFor();
	await row(page, 'dropped/here/two.txt').waitFor();
	assert.equal(String(await stored('dropped/here/two.txt')), 'two');
	await close(page);
});

test('what is written and deleted through other nodes is shown without a reload', async () => {
	const [, b, c] = cluster.nodes;
	const page = await open(browser, `${node.url}/files/elsewhere`);
	await page.getByTestId('empty').waitFor();
	await b.put('elsewhere/b.txt', 'b', 'text/plain');
	await row(page, 'elsewhere/b.txt').waitFor({ timeout: 30_000 });
	await c.fetch('/v1/files/elsewhere/b.txt', { method: 'DELETE' });
	await row(page, 'elsewhere/b.txt').waitFor({ state: 'detached', timeout: 30_000 });
	await close(page);
});

test('a folder keeps its folders', async () => {
	mkdirSync(join(folder, 'tree/deep'), { recursive: true });
	writeFileSync(join(folder, 'tree/top.txt'), 'top');
	writeFileSync(join(folder, 'tree/deep/leaf.txt'), 'leaf');
	const page = await open(browser, `${node.url}/files/trees`);
	await page.locator('input[webkitdirectory]').setInputFiles(join(folder, 'tree'));
	await row(page, 'trees/tree/').getByRole('link').click();
	await row(page, 'trees/tree/top.txt').waitFor();
	await row(page, 'trees/tree/deep/').getByRole('link').click();
	await row(page, 'trees/tree/deep/leaf.txt').waitFor();
	await page.getByRole('navigation', { name: 'Folders' }).getByRole('link', { name: 'trees' }).click();
	await row(page, 'trees/tree/').waitFor();
	await close(page);
});

test('fifty files at once all arrive whole', async () => {
	const files = Array.from({ length: 50 }, (_, i) => ({
		name: `file-${String(i).padStart(2, '0')}.bin`,
		mimeType: 'application/octet-stream',
		buffer: randomBytes(1000 + i * 3511)
	}));
	const page = await open(browser, `${node.url}/files/fifty`);
	await page.getByTestId('file-input').setInputFiles(files);
	await page.getByText('50 files stored').waitFor({ timeout: 240_000 });
	await page.getByText(/^50 entries/).waitFor();
	for (const file of files) assert.equal(sha(await stored(`fifty/${file.name}`)), sha(file.buffer), file.name);

	await page.getByLabel('Filter by name').fill('file-4');
	await page.getByText(/^10 entries/).waitFor();
	await page.getByLabel('Filter by name').fill('');
	await page.getByRole('button', { name: 'Size' }).click();
	assert.equal(await page.locator('[data-row]').first().getAttribute('data-row'), 'fifty/file-49.bin');
	await close(page);
});

test('an upload is cancelled, leaves nothing, and succeeds when tried again', async () => {
	const path = join(folder, 'slow.bin');
	const bytes = randomBytes(24 << 20);
	writeFileSync(path, bytes);
	const page = await open(browser, `${node.url}/files/cancelled`);
	const devtools = await page.context().newCDPSession(page);
	const limit = (upload) => devtools.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: upload });
	await devtools.send('Network.enable');
	await limit(3 << 20);
	await page.getByTestId('file-input').setInputFiles(path);
	const progress = item(page, 'cancelled/slow.bin').getByRole('progressbar');
	await eventually('a megabyte is sent', async () => (await progress.evaluate((p) => p.value)) > 1 << 20);
	await page.getByTestId('upload-total').getByText(/left/).waitFor();
	await item(page, 'cancelled/slow.bin').getByRole('button', { name: /^Cancel/ }).click();
	await eventually('it is cancelled', async () => (await state(page, 'cancelled/slow.bin')) === 'cancelled');
	assert.equal((await node.fetch('/v1/files/cancelled/slow.bin')).status, 404);
	await limit(-1);
	await item(page, 'cancelled/slow.bin').getByRole('button', { name: /^Try/ }).click();
	await eventually('it is stored', async () => (await state(page, 'cancelled/slow.bin')) === 'done', 60_000);
	assert.equal(sha(await stored('cancelled/slow.bin')), sha(bytes));
	await close(page);
});

test('a retry does not send again what is there already', async () => {
	const page = await open(browser, `${node.url}/files/retry`);
	let sent = 0;
	await page.route('**/v1/files/retry/**', async (route) => {
		if (route.request().method() !== 'PUT') return route.continue();
		sent += 1;
		// The node stores it, and its answer is lost.
		await route.fetch();
		await route.abort('connectionreset');
	});
	const bytes = randomBytes(6 << 20);
	await page.getByTestId('file-input').setInputFiles({ name: 'lost.bin', mimeType: 'application/octet-stream', buffer: bytes });
	await eventually('it has failed', async () => (await state(page, 'retry/lost.bin')) === 'failed');
	await item(page, 'retry/lost.bin').getByRole('button', { name: /^Try/ }).click();
	await item(page, 'retry/lost.bin').getByText(/^Was there already, not sent again, [23] of 3 copies durable$/).waitFor();
	await item(page, 'retry/lost.bin').getByRole('button', { name: 'Receipt' }).waitFor();
	assert.equal(sent, 1);

	// Other bytes of the same length are no reason not to send.
	await node.put('retry/lost.bin', randomBytes(6 << 20));
	await page.unrouteAll();
	await page.route('**/v1/files/retry/other.bin**', (route) => (route.request().method() === 'PUT' && sent++ < 2 ? route.abort() : route.continue()));
	await node.put('retry/other.bin', randomBytes(500));
	const mine = randomBytes(500);
	await page.getByTestId('file-input').setInputFiles({ name: 'other.bin', mimeType: 'application/octet-stream', buffer: mine });
	await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).click();
	await eventually('it has failed', async () => (await state(page, 'retry/other.bin')) === 'failed');
	await item(page, 'retry/other.bin').getByRole('button', { name: /^Try/ }).click();
	await eventually('it is stored', async () => (await state(page, 'retry/other.bin')) === 'done');
	assert.equal(sha(await stored('retry/other.bin')), sha(mine));
	await close(page);
});

test('what exists is replaced only after a question', async () => {
	await node.put('asked/a.txt', 'old', 'text/plain');
	const page = await open(browser, `${node.url}/files/asked`);
	await row(page, 'asked/a.txt').waitFor();
	const files = ['a.txt', 'b.txt'].map((name) => ({ name, mimeType: 'text/plain', buffer: Buffer.from('new') }));
	await page.getByTestId('file-input').setInputFiles(files);
	await page.getByRole('dialog').getByRole('button', { name: 'Only the new ones' }).click();
	await row(page, 'asked/b.txt').waitFor();
	assert.equal(String(await stored('asked/a.txt')), 'old');
	await page.getByTestId('file-input').setInputFiles(files);
	await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).click();
	await eventually('it is replaced', async () => String(await stored('asked/a.txt')) === 'new');
	await close(page);
});

test('the durability that is chosen is the one that is asked for', async () => {
	const page = await open(browser, `${node.url}/files/durable`);
	await page.getByLabel('Durability').selectOption('all');
	await page.getByTestId('file-input').setInputFiles({ name: 'all.txt', mimeType: 'text/plain', buffer: Buffer.from('all') });
	await item(page, 'durable/all.txt').getByText('3 of 3 copies durable').waitFor();
	assert.ok(page.requests.some((url) => url.endsWith('/v1/files/durable/all.txt?durability=all')));
	await close(page);
});

test('a file is renamed, copied, deleted, and comes back', async () => {
	const bytes = randomBytes(5 << 20);
	await node.put('verbs/a.bin', bytes, 'application/x-thing');
	const page = await open(browser, `${node.url}/files/verbs`, { allow: [ALLOW.changed] });
	await act(page, 'verbs/a.bin', 'Rename…');
	await page.getByLabel('Name, with its folders').fill('verbs/b.bin');
	await page.keyboard.press('Enter');
	await row(page, 'verbs/b.bin').waitFor();
	await row(page, 'verbs/a.bin').waitFor({ state: 'detached' });
	await act(page, 'verbs/b.bin', 'Copy…');
	await page.getByLabel('Name, with its folders').fill('verbs/../c');
	await page.getByText('A name has no').waitFor();
	await page.getByLabel('Name, with its folders').fill('verbs/c.bin');
	await page.getByRole('dialog').getByRole('button', { name: 'Copy' }).click();
	await row(page, 'verbs/c.bin').waitFor();

	await act(page, 'verbs/b.bin', 'Delete');
	await row(page, 'verbs/b.bin').waitFor({ state: 'detached' });
	assert.equal((await node.fetch('/v1/files/verbs/b.bin')).status, 404);
	const sent = [];
	page.on('request', (request) => {
		const { pathname } = new URL(request.url());
		if (request.method() !== 'GET' || pathname.startsWith('/v1/chunks/')) sent.push(`${request.method()} ${pathname}`);
	});
	await page.getByRole('button', { name: 'Undo' }).click();
	await row(page, 'verbs/b.bin').waitFor();
	assert.deepEqual(sent, ['POST /v1/copy'], 'the node makes it again from its chunks: no byte comes here');
	assert.equal(sha(await stored('verbs/b.bin')), sha(bytes));
	assert.equal((await node.fetch('/v1/files/verbs/b.bin', { method: 'HEAD' })).headers.get('content-type'), 'application/x-thing');

	// Later too, from the list of what was deleted; and never over a new file of the name.
	await page.getByLabel('Select b.bin').check();
	await page.getByLabel('Select c.bin').check();
	await page.getByRole('button', { name: 'Delete' }).click();
	await page.getByTestId('empty').waitFor();
	await node.put('verbs/c.bin', 'new');
	await page.reload();
	await page.getByRole('button', { name: 'Recently deleted or replaced' }).click();
	const bin = page.getByRole('dialog');
	await bin.getByRole('listitem').filter({ hasText: 'verbs/c.bin' }).getByRole('button', { name: 'Bring back' }).click();
	await page.getByText('there is a new file of that name already').waitFor();
	await bin.getByRole('listitem').filter({ hasText: 'verbs/b.bin' }).getByRole('button', { name: 'Bring back' }).click();
	await eventually('it is back', async () => sha(await stored('verbs/b.bin')) === sha(bytes));
	assert.equal(String(await stored('verbs/c.bin')), 'new');
	await close(page);
});

test('a version that was replaced comes back, over its successor and over nothing newer', async () => {
	const old = randomBytes(5 << 20);
	await node.put('again/a.bin', old, 'application/x-old');
	const page = await open(browser, `${node.url}/files/again`, { allow: [ALLOW.changed] });
	await row(page, 'again/a.bin').waitFor();
	const replace = async (buffer) => {
		await page.getByTestId('file-input').setInputFiles({ name: 'a.bin', mimeType: 'application/x-new', buffer });
		await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).click();
		await eventually('it is replaced', async () => sha(await stored('again/a.bin')) === sha(buffer));
		await page.getByRole('button', { name: 'Recently deleted or replaced' }).waitFor();
	};
	await replace(randomBytes(300));
	await row(page, 'again/a.bin').getByRole('link').click();
	await page.getByRole('button', { name: 'Bring the version of 5 MiB back' }).click();
	await page.getByText('The earlier version is back').waitFor();
	await page.getByText('application/x-old').waitFor();
	assert.equal(sha(await stored('again/a.bin')), sha(old));
	const stat = await node.json('/v1/stat/again/a.bin');
	assert.deepEqual([stat.versions.length, stat.versions[0].chunks], [1, 2]);

	await page.goto(`${node.url}/files/again`);
	await replace(randomBytes(301));
	await node.put('again/a.bin', 'newer');
	await page.getByRole('button', { name: 'Recently deleted or replaced' }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Bring back' }).click();
	await page.getByText('it was written or deleted since').waitFor();
	assert.equal(String(await stored('again/a.bin')), 'newer');
	await close(page);
});

test('what was collected does not come back, and says so', async () => {
	const page = await open(browser, `${node.url}/files/collected`, { allow: [ALLOW.gone] });
	await page.getByTestId('empty').waitFor();
	await node.put('collected/a.bin', randomBytes(1000));
	await row(page, 'collected/a.bin').waitFor();
	// Chunks that no node has any more, as after the collector's grace.
	await page.route('**/v1/copy', (route) => {
		const body = { ...route.request().postDataJSON(), cid: 'bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku' };
		return route.continue({ postData: JSON.stringify(body) });
	});
	await act(page, 'collected/a.bin', 'Delete');
	await page.getByRole('button', { name: 'Undo' }).click();
	await page.getByText('its chunks have been collected').waitFor();
	await page.getByTestId('empty').waitFor();
	await close(page);
});

test('a folder is deleted after a question that says how much it is, and comes back', async () => {
	for (const name of ['a.txt', 'deep/b.txt', 'deep/er/c.txt']) await node.put(`clear/whole/${name}`, name, 'text/plain');
	await node.put('clear/wholesome.txt', 'stays', 'text/plain');
	const page = await open(browser, `${node.url}/files/clear`);
	const clear = async () => {
		await row(page, 'clear/whole/').getByRole('button', { name: /^Actions/ }).click();
		await page.getByRole('menuitem', { name: 'Delete…' }).click();
		return page.getByRole('dialog', { name: 'Delete the folder whole?' });
	};
	let dialog = await clear();
	await dialog.getByText('It holds 3 files with').waitFor();
	await dialog.getByRole('button', { name: 'Cancel' }).click();
	assert.equal(String(await stored('clear/whole/deep/b.txt')), 'deep/b.txt');
	dialog = await clear();
	await dialog.getByRole('button', { name: 'Delete 3 files' }).click();
	await row(page, 'clear/whole/').waitFor({ state: 'detached' });
	await row(page, 'clear/wholesome.txt').waitFor();
	assert.deepEqual((await node.json('/v1/files?prefix=clear/')).files.map((f) => f.name), ['clear/wholesome.txt']);
	await page.getByText('Deleted 3 files').waitFor();
	await page.getByRole('button', { name: 'Undo' }).click();
	await page.getByText('3 files are back').waitFor();
	await row(page, 'clear/whole/').waitFor();
	for (const name of ['a.txt', 'deep/b.txt', 'deep/er/c.txt']) assert.equal(String(await stored(`clear/whole/${name}`)), name);
	await close(page);
});

test('a hostile name is text wherever it appears', async () => {
	const name = 'hostile/<img src=x onerror="globalThis.owned=1">\u202egnp.exe';
	await node.put(name, 'hostile', 'text/plain');
	const page = await open(browser, `${node.url}/files/hostile`);
	const link = page.getByRole('link', { name: '<img src=x onerror="globalThis.owned=1">\ufffdgnp.exe', exact: true });
	await link.waitFor();
	await act(page, name.replaceAll('"', '\\"'), 'Rename…');
	await page.keyboard.press('Escape');
	await link.click();
	await page.getByRole('heading', { level: 1, name: /<img/ }).waitFor();
	await page.getByTestId('preview').getByText('hostile').waitFor();
	await page.goto(`${node.url}/activity`);
	await node.put(name, 'again', 'text/plain');
	await page.getByTestId('log').getByText(/Stored hostile\/<img/).waitFor();
	await page.goto(`${node.url}/files/hostile`);
	await act(page, name.replaceAll('"', '\\"'), 'Delete');
	await page.getByText(/^Deleted <img/).waitFor();
	assert.equal(await page.evaluate(() => globalThis.owned), undefined);
	assert.equal(await page.locator('main img').count(), 0);
	await close(page);
});

test('hostile HTML and SVG are shown and stay inert', async () => {
	const html = '<!doctype html><title>owned</title><script>fetch("/v1/files/owned",{method:"PUT",body:"x"})</script><body onload="parent.owned=1">';
	const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" onload="parent.owned=1"><script>parent.owned=1;fetch("/v1/files/owned",{method:"PUT",body:"x"})</script><rect width="40" height="40" fill="red"/></svg>';
	await node.put('inert/page.html', html, 'text/html');
	await node.put('inert/picture.svg', svg, 'image/svg+xml');
	await node.put('inert/lie.png', html, 'text/html');
	const page = await open(browser, `${node.url}/file/inert/page.html`);
	await page.getByTestId('preview').getByText('<script>').waitFor();
	await page.goto(`${node.url}/file/inert/picture.svg`);
	await eventually('the picture is drawn', () => page.locator('main img').evaluate((img) => img.naturalWidth === 40));
	await page.goto(`${node.url}/file/inert/lie.png`);
	await page.getByTestId('preview').getByText('<script>').waitFor();
	assert.equal(await page.evaluate(() => globalThis.owned), undefined);
	// The link itself, opened by hand, downloads and runs nothing.
	const [download] = await Promise.all([
		page.waitForEvent('download'),
		page.evaluate((url) => void (location.href = url), `${node.url}/v1/files/inert/page.html`)
	]);
	assert.equal(download.suggestedFilename(), 'page.html');
	assert.equal((await node.fetch('/v1/files/owned')).status, 404);
	await close(page);
});

test('a film is sought in by ranges', async () => {
	const page = await open(browser, `${node.url}/files/`);
	const bytes = await film(page);
	assert.ok(bytes.length > 12 << 20, `the film has only ${bytes.length} bytes`);
	await node.put('media/noise.webm', bytes, 'video/webm');
	const ranges = [];
	page.on('response', (response) => {
		if (response.url().includes('noise.webm')) ranges.push([response.status(), response.headers()['content-range'] ?? '']);
	});
	await page.goto(`${node.url}/file/media/noise.webm`);
	const video = page.locator('video');
	await eventually('its length is known', () => video.evaluate((v) => v.readyState >= 1 && Math.abs(v.duration - 24) < 0.5));
	const at = await video.evaluate(
		(v) => new Promise((resolve, reject) => {
			v.onseeked = () => resolve(v.currentTime);
			v.onerror = () => reject(new Error(v.error?.message));
			v.currentTime = 20;
		})
	);
	assert.ok(Math.abs(at - 20) < 0.2);
	await eventually('a frame of there is shown', () => video.evaluate((v) => v.readyState >= 2 && v.videoWidth === 320));
	const starts = ranges.filter(([status]) => status === 206).map(([, range]) => Number(/bytes (\d+)/.exec(range)?.[1]));
	assert.ok(starts.some((start) => start > bytes.length / 2), `no range from the second half: ${JSON.stringify(ranges)}`);
	// The page looks at the file's state again and again; the film stays where it is.
	await video.evaluate((v) => void (v.mine = true));
	for (let i = 0; i < 2; i += 1) await page.waitForResponse('**/v1/stat/**');
	await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
	assert.deepEqual(await video.evaluate((v) => [v.mine, Math.round(v.currentTime)]), [true, 20]);
	await close(page);
});

test('sound, pictures, text and PDF have previews', async () => {
	await node.put('media/siren.wav', wav(20), 'audio/wav');
	await node.put('media/page.pdf', pdf('Hello from Kepler'), 'application/pdf');
	await node.put('media/long.txt', 'line\n'.repeat(200_000), 'text/plain');
	await node.put('media/bare', 'just words', 'application/octet-stream');
	const page = await open(browser, `${node.url}/file/media/siren.wav`);
	await eventually('its length is known', () => page.locator('audio').evaluate((a) => Math.abs(a.duration - 20) < 0.1));
	await page.goto(`${node.url}/file/media/long.txt`);
	await page.getByText('The first 256 KiB of 977 KiB.').waitFor();
	await page.goto(`${node.url}/file/media/bare`);
	await page.getByTestId('preview').getByText('just words').waitFor();
	await page.goto(`${node.url}/file/media/page.pdf`);
	const frame = page.locator('iframe');
	assert.match(await frame.getAttribute('src'), /^blob:/);
	await eventually('the viewer of the browser has it', () => page.frames().some((f) => f.url().startsWith('chrome-extension:')));
	await close(page);
});

test('a hundred thousand rows scroll to their end with few of them in the page', async () => {
	const page = await open(browser, `${node.url}/`);
	const name = (i) => `file-${String(i).padStart(6, '0')}.dat`;
	await page.route('**/v1/files?**', (route) => {
		const after = new URL(route.request().url()).searchParams.get('after');
		const start = after === null ? 0 : Number(after.slice(5, 11)) + 1;
		const files = Array.from({ length: 1000 }, (_, i) => ({
			name: name(start + i), cid: 'bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku', size: (start + i) * 7, created_at: '2026-03-01T12:00:00.000Z', etag: '"a.0.1"', conflicts: 0
		}));
		const next = start + 1000 < 100_000 ? name(start + 999) : undefined;
		return route.fulfill({ json: { files, prefixes: [], next } });
	});
	await page.getByRole('link', { name: 'Files', exact: true }).click();
	await page.getByText(/^100,000 entries/).waitFor({ timeout: 60_000 });
	assert.ok((await page.locator('[data-row]').count()) < 120);
	const scrolling = await busy(page, () =>
		page.evaluate(async () => {
			const height = document.documentElement.scrollHeight;
			for (let i = 0; i <= 60; i += 1) {
				scrollTo(0, (height * i) / 60);
				await new Promise(requestAnimationFrame);
			}
		})
	);
	await row(page, name(99_999)).waitFor();
	assert.ok((await page.locator('[data-row]').count()) < 120);
	assert.ok(scrolling / 60 < 0.05, `a step of scrolling takes ${(scrolling / 60) * 1000} ms of the processor`);
	await page.evaluate(() => scrollTo(0, 0));
	const sorting = await busy(page, async () => {
		await page.getByRole('button', { name: 'Size' }).click();
		await row(page, name(99_999)).waitFor();
	});
	assert.ok(sorting < 1.5, `sorting takes ${sorting} s of the processor`);
	console.log(`100,000 rows: ${((scrolling / 60) * 1000).toFixed(1)} ms of the processor a step of scrolling, ${sorting.toFixed(2)} s to sort`);
	await close(page);
});
