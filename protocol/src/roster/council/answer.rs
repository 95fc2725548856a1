//! What the council answers to requests.

use super::propose::JOIN_TRIES;
use super::record::ACCEPTOR;
use super::{Council, Peer};
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage};
use crate::node_id::NodeId;
use crate::roster::change::{Change, Decided, Phase, Reason};
use crate::roster::message::{Answer, Mark, Question, RING_VERSION, Request, Response, reason};
use crate::roster::paxos::Acceptor;
use crate::roster::paxos::Ballot;
use crate::roster::{Entry, Roster};
use crate::time::Instant;

impl Council {
    pub(super) fn response(&self, answer: Answer) -> Response {
        let roster = self.roster();
        Response {
            number: self.number().unwrap_or(0),
            constants: roster.map(|r| r.constants),
            members: roster.map_or(0, |r| u32::try_from(r.members.len()).unwrap_or(u32::MAX)),
            database: self.database,
            mark: self.mark,
            answer,
        }
    }

    pub(super) fn answer(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        from: Peer,
        request: Request,
    ) -> Result<Answer> {
        let own = self.constants().map(|c| c.cluster);
        if let (Some(own), Some(theirs)) = (own, request.cluster)
            && own != theirs
        {
            return Ok(match request.question {
                Question::Hello { nonce } => Answer::Hello { nonce, remembered: None },
                _ => Answer::Refused { why: format!("this node belongs to cluster {own}, not to {theirs}") },
            });
        }
        let mark = Mark { database: request.database, count: request.mark };
        self.hear(storage, now, from.node, Some(from.key), request.number, mark)?;
        match request.question {
            Question::Hello { nonce } => {
                Ok(Answer::Hello { nonce, remembered: self.remembered.get(&from.node).copied() })
            }
            Question::Join { entry, replication_factor, ring_version } => {
                Ok(self.answer_join(now, from, entry, replication_factor, ring_version))
            }
            Question::Learn => Ok(match &self.held {
                Some(held) if held.phase() > Phase::from_wire(request.number) => self.learned(),
                _ => Answer::Later { why: "nothing newer is known here".into() },
            }),
            Question::Adopt { decided, floor } => self.answer_adopt(storage, now, from, decided, floor),
            Question::Prepare { base, ballot, change } => {
                if let Some(answer) = self.check_ballot(from, base, ballot, request.database) {
                    return Ok(answer);
                }
                self.begin_base(base);
                // What was accepted must be proposed whoever objects, so only a first value is judged.
                if self.acceptor.accepted.is_none()
                    && let Err(why) = self.judge(now, &change)
                {
                    return Ok(Answer::Refused { why: reason(why) });
                }
                self.prepare(storage, ballot)
            }
            Question::Accept { base, ballot, change, fresh } => {
                if let Some(answer) = self.check_ballot(from, base, ballot, request.database) {
                    return Ok(answer);
                }
                self.begin_base(base);
                if fresh && let Err(why) = self.judge(now, &change) {
                    return Ok(Answer::Refused { why: reason(why) });
                }
                self.accept(storage, ballot, change)
            }
        }
    }

    fn learned(&self) -> Answer {
        match &self.held {
            Some(held) => {
                Answer::Learned { decided: held.decided.clone(), floor: held.floor.known().cloned() }
            }
            None => Answer::Later { why: "this node is not admitted itself".into() },
        }
    }

    fn judge(&self, now: Instant, change: &Change) -> Result<(), String> {
        match &self.held {
            Some(held) => self.presence.judge(now, held.roster(), change, self.config.forget_after),
            None => Err("this node is not admitted itself".into()),
        }
    }

    fn answer_join(
        &mut self,
        now: Instant,
        from: Peer,
        entry: Entry,
        replication_factor: u8,
        ring_version: u32,
    ) -> Answer {
        let Some(held) = &self.held else {
            return Answer::Later { why: "this node is not admitted itself".into() };
        };
        let constants = held.roster().constants;
        let refuse = |why: String| Answer::Refused { why: reason(why) };
        if entry.key != from.key {
            return refuse("a node joins with its own identity key only".into());
        }
        if ring_version != RING_VERSION {
            return refuse(format!("its ring version is {ring_version}, the cluster's {RING_VERSION}"));
        }
        if replication_factor != constants.replication_factor {
            let factor = constants.replication_factor;
            return refuse(format!(
                "its REPLICATION_FACTOR is {replication_factor}, the cluster's is {factor}: set it to {factor}"
            ));
        }
        if held.roster().members.get(&from.node) == Some(&entry) {
            return self.learned();
        }
        if let Err(why) = self.standing() {
            return Answer::Later { why: reason(why) };
        }
        let change = Change { node: from.node, entry: Some(entry), reason: Reason::Admitted };
        if let Err(why) = self.judge(now, &change) {
            return refuse(why);
        }
        self.want(now, change, std::time::Duration::ZERO, JOIN_TRIES);
        Answer::Later { why: "the members are deciding on it".into() }
    }

