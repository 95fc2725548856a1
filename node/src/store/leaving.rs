//! What must be known of the cluster across restarts: that this node is leaving, and which databases
//! rosters dropped.

use kepler_protocol::identity::DatabaseId;
use kepler_protocol::replicator::rules::{Bound, Dropped};
use rusqlite::Connection;

use super::Store;
use super::error::DatabaseError;
use super::meta::{meta, set_meta};

const LEAVING: &str = "leaving";

const BOUND: &str = "roster_databases";

const DROPPED: &str = "dropped_databases";

/// The database to which the references are complete.
const REFERENCES_OF: &str = "references_of";

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
    pub async fn noted_databases(&self) -> Result<Bound, DatabaseError> {
        self.query(|db| Ok(Bound { databases: noted(db, BOUND)?, dropped: dropped_in(db)? })).await
    }

    /// The roster binds this node to a database. If that is another than before, this one was found to be from
    /// the past: references that were recorded since are lost, so that none here is taken for all.
    ///
    /// # Errors
    /// The database failed.
    pub async fn doubt_if_other(&self, database: DatabaseId) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            let db = tx.connection;
            let before: Option<Vec<u8>> = meta(db, REFERENCES_OF)?;
            if before.as_deref() == Some(&database.0) {
                return Ok(());
            }
            if before.is_some() {
                db.execute("UPDATE chunks SET recovered = 1", [])?;
            }
            Ok(set_meta(db, REFERENCES_OF, database.0.to_vec())?)
        })
        .await
    }

    /// Notes the databases that are bound, and those that were dropped: what nobody saw of their logs is
    /// ended from now on. To be called once this node has seen all that the others know of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn note_databases(&self, bound: Bound) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            let bytes = |value| minicbor::to_vec(value).expect("writing to memory cannot fail");
            set_meta(tx.connection, BOUND, bytes(&bound.databases))?;
            let dropped = minicbor::to_vec(&bound.dropped).expect("writing to memory cannot fail");
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
