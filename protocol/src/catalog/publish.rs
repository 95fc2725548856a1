//! Writing: building a version, publishing it, counting who has it.
//!
//! Until [`Catalog::publish`] an operation can be given up and its dot closed. From then on the
//! version exists: it may surface whatever becomes of the operation, and the only failure is
//! [`Refusal::Unknown`].

use std::collections::{BTreeMap, BTreeSet};

use super::command::{Outcome, Precondition, Refusal};
use super::dots::{forget_open, record_open};
use super::merge::{Learned, visible};
use super::message::{Push, Request, Response, Vote};
use super::operation::{Goal, Operation, Progress};
use super::reserve::verdict_of;
use super::stage::{Publishing, Reserving, Stage, Tally};
use super::storage::{Result, Survivor};
use super::vote::Verdict;
use super::{Catalog, Event, Step};
use crate::api::Durability;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::version::{Context, Dot, MAX_CONTEXT, Version, head};

impl Catalog {
    /// The head that this node shows.
    pub(super) fn head_of(&self, step: &Step<'_>, name: &Name) -> Result<Option<Dot>> {
        let survivors = visible(step.storage.survivors(name)?);
        if self.config.faults.tombstone_as_head {
            return Ok(survivors.iter().max_by_key(|v| v.stamp()).map(|v| v.dot));
        }
        Ok(head(&survivors).map(|v| v.dot))
    }

    /// The name is read: refuse, reserve, keep or publish.
    pub(super) fn decide(&mut self, step: &mut Step<'_>, op: &mut Operation) -> Result<Progress> {
        let head = self.head_of(step, &op.name)?;
        let survivors = self.superseded_by(step, op)?;
        let holds = match op.goal.precondition() {
            Precondition::None => true,
            Precondition::Head(dot) => head == Some(dot),
            Precondition::Absent => head.is_none(),
        };
        if !holds {
            return self.refuse(step, op, Refusal::PreconditionFailed { head });
        }
        if let Goal::Delete { version, .. } = &op.goal {
            let is_live = |s: &Survivor| !s.version.is_tombstone();
            let exists = match version {
                Some(dot) => survivors.iter().any(|s| s.version.dot == *dot && is_live(s)),
                None => survivors.iter().any(is_live),
            };
            if !exists {
                return self.refuse(step, op, Refusal::NotFound);
            }
        }
        if let Precondition::Head(dot) = op.goal.precondition() {
            // Nobody else can vouch for a base that is not published yet.
            if survivors.iter().any(|s| s.version.dot == dot && !s.published) {
                let (_, needed) = op.shortfall(&Tally::default());
                return self.refuse(step, op, Refusal::NoQuorum { answered: 0, needed });
            }
        }
        if let Goal::Delete { dot, .. } = &mut op.goal {
            let drawn = self.dots.next(step.storage)?;
            record_open(step.storage, &drawn)?;
            *dot = Some(drawn);
        }
        if op.goal.precondition() == Precondition::None {
            return self.publish(step, op, BTreeMap::new());
        }
        let reserved_by = step.now + self.config.write_timeout / 3;
        let deadline = op.end.map_or(reserved_by, |end| end.min(reserved_by));
        self.enter(step, op, Stage::Reserving(Reserving::default()), Some(deadline));
        Ok(Progress::Moved)
    }

    /// The survivors that an operation may supersede: those a majority has, and its base.
    fn superseded_by(&self, step: &Step<'_>, op: &Operation) -> Result<Vec<Survivor>> {
        let mut survivors = step.storage.survivors(&op.name)?;
        if let Some(agreed) = &op.agreed {
            let is_base = |dot: &Dot| op.goal.precondition() == Precondition::Head(*dot);
            survivors.retain(|s| {
                (!s.published || is_base(&s.version.dot)) && !agreed.contains_key(&s.version.dot)
            });
            survivors.extend(agreed.values().cloned());
        }
        Ok(survivors)
    }

