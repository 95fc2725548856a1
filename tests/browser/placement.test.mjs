/** Where chunks are and where they go, in a browser: what if a node were down, and copies on their way. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { open, violationsInBoth } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { close, suite } from './lib/suite.mjs';

let browser, cluster, node;
// So slow that what moves is seen moving.
suite({ nodes: 4, env: { INVENTORY_INTERVAL_SECS: '5', HANDOFF_GRACE_SECS: '5', REBALANCE_BANDWIDTH_MBPS: '3' } }, (begun) => ({ browser, cluster, node } = begun));

test('if a node were down, the map says who would own each chunk instead, as the node itself says', async () => {
	await node.put('where/four.bin', randomBytes(13 << 20));
	const page = await open(browser, `${node.url}/file/where/four.bin`);
	const map = page.getByRole('table', { name: 'Chunks by nodes' });
	await page.getByText('every owner has every chunk').waitFor();
	for (const down of ['node-b', 'node-a']) {
		const { chunks } = await node.json(`/v1/locate/where/four.bin?if_down=${down}`);
		const heirs = chunks.map((c) => c.owners_if_down.filter((id) => !c.owners.includes(id)));
		const owned = chunks.filter((c) => c.owners.includes(down)).length;
		assert.ok(owned > 0 && chunks.length === 5, 'four leaves and the manifest');
		await page.getByLabel('If this node were down').selectOption(down);
		await eventually('each chunk of it has an heir', async () => (await map.getByTitle(`if ${down} were down`).count()) === owned);
		assert.equal(await map.getByTitle(`${down} is supposed to be down`).count(), owned);
		for (const [i, ids] of heirs.entries()) {
			const row = map.getByRole('row').nth(i + 1);
			assert.equal(await row.getByText('would own').count(), ids.length, `chunk ${i}`);
			for (const id of ids) assert.equal(await row.getByTitle(`${id} would own it if ${down} were down`).count(), 1);
		}
	}
	assert.deepEqual(await violationsInBoth(page), []);
	await page.getByLabel('If this node were down').selectOption('none');
	await eventually('all is as it is', async () => (await map.getByText(/would own|if down/).count()) === 0);
	await close(page);
});

test('chunks that move to a fourth owner are seen on their way, and still where motion is not wanted', async () => {
	for (let i = 0; i < 12; i += 1) await node.put(`flights/${i}.bin`, randomBytes(3 << 20));
	const page = await open(browser, `${node.url}/cluster`);
	const still = await open(browser, `${node.url}/cluster`, { reducedMotion: 'reduce' });
	for (const p of [page, still]) await p.locator('[data-member="node-d"]').waitFor();
	const flight = (p) => p.locator('path.flight').first();
	const style = (p) => flight(p).evaluate((path) => ({ moves: getComputedStyle(path).animationName, d: path.getAttribute('d'), from: path.ownerSVGElement.querySelectorAll('path.piece').length }));
	const flown = Promise.all([page, still].map((p) => flight(p).waitFor({ state: 'attached', timeout: 90_000 }).then(() => style(p))));
	await cluster.add();
	const [{ moves, d, from }, calm] = await flown;
	const told = (await node.json('/v1/recent?all=1')).events.filter(({ event }) => event.type === 'moved');
	assert.ok(told.length > 0 && told.every(({ event }) => event.to === 'node-e' || event.from !== event.to), JSON.stringify(told));
	assert.match(moves, /fly/);
	assert.equal(calm.moves, 'none');
	// From one piece of the ring to another, through its middle.
	assert.match(d, /^M-?[\d.]+ -?[\d.]+ ?[QC]/);
	assert.equal(from, 5);
	await cluster.settled();
	await eventually('nothing is under way', async () => (await node.json('/v1/health')).moving === 0);
	await eventually('the picture is at rest', async () => (await page.locator('path.flight').count()) === 0);
	for (const p of [page, still]) await close(p);
});
