//! Whom to ask for a chunk, and in which order.

use crate::node_id::NodeId;
use crate::view::{State, View};

/// The reachable members other than `me`, in the order in which to ask them for the chunk of `key`.
///
/// The `wanted` owners come first, those that answer fastest (`seconds`, a smoothed time; 0 where none
/// is known) before the others; then the nodes onward clockwise; then members that are on no ring.
/// Suspects come last of all: they are probably gone, and each costs a reader its patience.
pub fn order(
    view: &View,
    key: u64,
    wanted: usize,
    me: NodeId,
    seconds: impl Fn(&NodeId) -> f64,
) -> Vec<NodeId> {
    let mut order = view.ring().preference(key, wanted);
    let owners = wanted.min(order.len());
    order[..owners].sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    let on_ring: std::collections::BTreeSet<NodeId> = order.iter().copied().collect();
    let others = view.members().filter(|m| m.state.is_reachable() && !on_ring.contains(&m.id));
    order.extend(others.map(|m| m.id));
    order.retain(|node| *node != me);
    order.sort_by_key(|node| view.member(node).is_some_and(|m| m.state == State::Suspect));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Member, Metadata};

    fn member(index: usize, state: State) -> Member {
        let metadata = Metadata {
            key: [7; 32],
            addr: [127, 0, 0, 1].into(),
            gossip_port: 4000,
            transfer_port: 4001,
            http_port: 4002,
            zone: None,
            capacity: 1 << 30,
            version: "0.1.0".into(),
        };
        Member { id: format!("n{index}").parse().unwrap(), state, incarnation: 1, metadata }
    }

    #[test]
    fn owners_come_first_the_fastest_first_and_everybody_who_is_here_is_asked() {
        let view = View::new(1, 1 << 30, (0..7).map(|i| member(i, State::Alive)));
        let owners = view.ring().owners(42, 3);
        let slow = owners[0];
        let asked = order(&view, 42, 3, owners[1], |node| if *node == slow { 2.0 } else { 0.1 });
        assert_eq!(asked[..2], [owners[2], slow], "the slow owner after the fast one, without this node");
        assert_eq!(asked.len(), 6);
        assert_eq!(asked[2..], view.ring().preference(42, 3)[3..], "then clockwise");
    }

    #[test]
    fn suspects_come_last_and_the_dead_not_at_all() {
        let view = View::new(1, 1 << 30, (0..6).map(|i| member(i, State::Alive)));
        let owners = view.ring().owners(7, 3);
        let state = |i: usize| match format!("n{i}") {
            id if id == owners[0].to_string() => State::Suspect,
            id if id == owners[1].to_string() => State::Dead,
            _ => State::Alive,
        };
        let changed = View::new(2, 1 << 30, (0..6).map(|i| member(i, state(i))));
        let asked = order(&changed, 7, 3, "me".parse().unwrap(), |_| 0.0);
        assert_eq!(asked.last(), Some(&owners[0]));
        assert!(!asked.contains(&owners[1]));
        assert_eq!(asked.len(), 5);
    }

    #[test]
    fn a_member_that_is_reachable_and_on_no_ring_is_asked_too() {
        let leaving = |i| member(i, if i == 3 { State::Leaving } else { State::Alive });
        let view = View::new(1, 1 << 30, (0..4).map(leaving));
        let asked = order(&view, 9, 3, "me".parse().unwrap(), |_| 0.0);
        assert_eq!(asked.last(), Some(&"n3".parse().unwrap()));
    }
}
