//! Commands: what each begins, and what is refused before anything is asked. What a name is then
//! written with is the business of `publish`.

use std::time::Duration;

use super::command::{Command, CommandId, Outcome, Precondition, Refusal};
use super::dots::record_open;
use super::operation::{Goal, MAX_OPERATIONS, Operation, Progress};
use super::stage::Stage;
use super::storage::{Result, Survivor};
use super::{Catalog, Event, Step};
use crate::api::Durability;
use crate::name::Name;
use crate::time::UnixMillis;
use crate::version::{Content, Dot, MAX_CONTENT_TYPE_BYTES, Version};

/// A read older than this is repeated before its name is written.
const READ_IS_FRESH: Duration = Duration::from_secs(1);

impl Catalog {
    pub(super) fn command(&mut self, step: &mut Step<'_>, id: CommandId, command: Command) -> Result<()> {
        match command {
            Command::Begin { name, precondition, durability } => {
                self.begin(step, id, name, precondition, durability)
            }
            Command::Publish { dot, content, created_at, within } => {
                self.publish_begun(step, id, dot, (content, created_at), within)
            }
            Command::Abort { dot } => self.abort(step, id, dot),
            Command::Settle { dot } => self.settle_fast(step, id, dot),
            Command::Delete { name, version, precondition, durability, created_at } => {
                let goal = Goal::Delete { version, precondition, durability, created_at, dot: None };
                self.delete(step, id, name, goal)
            }
            Command::Read { name } => {
                if self.operations.len() >= MAX_OPERATIONS {
                    self.reject(id, Refusal::NotReady("too many operations are under way".into()));
                    return Ok(());
                }
                let mut op = Operation::new(name, Goal::Read, Some(id));
                let deadline = step.now + self.config.read_timeout;
                self.enter(step, &mut op, Stage::Reading(Default::default()), Some(deadline));
                if op.homes.is_empty() {
                    self.expire_reading(step, &mut op)?;
                    return Ok(());
                }
                self.insert_operation(step, op).map(drop)
            }
        }
    }

    fn reject(&mut self, id: CommandId, refusal: Refusal) {
        self.events.push_back(Event::Completed { id, outcome: Outcome::Refused(refusal) });
    }

    /// Why this node takes no write, if it takes none. Admission is enough: whoever is not ready
    /// votes on nothing, but it can still ask those that are.
    fn write_refusal(&self, step: &Step<'_>) -> Option<Refusal> {
        if self.operations.len() >= MAX_OPERATIONS {
            return Some(Refusal::NotReady("too many operations are under way".into()));
        }
        if self.closed {
            return Some(Refusal::NotReady("it is leaving the cluster".into()));
        }
        if step.electorate.number().is_none() {
            let why = step.electorate.standing().err();
            return Some(Refusal::NotReady(why.unwrap_or_else(|| "not admitted".into())));
        }
        None
    }

    fn begin(
        &mut self,
        step: &mut Step<'_>,
        id: CommandId,
        name: Name,
        precondition: Precondition,
        durability: Durability,
    ) -> Result<()> {
        let fenced = precondition != Precondition::None;
        if let Some(refusal) = self.write_refusal(step) {
            self.reject(id, refusal);
            return Ok(());
        }
        let dot = self.dots.next(step.storage)?;
        record_open(step.storage, &dot)?;
        self.events.push_back(Event::Completed { id, outcome: Outcome::Begun { dot } });
        let goal = Goal::Write { dot, precondition, durability, payload: None };
        let mut op = Operation::new(name, goal, None);
        if durability != Durability::Fast || fenced {
            let deadline = step.now + self.config.write_timeout / 2;
            self.enter(step, &mut op, Stage::Reading(Default::default()), Some(deadline));
        }
        self.insert_operation(step, op).map(drop)
    }

    fn take_begun(&mut self, dot: &Dot) -> Option<(u64, Operation)> {
        let id = *self.writes.get(dot)?;
        let begun = self.operations.get(&id)?;
        matches!(begun.goal, Goal::Write { payload: None, .. })
            .then(|| self.operations.remove(&id).map(|op| (id, op)))
            .flatten()
    }

