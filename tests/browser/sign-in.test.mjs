/** A node that asks for a token. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { launch, open, violations } from './lib/browser.mjs';
import { Cluster } from './lib/cluster.mjs';
import { eventually } from './lib/eventually.mjs';
import { sky } from './lib/pictures.mjs';

const TOKEN = 'a-token-of-thirty-two-characters';
let cluster, browser, node;
before(async () => {
	cluster = await Cluster.start(1, { API_TOKEN: TOKEN });
	node = cluster.nodes[0];
	browser = await launch();
});
after(async () => {
	await browser?.close();
	await cluster?.stop();
});

for (const colorScheme of ['light', 'dark']) {
	test(`axe finds nothing on the sign-in, ${colorScheme}`, async () => {
		const page = await open(browser, node.url, { colorScheme });
		await page.getByTestId('sign-in').waitFor();
		assert.deepEqual(await violations(page), []);
		assert.deepEqual(page.complaints, []);
		await page.context().close();
	});
}

test('a wrong token is refused, the right one lets in to everything, and signing out ends it', async () => {
	const bytes = randomBytes(5 << 20);
	await node.put('a.bin', bytes);
	await node.put('sky.png', sky(), 'image/png');
	const page = await open(browser, `${node.url}/files/`);
	await page.getByLabel('Token').fill('a-wrong-token-of-some-length');
	await page.keyboard.press('Enter');
	await page.getByRole('alert').getByText('does not take this token').waitFor();
	await page.getByLabel('Token').fill(TOKEN);
	await page.keyboard.press('Enter');
	await page.locator('[data-row="a.bin"]').waitFor();
	await page.getByText('via node-a').waitFor();

	// Events, uploads, previews and downloads carry the token too.
	await node.put('event.txt', 'event');
	await page.locator('[data-row="event.txt"]').waitFor();
	await page.getByTestId('file-input').setInputFiles({ name: 'up.txt', mimeType: 'text/plain', buffer: Buffer.from('up') });
	await page.locator('[data-row="up.txt"]').waitFor();
	await page.goto(`${node.url}/file/sky.png`);
	await eventually('the picture is drawn', () => page.locator('main img').evaluate((img) => img.naturalWidth === 720));
	assert.match(await page.locator('main img').getAttribute('src'), /^blob:/);
	await page.goto(`${node.url}/file/a.bin`);
	// Without the picker, which no test can answer, the bytes go through memory.
	await page.evaluate(() => delete globalThis.showSaveFilePicker);
	const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Download' }).click()]);
	assert.ok(readFileSync(await download.path()).equals(bytes));
	for (const url of page.requests) assert.ok(!url.includes(TOKEN), 'the token is in an address');
	assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes('token-of')), false);

	await page.goto(`${node.url}/settings`);
	await page.getByRole('button', { name: 'Sign out' }).click();
	await page.getByTestId('sign-in').waitFor();
	await page.reload();
	await page.getByTestId('sign-in').waitFor();
	assert.deepEqual(page.complaints, []);
});
