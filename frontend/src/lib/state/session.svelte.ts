/** Who this browser is to the node: nobody in particular, or the bearer of a token. */
import { api } from '$lib/api';
import { setToken, whenUnauthorized } from '$lib/api/http';
import { load, save } from './stored';

class Session {
	/** The node asked for a token, or refused the one that it got. */
	needed = $state(false);
	/** A token is set. */
	signedIn = $state(false);
	#listeners = new Set<() => void>();

	constructor() {
		const token = load('session', 'token', (v) => (typeof v === 'string' ? v : null));
		if (token) this.#take(token);
		whenUnauthorized(() => (this.needed = true));
	}

	#take(token: string | null): void {
		setToken(token);
		save('session', 'token', token);
		this.signedIn = token !== null;
	}

	/** Tries a token; false where the node does not take it. */
	async signIn(token: string): Promise<boolean> {
		setToken(token);
		const works = await api.tokenWorks().catch((error: unknown) => {
			setToken(null);
			throw error;
		});
		this.#take(works ? token : null);
		this.needed = !works;
		if (works) for (const listener of this.#listeners) listener();
		return works;
	}

	signOut(): void {
		this.#take(null);
		for (const listener of this.#listeners) listener();
	}

	/** Calls back whenever the token changes, until the returned function is called. */
	whenChanged(callback: () => void): () => void {
		this.#listeners.add(callback);
		return () => this.#listeners.delete(callback);
	}
}

export const session = new Session();
