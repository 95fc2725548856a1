//! The replication queue: copies that this node owes to others, delivered at least once.
//!
//! A row is (chunk, target); the dots that ask for it are beside it. Back-off is running time on disk,
//! so restarts neither hurry nor lose a delivery. A row that was handed out is leased in memory: it is
//! not handed out again until it is answered or the lease ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::rules::Reference;
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use rusqlite::{Connection, Row, params};

use super::catalog::{all, damaged};
use super::clock::{to_millis, wall_millis};
use super::error::DatabaseError;
use super::references::Judge;
use super::{Store, lock};

/// How long a row that was handed out is not handed out again without an answer.
const LEASE: Duration = Duration::from_secs(120);

/// The wait after the first failure; doubled by each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The most rows handed out at once.
const MAX_DUE: usize = 4_096;

/// A copy owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueRow {
    /// The chunk.
    pub chunk: ChunkId,
    /// Who is to have it.
    pub target: NodeId,
    /// The version that refers to it.
    pub dot: Dot,
}

/// A row to be delivered now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRow {
    /// The chunk.
    pub chunk: ChunkId,
    /// Who is to have it.
    pub target: NodeId,
    /// Failures so far.
    pub attempts: u32,
    /// The references to hand over with it.
    pub dots: Vec<Dot>,
}

/// The queue as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Rows.
    pub depth: u64,
    /// Running time since the oldest was queued.
    pub oldest: Option<Duration>,
    /// Rows by target.
    pub targets: BTreeMap<NodeId, u64>,
}

/// Rows that are handed out, and until when.
pub(super) type Leases = HashMap<(ChunkId, NodeId), Instant>;

