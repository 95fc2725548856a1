//! Admission: which changes of the roster this node agrees with, by what it has heard itself.
//!
//! Newcomers join; a member is bound anew by its own key, or by another once it is dead; who left,
//! who is dead for long enough and whom an operator forgets is removed. Nobody agrees to the
//! removal as dead of a member heard from within that time, nor to forget one it sees alive. All
//! times are this process's running time: a restart counts from its start.

use std::collections::BTreeMap;
use std::time::Duration;

use super::change::{Change, MAX_MEMBERS, Reason};
use super::{Entry, Roster};
use crate::identity::DatabaseId;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::view::{State, View};

/// The longest quiet that a blank node waits for before it takes over the id of a dead member.
const TAKEOVER_QUIET: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Seen {
    state: State,
    key: [u8; 32],
    /// When it was last seen in a state that is no end.
    live_at: Instant,
}

/// When a member was heard from directly.
#[derive(Debug, Default)]
struct Heard {
    /// When each database spoke that the roster, or the one before, binds it to.
    bound: BTreeMap<DatabaseId, Instant>,
    /// When another database under the member's key last spoke.
    other: Option<Instant>,
}

/// Who was heard from, directly and by gossip.
#[derive(Debug)]
pub(super) struct Presence {
    me: NodeId,
    opened: Instant,
    heard: BTreeMap<NodeId, Heard>,
    view: BTreeMap<NodeId, Seen>,
}

const fn is_live(state: State) -> bool {
    !matches!(state, State::Dead | State::Left)
}

impl Presence {
    pub const fn new(me: NodeId, now: Instant) -> Self {
        Self { me, opened: now, heard: BTreeMap::new(), view: BTreeMap::new() }
    }

    /// Something came directly from a member, under its key: from the database that the roster
    /// binds it to, or from another.
    pub fn handle_heard(&mut self, now: Instant, node: NodeId, database: DatabaseId, bound: bool) {
        let heard = self.heard.entry(node).or_default();
        if bound {
            heard.bound.insert(database, now);
        } else {
            heard.other = Some(now);
        }
    }

    /// When the member as bound by `entry` was last heard from.
    fn last_heard(&self, node: &NodeId, entry: &Entry) -> Option<Instant> {
        self.heard.get(node)?.bound.get(&entry.database).copied()
    }

    /// Gossip's view changed.
    pub fn handle_view(&mut self, now: Instant, view: &View) {
        let mut next = BTreeMap::new();
        for member in view.members().take(4 * MAX_MEMBERS) {
            let (state, key) = (member.state, member.metadata.key);
            let live_at = match self.view.get(&member.id) {
                // It was live until it turned, as far as this node knows.
                Some(before) if !is_live(state) && !is_live(before.state) => before.live_at,
                Some(_) => now,
                None if is_live(state) => now,
                None => self.opened,
            };
            next.insert(member.id, Seen { state, key, live_at });
        }
        self.view = next;
    }

    /// Forgets having heard from databases that are not to be kept, and from nodes without one.
    pub fn retain(&mut self, keep: impl Fn(&NodeId, DatabaseId) -> bool) {
        self.heard.retain(|id, heard| {
            heard.bound.retain(|database, _| keep(id, *database));
            !heard.bound.is_empty()
        });
    }

    /// Whom gossip shows in a state in which asking makes sense, this node excluded.
    pub fn reachable(&self) -> impl Iterator<Item = NodeId> {
        self.view.iter().filter(|(id, seen)| is_live(seen.state) && **id != self.me).map(|(id, _)| *id)
    }

    /// Whether gossip shows this node on its way out.
    pub fn leaving(&self) -> bool {
        self.view.get(&self.me).is_some_and(|seen| matches!(seen.state, State::Leaving | State::Left))
    }

