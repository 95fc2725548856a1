//! What must be known of the cluster across restarts: that this node is leaving, and which databases
//! rosters dropped.

use kepler_protocol::replicator::rules::{Databases, Dropped};
use rusqlite::Connection;

use super::Store;
use super::error::DatabaseError;
use super::meta::{meta, set_meta};

const LEAVING: &str = "leaving";

const BOUND: &str = "roster_databases";

const DROPPED: &str = "dropped_databases";

impl Store {
    /// Whether this node was told to leave.
    ///
    /// # Errors
    /// The database failed.
    pub async fn is_leaving(&self) -> Result<bool, DatabaseError> {
        self.query(|db| Ok(meta::<i64>(db, LEAVING)? == Some(1))).await
    }

    /// Keeps whether this node leaves.
    ///
    /// # Errors
    /// The database failed.
    pub async fn set_leaving(&self, leaving: bool) -> Result<(), DatabaseError> {
        self.execute(move |tx| Ok(set_meta(tx.connection, LEAVING, i64::from(leaving))?)).await
    }

    /// The databases by the roster that was last noted, and those that were dropped by then.
    ///
    /// # Errors
    /// The database failed.
    pub async fn noted_databases(&self) -> Result<(Databases, Dropped), DatabaseError> {
        self.query(|db| Ok((noted(db, BOUND)?, dropped_in(db)?))).await
    }

    /// Notes the databases that are bound, and those that were dropped: what nobody saw of their logs is
    /// ended from now on. To be called once this node has seen all that the others know of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn note_databases(&self, bound: Databases, dropped: Dropped) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            let bytes = |value| minicbor::to_vec(value).expect("writing to memory cannot fail");
            set_meta(tx.connection, BOUND, bytes(&bound))?;
            let dropped = minicbor::to_vec(&dropped).expect("writing to memory cannot fail");
            Ok(set_meta(tx.connection, DROPPED, dropped)?)
        })
        .await
    }
}

/// The databases that were dropped.
pub(super) fn dropped_in(db: &Connection) -> Result<Dropped, DatabaseError> {
    noted(db, DROPPED)
}

fn noted<T: Default + for<'b> minicbor::Decode<'b, ()>>(
    db: &Connection,
    key: &str,
) -> Result<T, DatabaseError> {
    let bytes: Option<Vec<u8>> = meta(db, key)?;
    Ok(bytes.and_then(|bytes| minicbor::decode(&bytes).ok()).unwrap_or_default())
}
