//! Members remembered across restarts.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use kepler_protocol::swim::Record;
use kepler_protocol::time::UnixMillis;
use kepler_protocol::view::State;
use tracing::warn;

use crate::store::{PeerRow, Store};

/// All members with their records, as they are remembered.
pub(super) type Peers = Vec<(State, Arc<Record>)>;

/// What an earlier run remembered; a row that does not parse is left out.
pub(super) async fn load(store: &Store) -> Result<Vec<Arc<Record>>> {
    let rows = store.load_peers().await.context("read the peer table")?;
    let records = rows.into_iter().filter_map(|row| match Record::from_bytes(&row.record) {
        Ok(record) => Some(record),
        Err(error) => {
            warn!(peer = %row.id, %error, "a remembered peer cannot be read");
            None
        }
    });
    Ok(records.collect())
}

/// Remembers these members in place of all others.
pub(super) async fn save(store: &Store, peers: Peers, now: UnixMillis) {
    let rows = peers.into_iter().map(|(state, record)| {
        let statement = record.statement();
        PeerRow {
            id: statement.id,
            addr: statement.metadata.addr,
            gossip_port: statement.metadata.gossip_port,
            transfer_port: statement.metadata.transfer_port,
            last_seen: state.is_on_ring().then_some(now),
            status: word(state).to_owned(),
            record: record.to_bytes(),
        }
    });
    if let Err(error) = store.save_peers(rows.collect()).await {
        warn!(%error, "could not remember the peers");
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Joining => "joining",
        State::Alive => "alive",
        State::Suspect => "suspect",
        State::Dead => "dead",
        State::Leaving => "leaving",
        State::Left => "left",
    }
}
