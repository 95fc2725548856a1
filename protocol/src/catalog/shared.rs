//! Whether this node may leave without taking anything along that the others do not know.

use super::Catalog;
use super::electorate::Electorate;
use super::operation::Goal;
use super::seen::Seen;
use super::storage::{Result, Storage};

impl Catalog {
    /// Takes no more writes: this node is about to leave. What has begun goes on; reads always do.
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// Takes writes again: this node stays.
    pub const fn reopen(&mut self) {
        self.closed = false;
    }

    /// What this node alone may know of until it is done, if there is such a thing: writes under way, and
    /// `fast` ones that are not published.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn unfinished(&self, storage: &dyn Storage) -> Result<Option<String>> {
        let writes = self.operations.values().filter(|op| !matches!(op.goal, Goal::Read)).count();
        Ok(if writes > 0 {
            Some(format!("{writes} writes are under way"))
        } else if !storage.unpublished(None, 1)?.is_empty() {
            Some("a fast write is not with its owners yet".into())
        } else {
            None
        })
    }

    /// Whether all of `seen` is known to every other member that is here; else what there is to wait for.
    pub fn is_shared(&self, electorate: &dyn Electorate, seen: &Seen) -> std::result::Result<(), String> {
        let members = electorate.members();
        let mut others = members.iter().filter(|(id, _)| *id != self.config.node && self.is_reachable(id));
        match others.clone().next() {
            None => Err("no other member is here".into()),
            Some(_) => match others.find(|(id, database)| !self.collect.has_seen(id, *database, seen)) {
                Some((behind, _)) => Err(format!("{behind} does not know yet all that this node knows")),
                None => Ok(()),
            },
        }
    }
}
