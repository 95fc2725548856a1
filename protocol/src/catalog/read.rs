//! Reading a name from a majority of its home replicas.
//!
//! What the replicas answer is merged into this node's own catalog, so a node never forgets what
//! it has read. The read is done when a majority was found to hold, or was given, or knows to be
//! superseded, everything that then survives here: the second phase of Attiya, Bar-Noy and
//! Dolev's register (*Sharing memory robustly in message-passing systems*, 1995), taken only
//! where replicas differ.

use std::collections::BTreeSet;

use super::command::{Consistency, Outcome, Refusal};
use super::electorate::HomeList;
use super::merge::visible;
use super::message::{Read, Request, Response, Survivors, cut_versions};
use super::operation::{Goal, Operation, Progress};
use super::stage::{Answer, Reading, Stage, Tally};
use super::storage::{Result, published};
use super::{Catalog, Step};
use crate::api::Durability;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::version::Version;

/// Failures in a row after which a replica is taken for unreachable.
const HOPELESS: u32 = 3;

/// How often one replica is asked in one stage: survivors in the thousands come in several answers.
const MAX_ROUNDS: u32 = 64;

impl Catalog {
    pub(super) fn wanted_reading(
        &mut self,
        step: &Step<'_>,
        op: &Operation,
        reading: &Reading,
        node: &NodeId,
    ) -> Result<Option<Request>> {
        let Some(roster) = op.number else { return Ok(None) };
        let ours = published(&*step.storage, &op.name)?;
        let answer = reading.answers.get(node);
        if answer.is_some_and(|a| self.agrees(a, &ours) || a.rounds >= MAX_ROUNDS) {
            return Ok(None);
        }
        // Unpublished ones too: after a restore one may have been published, and superseded, since.
        let known = step.storage.survivors(&op.name)?.iter().map(|s| s.version.dot).collect();
        let lacking = |v: &Version| answer.is_some_and(|a| !a.holds.contains(&v.dot));
        let offers = cut_versions(ours.into_iter().filter(lacking));
        Ok(Some(Request::Read(Read { roster, name: op.name.clone(), known, offers })))
    }

    /// Whether a replica's answer covers what survives here, and what it holds is known here.
    fn agrees(&self, answer: &Answer, ours: &[Version]) -> bool {
        ours.iter().all(|v| answer.covered.contains(&v.dot))
            && answer.holds.iter().all(|dot| self.knowledge.contains(dot))
    }

    pub(super) fn absorb_reading(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        reading: &mut Reading,
        node: NodeId,
        response: Response,
    ) -> Result<()> {
        let Response::Read(found) = response else { return Ok(()) };
        self.merge_survivors(step, name, &found)?;
        let answer = reading.answers.entry(node).or_default();
        answer.rounds += 1;
        answer.covered.extend(found.holds.iter().chain(&found.superseded));
        answer.holds = found.holds.into_iter().collect();
        Ok(())
    }

    /// Merges what survives at a replica that is ready, and drops what it knows to be superseded.
    pub(super) fn merge_survivors(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        found: &Survivors,
    ) -> Result<()> {
        for version in found.versions.iter().filter(|v| v.name == *name) {
            self.learn(step.storage, version)?;
        }
        if found.holds.iter().all(|dot| self.knowledge.contains(dot)) {
            for dot in &found.superseded {
                let survivor = step.storage.survivor(dot)?;
                if survivor.is_some_and(|s| s.version.name == *name) {
                    self.knowledge.drop_superseded(step.storage, name, *dot)?;
                }
            }
        }
        Ok(())
    }

    /// Who agrees with this node about what survives, this node included where it may vote.
    fn agreeing(&self, step: &Step<'_>, op: &Operation, reading: &Reading) -> Result<Tally> {
        let ours = published(&*step.storage, &op.name)?;
        let mut tally = Tally::default();
        for (node, answer) in &reading.answers {
            if self.agrees(answer, &ours) {
                tally.add(*node);
            }
        }
        if op.is_home(&self.config.node) && self.may_vote(step.electorate) {
            tally.add(self.config.node);
        }
        Ok(tally)
    }

