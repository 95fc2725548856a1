//! What the disk holds, as the replicator is shown it, and the marks that it wants kept.
//!
//! Reading is in pages, in the order of CIDs, each from one snapshot of the database. Marks are
//! running time, so no downtime and no wall clock shortens a grace.

use std::collections::BTreeMap;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::holding::{Holding, Note, PAGE, Page, Surplus, digest_of};
use kepler_protocol::replicator::message::{Holds, Item};
use kepler_protocol::replicator::rules::Reference;
use kepler_protocol::version::Dot;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Store;
use super::catalog::{all, damaged};
use super::clock::elapsed;
use super::error::DatabaseError;
use super::references::Judge;

impl Store {
    /// The chunks after `after`, with what is known of each; at most [`PAGE`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn holdings(&self, after: Option<ChunkId>) -> Result<Page, DatabaseError> {
        let now = self.inner.clock.running_millis();
        let mut page = self.query(move |db| read_page(db, after, now)).await?;
        let ids: Vec<ChunkId> = page.holdings.iter().map(|holding| holding.chunk).collect();
        let present = self.on_disk(move |store| store.bytes_present(&ids)).await?;
        for (holding, present) in page.holdings.iter_mut().zip(present) {
            holding.file = present;
        }
        Ok(page)
    }

    /// What this node has of chunks that a peer asks after, in its order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn look(&self, items: Vec<Item>) -> Result<Vec<Holds>, DatabaseError> {
        let ids: Vec<ChunkId> = items.iter().map(|item| item.chunk).collect();
        let found = self
            .query(move |db| {
                let mut judge = Judge::new(db);
                let mut row = db.prepare_cached("SELECT 1 FROM chunks WHERE id = ?1 AND gone = 0")?;
                items
                    .iter()
                    .map(|item| {
                        if !row.exists([item.chunk.to_string()])? {
                            return Ok(Holds::Lacks);
                        }
                        let kept = judge.references(&item.chunk)?;
                        let kept = kept.iter().filter(|(_, worth)| **worth != Reference::Ended);
                        let same = digest_of(kept.map(|(dot, _)| dot)) == item.references;
                        Ok(if same { Holds::Same } else { Holds::Other })
                    })
                    .collect::<Result<Vec<_>, DatabaseError>>()
            })
            .await?;
        let present = self.on_disk(move |store| store.bytes_present(&ids)).await?;
        let holds = found.into_iter().zip(present);
        Ok(holds.map(|(holds, present)| if present { holds } else { Holds::Lacks }).collect())
    }

    /// Keeps marks, in one transaction.
    ///
    /// # Errors
    /// The database failed; none is kept.
    pub async fn note(&self, note: Note) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            let (db, now) = (tx.connection, tx.running);
            let mut surplus = db.prepare_cached(
                "INSERT INTO surplus (chunk_id, owners, since) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET owners = excluded.owners, since = excluded.since",
            )?;
            for (chunk, owners) in &note.surplus {
                let owners: Vec<&str> = owners.iter().map(NodeId::as_str).collect();
                surplus.execute(params![chunk.to_string(), owners.join(","), now])?;
            }
            let mut wanted = db.prepare_cached("DELETE FROM surplus WHERE chunk_id = ?1")?;
            for chunk in &note.wanted {
                wanted.execute([chunk.to_string()])?;
            }
            let mut unreferenced = db.prepare_cached(
                "INSERT INTO unreferenced (chunk_id, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            )?;
            for chunk in &note.unreferenced {
                unreferenced.execute(params![chunk.to_string(), now])?;
            }
            let mut referenced = db.prepare_cached("DELETE FROM unreferenced WHERE chunk_id = ?1")?;
            for chunk in &note.referenced {
                referenced.execute([chunk.to_string()])?;
            }
            Ok(())
        })
        .await
    }
}

fn read_page(db: &Connection, after: Option<ChunkId>, now: i64) -> Result<Page, DatabaseError> {
    // One snapshot for all queries of the page.
    let snapshot = db.unchecked_transaction()?;
    let page = read_page_in(&snapshot, after, now);
    snapshot.finish()?;
    page
}

/// Sorts after every chunk id.
const AFTER_ALL: &str = "~";

