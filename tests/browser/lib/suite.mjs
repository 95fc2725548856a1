/** What every file of browser tests has: a cluster and a browser for all of it, and no page left from one test to the next. */
import assert from 'node:assert/strict';
import { after, afterEach, before } from 'node:test';
import { launch } from './browser.mjs';
import { Cluster } from './cluster.mjs';

/**
 * Starts both before the first test and hands them to `ready`; ends them after the last.
 * `apart`: each node on a host of its own, between which the network can be cut; it is whole again after each test.
 */
export function suite({ nodes = 3, env = {}, apart = false }, ready) {
	let cluster, browser;
	before(async () => {
		cluster = await (apart ? Cluster.startApart(nodes, env) : Cluster.start(nodes, env));
		browser = await launch();
		await ready({ cluster, browser, node: cluster.nodes[0] });
	});
	afterEach(async () => {
		cluster?.network?.heal();
		for (const context of browser?.contexts() ?? []) await context.close();
	});
	after(async () => {
		await browser?.close();
		await cluster?.stop();
	});
}

/** Nothing was complained of, and nobody outside was asked: the browser's own PDF viewer is inside. */
export async function close(page) {
	assert.deepEqual(page.complaints, [], 'the page complained');
	for (const url of page.requests) assert.ok(/^(http:\/\/127\.0\.0\.1:|blob:|data:|chrome(-extension|-untrusted)?:)/.test(url), `an outside request: ${url}`);
	await page.context().close();
}
