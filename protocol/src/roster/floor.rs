//! The floor of a roster: what was seen by those who stopped answering for the roster before.
//!
//! Each member of n-1 confirms n with what it had seen when it adopted n. A set of confirmations is
//! *enough* when whoever is missing can have acknowledged nothing that no confirmation has: either
//! no more than N - majority of n-1 are missing, so that of any majority of a home list one has
//! confirmed, or all of the missing are given up. Any such union is a valid floor.
//!
//! A silent member is given up when so many confirmers have not heard from it for the time after
//! which members are forgotten that it found no majority of n-1 to answer it within half that
//! time, and so answers "not ready" itself. One that left, or that an operator forgot, is given up
//! at once.

use std::collections::{BTreeMap, BTreeSet};

use super::Roster;
use super::change::Decided;
use crate::catalog::seen::Seen;
use crate::node_id::NodeId;
use crate::time::Instant;

/// What this node knows of the floor of the roster it holds.
#[derive(Debug)]
pub(super) struct Floor {
    /// The roster before: whose members confirm.
    previous: Roster,
    /// The members that left or were forgotten by this roster.
    gone: BTreeSet<NodeId>,
    /// Confirmations by member; `None` once all of it has been seen here, which stays so.
    confirmations: BTreeMap<NodeId, Option<Seen>>,
    /// Whom each confirmer has not heard from for the time after which members are forgotten.
    silent: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// A valid floor.
    known: Option<Seen>,
    /// Since when it is known; it is worth collecting others if it cannot be reached.
    pub known_at: Option<Instant>,
}

impl Floor {
    pub fn new(decided: &Decided) -> Self {
        Self {
            previous: decided.previous(),
            gone: decided.gone().collect(),
            confirmations: BTreeMap::new(),
            silent: BTreeMap::new(),
            known: None,
            known_at: None,
        }
    }

    /// The members of the roster before whose confirmation is missing here.
    pub fn missing(&self) -> impl Iterator<Item = &NodeId> {
        self.previous.members.keys().filter(|id| !self.confirmations.contains_key(id))
    }

    /// The roster before.
    pub const fn previous(&self) -> &Roster {
        &self.previous
    }

    /// A valid floor, if one is known.
    pub const fn known(&self) -> Option<&Seen> {
        self.known.as_ref()
    }

    /// Takes a floor that another found.
    pub fn set_known(&mut self, now: Instant, floor: Seen) {
        self.known_at.get_or_insert(now);
        self.known.get_or_insert(floor);
    }

    /// Takes the confirmation of a member of the roster before, made under the database that
    /// roster binds it to. A repeat refreshes whom it finds silent.
    pub fn confirm(&mut self, from: NodeId, seen: Seen, silent: impl IntoIterator<Item = NodeId>) {
        if self.previous.members.contains_key(&from) {
            self.confirmations.entry(from).or_insert(Some(seen));
            self.silent.insert(from, silent.into_iter().filter(|id| *id != from).collect());
        }
    }

    /// Makes the union of the confirmations the floor, if they are enough and none is known.
    pub fn conclude(&mut self, now: Instant) -> bool {
        if self.known.is_some() || !self.enough(&self.confirmations.keys().copied().collect()) {
            return false;
        }
        let mut union = Seen::default();
        for seen in self.confirmations.values().flatten() {
            union.union(seen);
        }
        self.set_known(now, union);
        true
    }

    /// Whether `seen` has all of one valid floor: the known one, or the union of any set of
    /// confirmations that is enough.
    pub fn is_covered_by(&mut self, seen: &Seen) -> bool {
        let Some(known) = &self.known else { return false };
        if seen.is_superset(known) {
            return true;
        }
        for confirmation in self.confirmations.values_mut() {
            confirmation.take_if(|c| seen.is_superset(c));
        }
        let covered = self.confirmations.iter().filter(|(_, c)| c.is_none()).map(|(id, _)| *id).collect();
        self.enough(&covered)
    }

    /// Whether the confirmations of these members are enough for a valid floor.
    pub fn enough(&self, confirmed: &BTreeSet<NodeId>) -> bool {
        let members = self.previous.members.len();
        let missing: Vec<&NodeId> =
            self.previous.members.keys().filter(|id| !confirmed.contains(id)).collect();
        if missing.is_empty() || missing.len() + self.previous.majority() <= self.previous.replicas() {
            return true;
        }
        // With so many that do not answer it, a member has no majority of the roster.
        let blocking = members - members / 2;
        let given_up = |id: &NodeId| {
            let witnesses = confirmed.iter().filter(|by| self.silent.get(by).is_some_and(|s| s.contains(id)));
            self.gone.contains(id) || witnesses.count() >= blocking
        };
        missing.into_iter().all(given_up)
    }
}