    pub(super) fn advance_reading(&mut self, step: &mut Step<'_>, op: &mut Operation) -> Result<Progress> {
        let Stage::Reading(reading) = &op.stage else { return Ok(Progress::Waiting) };
        let tally = self.agreeing(step, op, reading)?;
        let needs_all = op.goal.durability() == Durability::All;
        if self.has_majority(op, &tally) && (!needs_all || op.has_all(&tally)) {
            return self.finish_reading(step, op);
        }
        // Whose replicas cannot be reached is not kept waiting for the deadline. A read, which still may
        // answer from here, takes failed requests for enough; a write is only refused early where the
        // view agrees that the member is gone. Both may be wrong, and then a refusal came early that
        // changed nothing; a suspect is never ruled out.
        let failed = |node: &NodeId| op.targets.get(node).is_some_and(|t| t.failures >= HOPELESS);
        let silent = || op.targets.keys().filter(|node| !tally.has(node));
        match &op.goal {
            _ if op.homes.is_empty() => Ok(Progress::Waiting),
            Goal::Read if silent().all(failed) => self.read_locally(step, op, &tally),
            // The upload still runs, and the name is read again at its end.
            Goal::Read | Goal::Write { payload: None, .. } => Ok(Progress::Waiting),
            Goal::Write { .. } | Goal::Delete { .. } => {
                let gone =
                    |node: &NodeId| failed(node) && self.reachable.is_some() && !self.is_reachable(node);
                let hopes: BTreeSet<NodeId> = silent().filter(|node| !gone(node)).copied().collect();
                let may_reach = |list: &HomeList| {
                    let may = list.nodes.iter().filter(|n| tally.has(n) || hopes.contains(n)).count();
                    may >= if needs_all { list.nodes.len() } else { list.majority }
                };
                if op.homes.iter().all(may_reach) {
                    return Ok(Progress::Waiting);
                }
                let (answered, needed) = op.shortfall(&tally);
                self.refuse(step, op, Refusal::NoQuorum { answered, needed })
            }
        }
    }

    fn finish_reading(&mut self, step: &mut Step<'_>, op: &mut Operation) -> Result<Progress> {
        let ours = step.storage.survivors(&op.name)?;
        op.agreed = Some(ours.into_iter().map(|s| (s.version.dot, s)).collect());
        match &op.goal {
            Goal::Read => {
                let survivors = visible(step.storage.survivors(&op.name)?);
                Ok(self.complete(op, Outcome::Read { survivors, consistency: Consistency::Majority }))
            }
            Goal::Write { payload: None, .. } => {
                self.enter(step, op, Stage::Idle { read_at: Some(step.now) }, None);
                Ok(Progress::Waiting)
            }
            Goal::Write { .. } | Goal::Delete { .. } => self.decide(step, op),
        }
    }

    /// No majority answered: what is known here must do, and is marked.
    fn read_locally(&mut self, step: &mut Step<'_>, op: &mut Operation, tally: &Tally) -> Result<Progress> {
        let survivors = visible(step.storage.survivors(&op.name)?);
        let outcome = if survivors.iter().any(|v| !v.is_tombstone()) {
            Outcome::Read { survivors, consistency: Consistency::Local }
        } else if op.number.is_none() {
            let why = step.electorate.standing().err().unwrap_or_else(|| "not admitted".into());
            Outcome::Refused(Refusal::NotReady(why))
        } else {
            let (answered, needed) = op.shortfall(tally);
            Outcome::Refused(Refusal::NoQuorum { answered, needed })
        };
        Ok(self.complete(op, outcome))
    }

    pub(super) fn expire_reading(&mut self, step: &mut Step<'_>, op: &mut Operation) -> Result<Progress> {
        let Stage::Reading(reading) = &op.stage else { return Ok(Progress::Waiting) };
        let tally = self.agreeing(step, op, reading)?;
        match &op.goal {
            Goal::Read => self.read_locally(step, op, &tally),
            Goal::Write { payload: None, .. } => {
                // It is read again when the upload is done.
                self.enter(step, op, Stage::Idle { read_at: None }, None);
                Ok(Progress::Waiting)
            }
            Goal::Write { .. } | Goal::Delete { .. } => {
                let (answered, needed) = op.shortfall(&tally);
                self.refuse(step, op, Refusal::NoQuorum { answered, needed })
            }
        }
    }
}
