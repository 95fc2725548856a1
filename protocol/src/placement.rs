//! Placement explained: why a chunk belongs where it belongs.
//!
//! [`Explainer::explain`] walks the tokens of *all* members, also of those that own nothing, and says of each
//! node it meets why it is or is not an owner. Invariant: the owners are those of the view's ring.

use crate::node_id::NodeId;
use crate::ring::{Ring, Weighted};
use crate::view::{State, View};

/// Why a chunk belongs where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Tokens passed clockwise until the owners were found.
    pub tokens_walked: u64,
    /// Each node that was met on the way, at its first token, in that order.
    pub walk: Vec<Step>,
    /// The nodes that take the chunk, in preference order.
    pub owners: Vec<NodeId>,
}

/// A node met on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its first token after the key.
    pub token: u64,
    /// The node.
    pub node: NodeId,
    /// Its failure zone.
    pub zone: Option<String>,
    /// What became of it.
    pub why: Why,
}

/// Why a node is an owner or is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The next node clockwise in a zone that has no copy yet.
    Next,
    /// The next node clockwise, all zones having a copy.
    ZonesUsed,
    /// Its zone has a copy at this node, and there are zones without one.
    SameZone(NodeId),
    /// It owns nothing in this state.
    OffRing(State),
    /// It was asked what if it were down.
    SupposedDown,
}

impl Why {
    /// Whether the node is an owner.
    pub const fn is_owner(self) -> bool {
        matches!(self, Self::Next | Self::ZonesUsed)
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Next => f.write_str("next clockwise"),
            Self::ZonesUsed => f.write_str("next clockwise; every zone has a copy"),
            Self::SameZone(other) => write!(f, "passed over: {other} is in the same zone"),
            Self::OffRing(State::Dead) => f.write_str("passed over: it is dead"),
            Self::OffRing(State::Joining) => f.write_str("passed over: it is joining"),
            Self::OffRing(State::Leaving) => f.write_str("passed over: it is leaving"),
            Self::OffRing(State::Left) => f.write_str("passed over: it has left"),
            Self::OffRing(State::Alive | State::Suspect) => {
                f.write_str("passed over: it is not on the ring yet")
            }
            Self::SupposedDown => f.write_str("passed over: it is supposed to be down"),
        }
    }
}

/// The members of a view on one ring, also those that own nothing: what walks are explained on.
pub struct Explainer<'a> {
    view: &'a View,
    /// All members.
    all: Ring,
    /// Those that own chunks, without the one that is supposed to be down.
    owning: Ring,
    down: Option<NodeId>,
    tokens: Vec<(u64, NodeId)>,
}

impl<'a> Explainer<'a> {
    /// Prepares walks; `reference_capacity` is the cluster's constant, `down` is supposed to be down.
    pub fn new(view: &'a View, reference_capacity: u64, down: Option<NodeId>) -> Self {
        let weighted = |keep: &dyn Fn(&NodeId) -> bool| {
            let members = view.members().filter(|m| keep(&m.id));
            let members: Vec<Weighted<'_>> = members
                .map(|m| Weighted {
                    id: m.id,
                    zone: m.metadata.zone.as_deref(),
                    capacity: m.metadata.capacity,
                })
                .collect();
            view.ring().rebuild(reference_capacity, members)
        };
        let owning = match down {
            None => view.ring().clone(),
            Some(down) => weighted(&|node| view.ring().contains(node) && *node != down),
        };
        let all = weighted(&|_| true);
        let tokens = all.tokens().collect();
        Self { view, all, owning, down, tokens }
    }

    /// Why a chunk with this key belongs where it belongs; `n` copies are wanted.
    pub fn explain(&self, key: u64, n: usize) -> Explained {
        let owners = self.owning.owners(key, n);
        let mut walk: Vec<Step> = Vec::new();
        let mut tokens_walked = 0;
        let start = self.tokens.partition_point(|(token, _)| *token < key);
        let (before, after) = self.tokens.split_at(start);
        let mut lacking = owners.len();
        for (token, node) in after.iter().chain(before) {
            if lacking == 0 {
                break;
            }
            tokens_walked += 1;
            if walk.iter().any(|step| step.node == *node) {
                continue;
            }
            let zone = self.view.member(node).and_then(|m| m.metadata.zone.clone());
            let why = self.why(node, zone.as_deref(), &owners, &walk);
            lacking -= usize::from(why.is_owner());
            walk.push(Step { token: *token, node: *node, zone, why });
        }
        Explained { tokens_walked, walk, owners }
    }

