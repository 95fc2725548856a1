//! Where the bytes of a chunk are: in a file of its own, or, where it is small, in a row of the
//! database, written in the transaction that enters it. The only file that knows.
//!
//! A small chunk costs a row in a commit that is due anyway, instead of a file and two or more syncs. Its bytes
//! are as durable as its row, come and go with it, and are verified on the way out like any others. A
//! database that is lost takes them along: they come back from the peers, or from what was set aside.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;

use bytes::Bytes;
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::version::Dot;
use rusqlite::{Connection, OptionalExtension as _, params};
use tracing::info;

use super::Store;
use super::chunk_file::{self, Sink};
use super::error::{DatabaseError, ReadError, WriteError};
use super::layout::Layout;
use super::references::insert_references;
use super::rows::{Held, held_at_0, insert_row};

/// Chunks up to so many bytes are kept in the database. DESIGN: those of 1 MiB and more are always files.
pub(super) const PACKED_BYTES: usize = 64 << 10;

/// A folder is listed where it holds at least so many of the chunks looked for; else each is looked up.
const LIST_FOLDER_FROM: usize = 4;

/// Where the bytes of a chunk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file of its name.
    File,
    /// In this row of `packed_chunks`.
    Row(i64),
}

/// What became of a small chunk that was to be entered.
enum Packed {
    /// It is stored; whether it was not before.
    Entered { new: bool },
    /// It has a file from before, which has to be looked at.
    HasFile,
}