    /// The version that an operation writes, over what survives here now.
    fn build(&self, step: &Step<'_>, op: &Operation) -> Result<Option<Version>> {
        let (content, created_at, single) = match &op.goal {
            Goal::Write { payload: Some((content, created_at)), .. } => (content.clone(), *created_at, None),
            Goal::Delete { version, created_at, .. } => (None, *created_at, *version),
            Goal::Read | Goal::Write { payload: None, .. } => return Ok(None),
        };
        let Some(dot) = op.goal.dot() else { return Ok(None) };
        let mut superseded = self.superseded_by(step, op)?;
        let precondition = op.goal.precondition();
        superseded.retain(|s| match (single, precondition) {
            (Some(dot), _) => s.version.dot == dot,
            (None, Precondition::None) => true,
            // A fenced write leaves conflicts alone.
            (None, Precondition::Head(dot)) => s.version.dot == dot || s.version.is_tombstone(),
            (None, Precondition::Absent) => s.version.is_tombstone(),
        });
        superseded.truncate(if precondition == Precondition::None { usize::MAX } else { MAX_CONTEXT });
        let greatest = superseded.iter().map(|s| s.version.count).max().unwrap_or(0);
        let count = if self.config.faults.wall_clock_stamp {
            created_at.0.max(1)
        } else {
            greatest.saturating_add(1)
        };
        // What is superseded before others know it supersedes nothing any more: what it was to
        // supersede is superseded in its place.
        let inherited = superseded.iter().filter(|s| !s.published).flat_map(|s| s.version.context.iter());
        let dots: Vec<Dot> = inherited.copied().chain(superseded.iter().map(|s| s.version.dot)).collect();
        let Some(context) = Context::new(dots) else {
            return Ok(None);
        };
        Ok(Some(Version { name: op.name.clone(), dot, context, count, content, created_at }))
    }

    /// The point of no return. `verdicts`: who has reserved, in a conditional write.
    pub(super) fn publish(
        &mut self,
        step: &mut Step<'_>,
        op: &mut Operation,
        verdicts: BTreeMap<NodeId, Verdict>,
    ) -> Result<Progress> {
        let Some(version) = self.build(step, op)? else {
            return self.refuse(step, op, Refusal::TooManyConflicts);
        };
        forget_open(step.storage, &version.dot)?;
        let fenced = op.goal.precondition() != Precondition::None;
        let is_write = matches!(op.goal, Goal::Write { .. });
        if is_write && op.goal.durability() == Durability::Fast && !fenced {
            step.storage.put_survivor(&Survivor { version: version.clone(), published: false })?;
            let Version { name, dot, .. } = version.clone();
            self.events.push_back(Event::Written { name, dot, deleted: version.is_tombstone() });
            let wanted = step.electorate.homes(&op.name).last().map_or(1, |list| list.nodes.len());
            let acked = vec![self.config.node];
            return Ok(self.complete(op, Outcome::Published { version, acked, wanted }));
        }
        if fenced && let Some(roster) = op.number {
            self.vote(step, &version, roster)?;
        }
        if self.learn(step.storage, &version)? == Learned::Refused {
            // Only with dots that were used before: nothing was published.
            let (answered, needed) = op.shortfall(&Tally::default());
            return Ok(self.complete(op, Outcome::Refused(Refusal::NoQuorum { answered, needed })));
        }
        if op.goal.durability() == Durability::Fast && !fenced {
            // A tombstone has no chunks to wait for.
            let (acked, wanted) = (vec![self.config.node], op.wanted());
            self.complete(op, Outcome::Published { version: version.clone(), acked, wanted });
        }
        self.relay(step, &version);
        self.enter_publishing(step, op, version, fenced.then_some(verdicts));
        Ok(Progress::Moved)
    }

