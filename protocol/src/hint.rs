//! Where a copy that is owed goes, as the roster changes under the queue.
//!
//! A hint names a target that was an owner when it was written. Owners by the ring over the whole
//! roster count, dead ones included: a member that is away keeps its hints, one that the roster
//! dropped or that lost the range does not.

use crate::node_id::NodeId;

/// What becomes of a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Its target is an owner: deliver it, or wait until that can be done.
    Keep,
    /// These are the owners now. Who of them has the chunk already is found out by offering it.
    Instead(Vec<NodeId>),
}

/// Decides on a hint for `target`, given the chunk's owners over the roster; without any, as before
/// admission, nothing is changed.
pub fn aim(target: NodeId, owners: &[NodeId]) -> Aim {
    if owners.is_empty() || owners.contains(&target) { Aim::Keep } else { Aim::Instead(owners.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes<const N: usize>(ids: [&str; N]) -> [NodeId; N] {
        ids.map(|id| id.parse().unwrap())
    }

    #[test]
    fn a_hint_for_an_owner_is_kept_whether_it_is_up_or_not() {
        let [a, b, c] = nodes(["a", "b", "c"]);
        assert_eq!(aim(b, &[a, b, c]), Aim::Keep);
    }

    #[test]
    fn a_hint_for_one_that_owns_the_chunk_no_more_goes_to_those_who_do() {
        let [a, b, c, gone] = nodes(["a", "b", "c", "gone"]);
        assert_eq!(aim(gone, &[a, b, c]), Aim::Instead(vec![a, b, c]));
    }

    #[test]
    fn without_a_roster_no_hint_is_given_up() {
        let [gone] = nodes(["gone"]);
        assert_eq!(aim(gone, &[]), Aim::Keep);
    }
}
