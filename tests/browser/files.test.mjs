/** A folder in a browser: what is listed, changed, gone and back. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { ALLOW, busy, open } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { act, row, sha, stored } from './lib/files.mjs';
import { close, suite } from './lib/suite.mjs';

let browser, cluster, node;
suite({}, (begun) => ({ browser, cluster, node } = begun));

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

test('the link and the CID that are copied are those of the file', async () => {
	const { cid, version } = await node.put('copied/ü #1.txt', 'copied', 'text/plain');
	const page = await open(browser, `${node.url}/files/copied`, { permissions: ['clipboard-read', 'clipboard-write'] });
	const copied = () => page.evaluate(() => navigator.clipboard.readText());
	const link = `${node.url}/v1/files/copied/%C3%BC%20%231.txt`;
	await act(page, 'copied/ü #1.txt', 'Copy link');
	await page.getByText('Link copied').waitFor();
	assert.equal(await copied(), link);
	assert.equal(await (await fetch(await copied())).text(), 'copied');
	await act(page, 'copied/ü #1.txt', 'Copy CID');
	await page.getByText('CID copied').waitFor();
	assert.equal(await copied(), cid);

	await row(page, 'copied/ü #1.txt').getByRole('link').click();
	await page.getByRole('button', { name: 'Copy link' }).click();
	await page.getByRole('button', { name: 'Copied' }).waitFor();
	assert.equal(await copied(), link);
	for (const [label, text] of [['Copy the CID', cid], ['Copy the version', version], ['Copy the command', "kepler get 'copied/ü #1.txt'"]]) {
		await page.getByRole('button', { name: label, exact: true }).click();
		await eventually(`${label}: it is on the clipboard`, async () => (await copied()) === text);
	}
	// Also where the page is no secure context, as at another host without TLS: then there is no clipboard to ask for.
	await page.evaluate(() => Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true }));
	await page.evaluate(() => document.addEventListener('copy', () => (globalThis.taken = getSelection()?.toString() || document.activeElement.value), { once: true }));
	await page.getByRole('button', { name: 'Copy the CID', exact: true }).click();
	await eventually('it is taken the old way', async () => (await page.evaluate(() => globalThis.taken)) === cid);
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
	assert.equal(sha(await stored(node, 'verbs/b.bin')), sha(bytes));
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
	await eventually('it is back', async () => sha(await stored(node, 'verbs/b.bin')) === sha(bytes));
	assert.equal(String(await stored(node, 'verbs/c.bin')), 'new');
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
	assert.equal(String(await stored(node, 'clear/whole/deep/b.txt')), 'deep/b.txt');
	dialog = await clear();
	await dialog.getByRole('button', { name: 'Delete 3 files' }).click();
	await row(page, 'clear/whole/').waitFor({ state: 'detached' });
	await row(page, 'clear/wholesome.txt').waitFor();
	assert.deepEqual((await node.json('/v1/files?prefix=clear/')).files.map((f) => f.name), ['clear/wholesome.txt']);
	await page.getByText('Deleted 3 files').waitFor();
	await page.getByRole('button', { name: 'Undo' }).click();
	await page.getByText('3 files are back').waitFor();
	await row(page, 'clear/whole/').waitFor();
	for (const name of ['a.txt', 'deep/b.txt', 'deep/er/c.txt']) assert.equal(String(await stored(node, `clear/whole/${name}`)), name);
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
