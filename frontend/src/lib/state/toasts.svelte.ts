/** Short messages at the edge of the page, some with one thing to do. */

export interface Toast {
	id: number;
	tone: 'plain' | 'good' | 'bad';
	text: string;
	action?: { label: string; run: () => void };
}

const STAY_MS = 6_000;
const STAY_WITH_ACTION_MS = 15_000;
const MOST = 4;

class Toasts {
	items = $state.raw<Toast[]>([]);
	#next = 1;

	show(text: string, tone: Toast['tone'] = 'plain', action?: Toast['action']): void {
		const toast: Toast = { id: this.#next++, tone, text, ...(action ? { action } : {}) };
		this.items = [...this.items, toast].slice(-MOST);
		setTimeout(() => this.dismiss(toast.id), action ? STAY_WITH_ACTION_MS : STAY_MS);
	}

	/** Shows what went wrong, in the node's words. */
	fail(doing: string, error: unknown): void {
		this.show(`${doing}: ${error instanceof Error ? error.message : String(error)}`, 'bad');
	}

	dismiss(id: number): void {
		this.items = this.items.filter((toast) => toast.id !== id);
	}
}

export const toasts = new Toasts();
