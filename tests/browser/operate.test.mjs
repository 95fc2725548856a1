/** What an operator does in a browser: caps, pauses, scrubs, forgets, lets leave. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { ALLOW, open, violations } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { suite } from './lib/suite.mjs';

let browser, cluster;
suite(
	{ nodes: 5, env: { REPAIR_DELAY_SECS: '2', INVENTORY_INTERVAL_SECS: '3', HANDOFF_GRACE_SECS: '3', REBALANCE_BANDWIDTH_MBPS: '40' } },
	(begun) => ({ browser, cluster } = begun)
);

const running = () => cluster.nodes.filter((n) => n.child);
const everywhere = (what, check) =>
	eventually(what, async () => {
		for (const node of running()) if (!check(await node.json('/v1/status'))) return false;
		return true;
	});

test('the bandwidth cap that is set is the cap of every member', async () => {
	const [a] = cluster.nodes;
	const page = await open(browser, `${a.url}/settings`);
	const input = page.getByLabel(/^Bandwidth cap/);
	const set = page.getByRole('button', { name: 'Set on every member' });
	await page.getByText('Now 40 MB/s.').waitFor();
	for (const bad of ['0', '-3', '2000000']) {
		await input.fill(bad);
		assert.ok(await set.isDisabled(), bad);
	}
	await input.fill('73');
	await set.click();
	await page.getByText('The cap is 73 MB/s now').waitFor();
	await everywhere('every member has the cap', (status) => status.bandwidth.cap_bytes_per_second === 73_000_000);
	await page.getByText('Now 73 MB/s.').waitFor();
	await page.goto(`${a.url}/nodes/node-a`);
	await page.getByText('of at most 73 MB/s').waitFor();
	assert.deepEqual(page.complaints, []);
});

test('repair is paused and resumed everywhere, and a pause is seen', async () => {
	const [a] = cluster.nodes;
	const page = await open(browser, `${a.url}/settings`);
	await page.getByRole('button', { name: 'Pause repair' }).click();
	await page.getByText('Repair is paused').waitFor();
	await everywhere('repair is paused', (status) => status.healing.paused);
	await page.goto(`${a.url}/`);
	await page.getByText(/repair is paused on node-a/).waitFor();
	await page.goto(`${a.url}/settings`);
	await page.getByRole('button', { name: 'Resume repair' }).click();
	await everywhere('repair goes on', (status) => !status.healing.paused);
	await page.getByRole('button', { name: 'Repair now' }).click();
	await page.getByText('Repair runs now').waitFor();
	assert.deepEqual(page.complaints, []);
});

test('a scrub that is asked for is made on every member', async () => {
	const [a] = cluster.nodes;
	await a.put('scrub/me.bin', randomBytes(3 << 20), 'application/octet-stream', '?durability=all');
	const before = new Map();
	for (const node of running()) before.set(node.id, (await node.json('/v1/status')).healing.scrub.at ?? null);
	const page = await open(browser, `${a.url}/settings`);
	await page.getByRole('button', { name: 'Scrub now' }).click();
	await page.getByText('Every member re-hashes its disk now').waitFor();
	await everywhere('every member has scrubbed', ({ id, healing }) => healing.scrub.at && healing.scrub.at !== before.get(id) && healing.scrub.bad === 0);
	assert.deepEqual(page.complaints, []);
});

test('what one member refuses to do is said with its name', async () => {
	const [a] = cluster.nodes;
	const page = await open(browser, `${a.url}/settings`);
	await page.route('**/v1/repair', (route) =>
		route.fulfill({ status: 202, json: { nodes: [{ node: 'node-a', accepted: true }, { node: 'node-b', accepted: false, detail: 'it did not answer: say it again' }] } })
	);
	await page.getByRole('button', { name: 'Repair now' }).click();
	await page.getByText('Not on node-b: it did not answer: say it again').waitFor();
	assert.deepEqual(page.complaints, []);
});

