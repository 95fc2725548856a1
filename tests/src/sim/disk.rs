//! A node's disk: what is durable, and what only the page cache knows.
//!
//! Files are references (length, digest), never bytes. Data become durable by
//! [`Disk::sync_file`], names by [`Disk::sync_dir`]. A crash keeps what is durable and a seeded
//! subset of the rest: each unsynced file may be whole, torn or empty, and each unsynced change of
//! a name may have reached the disk or not, within what a journaling file system allows.
//!
//! Invariant: after a failed sync the file's unsynced data is gone for good; no later sync that
//! succeeds brings it back (as on Linux, where the error is told once and the pages are clean).

use std::collections::BTreeMap;

use kepler_protocol::chunk::ChunkId;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    Empty,
    /// All bytes of this chunk.
    Whole(ChunkId),
    /// Not all, or not the right ones.
    Torn,
    /// The disk does not give them.
    Unreadable,
}

/// Why the disk refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
    /// ENOENT.
    Missing,
}

type Inode = u64;

#[derive(Clone, Copy, Debug)]
struct File {
    cached: Data,
    durable: Data,
}

/// A disk with one folder level: a path's folder is all before its last slash.
#[derive(Default)]
pub struct Disk {
    files: BTreeMap<Inode, File>,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    next: Inode,
    /// How many further writes and syncs fail with EIO.
    pub failing: u32,
    /// Whether writes fail with ENOSPC.
    pub full: bool,
}

