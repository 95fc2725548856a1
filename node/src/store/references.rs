//! References: what keeps a chunk from being collected.
//!
//! A reference is (chunk, dot). It is recorded in the transaction that enters the chunk or answers
//! that it is here. Whether one has ended is judged from the catalog's tables, by the rule of
//! `protocol::replicator`.

use std::collections::BTreeMap;

use kepler_protocol::catalog::seen::Seen;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::replicator::Faults;
use kepler_protocol::replicator::rules::{self, Dropped, Reference};
use kepler_protocol::version::{Dot, Origin};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Store;
use super::catalog::{self, all, damaged};
use super::error::DatabaseError;
use super::leaving;

/// What keeps a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its bytes.
    pub size: u64,
    /// The references that have not ended.
    pub dots: Vec<Dot>,
    /// Whether others may have been lost with a database.
    pub recovered: bool,
}

/// Judges references by what one transaction sees of the catalog; keeps what it has read of it.
pub(super) struct Judge<'a> {
    db: &'a Connection,
    seen: Seen,
    /// Origins that were looked up, and whether they are of a database that was dropped.
    known: BTreeMap<Origin, bool>,
    /// Read when the first origin is looked up.
    dropped: Option<Dropped>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self { db, seen: Seen::default(), known: BTreeMap::new(), dropped: None }
    }

    /// What a reference under `dot` is worth.
    pub(super) fn judge(&mut self, dot: &Dot) -> Result<Reference, DatabaseError> {
        if catalog::survives(self.db, dot)? {
            return Ok(Reference::Live);
        }
        let declared = match self.known.get(&dot.origin) {
            Some(declared) => *declared,
            None => {
                if let Some(set) = catalog::seen_of(self.db, &dot.origin)? {
                    self.seen.set_origin(dot.origin, set);
                }
                let dropped = match &mut self.dropped {
                    Some(dropped) => dropped,
                    none => none.insert(leaving::dropped_in(self.db)?),
                };
                let declared = rules::is_dropped(&dot.origin, dropped);
                self.known.insert(dot.origin, declared);
                declared
            }
        };
        Ok(Reference::judge(dot, &self.seen, false, declared, Faults::default()))
    }

    /// The references of a chunk, judged.
    pub(super) fn references(&mut self, id: &ChunkId) -> Result<BTreeMap<Dot, Reference>, DatabaseError> {
        let dots = dots_of(self.db, id)?;
        dots.into_iter().map(|dot| Ok((dot, self.judge(&dot)?))).collect()
    }
}

fn dots_of(db: &Connection, id: &ChunkId) -> Result<Vec<Dot>, DatabaseError> {
    let mut statement =
        db.prepare_cached("SELECT dot FROM chunk_references WHERE chunk_id = ?1 ORDER BY dot")?;
    all(&mut statement, [id.to_string()], |row| {
        row.get::<_, String>(0)?.parse().map_err(|_| damaged("a dot"))
    })
}

impl Store {
    /// The dots that refer to a chunk, by token.
    ///
    /// # Errors
    /// The database failed.
    pub async fn references(&self, id: ChunkId) -> Result<Vec<Dot>, DatabaseError> {
        self.query(move |db| dots_of(db, &id)).await
    }

    /// What keeps a chunk; `None` if it is not here.
    ///
    /// # Errors
    /// The database failed.
    pub async fn kept_references(&self, id: ChunkId) -> Result<Option<Kept>, DatabaseError> {
        self.query(move |db| {
            let mut row =
                db.prepare_cached("SELECT size, recovered FROM chunks WHERE id = ?1 AND gone = 0")?;
            let row = row.query_row([id.to_string()], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
            let Some((size, recovered)) = row.optional()? else { return Ok(None) };
            let judged = Judge::new(db).references(&id)?;
            let kept = judged.into_iter().filter(|(_, worth)| *worth != Reference::Ended);
            let dots = kept.map(|(dot, _)| dot).collect();
            Ok(Some(Kept { size: u64::try_from(size).unwrap_or(0), dots, recovered }))
        })
        .await
    }

    /// Whether a chunk that cannot be read here should be here: references to it have not ended, or may have
    /// been lost with a database. Then its bytes were lost or set aside. One that this node never had, has
    /// collected or is deleting is not.
    ///
    /// # Errors
    /// The database failed.
    pub async fn is_lost(&self, id: ChunkId) -> Result<bool, DatabaseError> {
        self.query(move |db| {
            let mut row = db.prepare_cached("SELECT gone, recovered FROM chunks WHERE id = ?1")?;
            let row = row.query_row([id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)));
            match row.optional()? {
                Some((true, _)) => return Ok(false),
                Some((false, true)) => return Ok(true),
                Some((false, false)) | None => {}
            }
            let mut lost = db.prepare_cached("SELECT 1 FROM lost_references WHERE chunk_id = ?1")?;
            if lost.exists([id.to_string()])? {
                return Ok(true);
            }
            let judged = Judge::new(db).references(&id)?;
            Ok(judged.values().any(|worth| *worth != Reference::Ended))
        })
        .await
    }

    /// Notes that references of a chunk may have been lost: it is never collected for want of one.
    ///
    /// # Errors
    /// The database failed.
    pub async fn mark_recovered(&self, id: ChunkId) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            let mut update = tx.connection.prepare_cached("UPDATE chunks SET recovered = 1 WHERE id = ?1")?;
            update.execute([id.to_string()])?;
            Ok(())
        })
        .await
    }
}

pub(super) fn insert_references(db: &Connection, id: &ChunkId, dots: &[Dot]) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO chunk_references (chunk_id, dot) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    if dots.is_empty() {
        return Ok(());
    }
    let id = id.to_string();
    for dot in dots {
        statement.execute(params![id, dot.to_string()])?;
    }
    // Whatever waited for the chunk to be collected waits anew, if it comes to that again.
    db.prepare_cached("DELETE FROM unreferenced WHERE chunk_id = ?1")?.execute([id])?;
    Ok(())
}
