//! What the store holds, and what the disk has left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kepler_protocol::time::Instant;

use super::error::{DatabaseError, WriteError};
use super::{Store, lock};

/// Disk use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Chunks stored.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Live names.
    pub files: u64,
    /// Bytes free on the disk.
    pub free: u64,
    /// Bytes kept free.
    pub reserve: u64,
    /// Bytes of the disk.
    pub capacity: u64,
}

/// A count of names and how long it may be repeated.
pub(super) struct Counted {
    names: u64,
    until: Instant,
}

impl Store {
    /// What is held. The count of names may be some seconds old where there are very many.
    ///
    /// # Errors
    /// The disk or the database failed.
    pub async fn usage(&self) -> Result<Usage, WriteError> {
        let (free, capacity) = self.on_disk(Self::space).await?;
        Ok(Usage {
            chunks: self.inner.chunks.load(Ordering::Relaxed),
            bytes: self.inner.bytes.load(Ordering::Relaxed),
            files: self.live_names().await?,
            free,
            reserve: self.inner.min_free,
            capacity,
        })
    }

    async fn live_names(&self) -> Result<u64, DatabaseError> {
        if let Some(counted) = &*lock(&self.inner.names)
            && self.now() < counted.until
        {
            return Ok(counted.names);
        }
        let begun = self.now();
        let names: i64 = self
            .query(|db| {
                Ok(db
                    .prepare_cached("SELECT count(DISTINCT name) FROM files WHERE deleted = 0")?
                    .query_row([], |row| row.get(0))?)
            })
            .await?;
        let names = u64::try_from(names).unwrap_or(0);
        // Counting reads the whole index, so it takes at most a twentieth of the time.
        let took = self.now() - begun;
        if took > Duration::from_millis(5) {
            *lock(&self.inner.names) = Some(Counted { names, until: self.now() + took * 20 });
        }
        Ok(names)
    }

    /// Bytes free and in all.
    fn space(&self) -> Result<(u64, u64), WriteError> {
        let root = self.inner.layout.root();
        let disk = rustix::fs::statvfs(root)
            .map_err(|error| WriteError::io("measure the disk of", root)(error.into()))?;
        Ok((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
    }

    /// Refuses to write `bytes` more where that would go below the reserve.
    pub(super) fn check_reserve(&self, bytes: u64) -> Result<(), WriteError> {
        let (free, _) = self.space()?;
        let reserve = self.inner.min_free;
        if free < reserve.saturating_add(bytes) {
            return Err(WriteError::DiskFull { free, reserve });
        }
        Ok(())
    }
}
