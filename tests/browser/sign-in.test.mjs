/** A node that asks for a token. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ALLOW, open as openPage, signIn, violations, violationsInBoth } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { film } from './lib/media.mjs';
import { sky } from './lib/pictures.mjs';
import { suite } from './lib/suite.mjs';

const TOKEN = 'a-token-of-thirty-two-characters';
/** Every page is asked for its token first. */
const open = (browser, url, options = {}) => openPage(browser, url, { allow: [ALLOW.token], ...options });
let browser, node;
suite({ nodes: 1, env: { API_TOKEN: TOKEN } }, (begun) => ({ browser, node } = begun));

for (const colorScheme of ['light', 'dark']) {
	test(`axe finds nothing on the sign-in, ${colorScheme}`, async () => {
		const page = await open(browser, node.url, { colorScheme });
		await page.getByTestId('sign-in').waitFor();
		assert.deepEqual(await violations(page), []);
		assert.deepEqual(page.complaints, []);
		await page.context().close();
	});
}

test('a film is sought in by ranges where a token is needed, and goes on when its address has expired', async () => {
	const page = await open(browser, `${node.url}/files/`);
	await signIn(page, TOKEN);
	const bytes = await film(page);
	await node.put('media/noise.webm', bytes, 'video/webm');
	const ranges = [];
	page.on('response', (response) => {
		if (response.url().includes('noise.webm?')) ranges.push([response.status(), response.headers()['content-range'] ?? '', response.url()]);
	});
	await page.goto(`${node.url}/file/media/noise.webm`);
	const video = page.locator('video');
	await eventually('its length is known', () => video.evaluate((v) => v.readyState >= 1 && Math.abs(v.duration - 24) < 0.5));
	const seek = (to) =>
		video.evaluate(
			(v, to) => new Promise((resolve, reject) => {
				v.addEventListener('seeked', () => resolve(v.currentTime), { once: true });
				v.addEventListener('error', () => reject(new Error(v.error?.message)), { once: true });
				v.currentTime = to;
			}),
			to
		);
	assert.ok(Math.abs((await seek(20)) - 20) < 0.2);
	const starts = ranges.filter(([status]) => status === 206).map(([, range]) => Number(/bytes (\d+)/.exec(range)?.[1]));
	assert.ok(starts.some((start) => start > bytes.length / 2), `no range from the second half: ${JSON.stringify(ranges)}`);

	// What a player says when its address is refused. (Whether it asks again for what it has read once is its own affair.)
	const first = await video.getAttribute('src');
	assert.ok(Math.abs((await seek(10)) - 10) < 0.2);
	// An address says in which second it ends: two of one second are one.
	await page.waitForTimeout(1_100);
	await video.evaluate((v) => void v.dispatchEvent(new Event('error')));
	await eventually('another address is asked for', async () => (await video.getAttribute('src')) !== first);
	await eventually('it is where it was sent', () => video.evaluate((v) => Math.abs(v.currentTime - 10) < 0.5 && v.readyState >= 2));

	// The address opens this file for reading and nothing else; without it there is nothing.
	const bare = (path, options) => fetch(node.url + path, options).then((r) => r.status);
	const address = await video.getAttribute('src');
	assert.equal(await bare(address, { headers: { Range: 'bytes=0-9' } }), 206);
	assert.equal(await bare(address, { method: 'DELETE' }), 401);
	assert.equal(await bare(address.replace('noise.webm', 'other.webm')), 401);
	assert.equal(await bare('/v1/files/media/noise.webm'), 401);
	assert.deepEqual(await page.context().cookies(), []);
	assert.deepEqual(page.complaints, []);
	await page.context().close();
});

test('a wrong token is refused, the right one lets in to everything, and signing out ends it', async () => {
	const bytes = randomBytes(5 << 20);
	await node.put('a.bin', bytes);
	await node.put('sky.png', sky(), 'image/png');
	const page = await open(browser, `${node.url}/files/`);
	await page.getByLabel('Token').fill('a-wrong-token-of-some-length');
	await page.keyboard.press('Enter');
	await page.getByRole('alert').getByText('does not take this token').waitFor();
	assert.deepEqual(await violationsInBoth(page), []);
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
	await page.goto(`${node.url}/file/a.bin`);
	const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Download', exact: true }).click()]);
	assert.ok(readFileSync(await download.path()).equals(bytes));
	// An earlier version too, by an address that opens it alone.
	await node.put('a.bin', 'new');
	const earlier = page.locator('[data-state="earlier"]').getByRole('button', { name: /^Download/ });
	const [again] = await Promise.all([page.waitForEvent('download'), earlier.click()]);
	assert.ok(readFileSync(await again.path()).equals(bytes));
	for (const url of page.requests) assert.ok(!url.includes(TOKEN), 'the token is in an address');
	assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes('token-of')), false);

	await page.goto(`${node.url}/settings`);
	await page.getByRole('button', { name: 'Sign out' }).click();
	await page.getByTestId('sign-in').waitFor();
	await page.reload();
	await page.getByTestId('sign-in').waitFor();
	assert.deepEqual(page.complaints, []);
});
