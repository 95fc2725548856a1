//! Requests under way: to whom, what for, and how long ago each member was asked what.
//!
//! There is a cap on all of them; an answer is taken once, and from the member that was asked.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::node_id::NodeId;
use crate::roster::change::Phase;
use crate::roster::message::RequestId;
use crate::roster::paxos::Ballot;
use crate::time::Instant;

/// The most requests under way at once.
const MAX_IN_FLIGHT: usize = 1024;

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Hello,
    Join,
    Learn,
    Adopt(Phase),
    Prepare(Ballot),
    Accept(Ballot),
}

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) to: NodeId,
    pub(super) kind: Kind,
    pub(super) sent: Instant,
}

/// The requests of a council.
#[derive(Debug, Default)]
pub(super) struct Flights {
    under_way: BTreeMap<RequestId, Flight>,
    next: u64,
    /// When a member was last asked a question of a class that is asked again and again.
    asked: BTreeMap<(NodeId, u8), Instant>,
}

impl Flights {
    /// The id of another request, unless there are too many.
    pub(super) fn begin(&mut self, now: Instant, to: NodeId, kind: Kind) -> Option<RequestId> {
        if self.under_way.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let id = RequestId(self.next);
        self.next += 1;
        self.under_way.insert(id, Flight { to, kind, sent: now });
        Some(id)
    }

    /// A member answered: what for, if that is still waited for.
    pub(super) fn end(&mut self, id: RequestId, from: NodeId) -> Option<Flight> {
        if self.under_way.get(&id).is_some_and(|f| f.to == from) { self.under_way.remove(&id) } else { None }
    }

    /// Gives up what was sent so long ago.
    pub(super) fn expire(&mut self, now: Instant, after: Duration) -> Vec<Flight> {
        self.under_way.extract_if(.., |_, f| now.since(f.sent) >= after).map(|(_, flight)| flight).collect()
    }

    /// Whether such a request is under way, to this member or to anybody.
    pub(super) fn any(&self, to: Option<&NodeId>, kind: Kind) -> bool {
        self.under_way.values().any(|f| to.is_none_or(|to| f.to == *to) && f.kind == kind)
    }

    /// How many such requests are under way.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.under_way.values().filter(|f| f.kind == kind).count()
    }

    /// Whether a member was not asked a question of a class within `pause`.
    pub(super) fn has_rested(&self, now: Instant, to: NodeId, class: u8, pause: Duration) -> bool {
        self.asked.get(&(to, class)).is_none_or(|at| now.since(*at) >= pause)
    }

    /// A member is asked a question of a class.
    pub(super) fn asked(&mut self, now: Instant, to: NodeId, class: u8) {
        self.asked.insert((to, class), now);
    }

    /// Another roster: everybody is asked anew.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
    }
}
