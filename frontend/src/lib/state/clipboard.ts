import { toasts } from './toasts.svelte';

/** Puts a text on the clipboard, also where the page is no secure context; says so if it cannot. */
export async function copyText(text: string): Promise<boolean> {
	try {
		if (navigator.clipboard) {
			await navigator.clipboard.writeText(text);
			return true;
		}
	} catch {
		// Tried the other way below.
	}
	const area = document.createElement('textarea');
	area.value = text;
	area.className = 'hidden';
	(document.querySelector('dialog[open]') ?? document.body).append(area);
	area.select();
	const done = document.execCommand('copy');
	area.remove();
	if (!done) toasts.show('The browser did not let this page use the clipboard.', 'bad');
	return done;
}
