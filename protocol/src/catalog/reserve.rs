//! Fencing as its coordinator sees it: collecting reservations for one attempt.
//!
//! With a majority reserved in every home list the version is published and the reservations are
//! exchanged for votes (`write`). An attempt that meets others' reservations releases what it has
//! and comes back after a random wait that doubles.

use std::time::Duration;

use super::command::{Precondition, Refusal};
use super::message::{Base, Release, Request, Reserve, Response, cut_versions};
use super::operation::{Operation, Progress};
use super::stage::{Reserving, Stage};
use super::storage::{Result, published};
use super::vote::Verdict;
use super::{Catalog, Purpose, Step};
use crate::name::Name;
use crate::node_id::NodeId;

const BACK_OFF_FIRST: u64 = 40_000;
const BACK_OFF_DOUBLINGS: u32 = 5;

/// What the replicas must hold for a write under this precondition.
pub(super) fn base_of(precondition: Precondition) -> Option<Base> {
    match precondition {
        Precondition::None => None,
        Precondition::Head(dot) => Some(Base::Version(dot)),
        Precondition::Absent => Some(Base::Absent),
    }
}

/// What an answer to a reservation says, if it says anything.
pub(super) fn verdict_of(response: &Response) -> Option<Verdict> {
    match response {
        Response::Reserved => Some(Verdict::Reserved),
        Response::Voted => Some(Verdict::Voted),
        Response::Held => Some(Verdict::Held),
        Response::Gone(_) => Some(Verdict::Gone),
        _ => None,
    }
}

impl Catalog {
    pub(super) fn reserve_request(&self, step: &Step<'_>, op: &Operation) -> Result<Option<Request>> {
        let (Some(roster), Some(attempt), Some(base)) =
            (op.number, op.goal.dot(), base_of(op.goal.precondition()))
        else {
            return Ok(None);
        };
        let ours = published(&*step.storage, &op.name)?;
        let offers = cut_versions(ours.into_iter().filter(|v| base == Base::Version(v.dot)));
        Ok(Some(Request::Reserve(Reserve { roster, name: op.name.clone(), attempt, base, offers })))
    }

    pub(super) fn wanted_reserving(
        &self,
        step: &Step<'_>,
        op: &Operation,
        reserving: &Reserving,
        node: &NodeId,
    ) -> Result<Option<Request>> {
        if reserving.resume.is_some() || reserving.verdicts.contains_key(node) {
            return Ok(None);
        }
        self.reserve_request(step, op)
    }

    pub(super) fn absorb_reserving(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        reserving: &mut Reserving,
        node: NodeId,
        response: Response,
    ) -> Result<()> {
        if let Response::Gone(found) = &response {
            self.merge_survivors(step, name, found)?;
        }
        if let Some(verdict) = verdict_of(&response) {
            reserving.verdicts.insert(node, verdict);
        }
        Ok(())
    }

    pub(super) fn advance_reserving(&mut self, step: &mut Step<'_>, op: &mut Operation) -> Result<Progress> {
        let Stage::Reserving(mut reserving) = op.stage.clone() else { return Ok(Progress::Waiting) };
        if let Some(at) = reserving.resume {
            if at > step.now {
                return Ok(Progress::Waiting);
            }
            reserving.resume = None;
        }
        let me = self.config.node;
        if !reserving.verdicts.contains_key(&me) && op.is_home(&me) && self.may_vote(step.electorate) {
            let (attempt, base) = (op.goal.dot(), base_of(op.goal.precondition()));
            if let (Some(attempt), Some(base), Some(roster)) = (attempt, base, op.number) {
                let verdict = self.reserve(step, &op.name, attempt, base, roster)?;
                reserving.verdicts.insert(me, verdict);
            }
        }
        op.stage = Stage::Reserving(reserving.clone());
        if self.has_majority(op, &reserving.tally(&[Verdict::Reserved, Verdict::Voted])) {
            return self.publish(step, op, reserving.verdicts);
        }
        let gone = reserving.tally(&[Verdict::Gone]);
        let is_gone = |list: &super::electorate::HomeList| {
            list.nodes.iter().filter(|node| gone.has(node)).count() >= list.majority
        };
        if op.homes.iter().any(is_gone) {
            self.release_all(step, op, &reserving)?;
            let head = self.head_of(step, &op.name)?;
            return self.refuse(step, op, Refusal::PreconditionFailed { head });
        }
        // Once everybody who is still to answer could not make a majority, make way for others.
        let mut possible = reserving.tally(&[Verdict::Reserved, Verdict::Voted]);
        op.targets.keys().filter(|n| !reserving.verdicts.contains_key(n)).for_each(|n| possible.add(*n));
        if !op.homes.is_empty() && !self.has_majority(op, &possible) {
            self.release_all(step, op, &reserving)?;
            let most = BACK_OFF_FIRST << reserving.attempts.min(BACK_OFF_DOUBLINGS);
            let wait = Duration::from_micros(most / 2 + self.rng.u64(..most));
            let stage = Reserving {
                attempts: reserving.attempts + 1,
                resume: Some(step.now + wait),
                ..Reserving::default()
            };
            let deadline = op.deadline;
            self.enter(step, op, Stage::Reserving(stage), deadline);
        }
        Ok(Progress::Waiting)
    }

    fn release_all(&mut self, step: &mut Step<'_>, op: &Operation, reserving: &Reserving) -> Result<()> {
        let Some(attempt) = op.goal.dot() else { return Ok(()) };
        self.release(step, &op.name, attempt)?;
        for node in op.targets.keys() {
            // Those that have not answered may have reserved all the same.
            if !matches!(reserving.verdicts.get(node), Some(Verdict::Held | Verdict::Gone)) {
                let release = Request::Release(Release { name: op.name.clone(), attempt });
                self.request(*node, release, step.now + self.config.request_timeout, Purpose::Nothing);
            }
        }
        Ok(())
    }

    pub(super) fn expire_reserving(&mut self, step: &mut Step<'_>, op: &mut Operation) -> Result<Progress> {
        let Stage::Reserving(reserving) = op.stage.clone() else { return Ok(Progress::Waiting) };
        self.release_all(step, op, &reserving)?;
        let tally = reserving.tally(&[Verdict::Reserved, Verdict::Voted]);
        let (answered, needed) = op.shortfall(&tally);
        self.refuse(step, op, Refusal::NoQuorum { answered, needed })
    }
}
