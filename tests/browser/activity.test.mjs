/** What happened, in a browser: the hour before it was opened, what every member saw, filters. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { open, violationsInBoth } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { close, suite } from './lib/suite.mjs';

let browser, cluster;
suite({ env: { REPAIR_DELAY_SECS: '600' } }, (begun) => ({ browser, cluster } = begun));

const log = (page) => page.getByTestId('log');
const topics = (page) => log(page).locator('.entry').evaluateAll((all) => [...new Set(all.map((e) => e.dataset.topic))].sort());
/** Points of the first line of a graph. */
const points = (page, name) =>
	page.getByRole('region', { name }).locator('path.line').first().getAttribute('d', { timeout: 2_000 }).then((d) => (d.match(/[ML]/g) ?? []).length, () => 0);

test('whoever opens the page later sees what was measured and what happened, of all members', async () => {
	const [a, b, c] = cluster.nodes;
	await a.put('past/a.bin', randomBytes(1 << 20));
	await b.put('past/b.bin', randomBytes(1 << 20));
	await c.put('past/c.bin', randomBytes(1000));
	await eventually('there is something to draw', async () => (await a.json('/v1/recent')).samples.filter((s) => s.received > 0).length === 1 && (await a.json('/v1/recent')).samples.length >= 4);
	await c.kill();
	await eventually('it is seen dead', async () => (await a.json('/v1/recent')).events.some(({ event }) => event.type === 'member' && event.node === 'node-c' && event.status === 'dead'));
	await eventually('both have seen it', async () => (await b.json('/v1/recent')).events.some(({ event }) => event.type === 'member' && event.node === 'node-c' && event.status === 'dead'));

	const opened = Date.now();
	const page = await open(browser, `${a.url}/activity`);
	await log(page).getByText('Stored past/a.bin through node-a').waitFor();
	await log(page).getByText('Stored past/b.bin through node-b').waitFor();
	await eventually('the graphs begin before the page', async () => (await points(page, 'Throughput')) >= 4, 5_000);
	assert.ok(Date.now() - opened < 9_000, 'too late to tell it from what the page measured itself');
	assert.match(await page.getByRole('img', { name: /^Throughput/ }).getAttribute('aria-label'), /at most 1\d\d KiB\/s/);
	// What all have seen is told once; what the dead one saw is missing, and that is said.
	assert.equal(await log(page).getByText('node-c is taken for dead').count(), 1);
	await page.getByText('What node-c saw is missing: it does not answer.').waitFor();
	await log(page).getByText('Stored past/c.bin through node-c').waitFor();
	assert.deepEqual(await violationsInBoth(page), []);

	// A reload forgets nothing and doubles nothing, and what others do comes without one.
	await page.reload();
	await log(page).getByText('Stored past/b.bin through node-b').waitFor();
	await b.put('past/later.bin', randomBytes(1000));
	await log(page).getByText('Stored past/later.bin through node-b').waitFor({ timeout: 30_000 });
	await a.put('past/own.bin', randomBytes(1000));
	await log(page).getByText('Stored past/own.bin').waitFor();
	for (let i = 0; i < 2; i += 1) await page.waitForResponse('**/v1/recent?**');
	for (const text of ['Stored past/a.bin through node-a', 'Stored past/own.bin through node-a', 'Stored past/later.bin through node-b', 'node-c is taken for dead']) {
		assert.equal(await log(page).getByText(text, { exact: true }).count(), 1, text);
	}
	await close(page);
	c.start();
	await cluster.settled();
});

test('the log is filtered by topic and by words, held, and cleared', async () => {
	const [a, , c] = cluster.nodes;
	const page = await open(browser, `${a.url}/activity`);
	await log(page).getByText('node-c is taken for dead').waitFor();
	await a.put('filter/one.txt', '1');
	await log(page).getByText('Stored filter/one.txt').waitFor();
	const all = await topics(page);
	assert.ok(all.includes('membership') && all.includes('writes'), String(all));
	const chip = (name) => page.getByRole('group', { name: 'What to show' }).getByRole('button', { name });

	await chip('Membership').click();
	assert.equal(await chip('Membership').getAttribute('aria-pressed'), 'false');
	assert.deepEqual(await topics(page), all.filter((t) => t !== 'membership'));
	await chip('Membership').click();
	await chip('Writes').click();
	assert.equal((await topics(page)).includes('writes'), false);
	await chip('Writes').click();
	assert.deepEqual(await topics(page), all);

	const search = page.getByLabel('Search the log');
	await search.fill('FILTER/ONE');
	await eventually('one is left', async () => (await log(page).locator('.entry').count()) === 1);
	await search.fill('no such thing');
	await page.getByText('Nothing to show').waitFor();
	assert.deepEqual(await violationsInBoth(page), []);
	await search.fill('');

	await page.getByRole('button', { name: 'Hold' }).click();
	await a.put('filter/two.txt', '2');
	await page.getByRole('button', { name: /^Go on \([1-9]\d* new\)$/ }).waitFor();
	assert.equal(await log(page).getByText('Stored filter/two.txt').count(), 0);
	await page.getByRole('button', { name: /^Go on/ }).click();
	await log(page).getByText('Stored filter/two.txt').waitFor();
	await page.getByRole('button', { name: 'Clear' }).click();
	await page.getByText('Nothing to show').waitFor();
	for (let i = 0; i < 2; i += 1) await page.waitForResponse('**/v1/recent?**');
	assert.equal(await log(page).getByText('Stored filter/two.txt').count(), 0, 'what was cleared stays away');
	assert.ok(c.child);
	await close(page);
});