    pub(super) fn enter_publishing(
        &mut self,
        step: &Step<'_>,
        op: &mut Operation,
        version: Version,
        verdicts: Option<BTreeMap<NodeId, Verdict>>,
    ) {
        let publishing = Publishing {
            version,
            verdicts,
            acks: Tally::default(),
            votes: Tally::default(),
            refused: BTreeSet::new(),
            grace_end: None,
        };
        let deadline = op.end;
        self.enter(step, op, Stage::Publishing(Box::new(publishing)), deadline);
    }

    pub(super) fn wanted_publishing(
        &self,
        step: &Step<'_>,
        op: &Operation,
        publishing: &Publishing,
        node: &NodeId,
    ) -> Result<Option<Request>> {
        let Some(roster) = op.number else { return Ok(None) };
        if publishing.acks.has(node) || publishing.refused.contains(node) {
            return Ok(None);
        }
        let version = publishing.version.clone();
        match publishing.verdicts.as_ref().map(|verdicts| verdicts.get(node)) {
            None | Some(Some(Verdict::Held | Verdict::Gone)) => {
                Ok(Some(Request::Push(Push { roster: Some(roster), versions: vec![version] })))
            }
            Some(Some(Verdict::Reserved | Verdict::Voted)) => {
                Ok(Some(Request::Vote(Vote { roster, version })))
            }
            Some(None) => self.reserve_request(step, op),
        }
    }

    pub(super) fn absorb_publishing(publishing: &mut Publishing, node: NodeId, response: Response) {
        match &response {
            Response::Pushed(pushed) if pushed.refused.is_empty() => publishing.acks.add(node),
            Response::Pushed(_) | Response::Invalid(_) => {
                publishing.refused.insert(node);
            }
            Response::Unvoted => publishing.acks.add(node),
            Response::Voted => {
                publishing.acks.add(node);
                publishing.votes.add(node);
            }
            _ => {
                if let (Some(verdict), Some(verdicts)) = (verdict_of(&response), &mut publishing.verdicts) {
                    verdicts.insert(node, verdict);
                }
            }
        }
    }

    pub(super) fn advance_publishing(&mut self, step: &mut Step<'_>, op: &mut Operation) -> Result<Progress> {
        let me = self.config.node;
        let Stage::Publishing(publishing) = &mut op.stage else { return Ok(Progress::Waiting) };
        let mut publishing = publishing.clone();
        if op.is_home(&me) && self.may_vote(step.electorate) && !publishing.acks.has(&me) {
            publishing.acks.add(me);
            if self.replica.has_voted(&publishing.version.dot) {
                publishing.votes.add(me);
            }
        }
        let counted = if publishing.verdicts.is_some() { &publishing.votes } else { &publishing.acks };
        let reached = self.has_majority(op, counted)
            && (op.goal.durability() != Durability::All || op.has_all(&publishing.acks));
        let settled = |node: &NodeId| {
            publishing.acks.has(node)
                || publishing.refused.contains(node)
                || op.targets.get(node).is_some_and(|target| target.failures > 0)
        };
        let everybody = op.targets.keys().all(settled);
        if !reached {
            publishing.grace_end = None;
        } else if publishing.grace_end.is_none() {
            publishing.grace_end = Some(step.now + self.config.ack_grace);
        }
        let over = publishing.grace_end.is_some_and(|at| at <= step.now);
        op.stage = Stage::Publishing(publishing.clone());
        if !reached || !(everybody || over) {
            return Ok(Progress::Waiting);
        }
        let (acked, wanted) = (publishing.acks.nodes(), op.wanted());
        Ok(self.complete(op, Outcome::Published { version: publishing.version, acked, wanted }))
    }

    pub(super) fn expire_publishing(&mut self, op: &mut Operation) -> Progress {
        let Stage::Publishing(publishing) = &op.stage else { return Progress::Waiting };
        let counted = if publishing.verdicts.is_some() { &publishing.votes } else { &publishing.acks };
        let (answered, needed) = op.shortfall(counted);
        let dot = publishing.version.dot;
        self.complete(op, Outcome::Refused(Refusal::Unknown { dot, answered, needed }))
    }
}
