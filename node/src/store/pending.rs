//! Versions that are shown here alone: `fast` writes whose chunks are still on their way.

use kepler_protocol::version::Dot;

use super::Store;
use super::catalog::{all, damaged};
use super::error::DatabaseError;

impl Store {
    /// Versions that are not published yet and whose every chunk is owed to at most `owed` nodes,
    /// oldest first, at most `limit`. One that waits for a node that is away holds up no other.
    ///
    /// # Errors
    /// The database failed.
    pub async fn settled(&self, owed: usize, limit: usize) -> Result<Vec<Dot>, DatabaseError> {
        let (owed, limit) =
            (i64::try_from(owed).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
        self.query(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT id FROM files WHERE published = 0 AND NOT EXISTS \
                     (SELECT 1 FROM replication_queue_dots WHERE dot = files.id \
                      GROUP BY chunk_id HAVING count(*) > ?1) \
                 ORDER BY owner_node, generation, sequence LIMIT ?2",
            )?;
            all(&mut statement, [owed, limit], |row| {
                row.get::<_, String>(0)?.parse().map_err(|_| damaged("a version's id"))
            })
        })
        .await
    }
}
