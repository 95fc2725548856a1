/**
 * Files deleted from this tab, for as long as they can come back.
 *
 * A deleted name is gone, its chunks stay for the collector's grace. Bringing a file back reads them,
 * checks each against its CID, and stores the file again under its name if that is still free.
 */
import { api, ApiError } from '$lib/api';
import { assemble } from '$lib/content/cid';
import { settings } from './settings.svelte';
import { load, save } from './stored';

export interface Deleted {
	name: string;
	cid: string;
	size: number;
	contentType: string | null;
	at: number;
}

/** `GC_GRACE_SECS` by default; the nodes may keep chunks for longer. */
const GRACE_MS = 3_600_000;
const MOST = 200;

class Trash {
	items = $state.raw<Deleted[]>(load('session', 'trash', (v) => (Array.isArray(v) ? (v as Deleted[]) : null)) ?? []);

	/** Deletes a file, unless it was written anew since it was seen. */
	async remove(file: { name: string; cid: string; size: number; contentType: string | null; etag: string }): Promise<Deleted> {
		await api.remove(file.name, { etag: file.etag });
		const { name, cid, size, contentType } = file;
		const item = { name, cid, size, contentType, at: Date.now() };
		this.#keep([item, ...this.items]);
		return item;
	}

	async restore(item: Deleted, onProgress?: (bytes: number) => void): Promise<void> {
		const body = await assemble(item.cid, (cid) => api.chunk(cid), onProgress);
		try {
			await api.create(item.name, body, { contentType: item.contentType, durability: settings.durability });
		} catch (error) {
			if (error instanceof ApiError && error.status === 412) {
				throw new Error('there is a new file of that name already', { cause: error });
			}
			throw error;
		}
		this.#keep(this.items.filter((other) => other !== item));
	}

	#keep(items: Deleted[]): void {
		const now = Date.now();
		this.items = items.filter((item) => now - item.at < GRACE_MS).slice(0, MOST);
		save('session', 'trash', this.items);
	}
}

export const trash = new Trash();
