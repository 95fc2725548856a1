//! A [`Storage`] of ordered maps with a crash model, for tests and simulation.
//!
//! [`MemoryStorage::begin`] opens a transaction, [`MemoryStorage::commit`] makes it durable and
//! [`MemoryStorage::rollback`] undoes it; a crash is a rollback, since only what was committed
//! survives. Clones copy the whole image: a backup that may be restored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::seen::{Seen, SeenSet};
use super::storage::{Result, Storage, StorageError, Stub, Survivor, Table};
use crate::name::Name;
use crate::version::{Dot, Origin};

#[derive(Clone, Debug)]
enum Undo {
    Survivor(Dot, Option<Survivor>),
    Stub(Dot, Option<Stub>),
    Seen(Origin, Option<SeenSet>),
    Record(Table, Vec<u8>, Option<Vec<u8>>),
}

#[derive(Clone, Debug, Default)]
struct Dots {
    survivors: BTreeSet<Dot>,
    stubs: BTreeSet<Dot>,
}

/// A catalog database in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    survivors: BTreeMap<Dot, Survivor>,
    unpublished: BTreeSet<Dot>,
    stubs: BTreeMap<Dot, Stub>,
    closed: BTreeSet<Dot>,
    names: BTreeMap<Name, Dots>,
    seen: BTreeMap<Origin, SeenSet>,
    records: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    undo: Vec<Undo>,
    fail: bool,
}

impl MemoryStorage {
    /// An empty database.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a transaction; what an unfinished one did is undone.
    pub fn begin(&mut self) {
        self.rollback();
    }

    /// Makes all changes since [`Self::begin`] durable.
    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// Undoes all changes since [`Self::begin`], as a crash does.
    pub fn rollback(&mut self) {
        while let Some(step) = self.undo.pop() {
            match step {
                Undo::Survivor(dot, old) => drop(self.set_survivor(dot, old)),
                Undo::Stub(dot, old) => drop(self.set_stub(dot, old)),
                Undo::Seen(origin, old) => drop(self.set_seen(origin, old)),
                Undo::Record(table, key, old) => drop(self.set_record(table, key, old)),
            }
        }
    }

    /// Makes every method fail until it is called again with `false`: a broken disk.
    pub fn set_failing(&mut self, fail: bool) {
        self.fail = fail;
    }

    /// How many changes the open transaction holds.
    pub fn changes(&self) -> usize {
        self.undo.len()
    }

    /// All survivors, by dot: for checks.
    pub fn all_survivors(&self) -> impl Iterator<Item = &Survivor> {
        self.survivors.values()
    }

    /// All stubs, by dot: for checks.
    pub fn all_stubs(&self) -> impl Iterator<Item = &Stub> {
        self.stubs.values()
    }

    fn check(&self) -> Result<()> {
        if self.fail { Err(StorageError("the disk failed".into())) } else { Ok(()) }
    }

    fn prune(&mut self, name: &Name) {
        if self.names.get(name).is_some_and(|d| d.survivors.is_empty() && d.stubs.is_empty()) {
            self.names.remove(name);
        }
    }

    fn set_survivor(&mut self, dot: Dot, new: Option<Survivor>) -> Option<Survivor> {
        let old = self.survivors.remove(&dot);
        self.unpublished.remove(&dot);
        if let Some(old) = &old {
            if let Some(dots) = self.names.get_mut(&old.version.name) {
                dots.survivors.remove(&dot);
            }
            self.prune(&old.version.name);
        }
        if let Some(new) = new {
            self.names.entry(new.version.name.clone()).or_default().survivors.insert(dot);
            if !new.published {
                self.unpublished.insert(dot);
            }
            self.survivors.insert(dot, new);
        }
        old
    }

    fn set_stub(&mut self, dot: Dot, new: Option<Stub>) -> Option<Stub> {
        let old = self.stubs.remove(&dot);
        self.closed.remove(&dot);
        if let Some(name) = old.as_ref().and_then(|s| s.name.as_ref()) {
            if let Some(dots) = self.names.get_mut(name) {
                dots.stubs.remove(&dot);
            }
            self.prune(name);
        }
        if let Some(new) = new {
            match &new.name {
                Some(name) => {
                    self.names.entry(name.clone()).or_default().stubs.insert(dot);
                }
                None => {
                    self.closed.insert(dot);
                }
            }
            self.stubs.insert(dot, new);
        }
        old
    }

    fn set_seen(&mut self, origin: Origin, new: Option<SeenSet>) -> Option<SeenSet> {
        match new {
            Some(set) => self.seen.insert(origin, set),
            None => self.seen.remove(&origin),
        }
    }

    fn set_record(&mut self, table: Table, key: Vec<u8>, new: Option<Vec<u8>>) -> Option<Vec<u8>> {
        match new {
            Some(value) => self.records.insert((table, key), value),
            None => self.records.remove(&(table, key)),
        }
    }
}

