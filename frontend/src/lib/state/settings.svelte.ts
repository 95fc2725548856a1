/** What a person set for this browser. */
import type { Durability } from '$lib/api';
import type { Units } from '$lib/format/format';
import { load, save } from './stored';

export type Theme = 'system' | 'light' | 'dark';

const pick =
	<T extends string>(...words: T[]) =>
	(value: unknown): T | null =>
		words.includes(value as T) ? (value as T) : null;

class Settings {
	#theme = $state<Theme>(load('local', 'theme', pick('system', 'light', 'dark')) ?? 'system');
	#units = $state<Units>(load('local', 'units', pick('binary', 'decimal')) ?? 'binary');
	#durability = $state<Durability>(load('local', 'durability', pick('fast', 'quorum', 'all')) ?? 'quorum');

	get theme(): Theme {
		return this.#theme;
	}
	set theme(value: Theme) {
		this.#theme = value;
		save('local', 'theme', value);
		this.apply();
	}

	get units(): Units {
		return this.#units;
	}
	set units(value: Units) {
		this.#units = value;
		save('local', 'units', value);
	}

	/** What uploads, copies and renames from this browser ask for. */
	get durability(): Durability {
		return this.#durability;
	}
	set durability(value: Durability) {
		this.#durability = value;
		save('local', 'durability', value);
	}

	/** Hands the theme to the style sheet. */
	apply(): void {
		document.documentElement.dataset.theme = this.#theme;
	}
}

export const settings = new Settings();
