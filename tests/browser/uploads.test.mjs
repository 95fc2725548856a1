/** Uploads in a browser: picked, dropped, many, broken off, tried again. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ALLOW, open } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { act, item, row, sha, state, stored } from './lib/files.mjs';
import { close, suite } from './lib/suite.mjs';

let browser, node;
suite({}, (begun) => ({ browser, node } = begun));
const folder = mkdtempSync(join(tmpdir(), 'kepler-files-'));
after(() => rmSync(folder, { recursive: true, force: true }));

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
	assert.equal(sha(await stored(node, 'picked/picked.bin')), sha(bytes));

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
	assert.equal(String(await stored(node, 'dropped/here/two.txt')), 'two');
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
	for (const file of files) assert.equal(sha(await stored(node, `fifty/${file.name}`)), sha(file.buffer), file.name);

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
	assert.equal(sha(await stored(node, 'cancelled/slow.bin')), sha(bytes));
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
	assert.equal(sha(await stored(node, 'retry/other.bin')), sha(mine));
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
	assert.equal(String(await stored(node, 'asked/a.txt')), 'old');
	await page.getByTestId('file-input').setInputFiles(files);
	await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).click();
	await eventually('it is replaced', async () => String(await stored(node, 'asked/a.txt')) === 'new');
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

test('the dock folds, cancels all, tries again what failed, and closes when all has ended', async () => {
	const page = await open(browser, `${node.url}/files/dock`, { allow: [ALLOW.full] });
	const dock = page.getByTestId('uploads');
	const files = (from) => Array.from({ length: 4 }, (_, i) => ({ name: `${from + i}.bin`, mimeType: 'application/octet-stream', buffer: randomBytes(1000 + i) }));
	let held = [];
	await page.route('**/v1/files/dock/**', (route) => (route.request().method() === 'PUT' ? held.push(route) : route.continue()));
	await page.getByTestId('file-input').setInputFiles(files(0));
	await dock.getByRole('heading', { name: 'Uploading 4 files' }).waitFor();
	await eventually('one is on its way', () => held.length > 0);
	assert.equal(await dock.getByRole('button', { name: 'Close the uploads' }).count(), 0, 'not while files are on their way');
	await dock.getByRole('button', { name: 'Fold the uploads' }).click();
	assert.equal(await dock.getByRole('listitem').count(), 0);
	await dock.getByRole('progressbar', { name: 'All uploads' }).waitFor();
	await dock.getByRole('button', { name: 'Show the uploads' }).click();
	await dock.getByRole('button', { name: 'Cancel all' }).click();
	for (let i = 0; i < 4; i += 1) await eventually(`${i} is cancelled`, async () => (await state(page, `dock/${i}.bin`)) === 'cancelled');
	assert.equal((await node.json('/v1/files?prefix=dock/')).files.length, 0);
	await dock.getByRole('button', { name: 'Close the uploads' }).click();
	await dock.waitFor({ state: 'detached' });

	// Refused by a node that is going away, and then not any more.
	held = [];
	let refuse = true;
	await page.unrouteAll({ behavior: 'ignoreErrors' });
	await page.route('**/v1/files/dock/**', (route) =>
		route.request().method() === 'PUT' && refuse
			? route.fulfill({ status: 507, contentType: 'application/problem+json', body: JSON.stringify({ type: 'disk-full', title: 'Disk full', status: 507, detail: 'the disk is full' }) })
			: route.continue()
	);
	await page.getByTestId('file-input').setInputFiles(files(4));
	await dock.getByRole('heading', { name: '4 uploads failed' }).waitFor();
	assert.equal(await dock.getByText('the disk is full').count(), 4);
	refuse = false;
	await dock.getByRole('button', { name: 'Retry failed' }).click();
	await dock.getByRole('heading', { name: '4 files stored' }).waitFor();
	assert.equal((await node.json('/v1/files?prefix=dock/')).files.length, 4);
	await page.unrouteAll({ behavior: 'wait' });
	// Going elsewhere on the page leaves it where it is.
	await page.getByRole('link', { name: 'Cluster', exact: true }).click();
	await dock.getByRole('button', { name: 'Receipt' }).first().click();
	const receipt = page.getByRole('dialog');
	const { versions } = await node.json('/v1/stat/dock/7.bin');
	for (const part of [/^Version$|Version/, versions[0].cid, versions[0].version]) await receipt.getByText(part).first().waitFor();
	await close(page);
});
