/** Files and folders that were dropped or picked, with their paths. */

export interface Picked {
	file: File;
	path: string;
}

/** Everything below what was dropped. Must be called within the drop event: its items are gone after. */
export async function dropped(data: DataTransfer): Promise<Picked[]> {
	const entries = [...data.items].flatMap((item) => {
		const entry = item.kind === 'file' ? item.webkitGetAsEntry?.() : null;
		return entry ? [entry] : [];
	});
	const plain = [...data.files];
	if (entries.length === 0) return plain.map((file) => ({ file, path: file.name }));
	const found: Picked[] = [];
	for (const entry of entries) await walk(entry, found);
	// Some hosts give files without entries that can be read.
	return found.length > 0 ? found : plain.filter((f) => f.size > 0).map((file) => ({ file, path: file.name }));
}

async function walk(entry: FileSystemEntry, into: Picked[]): Promise<void> {
	const path = entry.fullPath.replace(/^\/+/, '');
	if (entry.isFile) {
		const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
		into.push({ file, path: path || file.name });
		return;
	}
	const reader = (entry as FileSystemDirectoryEntry).createReader();
	for (;;) {
		// A folder is read in parts, until there is none.
		const part = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
		if (part.length === 0) return;
		for (const child of part) await walk(child, into);
	}
}

/** What a file input holds; of a folder with the paths inside it. */
export function picked(input: HTMLInputElement): Picked[] {
	return [...(input.files ?? [])].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}
