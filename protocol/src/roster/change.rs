//! What rosters decide: the change from one to the next, and the roster that follows from it.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};

use super::{Entry, Roster};
use crate::node_id::NodeId;

/// The most members a roster may have.
pub const MAX_MEMBERS: usize = 4096;

/// The longest name of a failure zone, in bytes.
pub const MAX_ZONE_BYTES: usize = 63;

/// Bytes that are no message of a council.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed council message: {0}")]
pub struct Malformed(pub(super) &'static str);

/// A roster's number together with whether its floor is known: what requests on names carry.
///
/// Ordered: who learns the floor of a roster is ahead of who only holds the roster. A replica that
/// does not know the floor is thus behind a coordinator that counts one list alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Phase {
    /// The roster's number.
    pub number: u64,
    /// Whether its floor is known.
    pub floor: bool,
}

impl Phase {
    /// As one number: twice the roster's, plus one if the floor is known.
    pub const fn to_wire(self) -> u64 {
        self.number.saturating_mul(2).saturating_add(self.floor as u64)
    }

    /// The reverse of [`Phase::to_wire`].
    pub const fn from_wire(wire: u64) -> Self {
        Self { number: wire / 2, floor: wire % 2 == 1 }
    }
}

/// Why a roster differs from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Reason {
    /// The founder's first roster.
    #[n(0)]
    Founded,
    /// A newcomer, or a member with a new key, database, zone or capacity.
    #[n(1)]
    Admitted,
    /// The member said that it left.
    #[n(2)]
    Left,
    /// Nobody heard of the member for the time after which it is forgotten.
    #[n(3)]
    Dead,
    /// An operator forgot it.
    #[n(4)]
    Forgotten,
    /// A majority was lost for good, and an operator made the survivors the roster.
    #[n(5)]
    Lost,
}

/// The one member in which roster n+1 differs from n: the value that Paxos decides.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Change {
    /// The member.
    #[n(0)]
    pub node: NodeId,
    /// What it is bound to, or `None` where it is removed.
    #[n(1)]
    pub entry: Option<Entry>,
    /// Why.
    #[n(2)]
    pub reason: Reason,
}

impl Change {
    /// Checks what was decoded as part of something else.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        self.entry.iter().try_for_each(Entry::check)
    }
}

/// A decided roster and what it changed, so that the one before it follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Decided {
    /// The roster.
    #[n(0)]
    pub roster: Roster,
    /// The member in which it differs from the roster before.
    #[n(1)]
    pub changed: NodeId,
    /// That member's entry in the roster before; absent if it had none.
    #[n(2)]
    pub before: Option<Entry>,
    /// Why.
    #[n(3)]
    pub reason: Reason,
    /// Further members that an operator gave up with the first, with their entries.
    #[cbor(n(4), default)]
    pub lost: BTreeMap<NodeId, Entry>,
}

/// By how much an operator's word raises the number of a roster whose majority is lost.
pub const LOST_STEP: u64 = 1 << 32;

impl Decided {
    /// What follows `roster` when `change` is decided.
    pub fn after(roster: &Roster, change: &Change) -> Self {
        let mut next = roster.clone();
        next.number = roster.number.saturating_add(1);
        let before = match &change.entry {
            Some(entry) => next.members.insert(change.node, entry.clone()),
            None => next.members.remove(&change.node),
        };
        Self { roster: next, changed: change.node, before, reason: change.reason, lost: BTreeMap::new() }
    }

    /// What follows `roster` where an operator gives up `lost`; `None` if none of them is a member.
    pub fn without(roster: &Roster, lost: &BTreeSet<NodeId>) -> Option<Self> {
        let mut next = roster.clone();
        next.number = roster.number.saturating_add(LOST_STEP);
        let mut gone: BTreeMap<NodeId, Entry> =
            lost.iter().filter_map(|node| next.members.remove_entry(node)).collect();
        let (changed, entry) = gone.pop_first()?;
        Some(Self { roster: next, changed, before: Some(entry), reason: Reason::Lost, lost: gone })
    }

    /// The members that were removed on an operator's word or their own: nobody waits for them.
    pub fn gone(&self) -> impl Iterator<Item = NodeId> {
        let on_its_word = matches!(self.reason, Reason::Left | Reason::Forgotten | Reason::Lost);
        let removed = on_its_word && !self.roster.members.contains_key(&self.changed);
        removed.then_some(self.changed).into_iter().chain(self.lost.keys().copied())
    }

    /// The roster before this one; without members before the first.
    pub fn previous(&self) -> Roster {
        let mut previous = self.roster.clone();
        let step = if self.reason == Reason::Lost { LOST_STEP } else { 1 };
        previous.number = self.roster.number.saturating_sub(step);
        previous.members.extend(self.lost.iter().map(|(node, entry)| (*node, entry.clone())));
        match &self.before {
            Some(entry) => previous.members.insert(self.changed, entry.clone()),
            None => previous.members.remove(&self.changed),
        };
        previous
    }

    /// Checks what was decoded as part of something else.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        let members = &self.roster.members;
        if self.roster.number == 0 || members.is_empty() || members.len() > MAX_MEMBERS {
            return Err(Malformed("a roster has a number and 1 to 4,096 members"));
        }
        if self.roster.constants.replication_factor == 0 {
            return Err(Malformed("the replication factor is at least 1"));
        }
        if !self.lost.is_empty() && self.reason != Reason::Lost || self.lost.len() > MAX_MEMBERS {
            return Err(Malformed("only an operator removes several members at once"));
        }
        members.values().chain(&self.before).chain(self.lost.values()).try_for_each(Entry::check)
    }
}

impl Entry {
    /// Checks what was decoded as part of something else.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        match &self.zone {
            Some(zone) if zone.is_empty() || zone.len() > MAX_ZONE_BYTES => {
                Err(Malformed("a zone has 1 to 63 bytes"))
            }
            _ => Ok(()),
        }
    }
}
