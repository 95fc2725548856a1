/** Getting a file onto the reader's disk: the browser fetches it by itself, whatever its size. */
import { api } from '$lib/api';
import { toasts } from './toasts.svelte';

export async function download(name: string, version?: string): Promise<void> {
	try {
		const link = document.createElement('a');
		link.href = await api.address(name, { download: true, version });
		link.download = '';
		link.rel = 'noopener';
		document.body.append(link);
		link.click();
		link.remove();
	} catch (error) {
		toasts.fail('Download', error);
	}
}
