/** One folder's files, page after page, sorted and filtered here. */
import { api, type FileEntry } from '$lib/api';
import { base } from '$lib/format/names';

export type SortKey = 'name' | 'size' | 'created_at' | 'type';

export type Row =
	| { kind: 'folder'; name: string; label: string }
	| { kind: 'file'; name: string; label: string; file: FileEntry };

const PAGE = 1_000;
/** Pages are shown as they come, but not sorted anew for each. */
const SHOW_MS = 250;

export class Folder {
	files = $state.raw<FileEntry[]>([]);
	prefixes = $state.raw<string[]>([]);
	loading = $state(true);
	error = $state<string | null>(null);
	filter = $state('');
	sort = $state<SortKey>('name');
	descending = $state(false);
	/** All names below, without folders. */
	flat = $state(false);

	readonly rows = $derived.by(() => this.#arrange());
	#abort: AbortController | null = null;

	constructor(readonly prefix: string) {}

	#arrange(): Row[] {
		const wanted = this.filter.trim().toLowerCase();
		const label = (name: string) => (this.flat ? name.slice(this.prefix.length) : base(name));
		const matches = (name: string) => wanted === '' || name.slice(this.prefix.length).toLowerCase().includes(wanted);
		const folders: Row[] = this.prefixes
			.filter(matches)
			.map((name) => ({ kind: 'folder', name, label: base(name).replace(/\/$/, '') }));
		const files = this.files
			.filter((f) => matches(f.name))
			.map((file): Row & { kind: 'file' } => ({ kind: 'file', name: file.name, label: label(file.name), file }));
		const key = this.sort;
		if (key !== 'name') {
			const of = (row: { file: FileEntry }) =>
				key === 'size' ? row.file.size : key === 'type' ? (row.file.content_type ?? '') : row.file.created_at;
			files.sort((a, b) => {
				const [x, y] = [of(a), of(b)];
				return x < y ? -1 : x > y ? 1 : 0;
			});
		}
		if (this.descending) {
			files.reverse();
			if (key === 'name') folders.reverse();
		}
		return [...folders, ...files];
	}

	sortBy(key: SortKey): void {
		if (this.sort === key) this.descending = !this.descending;
		else {
			this.sort = key;
			// The newest and the greatest are what one looks for.
			this.descending = key === 'size' || key === 'created_at';
		}
	}

	/** Shows nothing of what was read before, and reads it anew. */
	reload(): void {
		this.files = [];
		this.prefixes = [];
		void this.load();
	}

	/** Reads the folder anew. What is shown stays until there is something else to show. */
	async load(): Promise<void> {
		this.#abort?.abort();
		const abort = new AbortController();
		this.#abort = abort;
		const first = this.files.length === 0 && this.prefixes.length === 0;
		this.loading = first;
		const [files, prefixes]: [FileEntry[], string[]] = [[], []];
		let after: string | null = null;
		let shown = 0;
		try {
			do {
				const page: Awaited<ReturnType<typeof api.list>> = await api.list(
					{ prefix: this.prefix, after, limit: PAGE, ...(this.flat ? {} : { delimiter: '/' }) },
					abort.signal
				);
				for (const file of page.files) files.push(file);
				for (const prefix of page.prefixes) prefixes.push(prefix);
				after = page.next ?? null;
				if (first && after !== null && Date.now() - shown > SHOW_MS) {
					shown = Date.now();
					this.files = files.slice();
					this.prefixes = prefixes.slice();
				}
			} while (after !== null);
			this.files = files;
			this.prefixes = prefixes;
			this.error = null;
		} catch (error) {
			if (abort.signal.aborted) return;
			this.error = error instanceof Error ? error.message : String(error);
		}
		if (this.#abort === abort) {
			this.#abort = null;
			this.loading = false;
		}
	}

	/** Whether reading it anew is cheap and not already under way. */
	get idle(): boolean {
		return this.#abort === null && this.files.length + this.prefixes.length < PAGE;
	}

	stop(): void {
		this.#abort?.abort();
		this.#abort = null;
	}
}
