/** The versions of a file in a browser: listed, read, brought back. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ALLOW, open, violationsInBoth } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { row, sha, stored } from './lib/files.mjs';
import { close, suite } from './lib/suite.mjs';

let browser, cluster, node;
suite({}, (begun) => ({ browser, cluster, node } = begun));

const versions = (page) => page.getByRole('region', { name: 'Versions' });
const of = (page, version) => versions(page).locator(`[data-version="${version}"]`);

test('every version is listed with when, how large, of what type and by which node, and each can be read', async () => {
	const [a, b, c] = cluster.nodes;
	const texts = ['the first text', 'the second text, written elsewhere', '{"third": true}'];
	const receipts = [
		await a.put('listed/a.txt', texts[0], 'text/plain'),
		await b.put('listed/a.txt', texts[1], 'text/markdown'),
		await c.put('listed/a.txt', texts[2], 'application/json')
	];
	const page = await open(browser, `${node.url}/file/listed/a.txt`);
	await eventually('all three are listed', async () => (await versions(page).getByRole('listitem').count()) === 3);
	const states = await versions(page).getByRole('listitem').evaluateAll((all) => all.map((li) => [li.dataset.version, li.dataset.state]));
	assert.deepEqual(states, [[receipts[2].version, 'head'], [receipts[1].version, 'earlier'], [receipts[0].version, 'earlier']]);
	for (const [i, [by, type]] of [['node-a', 'text/plain'], ['node-b', 'text/markdown'], ['node-c', 'application/json']].entries()) {
		const text = await of(page, receipts[i].version).textContent();
		for (const part of [`by ${by}`, type, `${texts[i].length} B`, receipts[i].cid.slice(0, 9)]) assert.ok(text.includes(part), `${part} is not in ${text}`);
	}
	assert.deepEqual(await violationsInBoth(page), []);

	await of(page, receipts[0].version).getByRole('button', { name: /^Preview/ }).click();
	const dialog = page.getByRole('dialog');
	await dialog.getByText(texts[0]).waitFor();
	assert.deepEqual(await violationsInBoth(page), []);
	await page.keyboard.press('Escape');
	const [download] = await Promise.all([page.waitForEvent('download'), of(page, receipts[1].version).getByRole('button', { name: /^Download/ }).click()]);
	assert.equal(download.suggestedFilename(), 'a.txt');
	assert.equal(readFileSync(await download.path(), 'utf8'), texts[1]);
	await close(page);
});

test('an earlier version comes back without a byte sent, and what was current becomes an earlier one', async () => {
	const old = randomBytes(5 << 20);
	const first = await node.put('again/a.bin', old, 'application/x-old');
	const second = await node.put('again/a.bin', randomBytes(300), 'application/x-new');
	const page = await open(browser, `${node.url}/file/again/a.bin`);
	const sent = [];
	page.on('request', (request) => {
		const { pathname } = new URL(request.url());
		if (request.method() !== 'GET' || pathname.startsWith('/v1/chunks/')) sent.push(`${request.method()} ${pathname}`);
	});
	await of(page, first.version).getByRole('button', { name: 'Bring back' }).click();
	await page.getByText(/^The version of .* is back$/).waitFor();
	await eventually('what was current is an earlier one', async () => (await of(page, second.version).getAttribute('data-state')) === 'earlier');
	assert.deepEqual(sent, ['POST /v1/copy']);
	assert.equal(sha(await stored(node, 'again/a.bin')), sha(old));
	const [head] = (await node.json('/v1/stat/again/a.bin')).versions;
	assert.deepEqual([head.content_type, head.supersedes], ['application/x-old', [second.version]]);
	assert.equal(await versions(page).getByRole('listitem').count(), 3);
	await close(page);
});

test('an earlier version does not come back over what was written meanwhile', async () => {
	const first = await node.put('meanwhile/a.txt', 'one', 'text/plain');
	await node.put('meanwhile/a.txt', 'two', 'text/plain');
	const page = await open(browser, `${node.url}/file/meanwhile/a.txt`, { allow: [ALLOW.changed] });
	const back = of(page, first.version).getByRole('button', { name: 'Bring back' });
	await back.waitFor();
	// Written when the page cannot know it yet.
	await page.route('**/v1/copy', async (route) => {
		await node.put('meanwhile/a.txt', 'three', 'text/plain');
		return route.continue();
	});
	await back.click();
	await page.getByText('it was written or deleted since').waitFor();
	assert.equal(String(await stored(node, 'meanwhile/a.txt')), 'three');
	await close(page);
});

