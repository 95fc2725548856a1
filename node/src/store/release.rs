//! Promises to keep chunks, and the deletion of chunks.
//!
//! Each deletion begins with one transaction that asks the rule of `protocol::replicator` about facts
//! read in that transaction, and marks the row *gone*. From that commit on nobody is served the chunk,
//! it counts as no hit, and nobody is promised it. Then its bytes are unlinked, their folder is synced,
//! and the row goes, with its references and marks. Invariants:
//!
//! - All of it happens while no other operation on the chunk's file runs, so a chunk that is stored
//!   anew meanwhile waits until the old bytes are gone.
//! - A crash in between is finished when the store is opened, before anything else is done.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::replicator::Faults;
use kepler_protocol::replicator::rules::{self, Claim, Facts, Kept, Reference};
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use rusqlite::{Connection, OptionalExtension as _, params};
use tracing::warn;

use super::Store;
use super::catalog::all;
use super::clock::{Clock, to_millis, wall_millis};
use super::contents;
use super::error::{DatabaseError, ReadError};
use super::holdings::unreferenced_for;
use super::job::Tx;
use super::layout::Layout;
use super::references::{Judge, insert_references};

/// Chunks of one collection that are deleted at the same time.
const DELETED_AT_ONCE: usize = 16;

/// What a deletion asks of the rest of the node, inside its transaction.
pub trait Conditions: Clone + Send + Sync + 'static {
    /// Whether so many members are dead that nothing is unlinked.
    fn breaker(&self) -> bool;
    /// Whether the catalog is ready.
    fn ready(&self) -> bool;
}

/// Deletions that are tried again at a time.
const RETRIED: usize = 64;

