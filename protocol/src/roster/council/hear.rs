//! What the council learns from others: that they are there, and what they answer.

use super::flights::{Flight, Kind};
use super::record::{CONFIRMATION, Confirmation};
use super::{Council, Event, drive};
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage, Table};
use crate::node_id::NodeId;
use crate::roster::Entry;
use crate::roster::change::{Decided, Phase};
use crate::roster::message::{Answer, Mark, Response};
use crate::roster::paxos::Progress;
use crate::time::Instant;

impl Council {
    /// Notes that a member spoke: that it is there, its mark, and whether it is ahead. Without a
    /// key the transport vouches for the node.
    pub(super) fn hear(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        from: NodeId,
        key: Option<[u8; 32]>,
        number: u64,
        mark: Mark,
    ) -> Result<()> {
        if from == self.config.node {
            return Ok(());
        }
        self.note_phase(from, number);
        let Some(held) = &self.held else { return Ok(()) };
        let lists = [held.roster(), held.floor.previous()];
        let same_key = |entry: &&Entry| key.is_none_or(|key| key == entry.key);
        let mut entries = lists.into_iter().filter_map(|r| r.members.get(&from)).filter(same_key).peekable();
        if entries.peek().is_some() {
            let bound = entries.any(|entry| entry.database == mark.database);
            self.presence.handle_heard(now, from, mark.database, bound);
            if !bound {
                return Ok(());
            }
            let known = self.remembered.get(&from);
            let present = held.roster().members.get(&from).is_some_and(|e| e.database == mark.database);
            let newer = match known {
                Some(known) if known.database == mark.database => mark.count > known.count,
                Some(_) => present,
                None => true,
            };
            if newer {
                self.remembered.insert(from, mark);
                let bytes = minicbor::to_vec(mark).expect("writing to a Vec cannot fail");
                storage.put_record(Table::Mark, from.as_str().as_bytes(), Some(&bytes))?;
            }
        }
        Ok(())
    }

    /// Notes that `from` is ahead, if it is.
    pub(super) fn note_phase(&mut self, from: NodeId, number: u64) {
        let theirs = Phase::from_wire(number);
        if self.held.as_ref().is_some_and(|held| held.phase() < theirs)
            && from != self.config.node
            && (self.behind.len() < drive::MAX_BEHIND || self.behind.contains_key(&from))
        {
            self.behind.insert(from, theirs);
        }
    }

    pub(super) fn take_response(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        flight: &Flight,
        response: Response,
    ) -> Result<()> {
        let from = flight.to;
        if let (Some(own), Some(theirs)) = (self.constants(), response.constants)
            && own.cluster != theirs.cluster
        {
            return self.take_foreign(storage, theirs, response.members);
        }
        let mark = Mark { database: response.database, count: response.mark };
        self.hear(storage, now, from, None, response.number, mark)?;
        let phase = Phase::from_wire(response.number);
        let held = self.held.as_ref();
        let member = held
            .is_some_and(|h| h.roster().members.get(&from).is_some_and(|e| e.database == response.database));
        if held.is_some_and(|h| phase.number <= h.number()) && phase.number > 0 && member {
            self.contact.answered(from, flight.sent);
        }
        match (flight.kind, response.answer) {
            (Kind::Hello, Answer::Hello { nonce, remembered }) if nonce == self.proof.nonce => {
                let ahead = remembered.is_some_and(|m| m.database == self.database && m.count > self.mark);
                if ahead && !self.faults.keep_database_id_when_behind {
                    return self.replace_database(storage);
                }
                self.proof.agree(from, response.database);
            }
            (Kind::Join | Kind::Learn, Answer::Learned { decided, floor }) => {
                self.behind.remove(&from);
                self.take_roster(storage, now, decided, floor)?;
            }
            (Kind::Learn, _) => {
                self.behind.remove(&from);
            }
            (Kind::Join, Answer::Refused { why }) => {
                if self.refused.as_ref() != Some(&why) {
                    self.events.push_back(Event::Refused(why.clone()));
                }
                self.refused = Some(why);
            }
            (Kind::Join, Answer::Later { .. }) => self.refused = None,
            (Kind::Adopt(sent), Answer::Adopted { confirmation, silent }) => {
                self.take_adopted(from, sent, phase, response.database, confirmation, silent);
            }
            (Kind::Prepare(ballot), Answer::Promise { ballot: promised, accepted })
                if ballot == promised && member =>
            {
                self.step_proposer(storage, now, ballot, |p| p.handle_promise(from, accepted))?;
            }
            (Kind::Accept(ballot), Answer::Accepted { ballot: accepted }) if ballot == accepted && member => {
                self.step_proposer(storage, now, ballot, |p| p.handle_accepted(from))?;
            }
            (Kind::Prepare(ballot) | Kind::Accept(ballot), Answer::Outbid { ballot: higher }) => {
                self.ballot_floor = self.ballot_floor.max(higher.counter);
                if self.proposer.as_ref().is_some_and(|p| p.ballot == ballot) {
                    self.back_off(now);
                }
            }
            (Kind::Prepare(_) | Kind::Accept(_), _) => self.take_loss(flight),
            _ => {}
        }
        Ok(())
    }

    fn take_adopted(
        &mut self,
        from: NodeId,
        sent: Phase,
        phase: Phase,
        database: crate::identity::DatabaseId,
        confirmation: Option<Seen>,
        silent: Vec<NodeId>,
    ) {
        let Some(held) = &mut self.held else { return };
        if sent.number != held.number() {
            return;
        }
        let told = self.told.entry(from).or_insert(Phase::from_wire(0));
        *told = phase.min(sent).max(*told);
        let bound = held.floor.previous().members.get(&from).is_some_and(|e| e.database == database);
        if let Some(seen) = confirmation
            && bound
            && phase.number == held.number()
        {
            held.floor.confirm(from, seen, silent);
        }
    }

    pub(super) fn take_loss(&mut self, flight: &Flight) {
        let (Kind::Prepare(ballot) | Kind::Accept(ballot)) = flight.kind else { return };
        let now = self.now;
        let accepting = matches!(flight.kind, Kind::Accept(_));
        if let Some(proposer) = &mut self.proposer
            && proposer.ballot == ballot
            && proposer.is_accepting() == accepting
            && proposer.handle_loss(flight.to) == Progress::Hopeless
        {
            self.back_off(now);
        }
    }

    /// Records what this node has seen, in the transaction in which it stops answering for the
    /// roster before.
    pub(super) fn confirm(&mut self, storage: &mut dyn Storage, decided: &Decided) -> Result<()> {
        self.confirmation = match self.is_bound(&decided.previous()) {
            true => Some(Confirmation {
                number: decided.roster.number,
                database: self.database,
                seen: storage.seen()?,
            }),
            false => None,
        };
        let confirmation = self.confirmation.clone();
        self.put(storage, CONFIRMATION, confirmation.as_ref())
    }
}
