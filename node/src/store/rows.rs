//! The rows of chunks: one for each chunk that is stored here.

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::time::UnixMillis;
use rusqlite::{Connection, params};

use super::clock::wall_millis;
use super::error::DatabaseError;
use super::layout::Layout;

/// A chunk that is stored here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Bytes.
    pub size: u64,
    /// When its file was last hashed, by the wall clock.
    pub verified_at: Option<UnixMillis>,
}

/// Inserts the row of a stored chunk, or makes one that was *gone* valid; says whether there was none.
/// `packed`: the row of its bytes, where it has no file.
pub(super) fn insert_row(
    db: &Connection,
    id: &ChunkId,
    size: u64,
    packed: Option<i64>,
    recovered: bool,
) -> rusqlite::Result<bool> {
    let now = wall_millis();
    let text = id.to_string();
    let inserted = db
        .prepare_cached(
            "INSERT INTO chunks (id, size, path, created_at, verified_at, recovered, packed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6 OR EXISTS (SELECT 1 FROM lost_references WHERE chunk_id = ?1), ?7)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            text,
            i64::try_from(size).unwrap_or(i64::MAX),
            path_of(id, packed),
            now,
            (!recovered).then_some(now),
            recovered,
            packed
        ])?;
    if inserted == 0 && !recovered {
        db.prepare_cached("UPDATE chunks SET verified_at = ?2, gone = 0 WHERE id = ?1")?
            .execute(params![text, now])?;
    }
    Ok(inserted > 0)
}

/// Inserts the row of a chunk file that was found after the database was lost.
pub(super) fn insert_found(db: &Connection, id: &ChunkId, size: u64) -> rusqlite::Result<bool> {
    insert_row(db, id, size, None, true)
}

/// Whether the chunk has a row, be it *gone*.
pub(super) fn any_row(db: &Connection, id: &ChunkId) -> Result<bool, DatabaseError> {
    Ok(db.prepare_cached("SELECT 1 FROM chunks WHERE id = ?1")?.exists([id.to_string()])?)
}

/// A row that begins with size and time of verification.
pub(super) fn held_at_0(row: &rusqlite::Row<'_>) -> Result<Held, DatabaseError> {
    let verified: Option<i64> = row.get(1)?;
    Ok(Held {
        size: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        verified_at: verified.map(|at| UnixMillis(u64::try_from(at).unwrap_or(0))),
    })
}

/// How many chunks there are, and their bytes.
pub(super) fn totals(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    db.query_row("SELECT count(*), coalesce(sum(size), 0) FROM chunks", [], |row| {
        let [count, bytes]: [i64; 2] = [row.get(0)?, row.get(1)?];
        Ok((u64::try_from(count).unwrap_or(0), u64::try_from(bytes).unwrap_or(0)))
    })
}

/// What the column `path` says: where a person would look.
fn path_of(id: &ChunkId, packed: Option<i64>) -> String {
    packed.map_or_else(|| Layout::relative(id), |_| "kepler.db".to_owned())
}
