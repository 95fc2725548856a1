//! Passing new versions on to every member with bounded fan-out.
//!
//! The members stand in a circle by node id. Whoever relays cuts the stretch it answers for into
//! at most [`FAN_OUT`] pieces and sends each to its first member, which answers for the rest. Each
//! member gets a version about once; a piece whose first member cannot be reached goes to the next
//! one. Home replicas are left out, for they are pushed to. What gets lost is left to exchange.

use std::collections::BTreeMap;

use super::message::{Relay, Request};
use super::storage::Result;
use super::{Catalog, Purpose, Step};
use crate::node_id::NodeId;
use crate::version::Version;

/// How many members one member passes a version to.
const FAN_OUT: usize = 4;

/// How many members of a piece are tried.
const MAX_TRIES: u32 = 3;

/// The most pieces that wait for an answer; more are sent without a second try.
const MAX_PENDING: usize = 4096;

#[derive(Debug)]
struct Piece {
    versions: Vec<Version>,
    rest: Vec<NodeId>,
    tries: u32,
}

/// Pieces that were sent and not yet acknowledged.
#[derive(Debug, Default)]
pub(super) struct Relays {
    next: u64,
    pending: BTreeMap<u64, Piece>,
}

impl Catalog {
    /// Relays a version of this node to all.
    pub(super) fn relay(&mut self, step: &Step<'_>, version: &Version) {
        self.pass_on(step, vec![version.clone()], self.config.node);
    }

    pub(super) fn handle_relay(&mut self, step: &mut Step<'_>, relay: Relay) -> Result<()> {
        self.learn_all(step, &relay.versions)?;
        if relay.until != self.config.node {
            self.pass_on(step, relay.versions, relay.until);
        }
        Ok(())
    }

    /// Sends to the members after this one in the circle, up to `until`.
    fn pass_on(&mut self, step: &Step<'_>, versions: Vec<Version>, until: NodeId) {
        let me = self.config.node;
        let place = |node: &NodeId| (*node <= me, *node);
        let homes: Vec<NodeId> = match versions.as_slice() {
            [version] => {
                step.electorate.homes(&version.name).into_iter().flat_map(|list| list.nodes).collect()
            }
            _ => Vec::new(),
        };
        let mut members: Vec<NodeId> = step
            .electorate
            .members()
            .into_iter()
            .map(|(node, _)| node)
            .filter(|node| *node != me && place(node) <= place(&until))
            .filter(|node| !homes.contains(node) && self.is_reachable(node))
            .collect();
        members.sort_by_key(place);
        for piece in members.chunks(members.len().div_ceil(FAN_OUT).max(1)) {
            let piece = Piece { versions: versions.clone(), rest: piece.to_vec(), tries: 0 };
            self.send_piece(step, piece);
        }
    }

    fn send_piece(&mut self, step: &Step<'_>, mut piece: Piece) {
        let Some(until) = piece.rest.last().copied() else { return };
        let to = piece.rest.remove(0);
        let request = Request::Relay(Relay { versions: piece.versions.clone(), until });
        let deadline = step.now + self.config.request_timeout;
        if self.relays.pending.len() >= MAX_PENDING {
            self.request(to, request, deadline, Purpose::Nothing);
            return;
        }
        let id = self.relays.next;
        self.relays.next += 1;
        self.relays.pending.insert(id, piece);
        self.request(to, request, deadline, Purpose::Relay(id));
    }

    pub(super) fn relay_answer(&mut self, step: &Step<'_>, id: u64, delivered: bool) {
        let Some(mut piece) = self.relays.pending.remove(&id) else { return };
        piece.tries += 1;
        if !delivered && piece.tries < MAX_TRIES {
            self.send_piece(step, piece);
        }
    }
}
