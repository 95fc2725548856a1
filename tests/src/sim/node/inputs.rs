//! What an input does: which machine it is handed to, and which question is answered at once.

use kepler_protocol::catalog::command::CommandId;
use kepler_protocol::catalog::storage::StorageError;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replica::{self, Operator, Request, Response, Unreachable};
use kepler_protocol::replicator::departure::{self, Step};
use kepler_protocol::roster::council::Peer;
use kepler_protocol::time::Instant;

use super::message::{Addressed, Question, Reply};
use super::requests::Sent;
use super::room::Room;
use super::{Node, address};
use crate::sim::process::{Clocks, Input, Output, Word};

/// Anything else is a bug that a run should end with.
const SOUND: &str = "a replica sends what a replica takes";

/// Names what operators ask, beside the commands of clients.
pub(super) const OPERATOR: CommandId = CommandId(u64::MAX);
pub(super) const LEAVE: CommandId = CommandId(u64::MAX - 1);
const STAY: CommandId = CommandId(u64::MAX - 2);

impl Node {
    pub(super) fn input(
        &mut self,
        room: &mut Room,
        clocks: Clocks,
        input: Input<Self>,
    ) -> Result<(), StorageError> {
        let now = clocks.now;
        match input {
            Input::Client { operation, ask } => self.client(room, clocks, operation, ask)?,
            Input::Datagram { from, bytes } => {
                self.swim.handle_datagram(now, address(from), &bytes);
            }
            Input::Request { request: Addressed { key: Some(key), .. }, .. } if key != self.key => {}
            Input::Request { from, token, request: Addressed { request, .. } } => {
                self.asked(room, now, self.seat.ids[from], token, request)?;
            }
            Input::Response { from, id, response } => {
                self.replied(room, now, self.seat.ids[from], id, response)?;
            }
            Input::Operator(word) => self.operated(room, now, word)?,
            Input::Timeout => self.timeout(room, now)?,
        }
        Ok(())
    }

    /// A peer asks.
    fn asked(
        &mut self,
        room: &mut Room,
        now: Instant,
        node: NodeId,
        token: u64,
        request: Question,
    ) -> Result<(), StorageError> {
        match request {
            // Who leaves takes nothing that it would have to hand over at once.
            Question::Store(..) if self.setup.drains && !self.departure.takes_copies() => {
                let response = Reply::Stored(false);
                self.outputs.push_back(Output::Response { token, response });
            }
            Question::Push { .. } if self.setup.drains && !self.departure.takes_copies() => {
                let response = Reply::Pushed { stored: false, held: false };
                self.outputs.push_back(Output::Response { token, response });
            }
            Question::Store(chunk, dot) => {
                let folder = !self.setup.no_folder_sync;
                let response = Reply::Stored(room.take(chunk, &[dot], false, folder, self.setup.heal).0);
                self.outputs.push_back(Output::Response { token, response });
            }
            Question::Push { chunk, dots, recovered } => {
                let folder = !self.setup.no_folder_sync;
                let (stored, held) = room.take(chunk, &dots, recovered, folder, self.setup.heal);
                let response = Reply::Pushed { stored, held };
                self.outputs.push_back(Output::Response { token, response });
            }
            Question::Fetch(chunk) => {
                let unhashed =
                    self.setup.heal.sends_unhashed && room.shelf.has(&chunk) && room.is_named(&chunk);
                let given = unhashed || self.hash(room, now, &chunk);
                if given {
                    self.witness_sent(room, &chunk);
                }
                let response = Reply::Fetched(given);
                self.outputs.push_back(Output::Response { token, response });
            }
            Question::Heal(bytes) => self.heal_asked(now, node, token, &bytes),
            Question::Probe => {
                self.outputs.push_back(Output::Response { token, response: Reply::Here });
            }
            Question::Exchange(bytes) => {
                if let Ok(answer) = self.swim.handle_exchange_request(now, &bytes) {
                    let response = Reply::Exchanged(answer);
                    self.outputs.push_back(Output::Response { token, response });
                }
            }
            Question::Replica(key, bytes) => {
                let request = Request::from_bytes(&bytes).expect(SOUND);
                let from = Peer { node, key };
                let input = replica::Input::Request { from, token, request };
                self.replica.handle(&mut room.db, now, input)?;
            }
        }
        Ok(())
    }