fn read_page_in(db: &Connection, after: Option<ChunkId>, now: i64) -> Result<Page, DatabaseError> {
    let after = after.map_or_else(String::new, |id| id.to_string());
    let mut statement = db.prepare_cached(
        "SELECT id, size, recovered FROM chunks WHERE id > ?1 AND gone = 0 ORDER BY id LIMIT ?2",
    )?;
    let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
    let rows: Vec<(String, i64, bool)> =
        all(&mut statement, params![after, limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let more = rows.len() == PAGE;
    // On the last page come those too that are beyond the last row.
    let last = rows.last().filter(|_| more).map_or(AFTER_ALL, |(last, ..)| last);
    let mut kept = kept_references(db, &after, last)?;
    let surplus = surplus_marks(db, &after, last, now)?;
    let unreferenced: BTreeMap<String, i64> = all(
        &mut db.prepare_cached(
            "SELECT chunk_id, since FROM unreferenced WHERE chunk_id > ?1 AND chunk_id <= ?2",
        )?,
        [&after, last],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?
    .into_iter()
    .collect();
    let mut holdings = Vec::with_capacity(rows.len());
    for (text, size, recovered) in &rows {
        let dots = kept.remove(text);
        holdings.push(Holding {
            chunk: text.parse().map_err(|_| damaged("a chunk id"))?,
            size: u64::try_from(*size).unwrap_or(0),
            file: false,
            kept: *recovered || dots.is_some(),
            references: dots.as_ref().map_or(0, digest_of),
            unreferenced_for: unreferenced.get(text).map(|since| elapsed(now, *since)),
            surplus: surplus.get(text).cloned(),
        });
    }
    // References without a row: the chunk was lost here, and is not back yet. One that is being deleted
    // still has its row.
    let mut deleting = db.prepare_cached("SELECT 1 FROM chunks WHERE id = ?1")?;
    for (text, dots) in kept {
        if deleting.exists([&text])? {
            continue;
        }
        holdings.push(Holding {
            chunk: text.parse().map_err(|_| damaged("a chunk id"))?,
            size: 0,
            file: false,
            kept: true,
            references: digest_of(&dots),
            unreferenced_for: None,
            surplus: None,
        });
    }
    holdings.sort_unstable_by_key(|holding| holding.chunk.to_string());
    Ok(Page { more, holdings })
}

/// The references that have not ended of the chunks in a range, by chunk.
fn kept_references(
    db: &Connection,
    after: &str,
    last: &str,
) -> Result<BTreeMap<String, Vec<Dot>>, DatabaseError> {
    let mut judge = Judge::new(db);
    let mut kept: BTreeMap<String, Vec<Dot>> = BTreeMap::new();
    let mut statement = db.prepare_cached(
        "SELECT chunk_id, dot FROM chunk_references WHERE chunk_id > ?1 AND chunk_id <= ?2 ORDER BY chunk_id, dot",
    )?;
    let mut rows = statement.query([after, last])?;
    while let Some(row) = rows.next()? {
        let dot: Dot =
            row.get_ref(1)?.as_str().ok().and_then(|t| t.parse().ok()).ok_or_else(|| damaged("a dot"))?;
        if judge.judge(&dot)? != Reference::Ended {
            kept.entry(row.get(0)?).or_default().push(dot);
        }
    }
    Ok(kept)
}

fn surplus_marks(
    db: &Connection,
    after: &str,
    last: &str,
    now: i64,
) -> Result<BTreeMap<String, Surplus>, DatabaseError> {
    let mut statement = db.prepare_cached(
        "SELECT chunk_id, owners, since FROM surplus WHERE chunk_id > ?1 AND chunk_id <= ?2",
    )?;
    let marks = all(&mut statement, [after, last], |row| {
        let owners: String = row.get(1)?;
        let owners = owners.split(',').filter(|id| !id.is_empty());
        let owners: Result<Vec<NodeId>, _> = owners.map(str::parse).collect();
        let owners = owners.map_err(|_| damaged("a node id"))?;
        Ok((row.get(0)?, Surplus { owners, held_for: elapsed(now, row.get(2)?) }))
    })?;
    Ok(marks.into_iter().collect())
}

/// For how much running time a chunk is noted as unreferenced.
pub(super) fn unreferenced_for(
    db: &Connection,
    id: &ChunkId,
    now: i64,
) -> Result<Option<std::time::Duration>, DatabaseError> {
    let mut statement = db.prepare_cached("SELECT since FROM unreferenced WHERE chunk_id = ?1")?;
    let since: Option<i64> = statement.query_row([id.to_string()], |row| row.get(0)).optional()?;
    Ok(since.map(|since| elapsed(now, since)))
}
