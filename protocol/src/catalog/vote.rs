//! This node as a replica: answers to reads and pushes, reservations, votes.
//!
//! A reservation lets one attempt at a conditional write exchange it for its version. At most one
//! stands for a name. It is durable, bound to a roster, and expires by running time, in full again
//! after a restart. The exchange is the vote: recorded by attempt, in the transaction that stores
//! the version and ends the reservation, so that whoever asks again hears the same. Two attempts
//! on the same base never both have a majority of votes: a replica that voted for one no longer
//! has the base that it would need to reserve for the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::dots::{key_of, parse};
use super::merge::Learned;
use super::message::{Base, Pushed, Request, Response, Survivors, cut_versions};
use super::storage::{Result, Storage, Table, published};
use super::{Catalog, Config, Event, Step};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::{Dot, Version};

/// The most reservations that stand at one time, and the most votes that are remembered.
const MAX_RECORDS: usize = 100_000;

#[derive(Clone, Copy, Debug)]
struct Reservation {
    attempt: Dot,
    roster: u64,
    expires: Instant,
}

/// Reservations and votes of this node.
#[derive(Debug)]
pub(super) struct Replica {
    term: Duration,
    vote_kept: Duration,
    reservations: BTreeMap<Name, Reservation>,
    expiries: BTreeSet<(Instant, Name)>,
    votes: BTreeSet<Dot>,
    vote_expiries: BTreeSet<(Instant, Dot)>,
}

/// What a replica says to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Reserved,
    Voted,
    Held,
    Gone,
}

impl Replica {
    pub fn open(config: &Config, storage: &dyn Storage, now: Instant) -> Result<Self> {
        let mut replica = Self {
            term: config.reservation,
            vote_kept: config.vote_kept,
            reservations: BTreeMap::new(),
            expiries: BTreeSet::new(),
            votes: BTreeSet::new(),
            vote_expiries: BTreeSet::new(),
        };
        for (key, value) in storage.records(Table::Reservation)? {
            let (attempt, roster) = parse(&value)?;
            let expires = now + replica.term;
            let name: Name = parse(&key)?;
            replica.expiries.insert((expires, name.clone()));
            replica.reservations.insert(name, Reservation { attempt, roster, expires });
        }
        for (key, _) in storage.records(Table::Vote)? {
            let attempt = parse(&key)?;
            replica.votes.insert(attempt);
            replica.vote_expiries.insert((now + replica.vote_kept, attempt));
        }
        Ok(replica)
    }

    pub fn has_voted(&self, attempt: &Dot) -> bool {
        self.votes.contains(attempt)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let reservation = self.expiries.first().map(|(at, _)| *at);
        let vote = self.vote_expiries.first().map(|(at, _)| *at);
        reservation.into_iter().chain(vote).min()
    }

    pub fn handle_timeout(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        while let Some((at, name)) = self.expiries.first().cloned() {
            if at > now {
                break;
            }
            self.remove(storage, &name)?;
        }
        while let Some((at, attempt)) = self.vote_expiries.first().copied() {
            if at > now && self.votes.len() <= MAX_RECORDS {
                break;
            }
            self.vote_expiries.remove(&(at, attempt));
            self.votes.remove(&attempt);
            storage.put_record(Table::Vote, &key_of(&attempt), None)?;
        }
        Ok(())
    }

    /// Reservations of another roster are void.
    pub fn handle_roster(&mut self, storage: &mut dyn Storage, number: Option<u64>) -> Result<()> {
        let void: Vec<Name> = self
            .reservations
            .iter()
            .filter(|(_, r)| Some(r.roster) != number)
            .map(|(name, _)| name.clone())
            .collect();
        void.iter().try_for_each(|name| self.remove(storage, name))
    }

    fn remove(&mut self, storage: &mut dyn Storage, name: &Name) -> Result<()> {
        if let Some(old) = self.reservations.remove(name) {
            self.expiries.remove(&(old.expires, name.clone()));
            storage.put_record(Table::Reservation, &name_key(name), None)?;
        }
        Ok(())
    }

    fn standing(&self, name: &Name, roster: u64, now: Instant) -> Option<Dot> {
        let reservation = self.reservations.get(name)?;
        (reservation.expires > now && reservation.roster == roster).then_some(reservation.attempt)
    }

    fn grant(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        name: &Name,
        attempt: Dot,
        roster: u64,
    ) -> Result<bool> {
        self.remove(storage, name)?;
        if self.reservations.len() >= MAX_RECORDS {
            return Ok(false);
        }
        let expires = now + self.term;
        let record = minicbor::to_vec((attempt, roster)).expect("writing to memory cannot fail");
        storage.put_record(Table::Reservation, &name_key(name), Some(&record))?;
        self.expiries.insert((expires, name.clone()));
        self.reservations.insert(name.clone(), Reservation { attempt, roster, expires });
        Ok(true)
    }
}

fn name_key(name: &Name) -> Vec<u8> {
    minicbor::to_vec(name).expect("writing to memory cannot fail")
}

