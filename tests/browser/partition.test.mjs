/** A partition in a browser: both sides write, and what they wrote is shown side by side and resolved. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ALLOW, open, signIn, violationsInBoth } from './lib/browser.mjs';
import { API_TOKEN } from './lib/cluster.mjs';
import { eventually } from './lib/eventually.mjs';
import { suite } from './lib/suite.mjs';

let browser, cluster;
suite({ apart: true }, (begun) => ({ browser, cluster } = begun));

const said = async (node, id) => (await node.json('/v1/cluster')).members.find((m) => m.id === id)?.status;

/** Writes `name` on both sides of a partition, in which the left side is node-a alone. */
async function diverge(name, left, right) {
	const [a, b, c] = cluster.nodes;
	await a.put(name, 'before', 'text/plain');
	cluster.network.split([0], [1, 2]);
	await a.put(name, left, 'text/plain', '?durability=fast');
	await eventually('the greater side writes', () => b.put(name, right, 'text/plain').then(() => true), 60_000);
	assert.equal(await (await a.fetch(`/v1/files/${name}`)).text(), left);
	assert.equal(await (await c.fetch(`/v1/files/${name}`)).text(), right);
	await assert.rejects(a.put(name, 'by one of three', 'text/plain'), /no-quorum/);
	await eventually('packets are lost', () => cluster.network.dropped() > 10);
	cluster.network.heal();
	await cluster.settled();
	await eventually('both versions are known everywhere', async () => {
		for (const node of cluster.nodes) if ((await node.json(`/v1/stat/${name}`)).versions.length !== 2) return false;
		return true;
	}, 60_000);
}

async function conflict(node, name) {
	const page = await open(browser, `${node.url}/files/split`, { allow: [ALLOW.token] });
	await signIn(page, API_TOKEN);
	const row = page.locator(`[data-row="${name}"]`);
	await row.getByRole('button', { name: '1 conflict' }).click();
	const dialog = page.getByRole('dialog');
	await dialog.getByText('written on the left').waitFor();
	await dialog.getByText('written on the right').waitFor();
	return { page, row, dialog };
}

for (const [kept, of] of [['left', 'node-a'], ['right', 'node-b']]) {
	test(`of a conflict made by a partition the version of the ${kept} is kept`, async () => {
		const [, b, c] = cluster.nodes;
		const name = `split/${kept}.txt`;
		await diverge(name, 'written on the left', 'written on the right');
		const { page, row, dialog } = await conflict(b, name);
		await dialog.getByRole('region', { name: `Version of ${of}` }).getByRole('button', { name: 'Keep this one' }).click();
		await dialog.waitFor({ state: 'detached' });
		for (const node of [b, c]) assert.equal(await (await node.fetch(`/v1/files/${name}`)).text(), `written on the ${kept}`);
		assert.equal((await c.json(`/v1/stat/${name}`)).versions.length, 1);
		await row.getByRole('button', { name: /conflict/ }).waitFor({ state: 'detached' });
		assert.deepEqual(page.complaints, []);
	});
}

test('of a conflict made by a partition both versions are kept, and no byte of them is sent again', async () => {
	const [, b, c] = cluster.nodes;
	const name = 'split/both.txt';
	await diverge(name, 'written on the left', 'written on the right');
	const { page, row, dialog } = await conflict(b, name);
	assert.deepEqual(await violationsInBoth(page), []);
	const sent = [];
	page.on('request', (request) => {
		if (['PUT', 'POST'].includes(request.method())) sent.push(new URL(request.url()).pathname);
	});
	await dialog.getByRole('button', { name: 'Keep as a copy' }).click();
	await dialog.waitFor({ state: 'detached' });
	assert.deepEqual(sent, ['/v1/copy']);
	const texts = [await (await c.fetch(`/v1/files/${name}`)).text(), await (await c.fetch('/v1/files/split/both (1).txt')).text()];
	assert.deepEqual(texts.sort(), ['written on the left', 'written on the right']);
	assert.equal((await c.json(`/v1/stat/${name}`)).versions.length, 1);
	await row.getByRole('button', { name: /conflict/ }).waitFor({ state: 'detached' });
	assert.deepEqual(page.complaints, []);
});

test('a partition is shown as what it is on either side, and is over when it is', async () => {
	const [a, b] = cluster.nodes;
	const pages = [];
	for (const node of [a, b]) {
		const page = await open(browser, `${node.url}/cluster`, { allow: [ALLOW.token] });
		await signIn(page, API_TOKEN);
		await page.locator('[data-member="node-a"]').waitFor();
		pages.push(page);
	}
	const [left, right] = pages;
	const status = (page, id) => page.locator(`[data-member="${id}"] [data-status]`).getAttribute('data-status');
	cluster.network.split([0], [1, 2]);
	await eventually('the lone side sees the others gone', async () => (await status(left, 'node-b')) === 'dead' && (await status(left, 'node-c')) === 'dead');
	await eventually('the greater side sees the lone one gone', async () => (await status(right, 'node-a')) === 'dead' && (await status(right, 'node-c')) === 'alive');
	await left.getByRole('link', { name: 'Overview', exact: true }).click();
	await left.getByTestId('health-word').getByText('Unavailable').waitFor();
	await right.getByRole('link', { name: 'Overview', exact: true }).click();
	await eventually('the greater side goes on', async () => ['Degraded', 'At risk'].includes(await right.getByTestId('health-word').textContent()));
	cluster.network.heal();
	await eventually('all see all', async () => (await said(a, 'node-b')) === 'alive' && (await said(b, 'node-a')) === 'alive');
	for (const page of pages) {
		await page.getByTestId('health-word').getByText('Healthy').waitFor();
		assert.deepEqual(page.complaints, []);
	}
});
