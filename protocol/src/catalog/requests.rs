//! Requests under way: what each was sent for. An answer is taken once; one to nothing is ignored.

use std::collections::BTreeMap;

use crate::node_id::NodeId;

/// What a request was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Operation { id: u64, node: NodeId },
    Exchange,
    Audit,
    Relay(u64),
    Nothing,
}

/// The requests of a catalog.
pub(super) struct Requests {
    under_way: BTreeMap<u64, Purpose>,
    next: u64,
}

impl Requests {
    /// Answers to a catalog that was thrown away must not be taken for answers to this one: `first` is random.
    pub(super) fn new(first: u64) -> Self {
        Self { under_way: BTreeMap::new(), next: first }
    }

    /// The id of another request.
    pub(super) fn begin(&mut self, purpose: Purpose) -> u64 {
        let id = self.next;
        self.next += 1;
        self.under_way.insert(id, purpose);
        id
    }

    /// What a request was for, if anybody still waits for its answer; nobody does from now on.
    pub(super) fn end(&mut self, id: u64) -> Option<Purpose> {
        self.under_way.remove(&id)
    }
}
