//! The consistent hash ring: where chunks and names belong.

use std::sync::Arc;

use crate::node_id::NodeId;

/// A node with what decides its share of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    /// The node.
    pub id: NodeId,
    /// Its failure zone; without one it is a zone of its own.
    pub zone: Option<&'a str>,
    /// Bytes it offers.
    pub capacity: u64,
}

/// Tokens of nodes in order; immutable and cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    inner: Arc<()>,
}

impl Ring {
    /// Places every node's tokens. `reference_capacity` is the cluster's constant, in bytes.
    pub fn build<'a>(_reference_capacity: u64, _nodes: impl IntoIterator<Item = Weighted<'a>>) -> Self {
        Self { inner: Arc::new(()) }
    }

    /// All distinct nodes clockwise from `key`, in preference order: for a replication factor of
    /// `n`, the first `n` are the owners (zones not yet used first among them), those after are
    /// the fallbacks in the order in which they take over.
    pub fn preference(&self, _key: u64, _n: usize) -> Vec<NodeId> {
        Vec::new()
    }

    /// The first `n` of [`Ring::preference`]: the owners; fewer if the ring has fewer nodes.
    pub fn owners(&self, _key: u64, _n: usize) -> Vec<NodeId> {
        Vec::new()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        0
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The share of keys, 0 to 1, whose first owner is `id`.
    pub fn share(&self, _id: &NodeId) -> f64 {
        0.0
    }

    /// Every token, ascending, with its node.
    pub fn tokens(&self) -> impl Iterator<Item = (u64, NodeId)> {
        std::iter::empty()
    }

    /// SHA-256 over all tokens and nodes: equal on nodes with equal views.
    pub fn digest(&self) -> [u8; 32] {
        [0; 32]
    }
}
