//! What must be known of the cluster across restarts: that this node is leaving, and by which roster
//! the logs of lost databases were last ended.

use std::collections::BTreeMap;

use kepler_protocol::node_id::NodeId;
use kepler_protocol::roster::DatabaseId;

use super::Store;
use super::error::DatabaseError;
use super::writer::{meta, set_meta};

const LEAVING: &str = "leaving";

const BOUND: &str = "roster_databases";

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

    /// The members and their databases by the roster that was last noted.
    ///
    /// # Errors
    /// The database failed.
    pub async fn noted_databases(&self) -> Result<BTreeMap<NodeId, DatabaseId>, DatabaseError> {
        let bytes: Option<Vec<u8>> = self.query(|db| Ok(meta(db, BOUND)?)).await?;
        Ok(bytes.and_then(|bytes| minicbor::decode(&bytes).ok()).unwrap_or_default())
    }

    /// Notes the members and their databases.
    ///
    /// # Errors
    /// The database failed.
    pub async fn note_databases(&self, bound: BTreeMap<NodeId, DatabaseId>) -> Result<(), DatabaseError> {
        let bytes = minicbor::to_vec(bound).expect("writing to memory cannot fail");
        self.execute(move |tx| Ok(set_meta(tx.connection, BOUND, bytes)?)).await
    }
}
