//! References: what keeps a chunk from being collected.
//!
//! A reference is (chunk, dot). It is recorded in the transaction that enters the chunk or answers
//! that it is here. Whether one has ended is for the collector to decide.

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::version::Dot;
use rusqlite::{Connection, params};

use super::Store;
use super::catalog::{all, damaged};
use super::error::DatabaseError;

impl Store {
    /// The dots that refer to a chunk, by token.
    ///
    /// # Errors
    /// The database failed.
    pub async fn references(&self, id: ChunkId) -> Result<Vec<Dot>, DatabaseError> {
        self.query(move |db| {
            let mut statement =
                db.prepare_cached("SELECT dot FROM chunk_references WHERE chunk_id = ?1 ORDER BY dot")?;
            all(&mut statement, [id.to_string()], |row| {
                let dot: String = row.get(0)?;
                dot.parse().map_err(|_| damaged("a dot"))
            })
        })
        .await
    }
}

pub(super) fn insert_references(db: &Connection, id: &ChunkId, dots: &[Dot]) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO chunk_references (chunk_id, dot) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    for dot in dots {
        statement.execute(params![id.to_string(), dot.to_string()])?;
    }
    Ok(())
}
