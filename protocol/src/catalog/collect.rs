//! Dropping stubs and tombstones that nobody needs any more.
//!
//! A stub goes once every member of the roster has announced, under the database by which the
//! roster binds it, that it has seen both the dot and the one that supersedes it: by the digest of
//! what it has seen, where that equals ours, or by its `seen` itself in an exchange. A tombstone
//! that survives goes with the stubs it left. What was announced is kept in memory only: after a
//! restart stubs wait until everybody was heard again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::merge::Knowledge;
use super::seen::Seen;
use super::storage::Result;
use super::{Catalog, SharedSeen, Step};
use crate::identity::DatabaseId;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::Dot;

/// How many stubs are looked at in one step.
const BATCH: usize = 1000;

/// Names looked at for forgotten tombstones each time.
const NAMES: usize = 250;

const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

/// What members have announced, and how far the present pass came.
#[derive(Debug)]
pub(super) struct Collector {
    members: BTreeMap<NodeId, DatabaseId>,
    announced: BTreeMap<NodeId, (DatabaseId, SharedSeen)>,
    /// Digests announced last. Members are told of changes only: whether a digest is ours is seen
    /// again at each look through the stubs, for it may be this node that has caught up.
    heard: BTreeMap<NodeId, (DatabaseId, [u8; 16])>,
    cursor: Option<Dot>,
    /// Where the pass over names for forgotten tombstones goes on.
    names: Option<Name>,
    next: Instant,
}

impl Collector {
    pub const fn new(next: Instant) -> Self {
        Self {
            members: BTreeMap::new(),
            announced: BTreeMap::new(),
            heard: BTreeMap::new(),
            cursor: None,
            names: None,
            next,
        }
    }

    pub fn handle_members(&mut self, members: &[(NodeId, DatabaseId)]) {
        self.members = members.iter().copied().collect();
        self.announced.retain(|node, (database, _)| self.members.get(node) == Some(database));
    }

    /// A member announced this digest of what it has seen.
    pub fn heard(&mut self, node: NodeId, database: DatabaseId, digest: [u8; 16]) {
        self.heard.insert(node, (database, digest));
    }

    /// The members that announced this digest last.
    pub fn who_announced(&self, digest: [u8; 16]) -> impl Iterator<Item = NodeId> {
        let bound = |(node, (database, _)): &(&NodeId, &(DatabaseId, [u8; 16]))| {
            self.members.get(*node) == Some(database)
        };
        self.heard
            .iter()
            .filter(bound)
            .filter(move |(_, (_, theirs))| *theirs == digest)
            .map(|(node, _)| *node)
    }

    /// Takes whoever announced last what this node has seen as having seen just that.
    fn compare(&mut self, knowledge: &Knowledge) {
        let (ours, members) = (knowledge.digest(), &self.members);
        self.heard.retain(|node, _| members.contains_key(node));
        let equal = self.heard.iter().filter(|(_, (_, digest))| *digest == ours);
        for (node, database) in equal.map(|(node, (database, _))| (*node, *database)).collect::<Vec<_>>() {
            self.announced(node, database, Arc::clone(knowledge.seen()));
        }
    }

    /// Under one database what is seen only grows, so an older announcement stays true.
    pub fn announced(&mut self, node: NodeId, database: DatabaseId, seen: SharedSeen) {
        if self.members.get(&node) == Some(&database) {
            self.announced.insert(node, (database, seen));
        }
    }

    /// Whether a member has announced all of `seen` under this database.
    pub fn has_seen(&self, node: &NodeId, database: DatabaseId, seen: &Seen) -> bool {
        self.announced.get(node).is_some_and(|(under, theirs)| *under == database && theirs.is_superset(seen))
    }

    pub const fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn everybody_has_seen(&self, me: &NodeId, ours: &Seen, dot: &Dot) -> bool {
        ours.contains(dot)
            && self.members.iter().all(|(node, database)| {
                node == me
                    || self
                        .announced
                        .get(node)
                        .is_some_and(|(under, seen)| under == database && seen.contains(dot))
            })
    }
}

impl Catalog {
    pub(super) fn collect_timeout(&mut self, step: &mut Step<'_>) -> Result<()> {
        if self.collect.next > step.now {
            return Ok(());
        }
        self.collect.next = step.now + self.config.collect_interval;
        if !self.collect.members.contains_key(&self.config.node) {
            return Ok(());
        }
        self.collect.compare(&self.knowledge);
        let stubs = step.storage.stubs_after(self.collect.cursor.as_ref(), BATCH)?;
        self.collect.cursor = None;
        if stubs.len() == BATCH {
            self.collect.cursor = stubs.last().map(|stub| stub.dot);
            self.collect.next = step.now + BETWEEN_BATCHES;
        }
        for stub in stubs {
            let by_all =
                |dot: &Dot| self.collect.everybody_has_seen(&self.config.node, self.knowledge.seen(), dot);
            if !by_all(&stub.dot) || !stub.by.as_ref().is_none_or(by_all) {
                continue;
            }
            if let Some(by) = stub.by
                && let Some(survivor) = step.storage.survivor(&by)?
                && survivor.published
                && survivor.version.is_tombstone()
            {
                step.storage.remove_survivor(&by)?;
            }
            step.storage.remove_stub(&stub.dot)?;
        }
        self.collect_tombstones(step)
    }

    /// A stub names one version that supersedes its dot. Where two did, the stub of the one that
    /// came first is gone and would never lead to it: a slow pass over all names finds it.
    fn collect_tombstones(&mut self, step: &mut Step<'_>) -> Result<()> {
        let names = step.storage.names(self.collect.names.as_ref(), NAMES)?;
        self.collect.names = names.last().filter(|_| names.len() == NAMES).cloned();
        for name in &names {
            for survivor in step.storage.survivors(name)? {
                let by_all = |dot: &Dot| {
                    self.collect.everybody_has_seen(&self.config.node, self.knowledge.seen(), dot)
                };
                let version = &survivor.version;
                let is_over = survivor.published && version.is_tombstone();
                if is_over && by_all(&version.dot) && version.context.iter().all(by_all) {
                    step.storage.remove_survivor(&version.dot)?;
                }
            }
        }
        Ok(())
    }
}