    /// A peer answered, or did not in time.
    fn replied(
        &mut self,
        room: &mut Room,
        now: Instant,
        node: NodeId,
        id: u64,
        response: Option<Reply>,
    ) -> Result<(), StorageError> {
        match self.requests.get(id) {
            Some(Sent::Replica(id)) => {
                let result = match response {
                    Some(Reply::Replica(bytes)) => Ok(Response::from_bytes(&bytes).expect(SOUND)),
                    _ => Err(Unreachable),
                };
                let input = replica::Input::Response { id, from: node, result };
                self.replica.handle(&mut room.db, now, input)?;
            }
            Some(Sent::Store(id)) => {
                self.placed(room, now, id, node, matches!(response, Some(Reply::Stored(true))));
            }
            Some(Sent::Probe(probe)) => {
                self.swim.handle_stream_probe(now, probe, response.is_some());
            }
            Some(Sent::Heal(id)) => {
                self.heal_answered(now, id, response);
            }
            Some(Sent::Push(id)) => {
                self.heal_pushed(room, now, id, response);
            }
            Some(Sent::Fetch(key)) => {
                self.heal_fetched(room, now, key, response);
            }
            Some(Sent::Read(key)) => {
                self.requests.end(id);
                let found = response.map(|reply| matches!(reply, Reply::Fetched(true)));
                self.read_on(room, now, key, found);
            }
            Some(Sent::Gather(row)) => {
                self.requests.end(id);
                self.gather(room, now, row, matches!(response, Some(Reply::Fetched(true))));
            }
            Some(Sent::Owed(row)) => {
                self.requests.end(id);
                self.owed_answered(room, now, row, response);
            }
            Some(Sent::Exchange) => {
                if let Some(Reply::Exchanged(bytes)) = response {
                    // Another cluster's answer is refused by the machine: nothing to do.
                    let _ = self.swim.handle_exchange_response(now, &bytes);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// An operator says what is to be done.
    fn operated(&mut self, room: &mut Room, now: Instant, word: Word) -> Result<(), StorageError> {
        match word {
            Word::Leave => {
                let alone = !departure::may_begin(&self.seat.id, &self.view);
                if self.setup.drains && (alone || self.replica.council().standing().is_err()) {
                    return Ok(());
                }
                room.leaving = self.setup.drains;
                self.begin_to_leave();
            }
            Word::Stay => {
                if self.departure.cancel() {
                    self.stay(room, now)?;
                }
            }
            Word::Cap(cap) => self.heal_cap(room, now, cap),
            Word::Forget(place) => {
                let word = Operator::Forget(self.seat.ids[place]);
                self.replica.handle(&mut room.db, now, replica::Input::Operator(OPERATOR, word))?;
            }
            Word::ForgetLost(places) => {
                let lost = (0..self.seat.ids.len()).filter(|place| places >> place & 1 == 1);
                let word = Operator::ForgetLost(lost.map(|place| self.seat.ids[place]).collect());
                self.replica.handle(&mut room.db, now, replica::Input::Operator(OPERATOR, word))?;
            }
        }
        Ok(())
    }

    fn timeout(&mut self, room: &mut Room, now: Instant) -> Result<(), StorageError> {
        self.swim.handle_timeout(now);
        if self.replica.poll_timeout().is_some_and(|at| at <= now) {
            self.replica.handle_timeout(&mut room.db, now)?;
        }
        self.uploads_timeout(room, now)?;
        self.pay(room, now);
        self.heal_timeout(room, now);
        Ok(())
    }

    pub(super) fn begin_to_leave(&mut self) {
        self.departure.begin();
        self.swim.leave();
    }

    pub(super) fn is_drained(&self) -> bool {
        !self.setup.drains || self.healing.machine.is_drained()
    }

    /// Does what a node that leaves has to do now; whether that was anything.
    pub(super) fn depart(&mut self, room: &mut Room, now: Instant) -> Result<bool, StorageError> {
        let council = self.replica.council();
        let deserted = |roster| departure::is_deserted(&self.seat.id, &self.view, roster);
        let ready = self.setup.drains && council.standing().is_ok();
        let deserted = ready && council.roster().is_some_and(deserted);
        match self.departure.look(now, self.is_drained(), deserted) {
            None => return Ok(false),
            Some(Step::Ask) if self.setup.leaves_unshared => {
                self.has_left |= self.departure.answered(now, true, true) == Some(Step::End);
            }
            Some(Step::Ask) => {
                let word = replica::Input::Operator(LEAVE, Operator::Leave);
                self.replica.handle(&mut room.db, now, word)?;
            }
            Some(Step::End) => self.has_left = true,
            Some(Step::Stay) => self.stay(room, now)?,
        }
        Ok(true)
    }

    /// It leaves no more.
    fn stay(&mut self, room: &mut Room, now: Instant) -> Result<(), StorageError> {
        room.leaving = false;
        self.swim.stay();
        let word = replica::Input::Operator(STAY, Operator::Stay);
        self.replica.handle(&mut room.db, now, word)
    }
}
