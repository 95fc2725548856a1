//! Requests of a process to others: what each was sent for.
//!
//! Late answers are told apart for the last [`REMEMBERED`] requests; older ones are answers to nothing.

use std::collections::BTreeMap;

use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::ActionId;
use kepler_protocol::time::Instant;

use super::Node;
use super::message::{Addressed, Question};
use super::queue::Row;
use crate::sim::process::Output;

/// Requests whose late answers are still told apart.
const REMEMBERED: u64 = 4096;

/// What a request was sent for.
#[derive(Clone, Copy, Debug)]
pub enum Sent {
    /// For the replica, under its id.
    Replica(u64),
    /// For a placement.
    Store(u64),
    /// For membership: whether somebody is there.
    Probe(u64),
    /// For membership: what another knows.
    Exchange,
    /// The replicator's question.
    Heal(ActionId),
    /// The replicator's copy.
    Push(ActionId),
    /// A fetch of the replicator.
    Fetch(u64),
    /// A chunk of a read.
    Read(u64),
    /// A chunk that is owed and lacking here.
    Gather(Row),
    /// A copy that is owed.
    Owed(Row),
}

/// The requests that answers may still come to.
#[derive(Debug, Default)]
pub struct Requests {
    sent: BTreeMap<u64, Sent>,
    last: u64,
}

impl Requests {
    fn begin(&mut self, sent: Sent) -> u64 {
        self.last += 1;
        self.sent.insert(self.last, sent);
        self.sent.remove(&(self.last.saturating_sub(REMEMBERED)));
        self.last
    }

    /// What a request was sent for, if anybody still waits for its answer.
    pub(super) fn get(&self, id: u64) -> Option<Sent> {
        self.sent.get(&id).copied()
    }

    /// A second answer would be one to nothing.
    pub(super) fn end(&mut self, id: u64) {
        self.sent.remove(&id);
    }
}

impl Node {
    pub(super) fn request(&mut self, to: NodeId, request: Question, deadline: Instant, sent: Sent) {
        let Some(to) = self.place_of(&to) else { return };
        // The transport proves identities: another process under the same id is not who is meant.
        let id = self.seat.ids[to];
        let request = Addressed { key: self.swim.member(&id).map(|(_, s)| s.metadata.key), request };
        let id = self.requests.begin(sent);
        self.outputs.push_back(Output::Request { to, id, request, deadline });
    }
}
