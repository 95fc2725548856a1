//! Driving operations: asking home replicas stage by stage, asking again, backing off, giving up.

use std::time::Duration;

use super::command::{Outcome, Refusal};
use super::message::{Request, Response};
use super::operation::{Operation, Progress, Target};
use super::stage::{Stage, Tally};
use super::storage::Result;
use super::{Catalog, Event, Purpose, Step, Unreachable};
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::Version;

const RETRY_NOT_READY: Duration = Duration::from_millis(250);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);

impl Catalog {
    /// Whether every home list has its majority in the tally.
    pub(super) fn has_majority(&self, op: &Operation, tally: &Tally) -> bool {
        let faults = &self.config.faults;
        !op.homes.is_empty()
            && op.homes.iter().all(|list| {
                let members =
                    list.nodes.iter().filter(|n| !faults.majority_over_view || self.is_reachable(n));
                let votes = members.clone().filter_map(|node| tally.0.get(node));
                let counted: usize = votes.map(|n| if faults.count_repeated_votes { *n } else { 1 }).sum();
                let majority =
                    if faults.majority_over_view { members.count() / 2 + 1 } else { list.majority };
                counted >= majority
            })
    }

    pub(super) fn insert_operation(&mut self, step: &mut Step<'_>, op: Operation) -> Result<u64> {
        let id = self.next_operation;
        self.next_operation += 1;
        self.advance(step, id, op)?;
        Ok(id)
    }

    /// Begins a stage: the lists are read anew, and nobody has been asked yet.
    pub(super) fn enter(
        &mut self,
        step: &Step<'_>,
        op: &mut Operation,
        stage: Stage,
        deadline: Option<Instant>,
    ) {
        self.forget_requests(op);
        op.number = step.electorate.number();
        op.homes = step.electorate.homes(&op.name);
        op.stage = stage;
        op.deadline = deadline;
        op.targets = op
            .homes
            .iter()
            .flat_map(|list| &list.nodes)
            .filter(|node| **node != self.config.node)
            .map(|node| (*node, Target::default()))
            .collect();
    }

    fn forget_requests(&mut self, op: &Operation) {
        for id in op.targets.values().flat_map(|target| &target.requests) {
            self.requests.end(*id);
        }
    }

    /// Takes an operation as far as it goes without further answers.
    pub(super) fn advance(&mut self, step: &mut Step<'_>, id: u64, mut op: Operation) -> Result<()> {
        loop {
            let progress = match &op.stage {
                Stage::Idle { .. } => Progress::Waiting,
                Stage::Reading(_) => self.advance_reading(step, &mut op)?,
                Stage::Reserving(_) => self.advance_reserving(step, &mut op)?,
                Stage::Publishing(_) => self.advance_publishing(step, &mut op)?,
            };
            match progress {
                Progress::Moved => {}
                Progress::Waiting => break,
                Progress::Finished => {
                    self.retire(&op, id);
                    return Ok(());
                }
            }
        }
        self.pump(step, id, &mut op)?;
        self.set_alarm(id, &mut op);
        if let Some(dot) = op.goal.dot() {
            self.writes.insert(dot, id);
        }
        self.operations.insert(id, op);
        Ok(())
    }

    /// Forgets an operation that was taken out and is answered.
    pub(super) fn drop_operation(&mut self, id: u64, op: &Operation) -> Result<()> {
        self.retire(op, id);
        Ok(())
    }

    fn retire(&mut self, op: &Operation, id: u64) {
        self.forget_requests(op);
        if let Some(at) = op.alarm {
            self.alarms.remove(&(at, id));
        }
        if let Some(dot) = op.goal.dot() {
            self.writes.remove(&dot);
        }
    }

    /// Sends every replica what the stage wants of it, where nothing is under way.
    fn pump(&mut self, step: &mut Step<'_>, id: u64, op: &mut Operation) -> Result<()> {
        let nodes: Vec<NodeId> = op.targets.keys().copied().collect();
        for node in nodes {
            let Some(target) = op.targets.get(&node) else { continue };
            let is_due = target.not_before.is_none_or(|at| at <= step.now);
            let is_waiting =
                target.waiting.is_some_and(|(_, sent)| step.now.since(sent) < self.config.request_timeout);
            if !is_due || is_waiting {
                continue;
            }
            let Some(request) = self.wanted(step, op, &node)? else {
                if let Some(target) = op.targets.get_mut(&node) {
                    (target.waiting, target.not_before) = (None, None);
                }
                continue;
            };
            // Slightly more than the wait for it, so that a late answer still counts.
            let deadline = step.now + self.config.request_timeout * 2;
            let request = self.request(node, request, deadline, Purpose::Operation { id, node });
            if let Some(target) = op.targets.get_mut(&node) {
                target.requests.push(request);
                target.waiting = Some((request, step.now));
                target.not_before = None;
            }
        }
        Ok(())
    }

    fn wanted(&mut self, step: &Step<'_>, op: &Operation, node: &NodeId) -> Result<Option<Request>> {
        match &op.stage {
            Stage::Idle { .. } => Ok(None),
            Stage::Reading(reading) => self.wanted_reading(step, op, reading, node),
            Stage::Reserving(reserving) => self.wanted_reserving(step, op, reserving, node),
            Stage::Publishing(publishing) => self.wanted_publishing(step, op, publishing, node),
        }
    }

