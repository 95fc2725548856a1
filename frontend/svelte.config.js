import adapter from '@sveltejs/adapter-static';

/** @type {import('@sveltejs/kit').Config} */
export default {
	compilerOptions: { runes: true },
	kit: {
		adapter: adapter({ pages: 'build', assets: 'build', fallback: 'index.html', precompress: false }),
		// One script and one style sheet: over HTTP/1.1 twenty small files are slower than one.
		output: { bundleStrategy: 'single' },
		// The node serves from its root; a new build is noticed by the file names, not by polling.
		version: { name: '1', pollInterval: 0 }
	}
};
