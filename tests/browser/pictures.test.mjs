/** The pictures of the README, where they are asked for: every screen and its main states, light and dark. */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { test } from 'node:test';
import { ALLOW, open, signIn } from './lib/browser.mjs';
import { API_TOKEN, Cluster } from './lib/cluster.mjs';
import { eventually } from './lib/eventually.mjs';
import { row } from './lib/files.mjs';
import { pictures, sky } from './lib/pictures.mjs';
import { suite } from './lib/suite.mjs';

const asked = Boolean(process.env.PICTURES);
const options = { skip: !asked && 'only with PICTURES=1' };
const folder = new URL('../../docs/images/', import.meta.url).pathname;
const SCHEMES = ['light', 'dark'];
const LAPTOP = { width: 1280, height: 800 };
const PHONE = { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true };

let browser, cluster, node;
if (asked) {
	suite({ env: { REBALANCE_BANDWIDTH_MBPS: '4', REPAIR_DELAY_SECS: '20' } }, async (begun) => {
		({ browser, cluster, node } = begun);
		mkdirSync(folder, { recursive: true });
		await pictures(node);
		for (const [i, other] of cluster.nodes.slice(1).entries()) await other.put('photos/2026/transit.png', sky(720, 450, 3 * i + 2), 'image/png');
		await pictures.stir(node, cluster);
		await eventually('all is well again', async () => (await node.json('/v1/health')).status === 'ok');
	});
}

/** Opens, makes something of it and takes its picture, in both colour schemes. */
async function take(name, url, prepare, { viewport = LAPTOP, ...more } = {}) {
	for (const colorScheme of SCHEMES) {
		const page = await open(browser, url, { colorScheme, viewport, allow: [ALLOW.token], ...more });
		await prepare(page);
		// What comes a moment later: rates, pictures, fonts.
		await page.waitForTimeout(1_200);
		await page.screenshot({ path: `${folder}${name}-${colorScheme}.png` });
		await page.context().close();
	}
}

test('pictures of every screen', options, async () => {
	const screens = {
		overview: ['/', (page) => page.getByTestId('health-word').waitFor()],
		files: ['/files/', (page) => page.locator('[data-row]').first().waitFor()],
		file: ['/file/photos/2026/transit.png', (page) => page.getByRole('button', { name: 'Bring back' }).first().waitFor()],
		large: ['/file/backups/2026-03-01.tar.zst', (page) => page.getByTestId('chunk-summary').waitFor()],
		node: ['/nodes/node-a', (page) => page.getByRole('heading', { name: 'What it holds' }).waitFor()],
		activity: ['/activity', (page) => page.getByTestId('log').waitFor()],
		connect: ['/connect', (page) => page.getByRole('heading', { name: 'curl' }).waitFor()],
		settings: ['/settings', (page) => page.getByText('Theme').waitFor()]
	};
	for (const [name, [path, there]] of Object.entries(screens)) await take(name, node.url + path, there);
	await take('wide', `${node.url}/activity`, screens.activity[1], { viewport: { width: 1920, height: 1080 } });
	await take('phone', `${node.url}/files/photos/2026`, (page) => page.locator('[data-row]').first().waitFor(), PHONE);
	await take('phone-file', `${node.url}/file/photos/2026/eclipse.png`, (page) => page.locator('main img').waitFor(), PHONE);
});

test('pictures of what is done with files', options, async () => {
	await take('uploads', `${node.url}/files/photos`, async (page) => {
		await row(page, 'photos/cover.png').waitFor();
		const devtools = await page.context().newCDPSession(page);
		await devtools.send('Network.enable');
		await page.getByTestId('file-input').setInputFiles([1, 2].map((i) => ({ name: `comet-${i}.png`, mimeType: 'image/png', buffer: sky(720, 450, i) })));
		const replace = page.getByRole('dialog').getByRole('button', { name: 'Replace' });
		await Promise.race([replace.click().catch(() => {}), page.getByText('2 files stored').waitFor()]);
		await page.getByText('2 files stored').waitFor();
		await devtools.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 2 << 20 });
		await page.getByTestId('file-input').setInputFiles([1, 2, 3].map((i) => ({ name: `survey-${i}-${Math.random().toString(36).slice(2, 6)}.fits`, mimeType: 'image/fits', buffer: randomBytes(12 << 20) })));
		await page.getByTestId('upload-total').getByText(/ left/).waitFor();
		await page.waitForTimeout(1_500);
	});
	await take('receipt', `${node.url}/files/notes`, async (page) => {
		await row(page, 'notes/todo.txt').waitFor();
		await page.getByTestId('file-input').setInputFiles({ name: `${Math.random().toString(36).slice(2, 6)}.txt`, mimeType: 'text/plain', buffer: Buffer.from('Ad astra') });
		await page.getByRole('button', { name: 'Receipt' }).click();
		await page.getByRole('dialog').waitFor();
	});
});

test('a picture of the sign-in', options, async () => {
	const guarded = await Cluster.start(1, { API_TOKEN: 'a-token-for-the-pictures-00' });
	try {
		await take('sign-in', guarded.nodes[0].url, (page) => page.getByTestId('sign-in').waitFor());
	} finally {
		await guarded.stop();
	}
});

test('a picture of a conflict', options, async () => {
	const apart = await Cluster.startApart(3);
	try {
		const [a, b] = apart.nodes;
		await a.put('notes/orbit.md', '# Orbit\n\nA circle, surely.\n', 'text/markdown');
		apart.network.split([0], [1, 2]);
		await a.put('notes/orbit.md', '# Orbit\n\nAn ellipse,\nwith the sun at its centre.\n', 'text/markdown', '?durability=fast');
		await eventually('the greater side writes', () => b.put('notes/orbit.md', '# Orbit\n\nAn ellipse,\nwith the sun in one of its foci.\n', 'text/markdown').then(() => true), 60_000);
		apart.network.heal();
		await apart.settled();
		await eventually('both are known', async () => (await a.json('/v1/stat/notes/orbit.md')).versions.length === 2, 60_000);
		await take('conflict', `${a.url}/file/notes/orbit.md`, async (page) => {
			await signIn(page, API_TOKEN);
			await page.getByRole('button', { name: 'Keep as a copy' }).waitFor();
		});
	} finally {
		await apart.stop();
	}
});

test('pictures of a cluster that changes', options, async () => {
	// While a fourth node takes its share.
	const pages = [];
	for (const colorScheme of SCHEMES) {
		const page = await open(browser, `${node.url}/cluster`, { colorScheme, viewport: LAPTOP });
		await page.locator('[data-member]').first().waitFor();
		pages.push([page, colorScheme]);
	}
	await cluster.add();
	for (const [page, colorScheme] of pages) {
		await page.locator('[data-member="node-d"]').waitFor();
		await page.locator('path.flight').first().waitFor({ state: 'attached', timeout: 60_000 });
		await page.waitForTimeout(500);
		await page.screenshot({ path: `${folder}cluster-${colorScheme}.png` });
	}
	await cluster.settled();
	await eventually('it has its share', async () => (await node.json('/v1/health')).status === 'ok');
	await take('if-down', `${node.url}/file/backups/2026-03-01.tar.zst`, async (page) => {
		await page.getByLabel('If this node were down').selectOption('node-b');
		await page.getByText('if down').first().waitFor();
		await page.getByTestId('chunk-summary').scrollIntoViewIfNeeded();
	});
	await cluster.nodes[3].kill();
	await take('degraded', `${node.url}/`, (page) => page.getByTestId('health-word').getByText('Degraded').waitFor());
});
