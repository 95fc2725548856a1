//! Actions that were given out and are not answered yet: what each was given out for.
//!
//! An id is used once; an answer too many is an answer to nothing.

use std::collections::BTreeMap;

use super::ActionId;
use super::message::Item;
use crate::chunk::ChunkId;
use crate::node_id::NodeId;

/// What an action was given out for.
#[derive(Debug)]
pub(super) enum Call {
    Page,
    Compare(NodeId),
    Offer(NodeId, Vec<(Item, u64)>),
    Check(ChunkId, NodeId),
    References(ChunkId),
    Vouch(ChunkId, NodeId),
    Send(ChunkId, NodeId),
    Fetch(ChunkId),
    Release(ChunkId),
    Known(Vec<ChunkId>),
    Collect,
    Scrub,
    Look(u64, Vec<Item>),
    Promise(u64),
}

/// The actions under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    under_way: BTreeMap<ActionId, Call>,
    last: u64,
}

impl Calls {
    /// The id of another action.
    pub(super) fn begin(&mut self, call: Call) -> ActionId {
        self.last += 1;
        let id = ActionId(self.last);
        self.under_way.insert(id, call);
        id
    }

    /// An action is answered.
    pub(super) fn take(&mut self, id: ActionId) -> Option<Call> {
        self.under_way.remove(&id)
    }

    /// The answer was to something else: the action is still awaited.
    pub(super) fn put_back(&mut self, id: ActionId, call: Call) {
        self.under_way.insert(id, call);
    }
}
