/** A cluster in a browser: deaths, returns, joins, and a page whose own node goes away. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { open, violationsInBoth } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { suite } from './lib/suite.mjs';

let browser, cluster;
suite(
	{ env: { REPAIR_DELAY_SECS: '10', INVENTORY_INTERVAL_SECS: '5', HANDOFF_GRACE_SECS: '5', REBALANCE_BANDWIDTH_MBPS: '2' } },
	(begun) => ({ browser, cluster } = begun)
);

const seen = (page, id, ...states) =>
	eventually(`${id} is shown ${states.join(' or ')}`, async () => {
		const status = page.locator(`[data-member="${id}"] [data-status]`);
		return states.includes(await status.getAttribute('data-status', { timeout: 1_000 }));
	}, 60_000);
const said = async (node, id) => (await node.json('/v1/cluster')).members.find((m) => m.id === id)?.status;

test('a node that is killed is seen within two seconds of its suspicion, without a reload, and seen back', async () => {
	const [a, , c] = cluster.nodes;
	await a.put('where/is.bin', randomBytes(9 << 20));
	const page = await open(browser, `${a.url}/cluster`);
	const file = await open(browser, `${a.url}/file/where/is.bin`);
	const log = await open(browser, `${a.url}/activity`);
	await seen(page, 'node-c', 'alive');
	await file.getByText('every owner has every chunk').waitFor();
	await page.evaluate(() => {
		globalThis.never = 'reloaded';
		globalThis.changes = [];
		new MutationObserver(() => {
			const status = document.querySelector('[data-member="node-c"] [data-status]')?.getAttribute('data-status');
			if (status && globalThis.changes.at(-1)?.[0] !== status) globalThis.changes.push([status, Date.now()]);
		}).observe(document.body, { subtree: true, childList: true, attributes: true });
	});

	const suspicion = await a.when((event) => event.type === 'member' && event.node === 'node-c' && event.status !== 'alive');
	// Until its copies are made elsewhere it stays their owner: every chunk and the manifest lack one, and the map says why.
	const lacking = file.getByTitle(/^node-c owns it and (is dead|is suspect|does not have it yet)/);
	await c.kill();
	const [suspected, word] = await Promise.all([suspicion.time(), lacking.nth(3).waitFor().then(() => lacking.first().textContent({ timeout: 1_000 }))]);
	assert.match(word, /away|missing/);
	await seen(page, 'node-c', 'suspect', 'dead');
	const shown = await page.evaluate(() => globalThis.changes.find(([status]) => status !== 'alive')[1]);
	assert.ok(shown - suspected < 2_000, `shown ${shown - suspected} ms after the suspicion`);
	await seen(page, 'node-c', 'dead');
	assert.equal(await page.evaluate(() => globalThis.never), 'reloaded');
	await log.getByTestId('log').getByText('node-c is taken for dead').waitFor();
	await page.goto(`${a.url}/`);
	await eventually('the health is not good', async () => (await page.getByTestId('health-word').textContent()) !== 'Healthy');
	assert.deepEqual(await violationsInBoth(page), []);

	c.start();
	await cluster.settled();
	await page.goto(`${a.url}/cluster`);
	await seen(page, 'node-c', 'alive');
	await file.getByText('every owner has every chunk').waitFor({ timeout: 60_000 });
	assert.equal(await lacking.count(), 0);
	assert.equal(await file.getByTitle(/^node-c owns it and has it/).count(), 4);
	for (const p of [page, file, log]) assert.deepEqual(p.complaints, []);
});

test('an upload for all owners fails while one is away, is no success when tried again, and is one with its receipt later', async () => {
	const [a, b, c] = cluster.nodes;
	const page = await open(browser, `${a.url}/files/all`);
	await page.getByLabel('Durability').selectOption('all');
	await c.kill();
	const sent = [];
	page.on('request', (request) => {
		if (['PUT', 'POST'].includes(request.method())) sent.push(`${request.method()} ${new URL(request.url()).pathname}`);
	});
	const bytes = randomBytes(5 << 20);
	await page.route('**/v1/files/all/f.bin?**', async (route) => {
		if (route.request().method() !== 'PUT') return route.continue();
		// As an owner leaves it that goes away in the middle: published, and not durable on all.
		await a.put('all/f.bin', bytes);
		return route.fulfill({ status: 503, contentType: 'application/problem+json', body: JSON.stringify({ type: 'unknown', title: 'Unknown', status: 503, detail: 'not confirmed' }) });
	});
	await page.getByTestId('file-input').setInputFiles({ name: 'f.bin', mimeType: 'application/octet-stream', buffer: bytes });
	const item = page.locator('[data-testid=uploads] [data-name="all/f.bin"]');
	const state = () => item.getAttribute('data-state');
	await eventually('it has failed', async () => (await state()) === 'failed');
	assert.equal((await b.fetch('/v1/files/all/f.bin', { method: 'HEAD' })).status, 200, 'its bytes can be read all the same');
	await item.getByRole('button', { name: /^Try/ }).click();
	await eventually('it has failed again', async () => sent.length === 2 && (await state()) === 'failed');
	await item.getByText(/2 of the 3 needed replicas/).waitFor();
	assert.equal(await item.getByRole('button', { name: 'Receipt' }).count(), 0);
	c.start();
	await cluster.settled();
	await item.getByRole('button', { name: /^Try/ }).click();
	await item.getByText('not sent again, 3 of 3 copies durable').waitFor();
	assert.deepEqual(sent, ['PUT /v1/files/all/f.bin', 'POST /v1/copy', 'POST /v1/copy']);
	const [head] = (await a.json('/v1/stat/all/f.bin')).versions;
	assert.deepEqual([head.size, (await a.json('/v1/stat/all/f.bin')).versions.length], [bytes.length, 1]);
	assert.deepEqual(page.complaints, []);
});

