/** Files looked at in a browser: shown as what they are, and inert whatever they are. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open } from './lib/browser.mjs';
import { eventually } from './lib/eventually.mjs';
import { act } from './lib/files.mjs';
import { film, pdf, wav } from './lib/media.mjs';
import { close, suite } from './lib/suite.mjs';

let browser, node;
suite({}, (begun) => ({ browser, node } = begun));

test('a hostile name is text wherever it appears', async () => {
	const name = 'hostile/<img src=x onerror="globalThis.owned=1">\u202egnp.exe';
	await node.put(name, 'hostile', 'text/plain');
	const page = await open(browser, `${node.url}/files/hostile`);
	const link = page.getByRole('link', { name: '<img src=x onerror="globalThis.owned=1">\ufffdgnp.exe', exact: true });
	await link.waitFor();
	await act(page, name.replaceAll('"', '\\"'), 'Rename…');
	await page.keyboard.press('Escape');
	await link.click();
	await page.getByRole('heading', { level: 1, name: /<img/ }).waitFor();
	await page.getByTestId('preview').getByText('hostile').waitFor();
	await page.goto(`${node.url}/activity`);
	await node.put(name, 'again', 'text/plain');
	await page.getByTestId('log').getByText(/Stored hostile\/<img/).nth(1).waitFor();
	await page.goto(`${node.url}/files/hostile`);
	await act(page, name.replaceAll('"', '\\"'), 'Delete');
	await page.getByText(/^Deleted <img/).waitFor();
	assert.equal(await page.evaluate(() => globalThis.owned), undefined);
	assert.equal(await page.locator('main img').count(), 0);
	await close(page);
});

test('hostile HTML and SVG are shown and stay inert', async () => {
	const html = '<!doctype html><title>owned</title><script>fetch("/v1/files/owned",{method:"PUT",body:"x"})</script><body onload="parent.owned=1">';
	const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" onload="parent.owned=1"><script>parent.owned=1;fetch("/v1/files/owned",{method:"PUT",body:"x"})</script><rect width="40" height="40" fill="red"/></svg>';
	await node.put('inert/page.html', html, 'text/html');
	await node.put('inert/picture.svg', svg, 'image/svg+xml');
	await node.put('inert/lie.png', html, 'text/html');
	const page = await open(browser, `${node.url}/file/inert/page.html`);
	await page.getByTestId('preview').getByText('<script>').waitFor();
	await page.goto(`${node.url}/file/inert/picture.svg`);
	await eventually('the picture is drawn', () => page.locator('main img').evaluate((img) => img.naturalWidth === 40));
	await page.goto(`${node.url}/file/inert/lie.png`);
	await page.getByTestId('preview').getByText('<script>').waitFor();
	assert.equal(await page.evaluate(() => globalThis.owned), undefined);
	// The link itself, opened by hand, downloads and runs nothing.
	const [download] = await Promise.all([
		page.waitForEvent('download'),
		page.evaluate((url) => void (location.href = url), `${node.url}/v1/files/inert/page.html`)
	]);
	assert.equal(download.suggestedFilename(), 'page.html');
	assert.equal((await node.fetch('/v1/files/owned')).status, 404);
	await close(page);
});

test('a film is sought in by ranges', async () => {
	const page = await open(browser, `${node.url}/files/`);
	const bytes = await film(page);
	assert.ok(bytes.length > 12 << 20, `the film has only ${bytes.length} bytes`);
	await node.put('media/noise.webm', bytes, 'video/webm');
	const ranges = [];
	page.on('response', (response) => {
		if (response.url().includes('noise.webm')) ranges.push([response.status(), response.headers()['content-range'] ?? '']);
	});
	await page.goto(`${node.url}/file/media/noise.webm`);
	const video = page.locator('video');
	await eventually('its length is known', () => video.evaluate((v) => v.readyState >= 1 && Math.abs(v.duration - 24) < 0.5));
	const at = await video.evaluate(
		(v) => new Promise((resolve, reject) => {
			v.onseeked = () => resolve(v.currentTime);
			v.onerror = () => reject(new Error(v.error?.message));
			v.currentTime = 20;
		})
	);
	assert.ok(Math.abs(at - 20) < 0.2);
	await eventually('a frame of there is shown', () => video.evaluate((v) => v.readyState >= 2 && v.videoWidth === 320));
	const starts = ranges.filter(([status]) => status === 206).map(([, range]) => Number(/bytes (\d+)/.exec(range)?.[1]));
	assert.ok(starts.some((start) => start > bytes.length / 2), `no range from the second half: ${JSON.stringify(ranges)}`);
	// The page looks at the file's state again and again; the film stays where it is.
	await video.evaluate((v) => void (v.mine = true));
	for (let i = 0; i < 2; i += 1) await page.waitForResponse('**/v1/stat/**');
	await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
	assert.deepEqual(await video.evaluate((v) => [v.mine, Math.round(v.currentTime)]), [true, 20]);
	await close(page);
});

test('sound, pictures, text and PDF have previews', async () => {
	await node.put('media/siren.wav', wav(20), 'audio/wav');
	await node.put('media/page.pdf', pdf('Hello from Kepler'), 'application/pdf');
	await node.put('media/long.txt', 'line\n'.repeat(200_000), 'text/plain');
	await node.put('media/bare', 'just words', 'application/octet-stream');
	const page = await open(browser, `${node.url}/file/media/siren.wav`);
	await eventually('its length is known', () => page.locator('audio').evaluate((a) => Math.abs(a.duration - 20) < 0.1));
	await page.goto(`${node.url}/file/media/long.txt`);
	await page.getByText('The first 256 KiB of 977 KiB.').waitFor();
	await page.goto(`${node.url}/file/media/bare`);
	await page.getByTestId('preview').getByText('just words').waitFor();
	await page.goto(`${node.url}/file/media/page.pdf`);
	const frame = page.locator('iframe');
	assert.match(await frame.getAttribute('src'), /^blob:/);
	await eventually('the viewer of the browser has it', () => page.frames().some((f) => f.url().startsWith('chrome-extension:')));
	await close(page);
});
