//! Which change of the roster this node would propose, and getting it decided.
//!
//! One attempt at a time; after one that is lost a random wait, longer after each, so that proposers make
//! room for one another.

use std::time::Duration;

use super::flights::Kind;
use super::{Council, MAX_WANTED};
use crate::catalog::storage::{Result, Storage};
use crate::node_id::NodeId;
use crate::roster::change::{Change, Decided, Reason};
use crate::roster::message::{Answer, Question};
use crate::roster::paxos::Ballot;
use crate::roster::paxos::{Progress, Proposer};
use crate::time::Instant;

/// How long a newcomer's wish stands without being repeated.
pub(super) const JOIN_TRIES: Duration = Duration::from_secs(10);
/// How long an operator's forget is tried.
pub(super) const FORGET_TRIES: Duration = Duration::from_secs(60);
/// An attempt to have a change decided ends after this.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// The first random back-off after a lost attempt; doubled up to [`MAX_BACK_OFF`].
const BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(3);

/// A change this node would propose.
#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) change: Change,
    /// Not before; spreads the proposals of members that see the same.
    pub(super) after: Instant,
    /// Forgotten unless asked for again.
    pub(super) until: Instant,
}

impl Council {
    /// Notes a change to propose, not before a random part of `spread` has passed.
    pub(super) fn want(&mut self, now: Instant, change: Change, spread: Duration, tries: Duration) {
        let until = now + tries;
        if let Some(want) = self.wanted.get_mut(&change.node)
            && want.change == change
        {
            want.until = until;
        } else if self.wanted.len() < MAX_WANTED || self.wanted.contains_key(&change.node) {
            let after = now + spread.mul_f64(self.rng.f64());
            self.wanted.insert(change.node, Want { change, after, until });
        }
    }

    /// Wishes that come from what this node sees: who left, who is dead for long, itself changed.
    fn look_around(&mut self, now: Instant) {
        let Some(held) = &self.held else { return };
        let me = self.config.node;
        let mut changes = Vec::new();
        for (id, entry) in &held.roster().members {
            let reason = if self.presence.has_left(id, entry) {
                Reason::Left
            } else if self.presence.silent_for(now, id, entry) >= self.config.forget_after {
                Reason::Dead
            } else {
                continue;
            };
            changes.push(Change { node: *id, entry: None, reason });
        }
        let own = self.entry();
        if self.is_bound(held.roster()) && held.roster().members.get(&me) != Some(&own) {
            changes.push(Change { node: me, entry: Some(own), reason: Reason::Admitted });
        }
        let spread = (self.config.forget_after / 8).min(Duration::from_secs(2));
        for change in changes {
            if !self.wanted.contains_key(&change.node) {
                self.want(now, change, spread, JOIN_TRIES);
            }
        }
    }

    pub(super) fn propose(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        if self.proposer.is_some() || self.propose_after > now || !self.may_vote() {
            return Ok(());
        }
        self.look_around(now);
        let Some(held) = &self.held else { return Ok(()) };
        let (roster, forget_after) = (held.roster(), self.config.forget_after);
        let presence = &self.presence;
        self.wanted.retain(|_, w| presence.judge(now, roster, &w.change, forget_after).is_ok());
        let Some(want) = self.wanted.values().find(|w| w.after <= now) else { return Ok(()) };
        let (base, change) = (roster.number, want.change.clone());
        let members = roster.members.keys().copied().collect();
        self.begin_base(base);
        let promised = self.acceptor.promised.map_or(0, |b| b.counter);
        let counter = promised.max(self.ballot_floor).saturating_add(1);
        let ballot = Ballot { counter, node: self.config.node };
        let proposer = Proposer::new(base, ballot, change.clone(), members, now + ATTEMPT_TIMEOUT);
        for to in self.others(&proposer) {
            let change = change.clone();
            self.send(now, to, Kind::Prepare(ballot), Question::Prepare { base, ballot, change });
        }
        self.proposer = Some(proposer);
        // The own promise is durable before the ballot leaves: a restart never reuses it.
        if let Answer::Promise { accepted, .. } = self.prepare(storage, ballot)? {
            let me = self.config.node;
            self.step_proposer(storage, now, ballot, |p| p.handle_promise(me, accepted))?;
        }
        Ok(())
    }

    fn others(&self, proposer: &Proposer) -> Vec<NodeId> {
        proposer.members().filter(|id| **id != self.config.node).copied().collect()
    }

    pub(super) fn step_proposer(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        ballot: Ballot,
        step: impl FnOnce(&mut Proposer) -> Progress,
    ) -> Result<()> {
        let Some(proposer) = self.proposer.as_mut().filter(|p| p.ballot == ballot) else { return Ok(()) };
        let progress = step(proposer);
        self.proceed(storage, now, progress)
    }

    fn proceed(&mut self, storage: &mut dyn Storage, now: Instant, progress: Progress) -> Result<()> {
        let Some(proposer) = self.proposer.clone() else { return Ok(()) };
        let ballot = proposer.ballot;
        match progress {
            Progress::Waiting => {}
            Progress::Hopeless => self.back_off(now),
            Progress::Accept => {
                let (base, change, fresh) = (proposer.base, proposer.change.clone(), proposer.fresh);
                for to in self.others(&proposer) {
                    let change = change.clone();
                    let question = Question::Accept { base, ballot, change, fresh };
                    self.send(now, to, Kind::Accept(ballot), question);
                }
                let me = self.config.node;
                return match self.accept(storage, ballot, change)? {
                    Answer::Accepted { .. } => {
                        self.step_proposer(storage, now, ballot, |p| p.handle_accepted(me))
                    }
                    _ => {
                        self.back_off(now);
                        Ok(())
                    }
                };
            }
            Progress::Decided => {
                let change = proposer.change.clone();
                self.proposer = None;
                if let Some(held) = &self.held
                    && held.number() == self.acceptor.base
                {
                    let decided = Decided::after(held.roster(), &change);
                    self.adopt(storage, now, decided, None)?;
                    self.decider = true;
                }
            }
        }
        Ok(())
    }

    /// Ends the attempt and waits for a random time, longer after each.
    pub(super) fn back_off(&mut self, now: Instant) {
        self.proposer = None;
        self.attempts = (self.attempts + 1).min(8);
        let most = MAX_BACK_OFF.min(BACK_OFF * 2u32.pow(self.attempts));
        self.propose_after = now + most.mul_f64(self.rng.f64());
    }
}