    fn answer_adopt(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        from: Peer,
        decided: Decided,
        floor: Option<Seen>,
    ) -> Result<Answer> {
        let names = |roster: &Roster| roster.members.get(&from.node).is_some_and(|e| e.key == from.key);
        if !names(&decided.roster) && !names(&decided.previous()) {
            return Ok(Answer::Refused { why: "only members pass a roster on".into() });
        }
        let (number, previous) = (decided.roster.number, decided.previous());
        self.take_roster(storage, now, decided, floor)?;
        let confirmation = match &self.confirmation {
            Some(c) if c.number == number && c.database == self.database && self.proof.proved => {
                Some(c.seen.clone())
            }
            _ => None,
        };
        let silent = self.silent_members(now, &previous);
        Ok(Answer::Adopted { confirmation, silent })
    }

    /// The members of `roster` that this node has not heard from for so long that they are given up.
    pub(super) fn silent_members(&self, now: Instant, roster: &Roster) -> Vec<NodeId> {
        let silent = |(id, entry): &(&NodeId, &Entry)| {
            self.presence.silent_for(now, id, entry) >= self.config.forget_after
        };
        roster.members.iter().filter(silent).map(|(id, _)| *id).collect()
    }

    /// Takes a decided roster from a member, if it is newer than what is held and meant for this node.
    pub(super) fn take_roster(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        decided: Decided,
        floor: Option<Seen>,
    ) -> Result<()> {
        let Some(held) = &mut self.held else {
            // Who belongs to no cluster takes only a roster that admits it.
            let admits = self.is_bound(&decided.roster);
            return if admits { self.adopt(storage, now, decided, floor) } else { Ok(()) };
        };
        if held.roster().constants != decided.roster.constants || held.number() > decided.roster.number {
            return Ok(());
        }
        if held.number() < decided.roster.number {
            return self.adopt(storage, now, decided, floor);
        }
        if let Some(floor) = floor
            && held.decided == decided
        {
            held.floor.set_known(now, floor);
        }
        Ok(())
    }

    /// Why a ballot is not even looked at: only members decide, among members, who hold the base
    /// and may answer for it.
    fn check_ballot(
        &self,
        from: Peer,
        base: u64,
        ballot: Ballot,
        database: crate::identity::DatabaseId,
    ) -> Option<Answer> {
        let refuse = |why: &str| Some(Answer::Refused { why: why.into() });
        let Some(held) = &self.held else { return refuse("this node is no member") };
        let entry = held.roster().members.get(&from.node);
        if base != held.number() {
            return Some(Answer::Later { why: format!("this node holds roster {}", held.number()) });
        }
        if ballot.node != from.node || entry.is_none_or(|e| e.key != from.key || e.database != database) {
            return refuse("only members of the roster propose the next");
        }
        if !self.may_vote() {
            let why = self.standing().err().unwrap_or_else(|| "the floor is not reached".into());
            return Some(Answer::Later { why: reason(why) });
        }
        None
    }

    pub(super) fn begin_base(&mut self, base: u64) {
        if self.acceptor.base != base {
            self.acceptor = Acceptor::new(base);
        }
    }

    pub(super) fn prepare(&mut self, storage: &mut dyn Storage, ballot: Ballot) -> Result<Answer> {
        match self.acceptor.prepare(ballot) {
            Ok(accepted) => {
                self.keep_promises(storage)?;
                Ok(Answer::Promise { ballot, accepted })
            }
            Err(ballot) => Ok(Answer::Outbid { ballot }),
        }
    }

    pub(super) fn accept(
        &mut self,
        storage: &mut dyn Storage,
        ballot: Ballot,
        change: Change,
    ) -> Result<Answer> {
        match self.acceptor.accept(ballot, change) {
            Ok(()) => {
                self.keep_promises(storage)?;
                Ok(Answer::Accepted { ballot })
            }
            Err(ballot) => Ok(Answer::Outbid { ballot }),
        }
    }

    fn keep_promises(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let acceptor = self.acceptor.clone();
        if self.faults.forget_promises { Ok(()) } else { self.put(storage, ACCEPTOR, Some(&acceptor)) }
    }
}
