//! Chunks: storing, adopting, reading, setting aside.
//!
//! A chunk is stored when its row is committed, and the row is written after file and folder are
//! durable. Operations on the file of one chunk exclude each other. A row marked *gone* is not there
//! for anybody, until the chunk is stored anew.

use bytes::{Bytes, BytesMut};
use kepler_protocol::chunk::{Chunk, ChunkId, MAX_CHUNK_BYTES};
use kepler_protocol::version::Dot;
use rusqlite::params;
use tokio::task::JoinHandle;
use tracing::info;

use super::chunk_file::{self, Sink};
use super::clock::wall_millis;
use super::contents::{self, PACKED_BYTES};
use super::error::{DatabaseError, ReadError, WriteError};
use super::references::insert_references;
use super::rows::{Held, any_row, held_at_0, insert_row};
use super::{Store, recover};

/// Bytes that an incoming chunk gathers before they are hashed and written in one go.
const PIECE: usize = 256 << 10;

/// What is to become of a chunk that the disk fails to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It stays, and may be read later.
    Stays,
    /// It is set aside like one that is rotten.
    SetAside,
}

/// What a second look at a chunk has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is intact.
    Intact,
    /// It was rotten, gone or given up: it is set aside.
    SetAside,
    /// The disk fails to give it; it stays.
    Unreadable,
}

impl Store {
    /// Stores a chunk and records its references; harmless to repeat. On success both are durable.
    ///
    /// # Errors
    /// See [`WriteError`]; the chunk is then not vouched for.
    pub async fn put(&self, chunk: Chunk, dots: &[Dot]) -> Result<(), WriteError> {
        self.store_bytes(chunk, dots.to_vec()).await
    }

    /// Begins to store a chunk whose bytes are still on their way.
    ///
    /// # Errors
    /// [`WriteError::DiskFull`] (of at most 256 KiB only when it is finished), [`WriteError::Size`] where
    /// no chunk is as large, or the disk failed.
    pub async fn receive(&self, id: ChunkId, size: u64) -> Result<Incoming, WriteError> {
        if size > MAX_CHUNK_BYTES as u64 {
            return Err(WriteError::Size { id, expected: MAX_CHUNK_BYTES as u64, actual: size });
        }
        // What fits in one piece touches the disk once, when it is complete.
        let state = match size <= PIECE as u64 {
            true => State::Fresh,
            false => State::Idle(self.on_disk(move |store| store.create_sink(id, size)).await?),
        };
        Ok(Incoming { store: self.clone(), id, size, taken: 0, gathered: BytesMut::new(), state })
    }

