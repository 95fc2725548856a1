/** One word for the cluster and why: the node's own where it says one, else what its members show. */
import type { Cluster, Health, HealthWord, Member, NodeStatus } from '$lib/api';
import { duration, plural } from '$lib/format/format';

export interface Verdict {
	word: HealthWord;
	reasons: string[];
}

export const TITLES: Record<HealthWord, string> = {
	ok: 'Healthy',
	degraded: 'Degraded',
	'at-risk': 'At risk',
	unavailable: 'Unavailable'
};

export const MEANINGS: Record<HealthWord, string> = {
	ok: 'Everything is where it belongs.',
	degraded: 'Something is away or behind. Nothing is lost by one more failure.',
	'at-risk': 'One more failure may stop writes or lose data.',
	unavailable: 'Some data cannot be read, or some names cannot be written now.'
};

export const GLYPHS: Record<HealthWord, string> = { ok: 'check', degraded: 'wait', 'at-risk': 'warn', unavailable: 'cross' };

/**
 * How many of a name's home replicas have to agree to a write: a majority of the copies wanted, or of the
 * members where there are fewer.
 */
export function writeMajority(roster: NonNullable<Cluster['roster']>): number {
	const replicas = Math.min(roster.replication_factor || 3, roster.members.length);
	return Math.floor(replicas / 2) + 1;
}

/**
 * The dead members that are still on the roster, where their absence is all that is wrong: every chunk has
 * found its copies without them. Null where something else is the matter.
 */
export function onlyAway(cluster: Cluster | null, health: Health | null): Member[] | null {
	const roster = cluster?.roster?.members;
	if (!cluster || !roster || health?.status !== 'degraded') return null;
	const away = cluster.members.filter((m) => m.status === 'dead' && roster.includes(m.id));
	const rest = health.nodes.filter((n) => !away.some((m) => m.id === n.node));
	const settled = health.under_replicated + health.single_copy + health.missing + health.moving === 0;
	const well = rest.every((n) => n.answered && !n.paused && !n.breaker && !n.scrub?.paused);
	return away.length > 0 && settled && well ? away : null;
}

/** That, in sentences. `now` in milliseconds. */
export function inCalm(away: Member[], cluster: Cluster, now: number): string[] {
	const roster = cluster.roster;
	const wanted = roster?.replication_factor || 3;
	const here = (roster?.members.length ?? 0) - away.length;
	const first =
		here >= wanted
			? `Every chunk has its ${plural(wanted, 'copy', 'copies')} again.`
			: `Every chunk is on each of the ${plural(here, 'member')} that are here. For ${plural(wanted, 'copy', 'copies')} of it, bring back who is gone or add a node.`;
	const each = away.map((member) => {
		if (!member.last_seen) return `${member.id} has been gone since before this node started.`;
		const gone = Math.max(0, (now - Date.parse(member.last_seen)) / 1000);
		const left = (roster?.forget_after_secs || Infinity) - gone;
		const then = !Number.isFinite(left) ? '' : left > 0 ? `: it is taken off the roster by itself in ${duration(left)}` : ': it is being taken off the roster';
		return `${member.id} has been gone for ${duration(gone)}${then}.`;
	});
	return [first, ...each];
}

export function verdict(cluster: Cluster | null, status: NodeStatus | null, health: Health | null): Verdict | null {
	if (health) return { word: health.status, reasons: health.reasons };
	if (!cluster) return null;
	const roster = cluster.roster?.members ?? [];
	const reasons: string[] = [];
	let word: HealthWord = 'ok';
	const worse = (to: HealthWord, why: string) => {
		const order: HealthWord[] = ['ok', 'degraded', 'at-risk', 'unavailable'];
		if (order.indexOf(to) > order.indexOf(word)) {
			word = to;
			reasons.unshift(why);
		} else reasons.push(why);
	};
	const up = new Set(cluster.members.filter((m) => m.status === 'alive').map((m) => m.id));
	const away = cluster.members.filter((m) => m.status === 'dead' || m.status === 'suspect');
	if (roster.length) {
		const answering = roster.filter((id) => up.has(id)).length;
		const majority = Math.floor(roster.length / 2) + 1;
		if (answering < majority) {
			worse('unavailable', `Only ${answering} of ${roster.length} voting members are up: writes need ${majority}.`);
		} else if (answering === majority && answering < roster.length) {
			worse('at-risk', `${answering} of ${roster.length} voting members are up: one more failure stops writes.`);
		}
	}
	for (const member of away) {
		worse('degraded', `${member.id} ${member.status === 'dead' ? 'is dead' : 'does not answer and is suspected'}.`);
	}
	if (status && !status.ready) {
		worse('degraded', `This node is not ready${status.waiting_for ? `: ${status.waiting_for}` : ''}.`);
	}
	if (status && status.queue.depth > 0) {
		worse('degraded', `${plural(status.queue.depth, 'copy is', 'copies are')} waiting to be delivered.`);
	}
	return { word, reasons };
}
