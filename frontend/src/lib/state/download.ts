/** Getting a file onto the reader's disk. */
import { api } from '$lib/api';
import { base } from '$lib/format/names';
import { toasts } from './toasts.svelte';

type SavePicker = (options: { suggestedName: string }) => Promise<FileSystemFileHandle>;

/**
 * Downloads a file. Without a token the browser does it by itself; with one it cannot send it, so the
 * bytes are fetched here: onto the disk where the browser lets us, else through its memory.
 */
export async function download(name: string, version?: string): Promise<void> {
	if (api.canLink()) {
		click(api.filePath(name, { download: true, ...(version ? { version } : {}) }), '');
		return;
	}
	try {
		const picker = (window as { showSaveFilePicker?: SavePicker }).showSaveFilePicker;
		if (picker) {
			const handle = await picker({ suggestedName: base(name) });
			await (await api.stream(name, version)).pipeTo(await handle.createWritable());
			toasts.show(`Saved ${base(name)}`, 'good');
			return;
		}
		const url = URL.createObjectURL(await api.readAll(name, version));
		click(url, base(name));
		setTimeout(() => URL.revokeObjectURL(url), 60_000);
	} catch (error) {
		if (error instanceof DOMException && error.name === 'AbortError') return;
		toasts.fail('Download', error);
	}
}

function click(href: string, as: string): void {
	const link = document.createElement('a');
	link.href = href;
	link.download = as;
	link.rel = 'noopener';
	document.body.append(link);
	link.click();
	link.remove();
}