impl Catalog {
    pub(super) fn answer(&mut self, step: &mut Step<'_>, from: NodeId, request: Request) -> Result<Response> {
        match request {
            Request::Read(read) => {
                if let Some(refused) = self.gate(step, from, read.roster) {
                    return Ok(refused);
                }
                self.learn_all(step, &read.offers)?;
                Ok(Response::Read(self.survivors(step, &read.name, &read.known)?))
            }
            Request::Push(push) => {
                let mut pushed = Pushed::default();
                for version in &push.versions {
                    if self.learn(step.storage, version)? == Learned::Refused {
                        pushed.refused.push(version.dot);
                    }
                }
                let refused = push.roster.and_then(|number| self.gate(step, from, number));
                Ok(refused.unwrap_or(Response::Pushed(pushed)))
            }
            Request::Reserve(reserve) => {
                if let Some(refused) = self.gate(step, from, reserve.roster) {
                    return Ok(refused);
                }
                self.learn_all(step, &reserve.offers)?;
                match self.reserve(step, &reserve.name, reserve.attempt, reserve.base, reserve.roster)? {
                    Verdict::Reserved => Ok(Response::Reserved),
                    Verdict::Voted => Ok(Response::Voted),
                    Verdict::Held => Ok(Response::Held),
                    Verdict::Gone => Ok(Response::Gone(self.survivors(step, &reserve.name, &[])?)),
                }
            }
            Request::Vote(vote) => {
                if self.replica.votes.contains(&vote.version.dot) {
                    return Ok(Response::Voted);
                }
                if let Some(refused) = self.gate(step, from, vote.roster) {
                    return Ok(refused);
                }
                if self.vote(step, &vote.version, vote.roster)? {
                    return Ok(Response::Voted);
                }
                Ok(match self.learn(step.storage, &vote.version)? {
                    Learned::Refused => Response::Invalid("the dot is known with other content".into()),
                    Learned::New | Learned::Known => Response::Unvoted,
                })
            }
            Request::Release(release) => {
                self.release(step, &release.name, release.attempt)?;
                Ok(Response::Done)
            }
            Request::Audit(audit) => self.audited(step, &audit),
            Request::Recall(recall) => self.recalled(step, recall).map(Response::Recalled),
            Request::Testify(check) => self.testify(step, &check.dots).map(Response::Testified),
            Request::Compare(compare) => Ok(Response::Compared(self.compare(step, &compare))),
            Request::Pull(pull) => self.page(step, pull).map(Response::Page),
            Request::Check(check) => self.check(step, &check.dots),
            Request::Relay(relay) => {
                self.handle_relay(step, relay)?;
                Ok(Response::Done)
            }
        }
    }

    /// Why this node gives no answer that counts over roster `number`, if it gives none.
    fn gate(&mut self, step: &Step<'_>, from: NodeId, number: u64) -> Option<Response> {
        if !self.may_vote(step.electorate) {
            let why = step.electorate.standing().err().unwrap_or_default();
            return Some(Response::NotReady(why));
        }
        match step.electorate.number() {
            None => Some(Response::NotReady("not admitted".into())),
            Some(ours) if number < ours => Some(Response::Behind(ours)),
            Some(ours) if number > ours => {
                self.events.push_back(Event::Behind { from, number });
                Some(Response::Ahead(ours))
            }
            Some(_) => None,
        }
    }

    fn survivors(&self, step: &Step<'_>, name: &Name, known: &[Dot]) -> Result<Survivors> {
        let ours = published(&*step.storage, name)?;
        let holds: Vec<Dot> = ours.iter().map(|v| v.dot).collect();
        let mut superseded = Vec::new();
        for dot in known.iter().filter(|dot| !holds.contains(dot)) {
            if self.knowledge.contains(dot) || step.storage.stub(dot)?.is_some() {
                superseded.push(*dot);
            }
        }
        let versions = cut_versions(ours.into_iter().filter(|v| !known.contains(&v.dot)));
        Ok(Survivors { holds, versions, superseded })
    }

    pub(super) fn reserve(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        attempt: Dot,
        base: Base,
        roster: u64,
    ) -> Result<Verdict> {
        if self.replica.votes.contains(&attempt) {
            return Ok(Verdict::Voted);
        }
        if self.replica.standing(name, roster, step.now).is_some_and(|other| other != attempt) {
            return Ok(Verdict::Held);
        }
        let ours = published(&*step.storage, name)?;
        let mut live = ours.iter().filter(|v| !v.is_tombstone());
        let stands = match base {
            Base::Version(dot) => live.any(|v| v.dot == dot),
            Base::Absent => live.next().is_none(),
        };
        // What was stored or closed already cannot be voted on any more.
        if !stands || self.knowledge.contains(&attempt) {
            return Ok(Verdict::Gone);
        }
        let granted = self.replica.grant(step.storage, step.now, name, attempt, roster)?;
        Ok(if granted { Verdict::Reserved } else { Verdict::Held })
    }

    /// Exchanges the reservation of the version's dot for the version, if it stands.
    pub(super) fn vote(&mut self, step: &mut Step<'_>, version: &Version, roster: u64) -> Result<bool> {
        let attempt = version.dot;
        if self.replica.votes.contains(&attempt) {
            return Ok(true);
        }
        if self.replica.standing(&version.name, roster, step.now) != Some(attempt) {
            return Ok(false);
        }
        if self.learn(step.storage, version)? == Learned::Refused {
            return Ok(false);
        }
        self.replica.remove(step.storage, &version.name)?;
        self.replica.votes.insert(attempt);
        self.replica.vote_expiries.insert((step.now + self.replica.vote_kept, attempt));
        step.storage.put_record(Table::Vote, &key_of(&attempt), Some(&[]))?;
        Ok(true)
    }

    pub(super) fn release(&mut self, step: &mut Step<'_>, name: &Name, attempt: Dot) -> Result<()> {
        if self.replica.reservations.get(name).is_some_and(|r| r.attempt == attempt) {
            self.replica.remove(step.storage, name)?;
        }
        Ok(())
    }
}