test('a page whose node is gone says so, finds another member, and recovers when it is back', async () => {
	const [a] = cluster.nodes;
	const page = await open(browser, `${a.url}/files/`);
	await page.getByText('via node-a').waitFor();
	await a.kill();
	const banner = page.getByTestId('lost');
	await banner.getByText('Connection lost').waitFor();
	await banner.getByRole('link', { name: /^Open node-[bc]$/ }).waitFor({ timeout: 20_000 });
	assert.deepEqual(await violationsInBoth(page), []);
	await banner.getByRole('button', { name: 'Stay here' }).click();
	a.start();
	await banner.waitFor({ state: 'detached', timeout: 60_000 });
	await cluster.settled();

	await a.kill();
	await banner.getByText(/going there in/).waitFor({ timeout: 20_000 });
	await page.waitForURL((url) => url.port !== String(a.http) && url.pathname === '/files/', { timeout: 40_000 });
	await page.getByText(/via node-[bc]/).waitFor();
	a.start();
	await cluster.settled();
});

test('a fourth node is seen joining and taking its share', async () => {
	const [a] = cluster.nodes;
	const page = await open(browser, `${a.url}/cluster`);
	await seen(page, 'node-a', 'alive');
	await cluster.add();
	await seen(page, 'node-d', 'alive');
	await cluster.settled();
	await eventually('it has its share', async () => {
		const text = await page.locator('[data-member="node-d"]').textContent();
		return Number(/([\d.]+) %/.exec(text ?? '')?.[1]) > 10;
	});
	await page.locator('[data-member="node-d"]').getByRole('link').click();
	await page.getByRole('heading', { level: 1, name: 'node-d' }).waitFor();
	assert.deepEqual(page.complaints, []);
});

test('a cluster that lost a node heals to zero in sight', async () => {
	const [a, b, c, d] = cluster.nodes;
	for (let i = 0; i < 6; i += 1) await a.put(`heal/${i}.bin`, randomBytes(3 << 20), 'application/octet-stream', '?durability=all');
	const file = await open(browser, `${a.url}/file/heal/0.bin`);
	const page = await open(browser, `${a.url}/activity`);
	await page.getByRole('img', { name: /Under-replicated chunks: lacking 0 now/ }).waitFor();
	const logs = [page, await open(browser, `${b.url}/activity`), await open(browser, `${c.url}/activity`)];
	await d.kill();
	await page.getByRole('img', { name: /Under-replicated chunks: lacking [1-9]/ }).waitFor({ timeout: 60_000 });
	await page.getByRole('img', { name: /Under-replicated chunks: lacking 0 now, moving 0 now/ }).waitFor({ timeout: 120_000 });
	// Each tells what it brought itself, and which of them lacked nothing is up to the ring.
	await eventually('who brought chunks says so', async () => {
		for (const log of logs) if (await log.getByTestId('log').getByText(/^Brought [1-9]/).count()) return true;
		return false;
	});
	const health = await a.json('/v1/health');
	assert.deepEqual([health.under_replicated, health.moving, health.missing], [0, 0, 0]);
	await file.getByText('every owner has every chunk').waitFor({ timeout: 60_000 });
	for (let i = 0; i < 6; i += 1) {
		for (const chunk of (await a.json(`/v1/stat/heal/${i}.bin`)).chunks) assert.ok(chunk.holders.length >= 3, JSON.stringify(chunk));
	}
	assert.deepEqual(file.complaints, []);
	assert.deepEqual(page.complaints, []);
});