impl Store {
    /// Queues copies, due at once. A row that waits already gets the further dot.
    ///
    /// # Errors
    /// The database failed; nothing is queued.
    pub async fn enqueue(&self, rows: Vec<QueueRow>) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            let db = tx.connection;
            let mut row = db.prepare_cached(
                "INSERT INTO replication_queue (chunk_id, target_node_id, enqueued, due) VALUES (?1, ?2, ?3, 0)
                 ON CONFLICT DO NOTHING",
            )?;
            let mut dot = db.prepare_cached(
                "INSERT INTO replication_queue_dots (chunk_id, target_node_id, dot) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO NOTHING",
            )?;
            for QueueRow { chunk, target, dot: wanted } in &rows {
                let chunk = chunk.to_string();
                row.execute(params![chunk, target.as_str(), tx.running])?;
                dot.execute(params![chunk, target.as_str(), wanted.to_string()])?;
            }
            Ok(())
        })
        .await
    }

    /// Hands out up to `limit` rows for `target` that are due, new ones first, and leases them for two
    /// minutes. Answer each with [`Store::delivered`] or [`Store::failed`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn due(&self, target: NodeId, limit: usize) -> Result<Vec<DueRow>, DatabaseError> {
        let limit = limit.min(MAX_DUE);
        let now = self.inner.clock.running_millis();
        let store = self.clone();
        self.query(move |db| {
            let mut found = Vec::new();
            // Held while rows are chosen, so that two callers never get the same one.
            let mut leases = lock(&store.inner.leases);
            let clock = store.now();
            leases.retain(|_, until| *until > clock);
            let mut statement = db.prepare_cached(
                "SELECT chunk_id, attempts FROM replication_queue WHERE target_node_id = ?1 AND due <= ?2
                 ORDER BY due",
            )?;
            let mut rows = statement.query(params![target.as_str(), now])?;
            while found.len() < limit {
                let Some(row) = rows.next()? else { break };
                let chunk = chunk_at(row, 0)?;
                if leases.contains_key(&(chunk, target)) {
                    continue;
                }
                leases.insert((chunk, target), clock + LEASE);
                found.push(DueRow { chunk, target, attempts: row.get(1)?, dots: dots(db, chunk, target)? });
            }
            Ok(found)
        })
        .await
    }

    /// Removes rows whose target has the chunk with the dots that were handed over, and returns the
    /// dots to which less is owed now. A dot that was added meanwhile keeps its row.
    ///
    /// # Errors
    /// The database failed: the rows will be delivered again.
    pub async fn delivered(&self, rows: Vec<DueRow>) -> Result<Vec<Dot>, DatabaseError> {
        let keys: Vec<_> = rows.iter().map(|row| (row.chunk, row.target)).collect();
        let result = self
            .execute(move |tx| {
                let mut touched = BTreeSet::new();
                for row in &rows {
                    remove_dots(tx.connection, row)?;
                    remove_empty(tx.connection, row)?;
                    touched.extend(row.dots.iter().copied());
                }
                Ok(touched.into_iter().collect())
            })
            .await;
        self.end_leases(&keys);
        result
    }

    /// Puts rows back, each to be tried again after a wait that doubles from 1 s to 60 s. A row whose
    /// every reference has ended is dropped.
    ///
    /// # Errors
    /// The database failed.
    pub async fn failed(&self, rows: Vec<DueRow>) -> Result<(), DatabaseError> {
        let keys: Vec<_> = rows.iter().map(|row| (row.chunk, row.target)).collect();
        let result = self
            .execute(move |tx| {
                let mut update = tx.connection.prepare_cached(
                    "UPDATE replication_queue SET attempts = attempts + 1, last_attempt = ?3, due = ?4
                     WHERE chunk_id = ?1 AND target_node_id = ?2",
                )?;
                let mut judge = Judge::new(tx.connection);
                for row in &rows {
                    // What was deleted meanwhile is owed to nobody, and may be nowhere any more.
                    let mut ended = DueRow { dots: Vec::new(), ..row.clone() };
                    for dot in &row.dots {
                        if judge.judge(dot)? == Reference::Ended {
                            ended.dots.push(*dot);
                        }
                    }
                    if !ended.dots.is_empty() {
                        remove_dots(tx.connection, &ended)?;
                        remove_empty(tx.connection, &ended)?;
                    }
                    let due = tx.running.saturating_add(to_millis(back_off(row.attempts, &row.chunk)));
                    update.execute(params![
                        row.chunk.to_string(),
                        row.target.as_str(),
                        wall_millis(),
                        due
                    ])?;
                }
                Ok(())
            })
            .await;
        self.end_leases(&keys);
        result
    }

    /// Makes all rows of `target` due: it turned alive.
    ///
    /// # Errors
    /// The database failed.
    pub async fn retry_now(&self, target: NodeId) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            tx.connection
                .prepare_cached("UPDATE replication_queue SET due = 0 WHERE target_node_id = ?1 AND due > 0")?
                .execute([target.as_str()])?;
            Ok(())
        })
        .await
    }

    /// Drops what is owed under a dot that will never be a version. A row that other dots ask for stays
    /// for them. In steps, so that a large file holds up nobody.
    ///
    /// # Errors
    /// The database failed; some rows may stay.
    pub async fn forget_owed(&self, dot: Dot) -> Result<(), DatabaseError> {
        loop {
            let owed = self.owed_page(dot).await?;
            if owed.is_empty() {
                return Ok(());
            }
            self.delivered(owed).await?;
        }
    }

    async fn owed_page(&self, dot: Dot) -> Result<Vec<DueRow>, DatabaseError> {
        self.query(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT chunk_id, target_node_id FROM replication_queue_dots WHERE dot = ?1 LIMIT ?2",
            )?;
            all(&mut statement, params![dot.to_string(), i64::try_from(MAX_DUE).unwrap_or(i64::MAX)], |row| {
                let (chunk, target) = (chunk_at(row, 0)?, node_at(row, 1)?);
                Ok(DueRow { chunk, target, attempts: 0, dots: vec![dot] })
            })
        })
        .await
    }

    /// The queue as a whole.
    ///
    /// # Errors
    /// The database failed.
    pub async fn queue_status(&self) -> Result<QueueState, DatabaseError> {
        let now = self.inner.clock.running_millis();
        self.query(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT target_node_id, count(*) FROM replication_queue GROUP BY target_node_id",
            )?;
            let targets: BTreeMap<NodeId, u64> = all(&mut statement, [], |row| {
                Ok((node_at(row, 0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)))
            })?
            .into_iter()
            .collect();
            let oldest: Option<i64> = db
                .prepare_cached("SELECT min(enqueued) FROM replication_queue")?
                .query_row([], |row| row.get(0))?;
            let oldest = oldest.map(|at| Duration::from_millis(u64::try_from(now - at).unwrap_or(0)));
            Ok(QueueState { depth: targets.values().sum(), oldest, targets })
        })
        .await
    }

    fn end_leases(&self, keys: &[(ChunkId, NodeId)]) {
        let mut leases = lock(&self.inner.leases);
        for key in keys {
            leases.remove(key);
        }
    }
}

