//! The peer table: where a restarted node finds the others when no seed is up.

use std::net::IpAddr;

use kepler_protocol::node_id::NodeId;
use kepler_protocol::time::UnixMillis;
use rusqlite::params;

use super::Store;
use super::catalog::{all, damaged};
use super::error::DatabaseError;

/// A remembered peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Its name.
    pub id: NodeId,
    /// Where it was reached.
    pub addr: IpAddr,
    /// UDP.
    pub gossip_port: u16,
    /// TCP.
    pub transfer_port: u16,
    /// When it was last heard from, by the wall clock.
    pub last_seen: Option<UnixMillis>,
    /// Its state, in the words of the API.
    pub status: String,
    /// What gossip wants to remember of it, opaque here.
    pub record: Vec<u8>,
}

impl Store {
    /// Remembers these peers in place of all that were remembered.
    ///
    /// # Errors
    /// The database failed; the former ones are still remembered.
    pub async fn save_peers(&self, peers: Vec<PeerRow>) -> Result<(), DatabaseError> {
        self.execute(move |tx| {
            tx.connection.prepare_cached("DELETE FROM peers")?.execute([])?;
            let mut insert = tx.connection.prepare_cached(
                "INSERT OR REPLACE INTO peers (id, addr, gossip_port, transfer_port, last_seen, status, record)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for peer in &peers {
                insert.execute(params![
                    peer.id.as_str(),
                    peer.addr.to_string(),
                    peer.gossip_port,
                    peer.transfer_port,
                    peer.last_seen.map(|at| i64::try_from(at.0).unwrap_or(i64::MAX)),
                    peer.status,
                    peer.record,
                ])?;
            }
            Ok(())
        })
        .await
    }

    /// The peers remembered, by id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn load_peers(&self) -> Result<Vec<PeerRow>, DatabaseError> {
        self.query(|db| {
            let mut statement = db.prepare_cached(
                "SELECT id, addr, gossip_port, transfer_port, last_seen, status, record FROM peers ORDER BY id",
            )?;
            all(&mut statement, [], |row| {
                let id: String = row.get(0)?;
                let addr: String = row.get(1)?;
                let last_seen: Option<i64> = row.get(4)?;
                Ok(PeerRow {
                    id: id.parse().map_err(|_| damaged("a peer's id"))?,
                    addr: addr.parse().map_err(|_| damaged("a peer's address"))?,
                    gossip_port: row.get(2)?,
                    transfer_port: row.get(3)?,
                    last_seen: last_seen.map(|at| UnixMillis(u64::try_from(at).unwrap_or(0))),
                    status: row.get(5)?,
                    record: row.get(6)?,
                })
            })
        })
        .await
    }
}
