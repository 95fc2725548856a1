/** Debian's Chromium, watched: a page that logs an error or breaks its own policy fails the test. */
import { createRequire } from 'node:module';
import { existsSync, readFileSync } from 'node:fs';

const frontend = createRequire(new URL('../../../frontend/package.json', import.meta.url));
const { chromium } = frontend('playwright-core');
const AXE = readFileSync(frontend.resolve('axe-core/axe.min.js'), 'utf8');

const EXECUTABLE = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => existsSync(path));

export async function launch() {
	if (!EXECUTABLE) throw new Error('no Chromium here: run tests/install browser');
	return chromium.launch({ executablePath: EXECUTABLE, args: ['--no-sandbox', '--autoplay-policy=no-user-gesture-required'] });
}

/** What a page may complain about: the network while a node is gone, and calls that an older node does not know. */
const EXPECTED = [/^Failed to load resource/, /ERR_CONNECTION_REFUSED/, /net::ERR_/];

/** A page with its complaints. */
export async function open(browser, url, options = {}) {
	const context = await browser.newContext({
		viewport: { width: 1366, height: 850 },
		acceptDownloads: true,
		...options
	});
	const page = await context.newPage();
	page.setDefaultTimeout(120_000);
	page.complaints = [];
	page.requests = [];
	page.on('console', (message) => {
		const text = message.text();
		if (message.type() === 'error' && !EXPECTED.some((known) => known.test(text))) page.complaints.push(text);
	});
	page.on('pageerror', (error) => page.complaints.push(String(error)));
	page.on('request', (request) => page.requests.push(request.url()));
	await page.goto(url);
	return page;
}

/** Gives the page the token that it asks for. */
export async function signIn(page, token) {
	await page.getByLabel('Token').fill(token);
	await page.keyboard.press('Enter');
	await page.getByTestId('sign-in').waitFor({ state: 'detached' });
}

/** Everything that axe finds wrong, in one line each. */
export async function violations(page) {
	// By the protocol, not as a script element: the page's policy rightly refuses those.
	await page.evaluate(AXE);
	const { violations } = await page.evaluate(() =>
		globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })
	);
	return violations.map((v) => `${v.id}: ${v.help} (${v.nodes.map((n) => n.target.join(' ') + ' ' + (n.any[0]?.message ?? n.none[0]?.message ?? '')).slice(0, 4).join('; ')})`);
}

/** Seconds of processor time that the page's main thread needs for something: a busy machine makes it no longer. */
export async function busy(page, act) {
	const devtools = await page.context().newCDPSession(page);
	await devtools.send('Performance.enable', { timeDomain: 'threadTicks' });
	const spent = async () => (await devtools.send('Performance.getMetrics')).metrics.find((m) => m.name === 'TaskDuration').value;
	const before = await spent();
	await act();
	return (await spent()) - before;
}
