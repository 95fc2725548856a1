/** How much members offer, as far as there is room for it. */
import type { Member, NodeStatus } from '$lib/api';

const isLoopback = (addr: string): boolean => /^(127\.|localhost$|::1$)/.test(addr);

/**
 * Bytes that these members can hold, with what they hold already.
 *
 * A node offers its whole disk unless it was told otherwise; of its own disk the node that is asked tells what
 * is free. Members that are all on loopback share one machine, whose disk is counted once.
 */
export function room(members: Member[], status: NodeStatus | null): number {
	const free = status ? Math.max(0, status.storage.free - status.storage.reserve) : Infinity;
	const sum = (of: (m: Member) => number) => members.reduce((total, m) => total + of(m), 0);
	if (members.length > 1 && members.every((m) => isLoopback(m.addr))) {
		return Math.min(sum((m) => m.capacity), sum((m) => m.used) + free);
	}
	return sum((m) => (m.id === status?.id ? Math.min(m.capacity, m.used + free) : m.capacity));
}
