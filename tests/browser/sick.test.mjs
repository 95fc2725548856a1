/** A cluster that is not well, in a browser: one word, and why, in plain language. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { open, violationsInBoth } from './lib/browser.mjs';
import { close, suite } from './lib/suite.mjs';

let browser, cluster, node;
suite({ env: { REPAIR_DELAY_SECS: '600' } }, (begun) => ({ browser, cluster, node } = begun));

const word = (page, text) => page.getByTestId('health-word').getByText(text, { exact: true }).waitFor();

test('what the word for the cluster is, and its reasons, are those of the node, whatever they are', async () => {
	const page = await open(browser, `${node.url}/settings`);
	const health = await node.json('/v1/health');
	let said = {};
	await page.route('**/v1/health', (route) => route.fulfill({ json: { ...health, ...said } }));
	const cases = [
		['ok', 'Healthy', [], 'Everything is where it belongs.'],
		['degraded', 'Degraded', ['3 copies are owed for over a minute'], '3 copies are owed for over a minute'],
		['at-risk', 'At risk', ['7 chunks have one copy that can be reached', 'node-b is dead'], '7 chunks have one copy that can be reached'],
		['unavailable', 'Unavailable', ['2 chunks are on nobody who answers'], '2 chunks are on nobody who answers']
	];
	for (const [status, title, reasons, text] of cases) {
		said = { status, reasons, single_copy: status === 'at-risk' ? 7 : 0, missing: status === 'unavailable' ? 2 : 0 };
		await page.goto(`${node.url}/`);
		await word(page, title);
		const region = page.getByRole('region', { name: 'Health' });
		await region.getByText(text).waitFor();
		for (const reason of reasons) await region.getByText(reason).waitFor();
		if (status === 'at-risk') await page.getByText('7 chunks with a single known copy').waitFor();
		if (status === 'unavailable') await page.getByText('2 chunks without any known copy').waitFor();
		assert.deepEqual(await violationsInBoth(page), [], status);
	}
	await page.unrouteAll({ behavior: 'wait' });
	await close(page);
});

test('a cluster that loses one member and then its majority says so without a reload, and is well again', async () => {
	const [a, b, c] = cluster.nodes;
	await a.put('sick/a.bin', randomBytes(9 << 20), 'application/octet-stream', '?durability=all');
	const page = await open(browser, `${a.url}/`);
	const file = await open(browser, `${a.url}/file/sick/a.bin`);
	await word(page, 'Healthy');
	await c.kill();
	await page.getByRole('region', { name: 'Health' }).getByText(/node-c/).first().waitFor();
	await word(page, 'Degraded');
	await page.getByText('2 of 3 alive').waitFor();
	await file.getByText(/missing on an owner/).waitFor();
	assert.deepEqual(await violationsInBoth(page), []);
	await b.kill();
	await word(page, 'Unavailable');
	await page.getByText('1 of 3 alive').waitFor();
	// What this node knows is shown all the same, and marked.
	await file.getByText(/Too few members answered/).waitFor();
	assert.deepEqual(await violationsInBoth(page), []);
	assert.deepEqual(await violationsInBoth(file), []);
	b.start();
	c.start();
	await cluster.settled();
	await word(page, 'Healthy');
	await page.getByText('3 of 3 alive').waitFor();
	await file.getByText('every owner has every chunk').waitFor();
	await file.getByText(/Too few members answered/).waitFor({ state: 'detached' });
	for (const p of [page, file]) await close(p);
});