/// The wait before the next attempt, a quarter shorter to a quarter longer by the chunk, so that rows
/// that failed together are not tried together.
fn back_off(attempts: u32, chunk: &ChunkId) -> Duration {
    let wait = FIRST_RETRY.saturating_mul(1 << attempts.min(16)).min(LAST_RETRY);
    let share = u32::from(chunk.digest()[31]);
    wait * 3 / 4 + wait * share / 510
}

fn dots(db: &Connection, chunk: ChunkId, target: NodeId) -> Result<Vec<Dot>, DatabaseError> {
    let mut statement = db.prepare_cached(
        "SELECT dot FROM replication_queue_dots WHERE chunk_id = ?1 AND target_node_id = ?2 ORDER BY dot",
    )?;
    all(&mut statement, params![chunk.to_string(), target.as_str()], |row| {
        row.get::<_, String>(0)?.parse().map_err(|_| damaged("a dot"))
    })
}

fn remove_dots(db: &Connection, row: &DueRow) -> rusqlite::Result<()> {
    let mut delete = db.prepare_cached(
        "DELETE FROM replication_queue_dots WHERE chunk_id = ?1 AND target_node_id = ?2 AND dot = ?3",
    )?;
    for dot in &row.dots {
        delete.execute(params![row.chunk.to_string(), row.target.as_str(), dot.to_string()])?;
    }
    Ok(())
}

fn remove_empty(db: &Connection, row: &DueRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM replication_queue WHERE chunk_id = ?1 AND target_node_id = ?2 AND NOT EXISTS \
             (SELECT 1 FROM replication_queue_dots WHERE chunk_id = ?1 AND target_node_id = ?2)",
    )?
    .execute(params![row.chunk.to_string(), row.target.as_str()])?;
    Ok(())
}

/// Drops what is owed of a chunk under one dot, to whomever.
pub(super) fn forget_dot_of(db: &Connection, chunk: &ChunkId, dot: &Dot) -> rusqlite::Result<()> {
    let (chunk, dot) = (chunk.to_string(), dot.to_string());
    let gone = db
        .prepare_cached("DELETE FROM replication_queue_dots WHERE chunk_id = ?1 AND dot = ?2")?
        .execute([&chunk, &dot])?;
    if gone > 0 {
        db.prepare_cached(
            "DELETE FROM replication_queue WHERE chunk_id = ?1 AND NOT EXISTS \
                 (SELECT 1 FROM replication_queue_dots WHERE chunk_id = ?1 \
                  AND target_node_id = replication_queue.target_node_id)",
        )?
        .execute([&chunk])?;
    }
    Ok(())
}

fn chunk_at(row: &Row<'_>, column: usize) -> Result<ChunkId, DatabaseError> {
    let text = row.get_ref(column)?.as_str().map_err(|_| damaged("a chunk id"))?;
    text.parse().map_err(|_| damaged("a chunk id"))
}

fn node_at(row: &Row<'_>, column: usize) -> Result<NodeId, DatabaseError> {
    let text = row.get_ref(column)?.as_str().map_err(|_| damaged("a node id"))?;
    text.parse().map_err(|_| damaged("a node id"))
}