    fn set_alarm(&mut self, id: u64, op: &mut Operation) {
        if let Some(at) = op.alarm.take() {
            self.alarms.remove(&(at, id));
        }
        // A target is asked again once both are over; the earlier of them alone wakes nobody up.
        let targets = op.targets.values().map(|target| {
            let waited = target.waiting.map(|(_, sent)| sent + self.config.request_timeout);
            target.not_before.max(waited)
        });
        let own = match &op.stage {
            Stage::Reserving(reserving) => reserving.resume,
            Stage::Publishing(publishing) => publishing.grace_end,
            Stage::Idle { .. } | Stage::Reading(_) => None,
        };
        op.alarm = targets.chain([op.deadline, own]).flatten().min();
        if let Some(at) = op.alarm {
            self.alarms.insert((at, id));
        }
    }

    pub(super) fn operation_answer(
        &mut self,
        step: &mut Step<'_>,
        id: u64,
        node: NodeId,
        request: u64,
        response: std::result::Result<Response, Unreachable>,
    ) -> Result<()> {
        let Some(mut op) = self.operations.remove(&id) else { return Ok(()) };
        if let Some(target) = op.targets.get_mut(&node) {
            target.requests.retain(|id| *id != request);
            let is_newest = target.waiting.is_some_and(|(id, _)| id == request);
            if is_newest {
                target.waiting = None;
            }
            match &response {
                // What failed was asked again since.
                Err(Unreachable) if !is_newest => {}
                Err(Unreachable) => {
                    target.failures += 1;
                    let most = RETRY_FIRST * (1 << target.failures.min(4));
                    let micros = most.min(RETRY_MOST).as_micros() as u64;
                    let wait = Duration::from_micros(micros / 2 + self.rng.u64(..=micros / 2));
                    target.not_before = Some(step.now + wait);
                }
                Ok(Response::NotReady(_) | Response::Behind(_) | Response::Ahead(_)) => {
                    target.failures += 1;
                    if is_newest {
                        target.not_before = Some(step.now + RETRY_NOT_READY);
                    }
                }
                Ok(_) => target.failures = 0,
            }
            if let Ok(response) = response {
                self.absorb(step, &mut op, node, response)?;
            }
        }
        self.advance(step, id, op)
    }

    fn absorb(
        &mut self,
        step: &mut Step<'_>,
        op: &mut Operation,
        node: NodeId,
        response: Response,
    ) -> Result<()> {
        match &mut op.stage {
            Stage::Idle { .. } => Ok(()),
            Stage::Reading(reading) => self.absorb_reading(step, &op.name, reading, node, response),
            Stage::Reserving(reserving) => self.absorb_reserving(step, &op.name, reserving, node, response),
            Stage::Publishing(publishing) => {
                Self::absorb_publishing(publishing, node, response);
                Ok(())
            }
        }
    }

    pub(super) fn operation_timeout(&mut self, step: &mut Step<'_>, id: u64) -> Result<()> {
        let Some(mut op) = self.operations.remove(&id) else { return Ok(()) };
        op.alarm = None;
        if op.deadline.is_some_and(|at| at <= step.now) {
            op.deadline = None;
            let progress = match &op.stage {
                Stage::Idle { .. } => Progress::Waiting,
                Stage::Reading(_) => self.expire_reading(step, &mut op)?,
                Stage::Reserving(_) => self.expire_reserving(step, &mut op)?,
                Stage::Publishing(_) => self.expire_publishing(&mut op),
            };
            if progress == Progress::Finished {
                self.retire(&op, id);
                return Ok(());
            }
        }
        self.advance(step, id, op)
    }

    /// Members are up again: what waited for them is asked at once.
    pub(super) fn ask_again(&mut self, step: &mut Step<'_>, nodes: &[NodeId]) -> Result<()> {
        let ids: Vec<u64> = self.operations.keys().copied().collect();
        for id in ids {
            let Some(mut op) = self.operations.remove(&id) else { continue };
            for node in nodes {
                if let Some(target) = op.targets.get_mut(node) {
                    target.not_before = None;
                }
            }
            self.advance(step, id, op)?;
        }
        Ok(())
    }

    /// Answers that were counted over another roster count no more.
    pub(super) fn restart_operations(&mut self, step: &mut Step<'_>) -> Result<()> {
        let ids: Vec<u64> = self.operations.keys().copied().collect();
        for id in ids {
            let Some(mut op) = self.operations.remove(&id) else { continue };
            let homes = step.electorate.homes(&op.name);
            if op.number != step.electorate.number() || op.homes != homes {
                let deadline = op.deadline;
                let stage = match &op.stage {
                    Stage::Idle { read_at } => Stage::Idle { read_at: *read_at },
                    Stage::Reading(_) => Stage::Reading(Default::default()),
                    Stage::Reserving(reserving) => Stage::Reserving(reserving.restarted()),
                    Stage::Publishing(publishing) => Stage::Publishing(Box::new(publishing.restarted())),
                };
                self.enter(step, &mut op, stage, deadline);
            }
            self.advance(step, id, op)?;
        }
        Ok(())
    }

    /// Answers the operation's command, if it has one.
    pub(super) fn complete(&mut self, op: &mut Operation, outcome: Outcome) -> Progress {
        if let Some(id) = op.command.take() {
            self.events.push_back(Event::Completed { id, outcome });
        }
        Progress::Finished
    }

    /// Gives an operation up before anything was published: its dot is closed.
    pub(super) fn refuse(
        &mut self,
        step: &mut Step<'_>,
        op: &mut Operation,
        refusal: Refusal,
    ) -> Result<Progress> {
        if let Some(dot) = op.goal.dot() {
            self.knowledge.close(step.storage, dot)?;
            super::dots::forget_open(step.storage, &dot)?;
        }
        Ok(self.complete(op, Outcome::Refused(refusal)))
    }

    /// Stores what somebody answered with.
    pub(super) fn learn_all(&mut self, step: &mut Step<'_>, versions: &[Version]) -> Result<()> {
        for version in versions {
            self.learn(step.storage, version)?;
        }
        Ok(())
    }
}