impl Disk {
    fn fault(&mut self, writes: bool) -> Result<(), DiskError> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(DiskError::Io);
        }
        if writes && self.full { Err(DiskError::NoSpace) } else { Ok(()) }
    }

    /// Creates or truncates a file and writes it.
    ///
    /// # Errors
    /// EIO and ENOSPC, as set; the file may then hold anything.
    pub fn write(&mut self, path: &str, chunk: ChunkId) -> Result<(), DiskError> {
        self.next += 1;
        let inode = *self.names.entry(path.into()).or_insert(self.next);
        let file = self.files.entry(inode).or_insert(File { cached: Data::Empty, durable: Data::Empty });
        file.cached = Data::Torn;
        self.fault(true)?;
        if let Some(file) = self.files.get_mut(&inode) {
            file.cached = Data::Whole(chunk);
        }
        Ok(())
    }

    /// Makes a file's data durable.
    ///
    /// # Errors
    /// EIO: the unsynced data is lost.
    pub fn sync_file(&mut self, path: &str) -> Result<(), DiskError> {
        let inode = *self.names.get(path).ok_or(DiskError::Missing)?;
        let failed = self.fault(false);
        let file = self.files.get_mut(&inode).ok_or(DiskError::Missing)?;
        if failed.is_err() {
            file.cached = if file.cached == file.durable { file.cached } else { Data::Torn };
        } else {
            file.durable = file.cached;
        }
        failed
    }

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    /// There is no such file, or EIO.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.fault(false)?;
        let inode = self.names.remove(from).ok_or(DiskError::Missing)?;
        self.names.insert(to.into(), inode);
        Ok(())
    }

    /// Removes a name.
    ///
    /// # Errors
    /// There is no such file, or EIO.
    pub fn unlink(&mut self, path: &str) -> Result<(), DiskError> {
        self.fault(false)?;
        self.names.remove(path).map(|_| ()).ok_or(DiskError::Missing)
    }

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// EIO.
    pub fn sync_dir(&mut self, folder: &str) -> Result<(), DiskError> {
        self.fault(false)?;
        self.durable_names.retain(|path, _| folder_of(path) != folder);
        let here = self.names.iter().filter(|(path, _)| folder_of(path) == folder);
        self.durable_names.extend(here.map(|(path, inode)| (path.clone(), *inode)));
        Ok(())
    }

    /// What a reader finds under a name.
    ///
    /// # Errors
    /// There is no such file, or EIO.
    pub fn read(&mut self, path: &str) -> Result<Data, DiskError> {
        self.fault(false)?;
        let inode = self.names.get(path).ok_or(DiskError::Missing)?;
        match self.files.get(inode).ok_or(DiskError::Missing)?.cached {
            Data::Unreadable => Err(DiskError::Io),
            data => Ok(data),
        }
    }

    /// What is under a name now, for whoever must not be failed.
    pub fn peek(&self, path: &str) -> Option<Data> {
        self.names.get(path).and_then(|inode| self.files.get(inode)).map(|file| file.cached)
    }

    /// What would be under a name if the power failed now and nothing more reached the disk.
    pub fn durable(&self, path: &str) -> Option<Data> {
        self.durable_names.get(path).and_then(|inode| self.files.get(inode)).map(|file| file.durable)
    }

    /// All names, in order.
    pub fn paths(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// Power fails: what is durable stays, and of the rest a subset that `random` picks.
    pub fn crash(&mut self, random: &mut fastrand::Rng) {
        let mut paths: Vec<String> = self.durable_names.keys().chain(self.names.keys()).cloned().collect();
        paths.sort();
        paths.dedup();
        let mut kept = BTreeMap::new();
        for path in paths {
            let (old, new) = (self.durable_names.get(&path), self.names.get(&path));
            if let Some(inode) = if random.bool() { new } else { old } {
                kept.insert(path, *inode);
            }
        }
        self.files.retain(|inode, _| kept.values().any(|kept| kept == inode));
        for file in self.files.values_mut().filter(|file| file.cached != file.durable) {
            file.durable = match random.u8(0..4) {
                0 => file.cached,
                1 => Data::Torn,
                2 => Data::Empty,
                _ => file.durable,
            };
            file.cached = file.durable;
        }
        self.names = kept.clone();
        self.durable_names = kept;
        (self.failing, self.full) = (0, false);
    }

    /// Flips a bit in a file; says whether there was one.
    pub fn rot(&mut self, path: &str) -> bool {
        self.spoil(path, Data::Torn)
    }

    /// A sector of a file goes bad; says whether there was one.
    pub fn wear(&mut self, path: &str) -> bool {
        self.spoil(path, Data::Unreadable)
    }

    fn spoil(&mut self, path: &str, data: Data) -> bool {
        let victim = self.names.get(path).and_then(|inode| self.files.get_mut(inode));
        victim.is_some_and(|file| {
            (file.cached, file.durable) = (data, data);
            true
        })
    }

    /// Loses a file, as after a check of the file system; says whether there was one.
    pub fn vanish(&mut self, path: &str) -> bool {
        self.durable_names.remove(path);
        self.names.remove(path).is_some()
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use kepler_protocol::chunk::Codec;

    use super::*;

    fn chunk(text: &str) -> ChunkId {
        ChunkId::of(Codec::Raw, text.as_bytes())
    }

    fn store(disk: &mut Disk, file: bool, folder: bool) {
        disk.write("ab/x.tmp", chunk("x")).unwrap();
        if file {
            disk.sync_file("ab/x.tmp").unwrap();
        }
        disk.rename("ab/x.tmp", "ab/x").unwrap();
        if folder {
            disk.sync_dir("ab").unwrap();
        }
    }

    fn after_crash(seed: u64, file: bool, folder: bool) -> Option<Data> {
        let mut disk = Disk::default();
        store(&mut disk, file, folder);
        disk.crash(&mut fastrand::Rng::with_seed(seed));
        disk.read("ab/x").ok()
    }

    #[test]
    fn what_was_synced_survives_every_crash() {
        for seed in 0..200 {
            assert_eq!(after_crash(seed, true, true), Some(Data::Whole(chunk("x"))), "seed {seed}");
        }
    }

    #[test]
    fn without_the_folders_sync_a_name_may_be_lost_and_without_the_files_its_bytes() {
        let lost = (0..200).filter(|seed| after_crash(*seed, true, false).is_none()).count();
        assert!((50..150).contains(&lost), "{lost} of 200 lost");
        let torn = (0..200).filter(|seed| after_crash(*seed, false, true) != Some(Data::Whole(chunk("x"))));
        assert!(torn.count() > 50);
    }

    #[test]
    fn a_failed_sync_is_told_once_and_the_data_is_gone() {
        let mut disk = Disk::default();
        disk.write("x", chunk("x")).unwrap();
        disk.failing = 1;
        assert_eq!(disk.sync_file("x"), Err(DiskError::Io));
        assert_eq!(disk.sync_file("x"), Ok(()));
        assert_eq!(disk.read("x"), Ok(Data::Torn));
    }

    #[test]
    fn a_full_disk_refuses_writes_and_still_reads() {
        let mut disk = Disk::default();
        disk.write("x", chunk("x")).unwrap();
        disk.full = true;
        assert_eq!(disk.write("y", chunk("y")), Err(DiskError::NoSpace));
        assert_eq!(disk.read("x"), Ok(Data::Whole(chunk("x"))));
    }

    #[test]
    fn rot_and_loss_survive_every_crash() {
        for seed in 0..50 {
            let mut disk = Disk::default();
            store(&mut disk, true, true);
            assert!(disk.rot("ab/x") && !disk.rot("ab/y"));
            disk.crash(&mut fastrand::Rng::with_seed(seed));
            assert_eq!(disk.read("ab/x"), Ok(Data::Torn), "seed {seed}");
            assert!(disk.vanish("ab/x") && !disk.vanish("ab/x"));
            disk.crash(&mut fastrand::Rng::with_seed(seed));
            assert_eq!(disk.read("ab/x"), Err(DiskError::Missing), "seed {seed}");
        }
    }
}
