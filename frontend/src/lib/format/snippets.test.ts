import { describe, expect, it } from 'vitest';
import { fresh, snippets } from './snippets';

const member = (id: string, addr = '127.0.0.1') => ({ id, addr, gossip_port: 4001, status: 'alive' as const });

describe('snippets', () => {
	it('name this cluster and a node that it does not have', () => {
		const code = snippets({ origin: 'http://n:3000', members: [member('node-a'), member('node-b')], me: 'node-a', token: false })
			.map((s) => s.code)
			.join('\n');
		expect(code).toContain('NODE_ID=node-c');
		expect(code).toContain('127.0.0.1:4001,127.0.0.1:4001');
		expect(code).not.toContain('TOKEN\'');
	});

	it('ask for the secrets where nodes are not on loopback, and never hold the token', () => {
		const code = snippets({ origin: 'http://n', members: [member('a', '10.0.0.1'), member('b', 'fd00::1')], me: 'a', token: true });
		expect(code.find((s) => s.title.startsWith('Another'))?.code).toContain('CLUSTER_KEY_FILE');
		expect(code[0]?.code).toContain('Bearer TOKEN');
		expect(code.find((s) => s.title === 'systemd')?.code).toContain('[fd00::1]:4001');
	});

	it('find a free name however many there are', () => {
		expect(fresh([])).toBe('node-a');
		expect(fresh(Array.from({ length: 26 }, (_, i) => `node-${String.fromCharCode(97 + i)}`))).toBe('node-27');
	});
});
