import { readFileSync } from 'node:fs';
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

	it('never hold the token', () => {
		const code = snippets({ origin: 'http://n', members: [member('a', '10.0.0.1'), member('b', 'fd00::1')], me: 'a', token: true });
		expect(code[0]?.code).toContain('Bearer TOKEN');
		expect(code.find((s) => s.title === 'systemd')?.code).toContain('[fd00::1]:4001');
	});

	const settings = (members: ReturnType<typeof member>[], title: string) => {
		const code = snippets({ origin: 'http://n', members, me: null, token: false }).find((s) => s.title.startsWith(title))?.code ?? '';
		return Object.fromEntries([...code.matchAll(/\b([A-Z_]{5,})=(\S+)/g)].map(([, name, value]) => [name, value]));
	};

	it('bind a further node where the others can reach it, with the secrets that this takes', () => {
		const members = [member('node-a', '10.0.0.1'), member('node-b', '10.0.0.2')];
		for (const title of ['Another node', 'systemd']) {
			const set = settings(members, title);
			expect(set.BIND_ADDR, title).toBe('THIS_MACHINES_ADDRESS');
			expect(set.SEEDS, title).toBe('10.0.0.1:4001,10.0.0.2:4001');
			expect(set.CLUSTER_KEY_FILE, title).toMatch(/cluster\.key$/);
			expect(set.API_TOKEN_FILE, title).toMatch(/api\.token$/);
			expect(set.HTTP_PORT, title).toBeUndefined();
		}
		// One that is on loopback by itself does not make a cluster of one machine.
		expect(settings([member('node-a'), member('node-b', '10.0.0.2')], 'Another').BIND_ADDR).toBeDefined();
	});

	it('give a further node of this machine ports of its own, and ask for nothing else', () => {
		for (const title of ['Another node on this machine', 'systemd']) {
			const set = settings([member('node-a'), member('node-b', '::1')], title);
			expect(set.HTTP_PORT, title).toBe('0');
			expect([set.BIND_ADDR, set.CLUSTER_KEY_FILE, set.API_TOKEN_FILE], title).toEqual([undefined, undefined, undefined]);
		}
	});

	it('hand secrets to systemd as credentials, as the unit of the examples does', () => {
		const unit = snippets({ origin: 'http://n', members: [member('node-a', '10.0.0.1')], me: null, token: false }).find((s) => s.title === 'systemd')?.code ?? '';
		const example = readFileSync(new URL('../../../../examples/kepler-node.service', import.meta.url), 'utf8');
		const secrets = (text: string) => text.split('\n').filter((line) => /^(LoadCredential|Environment=(CLUSTER_KEY|API_TOKEN)_FILE)=/.test(line));
		expect(secrets(unit)).toHaveLength(4);
		expect(secrets(unit)).toEqual(secrets(example));
	});

	it('find a free name however many there are', () => {
		expect(fresh([])).toBe('node-a');
		expect(fresh(Array.from({ length: 26 }, (_, i) => `node-${String.fromCharCode(97 + i)}`))).toBe('node-27');
	});
});
