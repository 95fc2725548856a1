import { sveltekit } from '@sveltejs/kit/vite';
import { defineConfig } from 'vitest/config';

// The node that the development server talks to. The Host header is left as it is, so that the node
// sees the page and the request as one origin.
const target = process.env.KEPLER_URL ?? 'http://127.0.0.1:3001';
const proxy = Object.fromEntries(
	['/v1', '/ipfs', '/metrics', '/healthz', '/readyz'].map((path) => [path, { target, changeOrigin: false }])
);

export default defineConfig({
	plugins: [sveltekit()],
	server: { port: 5173, strictPort: true, proxy },
	preview: { port: 5173, strictPort: true, proxy },
	build: { target: 'es2022', assetsInlineLimit: 0 },
	test: { include: ['src/**/*.test.ts'] }
});