test('a file that is deleted says what it was, and comes back from its own page', async () => {
	const bytes = randomBytes(3000);
	const { version } = await node.put('gone/a.bin', bytes, 'application/x-gone');
	await cluster.nodes[1].fetch('/v1/files/gone/a.bin', { method: 'DELETE' });
	const page = await open(browser, `${node.url}/file/gone/a.bin`);
	await page.getByText('There is no file of this name').waitFor();
	await of(page, version).getByText(/by node-a, deleted/).waitFor();
	assert.deepEqual(await violationsInBoth(page), []);
	await of(page, version).getByRole('button', { name: 'Bring back' }).click();
	await page.getByTestId('chunk-summary').waitFor();
	assert.equal(sha(await stored(node, 'gone/a.bin')), sha(bytes));
	// A name that never was has none.
	await page.goto(`${node.url}/file/never/was`);
	await page.getByText('There is no file of this name').waitFor();
	assert.equal(await versions(page).count(), 0);
	await close(page);
});

test('what no member remembers is said to be forgotten, and what was collected cannot be read', async () => {
	const first = await node.put('lost/a.txt', 'one', 'text/plain');
	await node.put('lost/a.txt', 'two', 'text/plain');
	const page = await open(browser, `${node.url}/`);
	let known = true;
	await page.route('**/v1/earlier/**', async (route) => {
		const answer = await (await route.fetch()).json();
		return route.fulfill({ json: { ...answer, versions: known ? answer.versions.map((v) => ({ ...v, held: false })) : [] } });
	});
	await page.goto(`${node.url}/file/lost/a.txt`);
	await of(page, first.version).getByText('its chunks are gone').waitFor();
	assert.equal(await of(page, first.version).getByRole('button', { name: /Bring|Preview|Download/ }).count(), 0);
	assert.deepEqual(await violationsInBoth(page), []);
	known = false;
	await page.reload();
	await page.getByText('This version replaced 1 other that no member remembers any more.').waitFor();
	await page.unrouteAll({ behavior: 'wait' });
	await close(page);
});

test('a version that was replaced from this tab comes back over its successor and over nothing newer', async () => {
	const old = randomBytes(5 << 20);
	await node.put('tab/a.bin', old, 'application/x-old');
	const page = await open(browser, `${node.url}/files/tab`, { allow: [ALLOW.changed] });
	await row(page, 'tab/a.bin').waitFor();
	const replaced = randomBytes(300);
	await page.getByTestId('file-input').setInputFiles({ name: 'a.bin', mimeType: 'application/x-new', buffer: replaced });
	await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).click();
	await eventually('it is replaced', async () => sha(await stored(node, 'tab/a.bin')) === sha(replaced));
	const bringBack = async () => {
		await page.getByRole('button', { name: 'Recently deleted or replaced' }).click();
		await page.getByRole('dialog').getByRole('button', { name: 'Bring back' }).click();
	};
	await bringBack();
	await page.getByText('a.bin is back').waitFor();
	assert.equal(sha(await stored(node, 'tab/a.bin')), sha(old));
	await page.keyboard.press('Escape');

	await page.getByTestId('file-input').setInputFiles({ name: 'a.bin', mimeType: 'application/x-new', buffer: replaced });
	await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).click();
	await eventually('it is replaced', async () => sha(await stored(node, 'tab/a.bin')) === sha(replaced));
	await page.getByRole('button', { name: 'Recently deleted or replaced' }).waitFor();
	await node.put('tab/a.bin', 'newer');
	await bringBack();
	await page.getByText('it was written or deleted since').waitFor();
	assert.equal(String(await stored(node, 'tab/a.bin')), 'newer');
	await close(page);
});
