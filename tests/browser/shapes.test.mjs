/** What the UI believes of the API, held against a live node. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { Cluster } from './lib/cluster.mjs';

let cluster;
before(async () => (cluster = await Cluster.start(3)));
after(() => cluster?.stop());

test('a live node answers in the shapes that the UI reads', () => {
	const run = spawnSync('npx', ['vitest', 'run', 'src/lib/api/live.test.ts', '--reporter=json'], {
		cwd: new URL('../../frontend/', import.meta.url).pathname,
		env: { ...process.env, KEPLER_URL: cluster.nodes[0].url, NO_COLOR: '1' },
		encoding: 'utf8'
	});
	assert.equal(run.status, 0, run.stdout + run.stderr);
	const { numPassedTests, numPendingTests, numTodoTests, numFailedTests } = JSON.parse(run.stdout.slice(run.stdout.indexOf('{')));
	// All of them, and without a node to ask none is run at all.
	assert.ok(numPassedTests >= 18, `${numPassedTests} passed`);
	assert.deepEqual([numPendingTests, numTodoTests, numFailedTests], [0, 0, 0], 'none is left out');
	console.log(`${numPassedTests} shapes held against a live node`);
});
