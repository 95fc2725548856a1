//! What follows from a version that is learnt, by whichever road, or begins to count: who is told.

use super::merge::Learned;
use super::storage::{Result, Storage};
use super::{Catalog, Event};
use crate::version::{Dot, Version};

impl Catalog {
    /// Merges a published version that came by another road than a catalog message.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn merge(&mut self, storage: &mut dyn Storage, version: &Version) -> Result<Learned> {
        let learned = self.learn(storage, version)?;
        self.tell();
        Ok(learned)
    }

    pub(super) fn learn(&mut self, storage: &mut dyn Storage, version: &Version) -> Result<Learned> {
        let learned = self.knowledge.learn(storage, version)?;
        match learned {
            Learned::New => self.written(storage, version)?,
            Learned::Known => {}
            Learned::Refused => self.events.push_back(Event::Contradiction { dot: version.dot }),
        }
        Ok(learned)
    }

    /// A version survives here that did not before.
    pub(super) fn written(&mut self, storage: &dyn Storage, version: &Version) -> Result<()> {
        let Version { name, dot, .. } = version.clone();
        self.events.push_back(Event::Written { name, dot, deleted: version.is_tombstone() });
        self.published(storage, version)
    }

    /// A version counts for readers that did not before.
    pub(super) fn published(&mut self, storage: &dyn Storage, version: &Version) -> Result<()> {
        if version.is_tombstone() {
            return Ok(()); // Nothing is concurrent with it that was not before.
        }
        let survivors = storage.survivors(&version.name)?;
        let live: Vec<Dot> = survivors
            .iter()
            .filter(|s| s.published && !s.version.is_tombstone())
            .map(|s| s.version.dot)
            .collect();
        if live.len() == 2 && live.contains(&version.dot) {
            self.events.push_back(Event::Conflict { name: version.name.clone() });
        }
        Ok(())
    }

    /// The end of every step.
    pub(super) fn tell(&mut self) {
        if self.told != self.knowledge.changes() {
            self.told = self.knowledge.changes();
            self.events.push_back(Event::SeenChanged);
        }
    }
}
