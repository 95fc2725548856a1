/**
 * Files deleted or replaced from this tab, for as long as they can come back.
 *
 * The version is gone, its chunks stay for the collector's grace. Bringing it back is a copy of what its CID
 * names, which the node makes: no byte comes here, and nothing that was written meanwhile is overwritten.
 */
import { api, ApiError } from '$lib/api';
import { settings } from './settings.svelte';
import { load, save } from './stored';

/** What a file was. */
export interface Earlier {
	name: string;
	cid: string;
	size: number;
	contentType: string | null;
}

export interface Gone extends Earlier {
	at: number;
	/** The version that replaced it; absent where it was deleted. */
	by?: string | undefined;
}

/** `GC_GRACE_SECS` by default; the nodes may keep chunks for longer. */
const GRACE_MS = 3_600_000;
/** So many files can be brought back at most. */
export const MOST_KEPT = 200;

/** What was to come back has no chunks any more. */
class Collected extends Error {}

/** Writes what a version had anew, over the version `over` and no other, or else where there is no file. */
export async function bringBack({ name, cid, contentType }: Omit<Earlier, 'size'>, over?: string): Promise<void> {
	try {
		await api.copy({ cid, ...(contentType ? { content_type: contentType } : {}) }, name, settings.durability, over);
	} catch (error) {
		if (!(error instanceof ApiError)) throw error;
		if (error.status === 412) {
			throw new Error(over ? 'it was written or deleted since' : 'there is a new file of that name already', { cause: error });
		}
		if (error.status === 404) throw new Collected('its chunks have been collected: it is gone for good', { cause: error });
		throw error;
	}
}

class Trash {
	items = $state.raw<Gone[]>(load('session', 'trash', (v) => (Array.isArray(v) ? (v as Gone[]) : null)) ?? []);

	/** Deletes a file, unless it was written anew since it was seen. */
	async remove(file: Earlier & { etag: string }): Promise<Gone> {
		await api.remove(file.name, { etag: file.etag });
		return this.#add(file);
	}

	/** Notes what a file was before the version `by` was written over it. */
	replaced(file: Earlier, by: string): Gone {
		return this.#add(file, by);
	}

	async restore(item: Gone): Promise<void> {
		try {
			await bringBack(item, item.by);
		} catch (error) {
			if (error instanceof Collected) this.#keep(this.items.filter((other) => other !== item));
			throw error;
		}
		this.#keep(this.items.filter((other) => other !== item));
	}

	#add({ name, cid, size, contentType }: Earlier, by?: string): Gone {
		const item = { name, cid, size, contentType, at: Date.now(), ...(by ? { by } : {}) };
		this.#keep([item, ...this.items]);
		return item;
	}

	#keep(items: Gone[]): void {
		const now = Date.now();
		this.items = items.filter((item) => now - item.at < GRACE_MS).slice(0, MOST_KEPT);
		save('session', 'trash', this.items);
	}
}

export const trash = new Trash();