impl Store {
    /// Promises to keep a chunk for [`rules::PROMISE`] from the commit on, having hashed its file and
    /// adopted `dots`. `false` if it is not here, or is being deleted.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if it is rotten: quarantine it.
    pub async fn promise(&self, id: ChunkId, dots: Vec<Dot>) -> Result<bool, ReadError> {
        let (_alone, read) = self.alone_on_disk(&id, move |store| store.verify_bytes(id)).await;
        match read {
            Ok(()) => {}
            Err(ReadError::Missing(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        let promised = self
            .execute(move |tx| {
                let db = tx.connection;
                let mut row = db.prepare_cached("SELECT gone FROM chunks WHERE id = ?1")?;
                let gone: Option<bool> = row.query_row([id.to_string()], |row| row.get(0)).optional()?;
                if !rules::promise(gone.is_some(), gone == Some(true), Faults::default()) {
                    return Ok(false);
                }
                db.prepare_cached("UPDATE chunks SET verified_at = ?2 WHERE id = ?1")?
                    .execute(params![id.to_string(), wall_millis()])?;
                insert_references(db, &id, &dots)?;
                // A margin for the time until the commit, from which the promise counts.
                let until = tx.running.saturating_add(to_millis(rules::PROMISE + COMMIT_MARGIN));
                db.prepare_cached(
                    "INSERT INTO promises (chunk_id, until) VALUES (?1, ?2)
                     ON CONFLICT DO UPDATE SET until = excluded.until",
                )?
                .execute(params![id.to_string(), until])?;
                Ok(true)
            })
            .await?;
        Ok(promised)
    }

    /// Forgets promises that are over.
    ///
    /// # Errors
    /// The database failed.
    pub async fn forget_promises(&self) -> Result<(), DatabaseError> {
        self.execute(|tx| {
            tx.connection.prepare_cached("DELETE FROM promises WHERE until <= ?1")?.execute([tx.running])?;
            Ok(())
        })
        .await
    }

    /// Deletes a copy whose owners have vouched for theirs; returns the bytes freed, or why it stays.
    ///
    /// # Errors
    /// The database failed.
    pub async fn release(
        &self,
        claim: Claim,
        conditions: impl Conditions,
    ) -> Result<Result<u64, Kept>, DatabaseError> {
        let clock = self.inner.clock;
        self.delete(claim.chunk, move |facts| {
            rules::release(&claim, facts, clock.now(), conditions.breaker(), Faults::default())
        })
        .await
    }

    /// Deletes those of these chunks that nothing refers to for `grace` of running time; returns how many
    /// and how many bytes.
    ///
    /// # Errors
    /// The database failed; some may be deleted.
    pub async fn collect(
        &self,
        chunks: Vec<ChunkId>,
        grace: Duration,
        conditions: impl Conditions,
    ) -> Result<(u64, u64), DatabaseError> {
        let clock = self.inner.clock;
        let deleting = futures::stream::iter(chunks).map(|id| {
            let conditions = conditions.clone();
            self.delete(id, move |facts| {
                let (ready, breaker) = (conditions.ready(), conditions.breaker());
                rules::collect(facts, clock.now(), grace, ready, breaker, Faults::default())
            })
        });
        let mut deleting = std::pin::pin!(deleting.buffer_unordered(DELETED_AT_ONCE));
        let (mut count, mut freed) = (0, 0);
        while let Some(deleted) = deleting.next().await {
            if let Ok(bytes) = deleted? {
                count += 1;
                freed += bytes;
            }
        }
        Ok((count, freed))
    }

    /// Deletes a chunk if `rule` agrees to the facts.
    async fn delete(
        &self,
        id: ChunkId,
        rule: impl FnOnce(&Facts) -> Result<(), Kept> + Send + 'static,
    ) -> Result<Result<u64, Kept>, DatabaseError> {
        // In a task of its own: given up in the middle, it would leave a chunk that is gone until the
        // next start.
        let store = self.clone();
        let deleting = tokio::spawn(async move {
            let alone = store.stripe(&id).lock_owned().await;
            let clock = store.inner.clock;
            let marked = store.execute(move |tx| mark_gone(tx, &clock, &id, rule)).await?;
            let size = match marked {
                Ok(size) => size,
                Err(kept) => return Ok(Err(kept)),
            };
            store.finish_deletion(id, size).await?;
            drop(alone);
            Ok(Ok(size))
        });
        match deleting.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(self.why_stopped()),
            },
        }
    }

    /// Unlinks a chunk that is marked gone and drops its row. To be called alone with the chunk.
    async fn finish_deletion(&self, id: ChunkId, size: u64) -> Result<(), DatabaseError> {
        let unlinked = self.on_disk(move |store| contents::unlink_files(&store.inner.layout, &[id])).await;
        if let Err(error) = unlinked {
            // It stays marked, and is tried again.
            warn!(chunk = %id, %error, "could not unlink a chunk that is gone");
            return Ok(());
        }
        // A small chunk that was stored anew meanwhile is there again, and counted as before.
        if self.execute(move |tx| Ok(forget_gone(tx.connection, &id)?)).await? {
            self.subtract_totals(1, size);
        }
        Ok(())
    }

    /// Tries deletions again that the disk failed: until then this node neither has such a chunk nor takes it. A
    /// few of them, those after `after`; returns after which to go on, none for the first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn retry_deletions(&self, after: Option<ChunkId>) -> Result<Option<ChunkId>, DatabaseError> {
        let gone: Vec<ChunkId> = self.query(move |db| gone(db, after, RETRIED)).await?;
        let next = gone.last().filter(|_| gone.len() == RETRIED).copied();
        for id in gone {
            // Whoever is about to delete it has finished then.
            let alone = self.stripe(&id).lock_owned().await;
            let size = self.query(move |db| gone_size(db, &id)).await?;
            if let Some(size) = size {
                self.finish_deletion(id, size).await?;
            }
            drop(alone);
        }
        Ok(next)
    }

    /// Hashes the bytes of a chunk. Blocks.
    fn verify_bytes(&self, id: ChunkId) -> Result<(), ReadError> {
        self.read_bytes(id).map(drop)
    }
}

/// How long a commit may take after its transaction looked at the clock.
const COMMIT_MARGIN: Duration = Duration::from_secs(10);