/// A chunk that is stored here, and where; `None` where it is not, or is being deleted.
pub(super) fn find(db: &Connection, id: &ChunkId) -> Result<Option<(Held, Place)>, DatabaseError> {
    let mut statement =
        db.prepare_cached("SELECT size, verified_at, packed FROM chunks WHERE id = ?1 AND gone = 0")?;
    let mut rows = statement.query([id.to_string()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let place = row.get::<_, Option<i64>>(2)?.map_or(Place::File, Place::Row);
    Ok(Some((held_at_0(row)?, place)))
}

/// Drops the row of a chunk, with the bytes if they are in the database; says how many bytes it had.
/// A file is left: see [`unlink_files`].
pub(super) fn delete(db: &Connection, id: &ChunkId) -> rusqlite::Result<Option<u64>> {
    let deleted = db
        .prepare_cached("DELETE FROM chunks WHERE id = ?1 RETURNING size, packed")?
        .query_row([id.to_string()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)))
        .optional()?;
    let Some((size, packed)) = deleted else { return Ok(None) };
    if let Some(number) = packed {
        db.prepare_cached("DELETE FROM packed_chunks WHERE number = ?1")?.execute([number])?;
    }
    Ok(Some(u64::try_from(size).unwrap_or(0)))
}

impl Store {
    /// Stores verified bytes under a name and enters them. Keeps off whoever else works on the chunk.
    pub(super) async fn store_bytes(&self, chunk: Chunk, dots: Vec<Dot>) -> Result<(), WriteError> {
        if chunk.bytes().len() <= PACKED_BYTES {
            let (packed, references) = (chunk.clone(), dots.clone());
            let store = self.clone();
            let entered = self
                .execute(move |tx| match store.pack(tx.connection, &packed, &references) {
                    // Whatever it has written by then is rolled back.
                    Err(WriteError::Database(error)) => Err(error),
                    done => Ok(done),
                })
                .await?;
            match entered? {
                Packed::Entered { new } => {
                    if new {
                        self.add_totals(1, chunk.bytes().len() as u64);
                    }
                    return Ok(());
                }
                Packed::HasFile => {}
            }
        }
        let (id, size) = (chunk.id(), chunk.bytes().len() as u64);
        let (_alone, written) = self
            .alone_on_disk(&id, move |store| -> Result<(), WriteError> {
                if store.has_intact_file(&chunk)? {
                    return Ok(());
                }
                store.check_reserve(size)?;
                let mut sink = Sink::create_verified(&store.inner.layout, &chunk)?;
                sink.write(chunk.bytes())?;
                store.keep(sink)
            })
            .await;
        written?;
        self.enter(id, size, dots).await
    }

    /// Reads a chunk that is stored here and verifies it. Blocks.
    pub(super) fn read_bytes(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        let found = self.read_now(|db| {
            let Some((held, place)) = find(db, &id)? else { return Ok(None) };
            let bytes = match place {
                Place::File => None,
                Place::Row(number) => bytes_at(db, number)?,
            };
            Ok(Some((held, place, bytes)))
        })?;
        match found.ok_or(ReadError::Missing(id))? {
            (held, Place::File, _) => chunk_file::read(&self.inner.layout, id, held.size),
            (_, Place::Row(_), Some(bytes)) => Ok(Chunk::verify(id, bytes.into())?),
            // Deleted between the two queries.
            (_, Place::Row(_), None) => Err(ReadError::Missing(id)),
        }
    }

    /// Sets the bytes of a chunk aside as evidence, and forgets the chunk. Blocks.
    pub(super) fn set_aside(&self, id: ChunkId) -> Result<(), WriteError> {
        let path = self.inner.layout.chunk(&id);
        let packed = self.read_now(|db| match find(db, &id)? {
            Some((_, Place::Row(number))) => bytes_at(db, number),
            _ => Ok(None),
        })?;
        if let Some(bytes) = packed {
            chunk_file::quarantine_bytes(&self.inner.layout, id, &bytes)
                .map_err(WriteError::io("quarantine", &path))?;
        }
        let size = self.execute_now(move |tx| {
            let text = id.to_string();
            // References that were lost with a database are still lost once it is fetched anew.
            let lost = "INSERT INTO lost_references SELECT id FROM chunks WHERE id = ?1 AND recovered = 1
                        ON CONFLICT DO NOTHING";
            tx.connection.prepare_cached(lost)?.execute([text])?;
            Ok(delete(tx.connection, &id)?)
        })?;
        if let Some(size) = size {
            self.subtract_totals(1, size);
        }
        chunk_file::quarantine(&self.inner.layout, id).map_err(WriteError::io("quarantine", &path)).map(drop)
    }

    /// For each chunk whether its bytes are on the disk, unread. Blocks.
    ///
    /// # Errors
    /// The database failed.
    pub(super) fn bytes_present(&self, ids: &[ChunkId]) -> Result<Vec<bool>, DatabaseError> {
        let places: Vec<Option<Place>> = self.read_now(|db| {
            ids.iter()
                .map(|id| Ok(find(db, id)?.map(|(_, place)| place)))
                .collect::<Result<_, DatabaseError>>()
        })?;
        let layout = &self.inner.layout;
        let mut folders: HashMap<_, usize> = HashMap::new();
        for (id, place) in ids.iter().zip(&places) {
            if *place == Some(Place::File) {
                *folders.entry(layout.folder(id)).or_default() += 1;
            }
        }
        let mut listed: HashMap<_, HashSet<OsString>> = HashMap::new();
        for (folder, wanted) in folders {
            if wanted >= LIST_FOLDER_FROM {
                // A folder that cannot be read is as good as empty: each chunk in it is looked up again
                // before anything is done about it.
                let names =
                    fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
                listed.insert(folder, names.collect());
            }
        }
        let present = ids.iter().zip(places).map(|(id, place)| match place {
            None => false,
            // Bytes in the database come and go with their row.
            Some(Place::Row(_)) => true,
            Some(Place::File) => match listed.get(&layout.folder(id)) {
                Some(names) => names.contains(&OsString::from(id.to_string())),
                None => layout.chunk(id).exists(),
            },
        });
        Ok(present.collect())
    }

    /// Whether the chunk is entered and its file has these very bytes. A file without a row may not be
    /// durable, so it is written again.
    fn has_intact_file(&self, chunk: &Chunk) -> Result<bool, WriteError> {
        let path = self.inner.layout.chunk(&chunk.id());
        if !path.try_exists().map_err(WriteError::io("look for", &path))? {
            return Ok(false);
        }
        if self.read_now(|db| find(db, &chunk.id()))?.is_none() {
            return Ok(false);
        }
        // A file that cannot be read is replaced like one that is rotten.
        Ok(chunk_file::is_same(&self.inner.layout, chunk).unwrap_or(false))
    }

    /// Enters a small chunk with its bytes and references.
    fn pack(&self, db: &Connection, chunk: &Chunk, dots: &[Dot]) -> Result<Packed, WriteError> {
        let sql = |error: rusqlite::Error| WriteError::Database(error.into());
        let id = chunk.id();
        let row: Option<Option<i64>> = db
            .prepare_cached("SELECT packed FROM chunks WHERE id = ?1")
            .and_then(|mut statement| statement.query_row([id.to_string()], |row| row.get(0)).optional())
            .map_err(sql)?;
        let number = match row {
            Some(None) => return Ok(Packed::HasFile),
            Some(Some(number)) => {
                if bytes_at(db, number)?.is_none_or(|bytes| bytes != chunk.bytes().as_ref()) {
                    self.check_reserve(chunk.bytes().len() as u64)?;
                    db.prepare_cached("INSERT OR REPLACE INTO packed_chunks (number, bytes) VALUES (?1, ?2)")
                        .and_then(|mut statement| statement.execute(params![number, chunk.bytes().as_ref()]))
                        .map_err(sql)?;
                }
                number
            }
            None => {
                self.check_reserve(chunk.bytes().len() as u64)?;
                db.prepare_cached("INSERT INTO packed_chunks (bytes) VALUES (?1)")
                    .and_then(|mut statement| statement.insert([chunk.bytes().as_ref()]))
                    .map_err(sql)?
            }
        };
        let new = insert_row(db, &id, chunk.bytes().len() as u64, Some(number), false).map_err(sql)?;
        insert_references(db, &id, dots).map_err(sql)?;
        Ok(Packed::Entered { new })
    }
}

fn bytes_at(db: &Connection, number: i64) -> Result<Option<Vec<u8>>, DatabaseError> {
    Ok(db
        .prepare_cached("SELECT bytes FROM packed_chunks WHERE number = ?1")?
        .query_row([number], |row| row.get(0))
        .optional()?)
}

/// Takes over what small chunks a database that was set aside still gives. It is damaged, so each is
/// verified, and whatever fails ends it.
pub(super) fn salvage(from: &std::path::Path, into: &Connection) -> rusqlite::Result<u64> {
    let old = super::schema::open_reader(from)?;
    let mut statement =
        old.prepare("SELECT id, bytes FROM chunks JOIN packed_chunks ON packed = number WHERE gone = 0")?;
    let mut rows = statement.query([])?;
    let mut found = 0;
    while let Some(row) = rows.next()? {
        let Ok(id) = row.get_ref(0)?.as_str().unwrap_or_default().parse::<ChunkId>() else { continue };
        let bytes = Bytes::copy_from_slice(row.get_ref(1)?.as_blob().unwrap_or_default());
        let Ok(chunk) = Chunk::verify(id, bytes) else { continue };
        let number = into
            .prepare_cached("INSERT INTO packed_chunks (bytes) VALUES (?1)")?
            .insert([chunk.bytes().as_ref()])?;
        found += u64::from(insert_row(into, &id, chunk.bytes().len() as u64, Some(number), true)?);
    }
    if found > 0 {
        info!(chunks = found, "small chunks of the database that was set aside are known again");
    }
    Ok(found)
}

/// Unlinks the files of chunks durably; none need be there. The only place that does.
pub(super) fn unlink_files(layout: &Layout, ids: &[ChunkId]) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    for id in ids {
        match fs::remove_file(layout.chunk(id)) {
            Ok(()) => drop(folders.insert(layout.folder(id))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    folders.iter().try_for_each(|folder| chunk_file::sync_folder(folder))
}
