//! Merging: what becomes of a version, a stub or a closed dot that this node learns of.
//!
//! The invariant everything rests on: for every seen dot, what its version supersedes neither
//! survives here nor ever will. Survivors are therefore a function of what is seen, whatever the
//! order in which it was learnt, and merging is commutative, associative and idempotent.
//!
//! A version's context may name dots that were never met here. Such a dot is not marked seen, for
//! what *its* version superseded is unknown: marking it would leave an older survivor behind that
//! no exchange finds any more. It leaves a *pending* stub instead (a stub whose dot is not seen),
//! which keeps the version from surviving when it comes and still takes its context from it.

use std::sync::Arc;

use super::census::Census;
use super::message::is_plausible;
use super::seen::{Seen, SeenSet};
use super::storage::{Result, Storage, Stub, Survivor};
use crate::name::Name;
use crate::version::{Dot, Origin, Version};

/// What became of a version that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It survives here now.
    New,
    /// It was known, or something known supersedes it: it is as durable here as it can be.
    Known,
    /// Its dot is known with other content, or it cannot be a version.
    Refused,
}

/// What this node has seen, kept beside the storage that it is durable in.
#[derive(Debug)]
pub struct Knowledge {
    // Shared with whoever needs what was seen at one time; copied if that changes meanwhile.
    seen: Arc<Seen>,
    census: Arc<Census>,
    changes: u64,
}