    /// Whether gossip shows the member with its own key and, as far as known, its own database.
    pub fn sees_live(&self, node: &NodeId, entry: &Entry) -> bool {
        // Gossip knows keys, not databases: who speaks from another has lost the one it is bound to.
        let other_database = self
            .heard
            .get(node)
            .and_then(|heard| heard.other)
            .is_some_and(|other| self.last_heard(node, entry).is_none_or(|bound| bound < other));
        *node == self.me
            || !other_database
                && self.view.get(node).is_some_and(|seen| is_live(seen.state) && seen.key == entry.key)
    }

    /// Whether the member itself said that it left.
    pub fn has_left(&self, node: &NodeId, entry: &Entry) -> bool {
        self.view.get(node).is_some_and(|seen| seen.state == State::Left && seen.key == entry.key)
    }

    /// Whether the member itself says that it leaves or has left: then it may propose its own removal.
    pub fn resigns(&self, node: &NodeId, entry: &Entry) -> bool {
        let leaves = |state| matches!(state, State::Leaving | State::Left);
        self.view.get(node).is_some_and(|seen| leaves(seen.state) && seen.key == entry.key)
    }

    /// For how long nothing was heard of the member as the roster binds it.
    pub fn silent_for(&self, now: Instant, node: &NodeId, entry: &Entry) -> Duration {
        if self.sees_live(node, entry) {
            return Duration::ZERO;
        }
        let mut last = self.opened;
        if let Some(at) = self.last_heard(node, entry) {
            last = last.max(at);
        }
        if let Some(seen) = self.view.get(node)
            && seen.key == entry.key
        {
            last = last.max(seen.live_at);
        }
        now.since(last)
    }

    /// Whether the member as bound by `entry` seems not to come back: nothing was heard of it for
    /// `forget_after`, or its id is here with another database or another key.
    pub fn seems_lost(&self, now: Instant, node: &NodeId, entry: &Entry, forget_after: Duration) -> bool {
        let replaced =
            !self.sees_live(node, entry) && self.view.get(node).is_some_and(|seen| is_live(seen.state));
        replaced || self.silent_for(now, node, entry) >= forget_after
    }

    /// Whether this node agrees that `change` should follow `roster`, else why not.
    pub fn judge(
        &self,
        now: Instant,
        roster: &Roster,
        change: &Change,
        forget_after: Duration,
    ) -> Result<(), String> {
        let node = change.node;
        let bound = roster.members.get(&node);
        match (&change.entry, bound, change.reason) {
            (Some(_), None, Reason::Admitted) if roster.members.len() >= MAX_MEMBERS => {
                Err(format!("the roster is full: it has {MAX_MEMBERS} members"))
            }
            (Some(_), None, Reason::Admitted) => Ok(()),
            (Some(entry), Some(bound), Reason::Admitted) if entry == bound => {
                Err(format!("{node} is bound so already"))
            }
            (Some(entry), Some(bound), Reason::Admitted) => {
                let quiet = TAKEOVER_QUIET.min(forget_after / 4);
                let last = self.last_heard(&node, bound).unwrap_or(self.opened).max(self.opened);
                let dead = !self.sees_live(&node, bound) && now.since(last) >= quiet;
                if entry.key == bound.key || dead {
                    Ok(())
                } else {
                    Err(format!("the node id {node} is in use by a live member with another identity key"))
                }
            }
            (None, Some(_), _) if roster.members.len() == 1 => {
                Err("the last member of a roster cannot be removed".into())
            }
            (None, Some(bound), Reason::Left) if self.resigns(&node, bound) => Ok(()),
            (None, Some(bound), Reason::Dead) => {
                let silent = self.silent_for(now, &node, bound);
                if silent >= forget_after {
                    Ok(())
                } else {
                    Err(format!("{node} was heard from {} s ago", silent.as_secs()))
                }
            }
            (None, Some(bound), Reason::Forgotten) if self.sees_live(&node, bound) => {
                Err(format!("{node} is seen alive"))
            }
            (None, Some(_), Reason::Forgotten) => Ok(()),
            _ => Err(format!("{node} is no member, or has not said that it left")),
        }
    }
}
