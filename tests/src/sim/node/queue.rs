//! What uploads still owe, by target and chunk: the durable part of the replication queue.
//!
//! A row goes when the last dot under which it is owed was delivered or has ended.

use std::collections::{BTreeMap, BTreeSet};

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::version::Dot;

/// A copy of a chunk that is owed to a node.
pub type Row = (NodeId, ChunkId);

/// What is owed, under which dots: durable.
#[derive(Clone, Debug, Default)]
pub struct Queue(pub(super) BTreeMap<Row, BTreeSet<Dot>>);

impl Queue {
    /// How many copies are owed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn owe(&mut self, row: Row, dots: impl IntoIterator<Item = Dot>) {
        self.0.entry(row).or_default().extend(dots);
    }

    pub(super) fn paid(&mut self, row: &Row, dots: &BTreeSet<Dot>) {
        if let Some(owed) = self.0.get_mut(row) {
            owed.retain(|dot| !dots.contains(dot));
        }
        self.0.retain(|_, dots| !dots.is_empty());
    }
}
