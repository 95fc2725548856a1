//! Hashing again what is on the disk, a few chunks at a time, from a place that is kept on disk.

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::time::UnixMillis;
use rusqlite::params;

use super::Store;
use super::chunks::{Looked, Unreadable};
use super::clock::wall_millis;
use super::error::{DatabaseError, ReadError, WriteError};
use super::meta::{meta, set_meta};

/// Where the scrub goes on.
const CURSOR: &str = "scrub_cursor";

/// When it last came to the end, by the wall clock.
const ENDED: &str = "scrub_ended";

/// What a few chunks were found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Chunks hashed.
    pub checked: u64,
    /// Those that were rotten or gone. They were set aside.
    pub bad: Vec<ChunkId>,
    /// Those that the disk failed to give now; they stay.
    pub unreadable: Vec<ChunkId>,
    /// Whether there are no more.
    pub finished: bool,
}

impl Store {
    /// Hashes the next `limit` chunks after where the last call ended, or the first ones. Rotten ones
    /// are quarantined, and those whose bytes are gone forgotten; their references stay.
    ///
    /// # Errors
    /// The database failed.
    pub async fn scrub(&self, restart: bool, limit: usize) -> Result<ScrubStep, WriteError> {
        let cursor: Option<String> = match restart {
            true => None,
            false => self.query(|db| Ok(meta(db, CURSOR)?)).await?,
        };
        let after = cursor.and_then(|text| text.parse().ok());
        let page = self.chunks_after(after, limit.max(1)).await?;
        let mut step = ScrubStep { finished: page.len() < limit.max(1), ..ScrubStep::default() };
        let mut intact = Vec::with_capacity(page.len());
        for (id, _) in &page {
            step.checked += 1;
            match self.read(*id).await {
                Ok(_) => intact.push(*id),
                Err(ReadError::Corrupt(_) | ReadError::Missing(_)) => {
                    // It may have been deleted since the page was read.
                    let known = self.held(vec![*id]).await?.first().is_some_and(Option::is_some);
                    let looked = match known {
                        true => self.quarantine(*id, Unreadable::Stays).await?,
                        false => Looked::Intact,
                    };
                    match looked {
                        Looked::SetAside => step.bad.push(*id),
                        Looked::Unreadable => step.unreadable.push(*id),
                        Looked::Intact => {}
                    }
                }
                Err(ReadError::Io { .. }) => step.unreadable.push(*id),
                Err(ReadError::Database(error)) => return Err(error.into()),
            }
        }
        let (last, finished) = (page.last().map(|(id, _)| id.to_string()), step.finished);
        self.execute(move |tx| {
            let db = tx.connection;
            let mut verified = db.prepare_cached("UPDATE chunks SET verified_at = ?2 WHERE id = ?1")?;
            for id in &intact {
                verified.execute(params![id.to_string(), wall_millis()])?;
            }
            // The next pass begins at the first chunk.
            set_meta(db, CURSOR, if finished { String::new() } else { last.unwrap_or_default() })?;
            if finished {
                set_meta(db, ENDED, wall_millis())?;
            }
            Ok(())
        })
        .await?;
        Ok(step)
    }

    /// When everything was last hashed once, by the wall clock.
    ///
    /// # Errors
    /// The database failed.
    pub async fn scrubbed_at(&self) -> Result<Option<UnixMillis>, DatabaseError> {
        let at: Option<i64> = self.query(|db| Ok(meta(db, ENDED)?)).await?;
        Ok(at.map(|at| UnixMillis(u64::try_from(at).unwrap_or(0))))
    }
}
