//! What the machines say, carried to each other and out of the process, until all are silent.
//!
//! Membership takes its turn when replica and uploads are silent, the replicator last: it sees the view
//! and the roster that the others have come to.

use std::sync::Arc;
use std::time::Duration;

use kepler_protocol::catalog::storage::StorageError;
use kepler_protocol::replicator::departure::Step;
use kepler_protocol::time::Instant;
use kepler_protocol::view::View;
use kepler_protocol::{replica, replicator, swim};

use super::inputs::{LEAVE, OPERATOR};
use super::message::{Question, Reply};
use super::requests::Sent;
use super::room::Room;
use super::{Node, place_at};
use crate::sim::process::{Clocks, Output};

/// How long an exchange of members waits for an answer.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(2);

/// How long membership waits for an answer over a stream.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);

impl Node {
    /// Carries what one machine says to the others until all are silent.
    pub(super) fn settle(&mut self, room: &mut Room, clocks: Clocks) -> Result<(), StorageError> {
        let now = clocks.now;
        loop {
            let mut busy = self.end_placements(room, clocks)? | self.end_copies(room, now)?;
            while let Some(output) = self.replica.poll_output() {
                busy = true;
                self.output(room, clocks, output);
            }
            if !busy {
                break;
            }
        }
        self.membership(room, now)?;
        if std::mem::take(&mut self.stirred) {
            return self.settle(room, clocks);
        }
        if self.stale {
            self.stale = false;
            self.views += 1;
            self.view = Arc::new(self.swim.view(self.views));
            room.peers = self.swim.members().map(|(_, record)| Arc::clone(record)).collect();
            self.replica.handle(&mut room.db, now, replica::Input::View(Arc::clone(&self.view)))?;
            self.heal_view(room, now, View::clone(&self.view));
            return self.settle(room, clocks);
        }
        self.heal(room, now);
        if self.depart(room, now)? {
            return self.settle(room, clocks);
        }
        if self.has_left {
            self.swim.left();
        }
        while let Some(transmit) = self.swim.poll_transmit() {
            if let Some(to) = place_at(transmit.to).filter(|to| *to < self.seat.ids.len()) {
                self.outputs.push_back(Output::Datagram { to, bytes: transmit.datagram });
            }
        }
        if std::mem::take(&mut self.has_left) {
            room.leaving = false;
            self.outputs.push_back(Output::Exit);
        }
        Ok(())
    }

    /// Tells membership what to say, and the others what it heard.
    fn membership(&mut self, room: &mut Room, now: Instant) -> Result<(), StorageError> {
        self.swim.set_ready(self.replica.council().standing().is_ok());
        if let Some(constants) = self.replica.council().constants() {
            self.swim.set_constants(constants);
        }
        while let Some(event) = self.swim.poll_event() {
            match event {
                swim::Event::MemberChanged { .. } => self.stale = true,
                swim::Event::Announced { node, announcement } => {
                    self.stirred = true;
                    let input = replica::Input::Announced { from: node, announcement };
                    self.replica.handle(&mut room.db, now, input)?;
                }
                swim::Event::StreamProbe { target, token } => {
                    let deadline = now + PROBE_DEADLINE;
                    self.request(target, Question::Probe, deadline, Sent::Probe(token));
                }
                swim::Event::PushPull { to } => {
                    let payload = self.swim.exchange_payload();
                    self.request(to, Question::Exchange(payload), now + EXCHANGE_DEADLINE, Sent::Exchange);
                }
                swim::Event::IdInUse { .. }
                | swim::Event::Refuted { .. }
                | swim::Event::ForeignCluster { .. } => {}
            }
        }
        Ok(())
    }

    fn output(&mut self, room: &mut Room, clocks: Clocks, output: replica::Output) {
        match output {
            replica::Output::Completed(id, outcome) => {
                self.completed(room, clocks, id, outcome);
            }
            replica::Output::Request { to, id, request, deadline } => {
                let question = Question::Replica(self.key, request.to_bytes());
                self.request(to, question, clocks.now + deadline, Sent::Replica(id));
            }
            replica::Output::Response { token, response } => {
                let response = Reply::Replica(response.to_bytes());
                self.outputs.push_back(Output::Response { token, response });
            }
            replica::Output::Announce(announcement) => self.swim.set_announcement(announcement),
            replica::Output::Written { dot, .. } => {
                if let Some(version) = room.version(&dot) {
                    room.stored.push(version);
                }
            }
            replica::Output::Operated(LEAVE, result) => {
                let drained = self.is_drained();
                let step = self.departure.answered(clocks.now, result.is_ok(), drained);
                self.has_left |= step == Some(Step::End);
            }
            replica::Output::Operated(OPERATOR, Ok(())) => room.witness.forgotten += 1,
            replica::Output::Roster(roster) => {
                self.healing.forget_removed(&roster);
                self.healing.machine.handle(clocks.now, replicator::Input::Roster(roster));
            }
            replica::Output::Ready { standing, .. } => {
                self.healing.machine.handle(clocks.now, replicator::Input::Ready(standing.is_ok()));
            }
            replica::Output::Refused(_)
            | replica::Output::Conflict { .. }
            | replica::Output::Operated(..)
            | replica::Output::MajorityLost(_) => {}
        }
    }
}
