/**
 * Where to go when the node that served this page is gone.
 *
 * Nodes know no CORS, so this page cannot talk to another member: it can only see that there is one, and
 * go there as a whole, to the same screen.
 */
import { api, type Member } from '$lib/api';
import { live } from './live.svelte';
import { uploads } from './uploads.svelte';

/** Seconds between finding another member and going there. */
const GRACE_SECS = 15;

class Failover {
	/** A member that answers, and its address. */
	found = $state.raw<{ id: string; origin: string } | null>(null);
	/** Seconds until the page goes there by itself; null where it does not. */
	left = $state<number | null>(null);
	#stay = false;
	#looking = false;

	/** Watches the connection until the returned function is called. */
	start(): () => void {
		const timer = setInterval(() => void this.#tick(), 1_000);
		return () => clearInterval(timer);
	}

	stay(): void {
		this.#stay = true;
		this.left = null;
	}

	/** This screen on the other member. */
	target(): string {
		return `${this.found?.origin ?? ''}${location.pathname}${location.search}`;
	}

	async #tick(): Promise<void> {
		if (live.link !== 'lost' || live.lostAt === null) {
			this.found = null;
			this.left = null;
			this.#stay = false;
			return;
		}
		if (!this.found) {
			if (!this.#looking) {
				this.#looking = true;
				await this.#look().finally(() => (this.#looking = false));
			}
			return;
		}
		if (this.#stay || document.hidden) return;
		// Leaving would end them: the files are known to this page alone.
		if (uploads.unfinished > 0) {
			this.left = null;
			return;
		}
		this.left = (this.left ?? GRACE_SECS) - 1;
		if (this.left <= 0) location.assign(this.target());
	}

	async #look(): Promise<void> {
		for (const member of live.members) {
			if (member.id === live.me || member.status === 'dead' || member.status === 'left') continue;
			const origin = originOf(member);
			if (origin !== location.origin && (await api.answers(origin))) {
				this.found = { id: member.id, origin };
				return;
			}
		}
	}
}

/** The address of a member's own page. */
export function originOf(member: Member): string {
	const host = member.addr.includes(':') && !member.addr.startsWith('[') ? `[${member.addr}]` : member.addr;
	return `${location.protocol}//${host}:${member.http_port}`;
}

export const failover = new Failover();
