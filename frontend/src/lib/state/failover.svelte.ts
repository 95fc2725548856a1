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
	/** Members that may answer, to be tried by hand: a node that asks for a token lets this page look for none. */
	others = $state.raw<{ id: string; origin: string }[]>([]);
	/** Seconds until the page goes there by itself; null where it does not. */
	left = $state<number | null>(null);
	/** The loss for which this page stays: another one is asked about anew. */
	#stays: number | null = null;
	#looking = false;
	/** Everybody seen so far, by name: just after a restart a node knows nobody but itself. */
	#known = new Map<string, Member>();

	/** Watches the connection until the returned function is called. */
	start(): () => void {
		const timer = setInterval(() => void this.#tick(), 1_000);
		return () => clearInterval(timer);
	}

	stay(): void {
		this.#stays = live.lostAt;
		this.left = null;
	}

	/** This screen on another member. */
	target(origin = this.found?.origin ?? ''): string {
		return `${origin}${location.pathname}${location.search}`;
	}

	async #tick(): Promise<void> {
		for (const member of live.members) this.#known.set(member.id, member);
		if (live.link !== 'lost' || live.lostAt === null) {
			this.found = null;
			this.left = null;
			this.#stays = null;
			return;
		}
		if (!this.found) {
			if (!this.#looking) {
				this.#looking = true;
				await this.#look().finally(() => (this.#looking = false));
			}
			return;
		}
		if (this.#stays === live.lostAt || document.hidden) return;
		// Leaving would end them: the files are known to this page alone.
		if (uploads.unfinished > 0) {
			this.left = null;
			return;
		}
		this.left = (this.left ?? GRACE_SECS) - 1;
		if (this.left <= 0) location.assign(this.target());
	}

	async #look(): Promise<void> {
		const others = [...this.#known.values()].filter((m) => m.id !== live.me && m.status !== 'left');
		// Who was well when last heard of is asked first.
		others.sort((a, b) => Number(b.status === 'alive') - Number(a.status === 'alive'));
		const places = others.map((m) => ({ id: m.id, origin: originOf(m) })).filter((p) => p.origin !== location.origin);
		this.others = places.slice(0, 3);
		for (const { id, origin } of places) {
			if ((await api.answers(origin))) {
				this.found = { id, origin };
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
