/** One word for the cluster and why: the node's own where it says one, else what its members show. */
import type { Cluster, Health, HealthWord, NodeStatus } from '$lib/api';
import { plural } from '$lib/format/format';

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
