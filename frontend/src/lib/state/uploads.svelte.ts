/** Files on their way in: a few at a time, each with its progress, its end, and its way to try again. */
import { api, ApiError, type Durability, type Head, type Receipt } from '$lib/api';
import { upload } from '$lib/api/upload';
import { cidOf } from '$lib/content/cid';
import { typeOf } from '$lib/format/kind';
import { settings } from './settings.svelte';

export type UploadState = 'waiting' | 'checking' | 'sending' | 'finishing' | 'done' | 'failed' | 'cancelled';

/** A browser has six connections to a host; events, lists and previews need the others. */
const AT_ONCE = 3;
const DEFAULT_CHUNK_BYTES = 4 << 20;
/** The rate is an average over about this long. */
const RATE_MS = 3_000;

export class Upload {
	state = $state<UploadState>('waiting');
	sent = $state(0);
	/** Bytes a second, smoothed. */
	rate = $state(0);
	error = $state<string | null>(null);
	receipt = $state.raw<Receipt | null>(null);
	/** Its bytes were there already and were not sent again; the receipt says how durable they are. */
	skipped = $state(false);
	attempts = 0;
	abort = new AbortController();
	#last = { at: 0, sent: 0 };

	constructor(
		readonly id: number,
		readonly file: File,
		readonly name: string,
		readonly durability: Durability
	) {}

	get ended(): boolean {
		return this.state === 'done' || this.state === 'failed' || this.state === 'cancelled';
	}

	progress(sent: number, now = performance.now()): void {
		this.sent = Math.min(sent, this.file.size);
		const passed = now - this.#last.at;
		if (this.#last.at === 0 || passed < 0) {
			this.#last = { at: now, sent };
		} else if (passed > 200) {
			const current = ((sent - this.#last.sent) / passed) * 1000;
			const weight = 1 - Math.exp(-passed / RATE_MS);
			this.rate = this.rate === 0 ? current : this.rate + (current - this.rate) * weight;
			this.#last = { at: now, sent };
		}
		if (sent >= this.file.size) this.state = 'finishing';
	}

	/** Forgets what a former attempt measured. */
	reset(): void {
		this.sent = 0;
		this.rate = 0;
		this.error = null;
		this.#last = { at: 0, sent: 0 };
		this.abort = new AbortController();
	}
}

class Uploads {
	items = $state.raw<Upload[]>([]);
	open = $state(false);

	readonly unfinished = $derived(this.items.filter((u) => !u.ended).length);
	readonly failed = $derived(this.items.filter((u) => u.state === 'failed').length);
	readonly done = $derived(this.items.filter((u) => u.state === 'done').length);
	readonly total = $derived(this.#sum((u) => u.file.size));
	readonly sent = $derived(this.#sum((u) => (u.state === 'done' ? u.file.size : u.sent)));
	readonly rate = $derived(this.items.reduce((sum, u) => (u.state === 'sending' ? sum + u.rate : sum), 0));

	#next = 1;
	#running = 0;
	#listeners = new Set<(receipt: Receipt) => void>();

	#sum(of: (u: Upload) => number): number {
		return this.items.reduce((sum, u) => (u.state === 'cancelled' || u.state === 'failed' ? sum : sum + of(u)), 0);
	}

	/** Queues files, each under its name. */
	add(files: { file: File; name: string }[]): void {
		const added = files.map(({ file, name }) => new Upload(this.#next++, file, name, settings.durability));
		this.items = [...this.items, ...added];
		this.open = true;
		this.#pump();
	}

	cancel(item: Upload): void {
		if (item.ended) return;
		item.state = 'cancelled';
		item.abort.abort();
	}

	cancelAll(): void {
		for (const item of this.items) this.cancel(item);
	}

	/** Tries again; first it looks whether the bytes are there after all. */
	retry(item: Upload): void {
		if (item.state !== 'failed' && item.state !== 'cancelled') return;
		item.reset();
		item.state = 'waiting';
		this.#pump();
	}

	retryFailed(): void {
		for (const item of this.items) if (item.state === 'failed') this.retry(item);
	}

	clear(): void {
		this.items = this.items.filter((u) => !u.ended);
		if (this.items.length === 0) this.open = false;
	}

	/** Calls back with every file that is stored, until the returned function is called. */
	whenStored(callback: (receipt: Receipt) => void): () => void {
		this.#listeners.add(callback);
		return () => this.#listeners.delete(callback);
	}

	#pump(): void {
		while (this.#running < AT_ONCE) {
			const item = this.items.find((u) => u.state === 'waiting');
			if (!item) return;
			this.#running += 1;
			item.state = 'checking';
			void this.#run(item).finally(() => {
				this.#running -= 1;
				this.#pump();
			});
		}
	}

	async #run(item: Upload): Promise<void> {
		const signal = item.abort.signal;
		try {
			item.attempts += 1;
			const there = item.attempts > 1 ? await isThere(item, signal) : null;
			if (there) {
				// That the name shows these bytes says nothing of their copies: the receipt has to be earned.
				item.state = 'finishing';
				item.receipt = await confirm(item, there, signal);
				item.skipped = item.receipt !== null;
			}
			if (!item.receipt) {
				item.state = 'sending';
				item.receipt = await upload({
					name: item.name,
					body: item.file,
					contentType: typeOf(item.file.name, item.file.type),
					durability: item.durability,
					onProgress: (sent) => item.progress(sent),
					signal
				});
			}
			item.sent = item.file.size;
			item.state = 'done';
			for (const listener of this.#listeners) listener(item.receipt);
		} catch (error) {
			if (signal.aborted) {
				item.state = 'cancelled';
				return;
			}
			item.error = error instanceof Error ? error.message : String(error);
			item.state = 'failed';
		}
	}
}

/** What the name holds, if just these bytes: an answer may have been lost after the write was done. */
async function isThere(item: Upload, signal: AbortSignal): Promise<Head | null> {
	const head = await api.head(item.name, signal).catch((error: unknown) => {
		if (error instanceof ApiError) return null;
		throw error;
	});
	if (!head || head.size !== item.file.size) return null;
	if ((await cidOf(item.file, DEFAULT_CHUNK_BYTES, { signal })) === head.cid) return head;
	if (head.size <= DEFAULT_CHUNK_BYTES && head.cid.startsWith('bafkrei')) return null;
	// Nodes may cut files otherwise: the first chunk of what is there tells how.
	const size = (await api.stat(item.name, signal)).chunks[0]?.size;
	return !!size && size !== DEFAULT_CHUNK_BYTES && (await cidOf(item.file, size, { signal })) === head.cid ? head : null;
}

/**
 * Writes what is there once more, from its chunks, with the durability that was asked for: no byte is sent.
 * Null where that is not to be had from what is there, and the bytes have to come after all.
 */
async function confirm(item: Upload, there: Head, signal: AbortSignal): Promise<Receipt | null> {
	const version = there.etag.replace(/^(W\/)?"|"$/g, '');
	try {
		const source = { cid: there.cid, content_type: typeOf(item.file.name, item.file.type) };
		return await api.copy(source, item.name, item.durability, version, signal);
	} catch (error) {
		// Replaced since, or collected.
		if (error instanceof ApiError && (error.status === 404 || error.status === 412)) return null;
		throw error;
	}
}

export const uploads = new Uploads();