    fn publish_begun(
        &mut self,
        step: &mut Step<'_>,
        command: CommandId,
        dot: Dot,
        (mut content, created_at): (Option<Content>, UnixMillis),
        within: Duration,
    ) -> Result<()> {
        let Some((id, mut op)) = self.take_begun(&dot) else {
            self.reject(command, Refusal::NotBegun);
            return Ok(());
        };
        op.command = Some(command);
        let within = within.min(self.config.write_timeout);
        op.end = Some(step.now + within);
        let Goal::Write { precondition, durability, payload, .. } = &mut op.goal else {
            return Ok(()); // `take_begun` gives writes only.
        };
        if let Some(content) = &mut content {
            // What no peer would accept is left out rather than published.
            content.content_type.take_if(|text| {
                text.len() > MAX_CONTENT_TYPE_BYTES || !text.bytes().all(|b| (0x20..0x7f).contains(&b))
            });
        }
        *payload = Some((content, created_at));
        let local = *durability == Durability::Fast && *precondition == Precondition::None
            || self.config.faults.local_context_only;
        let fresh = match &op.stage {
            Stage::Idle { read_at: Some(at) } => step.now.since(*at) <= READ_IS_FRESH,
            _ => false,
        };
        let deadline = Some(step.now + within / 2);
        if local || fresh {
            op.agreed.take_if(|_| local);
            if self.decide(step, &mut op)? == Progress::Finished {
                self.writes.remove(&dot);
                return self.drop_operation(id, &op);
            }
        } else if matches!(op.stage, Stage::Reading(_)) {
            op.deadline = deadline;
        } else {
            self.enter(step, &mut op, Stage::Reading(Default::default()), deadline);
        }
        self.advance(step, id, op)
    }

    fn abort(&mut self, step: &mut Step<'_>, command: CommandId, dot: Dot) -> Result<()> {
        let Some((id, mut op)) = self.take_begun(&dot) else {
            self.reject(command, Refusal::NotBegun);
            return Ok(());
        };
        self.refuse(step, &mut op, Refusal::NotBegun)?;
        self.drop_operation(id, &op)?;
        self.events.push_back(Event::Completed { id: command, outcome: Outcome::Done });
        Ok(())
    }

    fn settle_fast(&mut self, step: &mut Step<'_>, command: CommandId, dot: Dot) -> Result<()> {
        if let Some(Survivor { version, published: false }) = step.storage.survivor(&dot)? {
            self.learn(step.storage, &version)?;
            self.published(step.storage, &version)?;
            self.spread(step, &version)?;
        }
        self.events.push_back(Event::Completed { id: command, outcome: Outcome::Done });
        Ok(())
    }

    /// Pushes a version to its home replicas and relays it to all, with nobody waiting for it.
    fn spread(&mut self, step: &mut Step<'_>, version: &Version) -> Result<()> {
        let durability = Durability::Quorum;
        let payload = Some((version.content.clone(), version.created_at));
        let precondition = Precondition::None;
        let goal = Goal::Write { dot: version.dot, precondition, durability, payload };
        let mut op = Operation::new(version.name.clone(), goal, None);
        op.end = Some(step.now + self.config.write_timeout);
        self.enter_publishing(step, &mut op, version.clone(), None);
        self.insert_operation(step, op)?;
        self.relay(step, version);
        Ok(())
    }

    fn delete(&mut self, step: &mut Step<'_>, id: CommandId, name: Name, goal: Goal) -> Result<()> {
        let fenced = goal.precondition() != Precondition::None;
        let durability = goal.durability();
        if let Some(refusal) = self.write_refusal(step) {
            self.reject(id, refusal);
            return Ok(());
        }
        let mut op = Operation::new(name, goal, Some(id));
        op.end = Some(step.now + self.config.write_timeout);
        let known_here = self.head_of(step, &op.name)?.is_some();
        if self.config.faults.local_context_only || durability == Durability::Fast && !fenced && known_here {
            self.enter(step, &mut op, Stage::Idle { read_at: None }, None);
            if self.decide(step, &mut op)? == Progress::Finished {
                return Ok(());
            }
        } else {
            let deadline = step.now + self.config.write_timeout / 2;
            self.enter(step, &mut op, Stage::Reading(Default::default()), Some(deadline));
        }
        self.insert_operation(step, op).map(drop)
    }
}