/// Asks the rule, and marks the chunk; returns its size.
fn mark_gone(
    tx: &Tx<'_>,
    clock: &Clock,
    id: &ChunkId,
    rule: impl FnOnce(&Facts) -> Result<(), Kept>,
) -> Result<Result<u64, Kept>, DatabaseError> {
    let db = tx.connection;
    let text = id.to_string();
    let mut statement = db.prepare_cached("SELECT size, recovered FROM chunks WHERE id = ?1 AND gone = 0")?;
    let row: Option<(i64, bool)> =
        statement.query_row([&text], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let references = match row {
        Some(_) => Judge::new(db).references(id)?,
        None => BTreeMap::new(),
    };
    let facts = Facts {
        here: row.is_some(),
        promised_until: promised_until(db, clock, &text)?,
        references,
        recovered: row.is_some_and(|(_, recovered)| recovered),
        unreferenced_for: unreferenced_for(db, id, tx.running)?,
    };
    if let Err(kept) = rule(&facts) {
        return Ok(Err(kept));
    }
    db.prepare_cached("UPDATE chunks SET gone = 1 WHERE id = ?1")?.execute([&text])?;
    // Copies that are owed under references that have ended are owed no more.
    for (dot, _) in facts.references.iter().filter(|(_, worth)| **worth == Reference::Ended) {
        super::queue::forget_dot_of(db, id, dot)?;
    }
    Ok(Ok(row.map_or(0, |(size, _)| u64::try_from(size).unwrap_or(0))))
}

fn promised_until(db: &Connection, clock: &Clock, text: &str) -> Result<Option<Instant>, DatabaseError> {
    let mut statement = db.prepare_cached("SELECT until FROM promises WHERE chunk_id = ?1")?;
    let until: Option<i64> = statement.query_row([text], |row| row.get(0)).optional()?;
    Ok(until.map(|until| clock.instant_of(until)))
}

/// Drops what is known of a chunk that is marked gone and has no file; says whether it was.
fn forget_gone(db: &Connection, id: &ChunkId) -> rusqlite::Result<bool> {
    let text = id.to_string();
    if !db.prepare_cached("SELECT 1 FROM chunks WHERE id = ?1 AND gone = 1")?.exists([&text])? {
        return Ok(false);
    }
    contents::delete(db, id)?;
    for sql in [
        "DELETE FROM chunk_references WHERE chunk_id = ?1",
        "DELETE FROM surplus WHERE chunk_id = ?1",
        "DELETE FROM unreferenced WHERE chunk_id = ?1",
        "DELETE FROM promises WHERE chunk_id = ?1",
        // What is deleted by the rule has its copies elsewhere, or is wanted by nobody.
        "DELETE FROM lost_references WHERE chunk_id = ?1",
    ] {
        db.prepare_cached(sql)?.execute([&text])?;
    }
    Ok(true)
}

/// Chunks marked gone, those after `after`, at most `limit`. What does not parse was not written by us; it is never served either.
fn gone(db: &Connection, after: Option<ChunkId>, limit: usize) -> Result<Vec<ChunkId>, DatabaseError> {
    let sql = "SELECT id FROM chunks WHERE gone = 1 AND id > ?1 ORDER BY id LIMIT ?2";
    let mut statement = db.prepare_cached(sql)?;
    let after = after.map_or_else(String::new, |id| id.to_string());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let texts: Vec<String> = all(&mut statement, params![after, limit], |row| Ok(row.get(0)?))?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The size of a chunk that is marked gone.
fn gone_size(db: &Connection, id: &ChunkId) -> Result<Option<u64>, DatabaseError> {
    let mut row = db.prepare_cached("SELECT size FROM chunks WHERE id = ?1 AND gone = 1")?;
    let size: Option<i64> = row.query_row([id.to_string()], |row| row.get(0)).optional()?;
    Ok(size.map(|size| u64::try_from(size).unwrap_or(0)))
}

/// Finishes deletions that a crash cut short. For the opening of the store.
pub(super) fn finish_deletions(db: &Connection, layout: &Layout) -> Result<usize, DatabaseError> {
    let gone = gone(db, None, usize::MAX)?;
    if let Err(error) = contents::unlink_files(layout, &gone) {
        warn!(%error, "could not unlink chunks that are gone: they are tried again later");
        return Ok(0);
    }
    for id in &gone {
        forget_gone(db, id)?;
    }
    Ok(gone.len())
}

/// Begins promises that were given by an earlier process from the start again.
pub(super) fn renew_promises(db: &Connection, now: i64) -> rusqlite::Result<()> {
    db.execute("UPDATE promises SET until = ?1", [now.saturating_add(to_millis(rules::PROMISE))])?;
    Ok(())
}
