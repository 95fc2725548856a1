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

/** Complaints of the browser's own that belong to what a test does: a page is told which with `allow`. */
export const ALLOW = {
	/** The node, or the way to it, is gone for a while. */
	away: /net::ERR_/,
	/** A page asks whether a name is there before it writes to it, and it is not. */
	absent: /status of 404 .*\/v1\/(files|stat|locate)\//,
	/** A token is asked for. */
	token: /status of 401 /,
	/** What was collected is not copied. */
	gone: /status of 404 .*\/v1\/copy/,
	/** Something else is there. */
	changed: /status of 412 /,
	refused: /status of 409 /,
	full: /status of 507 /,
	unavailable: /status of 503 /
};

/** What may be met at any time: names are looked up before they are written, and nodes come and go. */
const USUAL = [ALLOW.absent, ALLOW.away, ALLOW.unavailable];

/** A page with its complaints; `allow`: patterns of further ones that are no fault. */
export async function open(browser, url, { allow = [], ...options } = {}) {
	const known = [...USUAL, ...allow];
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
		const text = `${message.text()} ${message.location().url}`;
		if (message.type() === 'error' && !known.some((pattern) => pattern.test(text))) page.complaints.push(text);
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

/** The same in both colour schemes. */
export async function violationsInBoth(page) {
	const found = [];
	for (const colorScheme of ['light', 'dark']) {
		await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
		// Colours that are on their way from one theme to the other are neither's.
		await page.evaluate(() =>
			new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() =>
				document.getAnimations().forEach((running) => running instanceof CSSTransition && running.finish())
			)
		);
		found.push(...(await violations(page)).map((v) => `${colorScheme}: ${v}`));
	}
	return found;
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
