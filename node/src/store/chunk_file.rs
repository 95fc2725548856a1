//! Chunk files: written under a temporary name, synced, renamed, their folder synced.
//!
//! Invariant: a file under a chunk's name is whole, in every state a crash can leave. After a failed
//! fsync nothing of that file is kept: the kernel may have dropped the pages and forgotten the error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use kepler_protocol::chunk::{Chunk, ChunkId, Corrupt, MAX_CHUNK_BYTES};

use super::error::{ReadError, WriteError};
use super::layout::Layout;

/// Tells temporary files of one process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A chunk on its way to the disk. Dropped before [`Sink::keep`], it leaves nothing.
pub(crate) struct Sink {
    id: ChunkId,
    expected: u64,
    written: u64,
    file: File,
    path: PathBuf,
    kept: bool,
    /// Its bytes arrive and are hashed on the way: another node sends them.
    from_peer: bool,
    hash: Option<digest::Context>,
}

impl Sink {
    /// Begins a file of `expected` bytes, to be hashed as it is written.
    pub(crate) fn create(layout: &Layout, id: ChunkId, expected: u64) -> Result<Self, WriteError> {
        let path = layout.chunks().join(format!("{}.tmp", COUNTER.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(WriteError::io("create", &path))?;
        let hash = Some(digest::Context::new(&SHA256));
        Ok(Self { id, expected, written: 0, file, path, kept: false, from_peer: true, hash })
    }

    /// Begins a file whose bytes were verified before.
    pub(crate) fn create_verified(layout: &Layout, chunk: &Chunk) -> Result<Self, WriteError> {
        let mut sink = Self::create(layout, chunk.id(), chunk.bytes().len() as u64)?;
        (sink.hash, sink.from_peer) = (None, false);
        Ok(sink)
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.expected {
            return Err(self.wrong_size());
        }
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.file.write_all(bytes).map_err(WriteError::io("write", &self.path))
    }

    /// Checks size and hash, and makes the file durable under the chunk's name.
    pub(crate) fn keep(mut self, layout: &Layout) -> Result<(), WriteError> {
        if self.written != self.expected {
            return Err(self.wrong_size());
        }
        if let Some(hash) = self.hash.take() {
            let mut digest = [0; 32];
            digest.copy_from_slice(hash.finish().as_ref());
            let actual = ChunkId::from_digest(self.id.codec(), digest);
            if actual != self.id {
                return Err(Corrupt { expected: self.id, actual }.into());
            }
        }
        self.file.sync_all().map_err(WriteError::io("sync", &self.path))?;
        if self.from_peer {
            // Somebody who reads it soon asks the node that took it, most likely. Pages that are used again at
            // once cost a fifth of the processor time of fresh ones, and push out none that are read.
            let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        }
        let folder = layout.folder(&self.id);
        let path = layout.chunk(&self.id);
        match fs::rename(&self.path, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_folder(&folder)?;
                fs::rename(&self.path, &path)
            }
            other => other,
        }
        .map_err(WriteError::io("rename", &path))?;
        self.kept = true;
        sync_folder(&folder).map_err(|source| {
            // Whether the entry will survive is unknown, and a second sync may wrongly say yes.
            let _ = fs::remove_file(&path);
            WriteError::Io { action: "sync", path: folder, source }
        })
    }

    fn wrong_size(&self) -> WriteError {
        WriteError::Size { id: self.id, expected: self.expected, actual: self.written }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is swept at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates `chunks/ab/cd` and makes both entries durable.
fn create_folder(folder: &Path) -> Result<(), WriteError> {
    let outer = folder.parent().expect("a chunk's folder has a parent");
    let chunks = outer.parent().expect("it lies in chunks/");
    for (path, parent) in [(outer, chunks), (folder, outer)] {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(WriteError::io("create", path)(error)),
        }
        // Also where it existed: whoever made it may not have synced it yet.
        sync_folder(parent).map_err(WriteError::io("sync", parent))?;
    }
    Ok(())
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Reads a chunk and verifies it.
pub(crate) fn read(layout: &Layout, id: ChunkId, size: u64) -> Result<Chunk, ReadError> {
    let path = layout.chunk(&id);
    let failed = |source| ReadError::Io { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Missing(id)),
        Err(error) => return Err(failed(error)),
    };
    // A file that grew is corrupt: one byte more than the row says is enough to see it.
    let size = usize::try_from(size).unwrap_or(MAX_CHUNK_BYTES).min(MAX_CHUNK_BYTES);
    let bytes = read_up_to(file, size + 1).map_err(failed)?;
    Ok(Chunk::verify(id, bytes)?)
}

fn read_up_to(file: File, limit: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(limit);
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Whether the chunk's file has exactly these bytes.
pub(crate) fn is_same(layout: &Layout, chunk: &Chunk) -> io::Result<bool> {
    let file = match File::open(layout.chunk(&chunk.id())) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut expected = chunk.bytes().as_ref();
    let mut piece = vec![0; expected.len().clamp(1, 256 << 10)];
    let mut file = file.take(expected.len() as u64 + 1);
    loop {
        let read = file.read(&mut piece)?;
        let Some(rest) = expected.strip_prefix(&piece[..read]) else { return Ok(false) };
        expected = rest;
        if read == 0 {
            return Ok(expected.is_empty());
        }
    }
}

/// Sets a chunk's file aside as evidence; does nothing where there is none.
pub(crate) fn quarantine(layout: &Layout, id: ChunkId) -> io::Result<bool> {
    match fs::rename(layout.chunk(&id), free_in_quarantine(layout, id)?) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    sync_folder(&layout.quarantine())?;
    sync_folder(&layout.folder(&id))?;
    Ok(true)
}

/// Writes what a chunk without a file had for its bytes into the quarantine.
pub(crate) fn quarantine_bytes(layout: &Layout, id: ChunkId, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(free_in_quarantine(layout, id)?)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_folder(&layout.quarantine())
}

/// A name that nothing in the quarantine has.
fn free_in_quarantine(layout: &Layout, id: ChunkId) -> io::Result<PathBuf> {
    let mut names = (0..u32::MAX).map(|number| layout.quarantine().join(format!("{id}.{number}")));
    names.find(|path| !path.exists()).ok_or_else(|| io::Error::other("the quarantine is full"))
}