impl Knowledge {
    /// Reads what is seen.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn open(storage: &dyn Storage) -> Result<Self> {
        let seen = storage.seen()?;
        Ok(Self { census: Arc::new(Census::of(&seen)), seen: Arc::new(seen), changes: 0 })
    }

    /// What is seen; to be shared.
    pub const fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// The same by buckets; to be shared.
    pub const fn census(&self) -> &Arc<Census> {
        &self.census
    }

    /// Counts the changes of what is seen.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// [`Census::digest`].
    pub fn digest(&self) -> [u8; 16] {
        self.census.digest()
    }

    /// Whether `dot` is seen.
    pub fn contains(&self, dot: &Dot) -> bool {
        self.seen.contains(dot)
    }

    fn mark(&mut self, storage: &mut dyn Storage, dot: Dot) -> Result<()> {
        if self.seen.contains(&dot) {
            return Ok(());
        }
        Arc::make_mut(&mut self.seen).insert(dot);
        self.changed(storage, &dot.origin)
    }

    /// More is seen of an origin.
    fn changed(&mut self, storage: &mut dyn Storage, origin: &Origin) -> Result<()> {
        self.changes += 1;
        let Some(set) = self.seen.origin(origin) else { return Ok(()) };
        Arc::make_mut(&mut self.census).update(origin, set);
        storage.put_seen(origin, set)
    }

    /// Marks what a peer has seen of an origin, once everything it holds of it was learnt.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn union(&mut self, storage: &mut dyn Storage, origin: &Origin, theirs: &SeenSet) -> Result<()> {
        let none = SeenSet::default();
        if self.seen.origin(origin).unwrap_or(&none).is_superset(theirs) {
            return Ok(());
        }
        Arc::make_mut(&mut self.seen).union_origin(origin, theirs);
        self.changed(storage, origin)
    }

    /// Merges a published version.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn learn(&mut self, storage: &mut dyn Storage, version: &Version) -> Result<Learned> {
        if !is_plausible(version) {
            return Ok(Learned::Refused);
        }
        let stub = storage.stub(&version.dot)?;
        let mut outcome = Learned::New;
        if stub.as_ref().is_some_and(|stub| stub.name.as_ref() != Some(&version.name)) {
            return Ok(Learned::Refused); // Closed, or of another name.
        }
        match storage.survivor(&version.dot)? {
            Some(known) if known.version != *version => return Ok(Learned::Refused),
            Some(known) if known.published => return Ok(Learned::Known),
            Some(_) => outcome = Learned::Known, // Our own `fast` version is published now.
            None if self.contains(&version.dot) => return Ok(Learned::Known),
            None => {}
        }
        let mut superseded = Vec::with_capacity(version.context.len());
        for dot in version.context.iter() {
            let survivor = storage.survivor(dot)?;
            if survivor.as_ref().is_some_and(|s| s.version.name != version.name) {
                return Ok(Learned::Refused);
            }
            superseded.push((*dot, survivor));
        }
        for (dot, survivor) in superseded {
            // A tombstone is collected by way of the stubs it leaves, so it always leaves some.
            let leaves_stub = survivor.is_some() || !self.contains(&dot) || version.is_tombstone();
            if let Some(survivor) = survivor {
                storage.remove_survivor(&dot)?;
                if !survivor.published {
                    self.mark(storage, dot)?; // Nobody will ever meet it.
                }
            }
            if leaves_stub {
                let (name, by) = (Some(version.name.clone()), Some(version.dot));
                storage.put_stub(&Stub { dot, name, by })?;
            }
        }
        self.mark(storage, version.dot)?;
        if stub.is_some() {
            return Ok(Learned::Known); // It was superseded before it came.
        }
        storage.put_survivor(&Survivor { version: version.clone(), published: true })?;
        Ok(outcome)
    }

    /// Puts back a version that was seen and that the disk lost; says whether it survives again.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn restore(&mut self, storage: &mut dyn Storage, version: &Version) -> Result<bool> {
        let known = storage.survivors(&version.name)?;
        let is_superseded = known.iter().any(|s| s.version.context.contains(&version.dot));
        if !is_plausible(version)
            || is_superseded
            || storage.survivor(&version.dot)?.is_some()
            || storage.stub(&version.dot)?.is_some()
        {
            return Ok(false);
        }
        self.mark(storage, version.dot)?;
        storage.put_survivor(&Survivor { version: version.clone(), published: true })?;
        Ok(true)
    }

    /// Marks a dot whose upload failed; says whether it was new. A dot that has a version is left.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn close(&mut self, storage: &mut dyn Storage, dot: Dot) -> Result<bool> {
        if self.contains(&dot) || storage.survivor(&dot)?.is_some() || storage.stub(&dot)?.is_some() {
            return Ok(false);
        }
        storage.put_stub(&Stub { dot, name: None, by: None })?;
        self.mark(storage, dot)?;
        Ok(true)
    }

    /// Takes over a stub of a peer. `mark`: the peer has seen the dot, and with it comes all that
    /// the peer knows of the name.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn adopt_stub(&mut self, storage: &mut dyn Storage, stub: &Stub, mark: bool) -> Result<()> {
        if storage.survivor(&stub.dot)?.is_some_and(|s| Some(&s.version.name) != stub.name.as_ref()) {
            return Ok(());
        }
        if !self.contains(&stub.dot) {
            if storage.stub(&stub.dot)?.is_none() {
                storage.put_stub(stub)?;
            }
            if mark {
                self.mark(storage, stub.dot)?;
            }
        }
        Ok(())
    }

    /// Drops a survivor that a peer, all of whose survivors of the name are known here, knows to
    /// be superseded.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn drop_superseded(&mut self, storage: &mut dyn Storage, name: &Name, dot: Dot) -> Result<()> {
        storage.remove_survivor(&dot)?;
        if storage.stub(&dot)?.is_none() {
            storage.put_stub(&Stub { dot, name: Some(name.clone()), by: None })?;
        }
        Ok(())
    }
}

/// The survivors as this node shows them: its own unpublished versions supersede what they saw.
pub fn visible(survivors: Vec<Survivor>) -> Vec<Version> {
    let hidden: Vec<Dot> =
        survivors.iter().filter(|s| !s.published).flat_map(|s| s.version.context.iter().copied()).collect();
    survivors.into_iter().map(|s| s.version).filter(|v| !hidden.contains(&v.dot)).collect()
}
