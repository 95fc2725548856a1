//! Readiness: whether this node's database is the latest, and whether its roster still answers.
//!
//! A restarted node is *proved* when a majority of its roster, itself included, has answered a
//! nonce drawn at this start without remembering a greater mark of its database. It is *silent*
//! when a majority has not answered anything it sent within half the time after which members are
//! forgotten; whoever gives it up waits for all of that time, so it has stopped answering by then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Roster;
use crate::identity::DatabaseId;
use crate::node_id::NodeId;
use crate::time::Instant;

/// Answers to this start's nonce.
#[derive(Debug)]
pub(super) struct Proof {
    /// Drawn at this start.
    pub nonce: u64,
    /// Whether a majority has answered without contradiction.
    pub proved: bool,
    agreed: BTreeMap<NodeId, DatabaseId>,
}

impl Proof {
    pub const fn new(nonce: u64) -> Self {
        Self { nonce, proved: false, agreed: BTreeMap::new() }
    }

    /// A member answered the nonce, from this database, and remembers no greater mark.
    pub fn agree(&mut self, from: NodeId, database: DatabaseId) {
        self.agreed.insert(from, database);
    }

    /// Whether `node` has answered.
    pub fn has(&self, node: &NodeId) -> bool {
        self.agreed.contains_key(node)
    }

    /// How many more members must answer: those that answered from another database than the
    /// roster binds them to remember nothing and do not count.
    pub fn outstanding(&self, roster: &Roster, me: &NodeId) -> usize {
        let agreed = roster
            .members
            .iter()
            .filter(|(id, entry)| *id == me || self.agreed.get(id) == Some(&entry.database))
            .count();
        majority_of_members(roster).saturating_sub(agreed)
    }
}

/// When members last answered.
#[derive(Debug, Default)]
pub(super) struct Contact {
    answered: BTreeMap<NodeId, Instant>,
}

impl Contact {
    /// A member answered what was sent to it at `sent`.
    pub fn answered(&mut self, from: NodeId, sent: Instant) {
        let last = self.answered.entry(from).or_insert(sent);
        *last = sent.max(*last);
    }

    /// Forgets who is in neither roster.
    pub fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.answered.retain(|id, _| keep(id));
    }

    /// Until when a majority of `roster` counts as having answered; `None` if it never has.
    /// A roster whose only member is this node never goes silent.
    pub fn heard_until(&self, roster: &Roster, me: &NodeId, grace: Duration) -> Option<Instant> {
        let mut last: Vec<Instant> = roster
            .members
            .keys()
            .filter(|id| *id != me)
            .filter_map(|id| self.answered.get(id))
            .copied()
            .collect();
        last.sort_unstable_by(|a, b| b.cmp(a));
        let own = usize::from(roster.members.contains_key(me));
        match majority_of_members(roster).saturating_sub(own) {
            0 => Some(Instant::from_micros(u64::MAX)),
            needed => last.get(needed - 1).map(|oldest| *oldest + grace),
        }
    }
}

/// The least number of members that is a majority of the roster: who decides on the next.
pub(super) fn majority_of_members(roster: &Roster) -> usize {
    roster.members.len() / 2 + 1
}