test('a member that is gone is told of calmly once everything has its copies, and is forgotten on request', async () => {
	const [a, , , , e] = cluster.nodes;
	for (let i = 0; i < 5; i += 1) await a.put(`calm/${i}.bin`, randomBytes(2 << 20), 'application/octet-stream', '?durability=all');
	const page = await open(browser, `${a.url}/`);
	await page.getByTestId('health-word').getByText('Healthy').waitFor();
	await e.kill();
	const calm = page.getByTestId('calm');
	await calm.getByText('Every chunk has its 3 copies again.').waitFor();
	await calm.getByText(/^node-e has been gone for .*: it is taken off the roster by itself in \d+ min/).waitFor();
	assert.deepEqual(await violations(page), []);

	await page.getByRole('link', { name: 'Forget node-e now' }).click();
	await page.getByRole('heading', { level: 1, name: 'node-e' }).waitFor();
	const farewell = page.getByTestId('farewell');
	await farewell.getByRole('button', { name: 'Forget it now…' }).click();
	const dialog = page.getByRole('dialog', { name: 'Forget node-e?' });
	await dialog.getByText(/it has no vote/).waitFor();
	assert.deepEqual(await violations(page), []);
	await dialog.getByRole('button', { name: 'Cancel' }).click();
	assert.ok((await a.json('/v1/cluster')).roster.members.includes('node-e'), 'nothing happens without the second word');
	await farewell.getByRole('button', { name: 'Forget it now…' }).click();
	await dialog.getByRole('button', { name: 'Forget it', exact: true }).click();
	await eventually('it is off the roster', async () => !(await a.json('/v1/cluster')).roster.members.includes('node-e'));
	await page.getByText(/It is off the roster|No member of this name is known/).waitFor();
	await page.goto(`${a.url}/`);
	await page.getByTestId('health-word').getByText('Healthy').waitFor();
	assert.deepEqual(page.complaints, []);
});

test('a member that is alive is not forgotten, and why is said in the dialog', async () => {
	const [a, b] = cluster.nodes;
	const page = await open(browser, `${a.url}/nodes/node-b`, { allow: [ALLOW.refused] });
	const farewell = page.getByTestId('farewell');
	const link = farewell.getByRole('link', { name: 'Let it leave on its own page' });
	assert.equal(await link.getAttribute('href'), `${b.url}/nodes/node-b`);
	assert.equal(await farewell.getByRole('button').count(), 0);
	// As if this page had not heard yet that it is back.
	await page.route('**/v1/cluster', async (route) => {
		const response = await route.fetch();
		const json = await response.json();
		json.members.find((m) => m.id === 'node-b').status = 'dead';
		await route.fulfill({ response, json });
	});
	await farewell.getByRole('button', { name: 'Forget it now…' }).click();
	const dialog = page.getByRole('dialog');
	await dialog.getByRole('button', { name: 'Forget it', exact: true }).click();
	await dialog.getByRole('alert').waitFor();
	assert.match(await dialog.getByRole('alert').textContent(), /alive/);
	assert.ok((await b.json('/v1/cluster')).roster.members.includes('node-b'));
	assert.deepEqual(page.complaints, []);
});

test('a node leaves after a question, is seen draining, and the page goes on with another member', async () => {
	const [a, b, c, d] = cluster.nodes;
	const files = [];
	for (let i = 0; i < 8; i += 1) {
		const bytes = randomBytes(5 << 20);
		await a.put(`leave/${i}.bin`, bytes);
		files.push([`leave/${i}.bin`, bytes]);
	}
	await d.fetch('/v1/repair', { method: 'POST', body: JSON.stringify({ action: 'start', bandwidth_mbps: 4, all: true }) });
	const elsewhere = await open(browser, `${a.url}/nodes/node-d`);
	const page = await open(browser, `${d.url}/nodes/node-d`);
	const farewell = page.getByTestId('farewell');
	await farewell.getByRole('button', { name: 'Leave the cluster…' }).click();
	const dialog = page.getByRole('dialog', { name: 'Let node-d leave?' });
	await dialog.getByText(/hands its [\d,]+ chunks \(.*\) to the \d other members/).waitFor();
	assert.deepEqual(await violations(page), []);
	await dialog.getByRole('button', { name: 'Leave the cluster', exact: true }).click();
	for (const p of [page, elsewhere]) await p.locator('h1 [data-status="leaving"]').waitFor();
	await farewell.getByRole('progressbar', { name: 'Handed over' }).waitFor();
	await farewell.getByText(/\d+ chunks? of \d+ still to hand over/).waitFor();
	await elsewhere.getByTestId('farewell').getByText(/still to hand over|Everything is handed over/).waitFor();
	await d.exited;
	d.child = null;
	await elsewhere.getByText(/It has left\.|No member of this name is known/).first().waitFor();
	await page.waitForURL((url) => [a, b, c].some((n) => url.origin === n.url), { timeout: 60_000 });
	for (const [name, bytes] of files) {
		assert.ok(Buffer.from(await (await b.fetch(`/v1/files/${name}`)).arrayBuffer()).equals(bytes), name);
	}
	assert.equal((await a.json('/v1/cluster')).roster.members.includes('node-d'), false);
	for (const p of [page, elsewhere]) assert.deepEqual(p.complaints, []);
});