    /// Records references of a chunk that is here already, after hashing its file again. `false` if it
    /// is not here.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if it is rotten: quarantine it.
    pub async fn adopt(&self, id: ChunkId, dots: &[Dot]) -> Result<bool, ReadError> {
        let (_alone, read) = self.alone_on_disk(&id, move |store| store.read_bytes(id)).await;
        match read {
            Ok(_) => {}
            Err(ReadError::Missing(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        let dots = dots.to_vec();
        let adopted = self
            .execute(move |tx| {
                let live = tx
                    .connection
                    .prepare_cached("UPDATE chunks SET verified_at = ?2 WHERE id = ?1 AND gone = 0")?
                    .execute(params![id.to_string(), wall_millis()])?;
                if live > 0 {
                    insert_references(tx.connection, &id, &dots)?;
                }
                Ok(live > 0)
            })
            .await?;
        Ok(adopted)
    }

    /// Reads a chunk and verifies it.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if it is rotten: [`Store::quarantine`] it.
    pub async fn read(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        self.on_disk(move |store| store.read_bytes(id)).await
    }

    /// Sets a chunk's file aside as evidence and forgets the chunk, but not its references: they hold
    /// again once it is fetched anew. Reads the file again first: nothing is done if it is intact, or if the disk
    /// fails to give it and `unreadable` ones are to stay.
    ///
    /// # Errors
    /// The disk or the database failed.
    pub async fn quarantine(&self, id: ChunkId, unreadable: Unreadable) -> Result<Looked, WriteError> {
        let (alone, read) = self.alone_on_disk(&id, move |store| store.read_bytes(id)).await;
        match read {
            // Somebody was quicker, and it has been replaced.
            Ok(_) => return Ok(Looked::Intact),
            Err(ReadError::Corrupt(_) | ReadError::Missing(_)) => {}
            Err(ReadError::Database(error)) => return Err(error.into()),
            Err(ReadError::Io { .. }) if unreadable == Unreadable::Stays => return Ok(Looked::Unreadable),
            Err(ReadError::Io { .. }) => {}
        }
        self.on_disk(move |store| {
            let _alone = alone;
            store.set_aside(id)
        })
        .await?;
        Ok(Looked::SetAside)
    }

    /// Which of these chunks are stored here, in the order asked.
    ///
    /// # Errors
    /// The database failed.
    pub async fn held(&self, ids: Vec<ChunkId>) -> Result<Vec<Option<Held>>, DatabaseError> {
        self.query(move |db| ids.iter().map(|id| Ok(contents::find(db, id)?.map(|(held, _)| held))).collect())
            .await
    }

    /// Chunks that are stored here, in the order of their CIDs, after `after`, at most `limit`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn chunks_after(
        &self,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Vec<(ChunkId, Held)>, DatabaseError> {
        self.query(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT size, verified_at, id FROM chunks WHERE id > ?1 AND gone = 0 ORDER BY id LIMIT ?2",
            )?;
            let after = after.map_or_else(String::new, |id| id.to_string());
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            super::catalog::all(&mut statement, params![after, limit], |row| {
                let id: String = row.get(2)?;
                let id = id.parse().map_err(|_| super::catalog::damaged("a chunk id"))?;
                Ok((id, held_at_0(row)?))
            })
        })
        .await
    }

    /// Writes the row and the references of a chunk whose file is durable.
    pub(super) async fn enter(&self, id: ChunkId, size: u64, dots: Vec<Dot>) -> Result<(), WriteError> {
        let inserted = self
            .execute(move |tx| {
                let inserted = insert_row(tx.connection, &id, size, None, false)?;
                insert_references(tx.connection, &id, &dots)?;
                Ok(inserted)
            })
            .await?;
        if inserted {
            self.add_totals(1, size);
        }
        Ok(())
    }

    fn create_sink(&self, id: ChunkId, size: u64) -> Result<Sink, WriteError> {
        self.check_reserve(size)?;
        Sink::create(&self.inner.layout, id, size)
    }

    /// Gives chunk files without a row one. Blocks.
    pub(super) fn adopt_strays_now(&self) -> Result<(), DatabaseError> {
        let mut strays = Vec::new();
        let mut failure = None;
        let scanned = recover::scan(&self.inner.layout, |id, size| {
            match self.read_now(|db| any_row(db, &id)) {
                Ok(true) => {}
                Ok(false) => strays.push((id, size)),
                Err(error) => failure = Some(error),
            }
            failure.is_none()
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if let Err(error) = scanned {
            return Err(DatabaseError::Stopped(error.to_string().into()));
        }
        let mut adopted = 0_u64;
        for (id, size) in strays {
            let stripe = self.stripe(&id);
            let _alone = stripe.blocking_lock();
            // Sealed and durable is what a row promises; this file may be neither.
            if chunk_file::read(&self.inner.layout, id, size).is_err()
                || chunk_file::sync_folder(&self.inner.layout.folder(&id)).is_err()
            {
                continue;
            }
            let inserted =
                self.execute_now(move |tx| Ok(insert_row(tx.connection, &id, size, None, false)?))?;
            if inserted {
                self.add_totals(1, size);
                adopted += 1;
            }
        }
        if adopted > 0 {
            info!(chunks = adopted, "chunk files that a crash left without a row have one again");
        }
        Ok(())
    }
}

/// A chunk whose bytes are on their way in. They are hashed and written while more arrive; dropped
/// before [`Incoming::finish`], it leaves nothing.
pub struct Incoming {
    store: Store,
    id: ChunkId,
    size: u64,
    taken: u64,
    gathered: BytesMut,
    state: State,
}

enum State {
    /// No file yet.
    Fresh,
    Idle(Sink),
    Writing(JoinHandle<Result<Sink, WriteError>>),
    Failed,
}

impl Incoming {
    /// The chunk that is announced.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Appends bytes. Waits while what came before is being written, so at most two pieces of 256 KiB
    /// are in memory beside `bytes`.
    ///
    /// # Errors
    /// More bytes than announced, or the disk failed. The chunk is lost then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        if self.taken > self.size {
            self.state = State::Failed;
            return Err(WriteError::Size { id: self.id, expected: self.size, actual: self.taken });
        }
        if self.gathered.is_empty() && bytes.len() >= PIECE {
            return self.pass_on(bytes).await;
        }
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= PIECE {
            let piece = self.gathered.split().freeze();
            self.pass_on(piece).await?;
        }
        Ok(())
    }

    /// Verifies size and hash, makes the chunk durable and records its references.
    ///
    /// # Errors
    /// See [`WriteError`]; the chunk is then not stored.
    pub async fn finish(mut self, dots: &[Dot]) -> Result<(), WriteError> {
        let sink = self.settle().await?;
        let rest = self.gathered.split().freeze();
        let (id, size) = (self.id, self.size);
        if sink.is_none() && size <= PACKED_BYTES as u64 {
            if rest.len() as u64 != size {
                return Err(self.broken());
            }
            let chunk = Chunk::verify(id, rest)?;
            return self.store.store_bytes(chunk, dots.to_vec()).await;
        }
        let (_alone, kept) = self
            .store
            .alone_on_disk(&self.id, move |store| {
                let mut sink = sink.map_or_else(|| store.create_sink(id, size), Ok)?;
                sink.write(&rest)?;
                store.keep(sink)
            })
            .await;
        kept?;
        self.store.enter(self.id, self.size, dots.to_vec()).await
    }

    async fn pass_on(&mut self, piece: Bytes) -> Result<(), WriteError> {
        let sink = self.settle().await?;
        let (store, id, size) = (self.store.clone(), self.id, self.size);
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            let mut sink = sink.map_or_else(|| store.create_sink(id, size), Ok)?;
            sink.write(&piece)?;
            Ok(sink)
        }));
        Ok(())
    }

    /// Waits for the write under way, and takes the file if there is one yet.
    async fn settle(&mut self) -> Result<Option<Sink>, WriteError> {
        if let State::Writing(task) = &mut self.state {
            // Kept in place while it is awaited: if the caller gives up, `finish` finds bytes missing.
            let written = task.await;
            self.state = State::Failed;
            return written.unwrap_or_else(|_| Err(self.broken())).map(Some);
        }
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Fresh => Ok(None),
            State::Idle(sink) => Ok(Some(sink)),
            State::Writing(_) | State::Failed => Err(self.broken()),
        }
    }

    fn broken(&self) -> WriteError {
        WriteError::Size { id: self.id, expected: self.size, actual: self.taken }
    }
}