fn after<T>(cursor: Option<&T>) -> (Bound<&T>, Bound<&T>) {
    (cursor.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

impl Storage for MemoryStorage {
    fn survivors(&self, name: &Name) -> Result<Vec<Survivor>> {
        self.check()?;
        let dots = self.names.get(name).into_iter().flat_map(|d| &d.survivors);
        Ok(dots.filter_map(|dot| self.survivors.get(dot).cloned()).collect())
    }

    fn survivor(&self, dot: &Dot) -> Result<Option<Survivor>> {
        self.check()?;
        Ok(self.survivors.get(dot).cloned())
    }

    fn put_survivor(&mut self, survivor: &Survivor) -> Result<()> {
        self.check()?;
        let dot = survivor.version.dot;
        let old = self.set_survivor(dot, Some(survivor.clone()));
        self.undo.push(Undo::Survivor(dot, old));
        Ok(())
    }

    fn remove_survivor(&mut self, dot: &Dot) -> Result<()> {
        self.check()?;
        let old = self.set_survivor(*dot, None);
        self.undo.push(Undo::Survivor(*dot, old));
        Ok(())
    }

    fn unpublished(&self, cursor: Option<&Dot>, limit: usize) -> Result<Vec<Survivor>> {
        self.check()?;
        let dots = self.unpublished.range::<Dot, _>(after(cursor)).take(limit);
        Ok(dots.filter_map(|dot| self.survivors.get(dot).cloned()).collect())
    }

    fn stubs(&self, name: &Name) -> Result<Vec<Stub>> {
        self.check()?;
        let dots = self.names.get(name).into_iter().flat_map(|d| &d.stubs);
        Ok(dots.filter_map(|dot| self.stubs.get(dot).cloned()).collect())
    }

    fn stub(&self, dot: &Dot) -> Result<Option<Stub>> {
        self.check()?;
        Ok(self.stubs.get(dot).cloned())
    }

    fn put_stub(&mut self, stub: &Stub) -> Result<()> {
        self.check()?;
        let old = self.set_stub(stub.dot, Some(stub.clone()));
        self.undo.push(Undo::Stub(stub.dot, old));
        Ok(())
    }

    fn remove_stub(&mut self, dot: &Dot) -> Result<()> {
        self.check()?;
        let old = self.set_stub(*dot, None);
        self.undo.push(Undo::Stub(*dot, old));
        Ok(())
    }

    fn stubs_after(&self, cursor: Option<&Dot>, limit: usize) -> Result<Vec<Stub>> {
        self.check()?;
        Ok(self.stubs.range::<Dot, _>(after(cursor)).take(limit).map(|(_, s)| s.clone()).collect())
    }

    fn names(&self, cursor: Option<&Name>, limit: usize) -> Result<Vec<Name>> {
        self.check()?;
        Ok(self.names.range::<Name, _>(after(cursor)).take(limit).map(|(n, _)| n.clone()).collect())
    }

    fn names_unseen_by(&self, theirs: &Seen, cursor: Option<&Name>, limit: usize) -> Result<Vec<Name>> {
        self.check()?;
        let unseen = |dots: &Dots| dots.survivors.iter().chain(&dots.stubs).any(|dot| !theirs.contains(dot));
        let names = self.names.range::<Name, _>(after(cursor)).filter(|(_, dots)| unseen(dots));
        Ok(names.take(limit).map(|(name, _)| name.clone()).collect())
    }

    fn closed_unseen_by(&self, theirs: &Seen, cursor: Option<&Dot>, limit: usize) -> Result<Vec<Dot>> {
        self.check()?;
        let dots = self.closed.range::<Dot, _>(after(cursor)).filter(|dot| !theirs.contains(dot));
        Ok(dots.take(limit).copied().collect())
    }

    fn seen(&self) -> Result<Seen> {
        self.check()?;
        let mut seen = Seen::default();
        self.seen.iter().for_each(|(origin, set)| seen.set_origin(*origin, set.clone()));
        Ok(seen)
    }

    fn put_seen(&mut self, origin: &Origin, set: &SeenSet) -> Result<()> {
        self.check()?;
        let old = self.set_seen(*origin, Some(set.clone()));
        self.undo.push(Undo::Seen(*origin, old));
        Ok(())
    }

    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.check()?;
        Ok(self.records.get(&(table, key.to_vec())).cloned())
    }

    fn put_record(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.check()?;
        let old = self.set_record(table, key.to_vec(), value.map(<[u8]>::to_vec));
        self.undo.push(Undo::Record(table, key.to_vec(), old));
        Ok(())
    }

    fn records(&self, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.check()?;
        let range = self.records.range((table, Vec::new())..).take_while(|((t, _), _)| *t == table);
        Ok(range.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_committed_records_survive_a_crash() {
        let mut storage = MemoryStorage::new();
        storage.begin();
        storage.put_record(Table::Catalog, b"kept", Some(b"1")).unwrap();
        storage.commit();
        storage.begin();
        storage.put_record(Table::Catalog, b"kept", Some(b"2")).unwrap();
        storage.put_record(Table::Catalog, b"lost", Some(b"3")).unwrap();
        storage.rollback();
        assert_eq!(storage.records(Table::Catalog).unwrap(), [(b"kept".to_vec(), b"1".to_vec())]);
        assert_eq!(storage.records(Table::Council).unwrap(), []);
    }
}
