/** What is there already, before something is written over it. */
import { api } from '$lib/api';
import type { Earlier } from './trash.svelte';

/** Which of these names below `prefix` exist: asked one by one where they are few, else read from the listing. */
export async function existing(prefix: string, names: string[]): Promise<Map<string, Earlier>> {
	const found = new Map<string, Earlier>();
	if (names.length <= 20) {
		const heads = await Promise.all(names.map(async (name) => ({ name, head: await api.head(name) })));
		for (const { name, head } of heads) if (head) found.set(name, { name, cid: head.cid, size: head.size, contentType: head.contentType });
		return found;
	}
	const wanted = new Set(names);
	let after: string | null = null;
	const last = [...names].sort().at(-1) ?? '';
	do {
		const page: Awaited<ReturnType<typeof api.list>> = await api.list({ prefix, after, limit: 1000 });
		for (const { name, cid, size, content_type } of page.files) {
			if (wanted.has(name)) found.set(name, { name, cid, size, contentType: content_type ?? null });
		}
		after = page.next ?? null;
	} while (after !== null && after < last);
	return found;
}