    fn why(&self, node: &NodeId, zone: Option<&str>, owners: &[NodeId], walk: &[Step]) -> Why {
        if self.down == Some(*node) {
            return Why::SupposedDown;
        }
        if !self.owning.contains(node) {
            return Why::OffRing(self.view.member(node).map_or(State::Left, |m| m.state));
        }
        let same_zone = zone.and_then(|zone| {
            let earlier = walk.iter().find(|s| s.why.is_owner() && s.zone.as_deref() == Some(zone))?;
            Some(earlier.node)
        });
        match (owners.contains(node), same_zone) {
            (true, None) => Why::Next,
            (true, Some(_)) => Why::ZonesUsed,
            (false, Some(other)) => Why::SameZone(other),
            // Not an owner, though its zone has no copy: the walk would have ended before it.
            (false, None) => Why::OffRing(State::Alive),
        }
    }

    /// How many members there are in all.
    pub fn members(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Member, Metadata};

    fn member(id: &str, zone: Option<&str>, state: State) -> Member {
        let metadata = Metadata {
            key: [7; 32],
            addr: [127, 0, 0, 1].into(),
            gossip_port: 4000,
            transfer_port: 4001,
            http_port: 4002,
            zone: zone.map(str::to_owned),
            capacity: 1 << 30,
            version: "0.1.0".into(),
        };
        Member { id: id.parse().unwrap(), state, incarnation: 1, metadata }
    }

    fn random_view(rng: &mut fastrand::Rng) -> View {
        let members = (0..rng.usize(1..9)).map(|n| {
            let zone = [None, Some("eu"), Some("us")][rng.usize(0..3)];
            let state =
                [State::Alive, State::Alive, State::Suspect, State::Dead, State::Joining, State::Leaving];
            member(&format!("n{n}"), zone, state[rng.usize(0..6)])
        });
        View::new(1, 1 << 30, members.collect::<Vec<_>>())
    }

    #[test]
    fn the_owners_explained_are_those_of_the_ring_and_the_walk_meets_each_of_them() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let view = random_view(&mut rng);
            let explainer = Explainer::new(&view, 1 << 30, None);
            for _ in 0..20 {
                let (key, n) = (rng.u64(..), rng.usize(1..4));
                let explained = explainer.explain(key, n);
                assert_eq!(explained.owners, view.ring().owners(key, n), "seed {seed}");
                let mut met: Vec<NodeId> =
                    explained.walk.iter().filter(|s| s.why.is_owner()).map(|s| s.node).collect();
                let mut owners = explained.owners.clone();
                met.sort();
                owners.sort();
                assert_eq!(met, owners, "seed {seed}: {explained:?}");
                assert!(
                    explained.walk.iter().all(|s| s.why != Why::OffRing(State::Alive)),
                    "each node passed over has a reason, seed {seed}: {explained:?}"
                );
            }
        }
    }

    #[test]
    fn a_node_supposed_to_be_down_is_passed_over_as_if_it_were() {
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let view = random_view(&mut rng);
            let Some(down) = view.ring().nodes().next() else { continue };
            let without: Vec<Member> = view.members().filter(|m| m.id != down).cloned().collect();
            let without = View::new(2, 1 << 30, without);
            let explainer = Explainer::new(&view, 1 << 30, Some(down));
            let key = rng.u64(..);
            let explained = explainer.explain(key, 3);
            assert_eq!(explained.owners, without.ring().owners(key, 3), "seed {seed}");
            assert!(explained.walk.iter().filter(|s| s.node == down).all(|s| s.why == Why::SupposedDown));
        }
    }

    #[test]
    fn a_second_node_of_a_zone_is_passed_over_while_there_are_zones_without_a_copy() {
        let view = View::new(
            1,
            1 << 30,
            [
                member("a", Some("eu"), State::Alive),
                member("b", Some("eu"), State::Alive),
                member("c", Some("us"), State::Alive),
                member("d", None, State::Dead),
            ],
        );
        let explainer = Explainer::new(&view, 1 << 30, None);
        let (mut zones, mut dead) = (0, 0);
        for key in 0..200_u64 {
            let explained = explainer.explain(key << 56, 2);
            assert!(explained.owners.contains(&"c".parse().unwrap()), "{explained:?}");
            zones += explained.walk.iter().filter(|s| matches!(s.why, Why::SameZone(_))).count();
            dead += explained.walk.iter().filter(|s| s.why == Why::OffRing(State::Dead)).count();
            assert!(explained.tokens_walked >= explained.walk.len() as u64);
        }
        assert!(zones > 0 && dead > 0, "{zones} {dead}");
    }
}
