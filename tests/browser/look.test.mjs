/** How it looks and behaves on every screen: accessibility, widths, policy, weight, many members. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { busy, open, violations } from './lib/browser.mjs';
import { pictures } from './lib/pictures.mjs';
import { suite } from './lib/suite.mjs';

let browser, node;
suite({}, (begun) => {
	({ browser, node } = begun);
	return pictures(node);
});

const SCREENS = {
	overview: ['/', (page) => page.getByTestId('health-word').waitFor()],
	files: ['/files/', (page) => page.locator('[data-row]').first().waitFor()],
	folder: ['/files/photos/2026', (page) => page.locator('[data-row]').first().waitFor()],
	empty: ['/files/nothing/here', (page) => page.getByTestId('empty').waitFor()],
	file: ['/file/photos/2026/transit.png', (page) => page.getByTestId('chunk-summary').waitFor()],
	large: ['/file/backups/2026-03-01.tar.zst', (page) => page.getByTestId('chunk-summary').waitFor()],
	text: ['/file/notes/kepler.md', (page) => page.getByTestId('preview').locator('pre').waitFor()],
	missing: ['/file/none', (page) => page.getByText('There is no file of this name').waitFor()],
	cluster: ['/cluster', (page) => page.locator('[data-member]').first().waitFor()],
	node: ['/nodes/node-a', (page) => page.getByRole('heading', { name: 'What it holds' }).waitFor()],
	other: ['/nodes/node-b', (page) => page.getByRole('heading', { name: 'What it holds' }).waitFor()],
	activity: ['/activity', (page) => page.getByText('Copies queued').waitFor()],
	connect: ['/connect', (page) => page.getByRole('heading', { name: 'curl' }).waitFor()],
	settings: ['/settings', (page) => page.getByText('Theme').waitFor()],
	unknown: ['/cluster/none', (page) => page.getByText('There is no such page').waitFor()]
};

for (const colorScheme of ['light', 'dark']) {
	for (const [name, [path, there]] of Object.entries(SCREENS)) {
		test(`axe finds nothing on the screen ${name}, ${colorScheme}`, async () => {
			const page = await open(browser, node.url + path, { colorScheme, reducedMotion: 'reduce' });
			await there(page);
			assert.deepEqual(await violations(page), []);
			assert.deepEqual(page.complaints, []);
		});
	}

	test(`axe finds nothing in dialogs, menus and uploads, ${colorScheme}`, async () => {
		const page = await open(browser, `${node.url}/files/`, { colorScheme, reducedMotion: 'reduce' });
		await page.getByTestId('file-input').setInputFiles({ name: `up-${colorScheme}.txt`, mimeType: 'text/plain', buffer: Buffer.from('up') });
		await page.getByRole('button', { name: 'Receipt' }).click();
		await page.getByRole('dialog').waitFor();
		assert.deepEqual(await violations(page), [], 'receipt');
		await page.keyboard.press('Escape');
		const row = page.locator(`[data-row="up-${colorScheme}.txt"]`);
		await row.getByRole('button', { name: /^Actions/ }).click();
		assert.deepEqual(await violations(page), [], 'menu');
		await page.getByRole('menuitem', { name: 'Rename…' }).click();
		assert.deepEqual(await violations(page), [], 'rename');
		await page.keyboard.press('Escape');
		await row.getByRole('button', { name: /^Actions/ }).click();
		await page.getByRole('menuitem', { name: 'Preview' }).click();
		await page.getByTestId('preview').locator('pre').waitFor();
		assert.deepEqual(await violations(page), [], 'preview');
		await page.keyboard.press('Escape');
		await page.getByLabel(`Select up-${colorScheme}.txt`).check();
		assert.deepEqual(await violations(page), [], 'selection');
		await page.getByRole('button', { name: 'Delete' }).click();
		await page.getByRole('button', { name: 'Undo' }).waitFor();
		assert.deepEqual(await violations(page), [], 'toast');
		await page.getByRole('button', { name: 'Recently deleted or replaced' }).click();
		await page.getByRole('dialog').getByRole('button', { name: 'Bring back' }).first().waitFor();
		assert.deepEqual(await violations(page), [], 'trash');
		await page.keyboard.press('Escape');
		await page.getByTestId('file-input').setInputFiles({ name: 'planets.csv', mimeType: 'text/csv', buffer: Buffer.from('x') });
		await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).waitFor();
		assert.deepEqual(await violations(page), [], 'replace');
		await page.keyboard.press('Escape');
		await page.locator('[data-row="photos/"]').getByRole('button', { name: /^Actions/ }).click();
		await page.getByRole('menuitem', { name: 'Delete…' }).click();
		await page.getByRole('dialog').getByRole('button', { name: /^Delete \d+ files$/ }).waitFor();
		assert.deepEqual(await violations(page), [], 'delete a folder');
		await page.keyboard.press('Escape');
		assert.deepEqual(page.complaints, []);
	});
}

test('no screen is wider than a phone', async () => {
	const page = await open(browser, node.url, { viewport: { width: 360, height: 780 }, hasTouch: true, isMobile: true });
	for (const [name, [path, there]] of Object.entries(SCREENS)) {
		await page.goto(node.url + path);
		await there(page);
		const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
		assert.equal(over, 0, `${name} is ${over} pixels too wide`);
	}
	// The way round with a thumb.
	await page.getByRole('navigation', { name: 'Screens' }).getByRole('link', { name: 'Cluster' }).tap();
	await page.getByRole('heading', { level: 1, name: 'Cluster' }).waitFor();
	assert.deepEqual(page.complaints, []);
});

for (const width of [1920, 2560]) {
	test(`on a screen of ${width} pixels nothing is lost, too wide or torn apart`, async () => {
		const page = await open(browser, node.url, { viewport: { width, height: 1080 } });
		for (const [name, [path, there]] of Object.entries(SCREENS)) {
			await page.goto(node.url + path);
			await there(page);
			const { over, right, left } = await page.evaluate(() => {
				const main = document.querySelector('.page').getBoundingClientRect();
				const rail = document.querySelector('main').getBoundingClientRect();
				return { over: document.documentElement.scrollWidth - innerWidth, left: main.left - rail.left, right: rail.right - main.right };
			});
			assert.ok(over <= 0, `${name} is ${over} pixels too wide`);
			assert.ok(Math.abs(left - right) <= 1, `${name} is not in the middle: ${left} and ${right}`);
			// Lines that nobody can follow with the eye.
			const longest = await page.evaluate(() => Math.max(0, ...[...document.querySelectorAll('main p')].filter((p) => p.textContent.length > 120).map((p) => p.getBoundingClientRect().width)));
			assert.ok(longest <= 1100, `${name} has a line of ${longest} pixels`);
		}
		assert.deepEqual(page.complaints, []);
	});
}

test('where motion is not wanted nothing moves', async () => {
	const page = await open(browser, `${node.url}/files/still`, { reducedMotion: 'reduce' });
	const moving = () =>
		page.evaluate(() =>
			document.getAnimations().filter((a) => a.playState === 'running' && Number(a.effect?.getComputedTiming().endTime) > 50).map((a) => `${a.animationName ?? a.transitionProperty} ${a.effect?.target?.className}`)
		);
	await page.evaluate(() => {
		globalThis.long = new Set();
		const look = () => {
			for (const a of document.getAnimations()) if (Number(a.effect?.getComputedTiming().endTime) > 50) globalThis.long.add(a.animationName ?? a.transitionProperty);
			requestAnimationFrame(look);
		};
		look();
	});
	await page.getByTestId('file-input').setInputFiles({ name: 'a.txt', mimeType: 'text/plain', buffer: Buffer.from('a') });
	await page.getByText('1 file stored').waitFor();
	await page.getByRole('button', { name: 'Receipt' }).click();
	await page.keyboard.press('Escape');
	for (const name of ['Overview', 'Cluster', 'Activity', 'Settings']) {
		await page.getByRole('link', { name, exact: true }).click();
		await page.getByRole('heading', { level: 1, name }).waitFor();
		assert.deepEqual(await moving(), [], name);
	}
	await page.getByLabel('Dark').check();
	assert.deepEqual(await page.evaluate(() => [...globalThis.long]), []);
	assert.deepEqual(page.complaints, []);
});

test('everything can be done with the keyboard', async () => {
	await node.put('keys/a.txt', 'a', 'text/plain');
	const page = await open(browser, `${node.url}/files/keys`);
	const row = page.locator('[data-row="keys/a.txt"]');
	await row.waitFor();
	await page.keyboard.press('Tab');
	assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the content');
	await page.keyboard.press('/');
	assert.equal(await page.evaluate(() => document.activeElement?.id), 'filter');
	await row.getByRole('button', { name: /^Actions/ }).focus();
	await page.keyboard.press('Enter');
	await page.keyboard.press('End');
	assert.equal(await page.evaluate(() => document.activeElement?.textContent?.trim()), 'Delete');
	await page.keyboard.press('Escape');
	assert.match((await page.evaluate(() => document.activeElement?.getAttribute('aria-label'))) ?? '', /^Actions for a.txt/);
	await page.keyboard.press('Enter');
	for (let i = 0; i < 5; i += 1) await page.keyboard.press('ArrowDown');
	await page.keyboard.press('Enter');
	await page.getByRole('dialog', { name: 'Rename' }).waitFor();
	// What is before the ending is selected.
	await page.keyboard.type('b');
	await page.keyboard.press('Enter');
	await page.locator('[data-row="keys/b.txt"]').waitFor();
	assert.deepEqual(page.complaints, []);
});

test('the policy is strict, the first load is light, and files are cached by what is in them', async () => {
	const page = await open(browser, node.url);
	await page.getByTestId('health-word').waitFor();
	const first = await node.fetch('/');
	const policy = first.headers.get('content-security-policy');
	for (const bad of ["'unsafe-inline'", "'unsafe-eval'", '*', 'data:']) assert.ok(!policy.includes(bad), policy);
	assert.match(policy, /script-src 'self';/);
	const weight = await page.evaluate(() =>
		[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
			.filter((entry) => !entry.name.includes('/v1/') && !entry.name.includes('/metrics'))
			.reduce((sum, entry) => sum + entry.encodedBodySize, 0)
	);
	assert.ok(weight > 10_000 && weight < 200_000, `the first load has ${weight} bytes`);
	console.log(`first load: ${weight} bytes compressed`);
	const script = page.requests.find((url) => /bundle.*\.js$/.test(url));
	const asset = await fetch(script, { headers: { 'Accept-Encoding': 'br' } });
	assert.match(asset.headers.get('cache-control'), /immutable/);
	assert.equal(asset.headers.get('content-encoding'), 'br');
	for (const url of page.requests) assert.equal(new URL(url).origin, node.url, 'an outside request');
	// Nothing that the page could be made to write runs.
	const ran = await page.evaluate(() => {
		const script = document.createElement('script');
		script.textContent = 'globalThis.owned = 1';
		document.body.append(script);
		document.body.insertAdjacentHTML('beforeend', '<img src="/none" onerror="globalThis.owned = 1">');
		return new Promise((resolve) => setTimeout(() => resolve(globalThis.owned), 300));
	});
	assert.equal(ran, undefined);
});

test('a ring of a thousand members is drawn and stays smooth', async () => {
	const page = await open(browser, `${node.url}/settings`);
	const states = ['alive', 'alive', 'alive', 'alive', 'suspect', 'dead'];
	let round = 0;
	await page.route('**/v1/cluster', (route) => {
		round += 1;
		const members = Array.from({ length: 1000 }, (_, i) => ({
			id: `node-${i}`, status: i === 0 ? 'alive' : states[(i * 7 + (round % 2) * i) % states.length], incarnation: 1, addr: '10.0.0.1', gossip_port: 4000, transfer_port: 5000,
			http_port: 3000, zone: null, capacity: 1e12, used: i * 1e8, version: '0.1.0', share: 0.001, last_seen: '2026-03-01T12:00:00.000Z'
		}));
		return route.fulfill({ json: { members, ring: { version: 'v', digest: String(round) }, roster: { number: 1, members: ['node-0'] } } });
	});
	await page.getByRole('link', { name: 'Cluster' }).click();
	await page.locator('path.piece').nth(999).waitFor({ state: 'attached' });
	// Long enough for several changes of half the members.
	const from = round;
	const spent = await busy(page, async () => {
		while (round < from + 3) await page.waitForResponse('**/v1/cluster');
	});
	assert.ok(spent / 3 < 0.6, `a change of half the members takes ${spent / 3} s of the processor`);
	console.log(`1,000 members: ${((spent / 3) * 1000).toFixed(0)} ms of the processor a change of half of them`);
	assert.ok((await page.locator('[data-member]').count()) < 100);
	assert.deepEqual(page.complaints, []);
});

test('the theme and the units are what was set, also after a reload', async () => {
	const page = await open(browser, `${node.url}/settings`, { colorScheme: 'light' });
	const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
	const light = await background();
	await page.getByLabel('Dark').check();
	const dark = await background();
	assert.notEqual(dark, light);
	await page.getByLabel(/^kB, MB/).check();
	await page.reload();
	await page.getByText('Theme').waitFor();
	assert.equal(await background(), dark);
	await page.goto(`${node.url}/file/backups/2026-03-01.tar.zst`);
	await page.getByText(/MB in \d+ chunks/).first().waitFor();
});
