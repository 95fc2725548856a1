//! Moves: a read, a copy of what was read, and the end of exactly that, each an operation of its own in the history.
//!
//! What comes after what is decided by [`Relocation`], as in the node. Each move has a new name of its own.

use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::{Precondition, Refusal};
use kepler_protocol::relocation::{Faults, Relocation};
use kepler_protocol::time::Instant;
use kepler_protocol::version::Version;

use super::{Clients, Kind, Open, Planned, Workload, name_of};
use crate::history::{Action, Line, Phase};
use crate::sim::process::{Answer, Ask};

/// The first of the new names.
const NEW_NAMES: usize = 1_000;

/// The new name of the move number `index`.
const fn new_name(index: usize) -> usize {
    NEW_NAMES + index
}

/// A move under way.
pub(super) struct Moving {
    planned: Planned,
    to: usize,
    step: Step,
}

enum Step {
    Read,
    Copy(Box<Relocation>),
    /// The old name is told to end: which of [`Clients::moved`] this is.
    End(usize),
}

/// A move whose copy was acknowledged, so that the old name was told to end.
#[derive(Clone, Debug)]
pub struct Moved {
    /// What was under the old name.
    pub from: Version,
    /// What is under the new one.
    pub to: Version,
    /// The number of the new name.
    pub name: usize,
    /// Whether the client was told that all is done.
    pub done: bool,
}

impl Clients {
    /// A move begins with this read.
    pub(super) fn move_begins(&mut self, operation: u64, planned: Planned, to: usize) {
        self.moving.insert(operation, Moving { planned, to, step: Step::Read });
    }

    /// The next step of a move, after the answer to the last: its operation and question.
    pub fn move_on(
        &mut self,
        operation: u64,
        answer: &Answer,
        (node, run): (&str, u64),
        now: Instant,
        faults: Faults,
    ) -> Option<(u64, Ask)> {
        let Moving { planned, to, step } = self.moving.remove(&operation)?;
        let (ask, step) = match (step, answer) {
            (Step::Read, Answer::Read { survivors, .. }) => {
                let relocation = Relocation::new(survivors, false, planned.durability, faults).ok()?;
                let (name, precondition) = (name_of(to), Precondition::None);
                let (value, durability) =
                    (relocation.version().content.as_ref()?.root, relocation.durability());
                let ask = Ask::Put { name, value, precondition, durability, hit: true };
                (ask, Step::Copy(Box::new(relocation)))
            }
            (Step::Copy(relocation), Answer::Written(version)) => {
                let from = relocation.version().clone();
                let only = relocation.ended()?;
                self.moved.push(Moved { from, to: version.clone(), name: to, done: false });
                let (name, precondition) = (name_of(planned.name), Precondition::None);
                let ask = Ask::Delete { name, only: Some(only), precondition };
                (ask, Step::End(self.moved.len() - 1))
            }
            (Step::End(index), Answer::Written(_) | Answer::Refused(Refusal::NotFound)) => {
                self.moved[index].done = true;
                return None;
            }
            _ => return None,
        };
        self.next += 1;
        let operation = self.next;
        let mut line = Line::new(Phase::Invoke, operation);
        (line.node, line.session, line.start) = (node.into(), run, now.as_micros());
        line.name = ask.name().as_str().into();
        let value = match &ask {
            Ask::Put { value, durability, .. } => {
                (line.action, line.durability) = (Action::Put, *durability);
                line.cid = Some(value.to_string());
                Some(*value)
            }
            Ask::Delete { only, .. } => {
                (line.action, line.durability) = (Action::Delete, Durability::Quorum);
                line.only = only.map(|dot| dot.to_string());
                None
            }
            Ask::Get { .. } => None,
        };
        self.begins(line, Open { name: ask.name().clone(), place: planned.place, writes: true, value }, now);
        self.moving.insert(operation, Moving { planned, to, step });
        Some((operation, ask))
    }
}

/// Plans moves from one instant to another.
pub fn plan(
    workload: &Workload,
    nodes: usize,
    from: Instant,
    to: Instant,
    random: &mut fastrand::Rng,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    let Some(every) = workload.moves else { return planned };
    let mut at = from;
    loop {
        at += Duration::from_micros(random.u64(0..=2 * every.as_micros() as u64));
        if at >= to {
            return planned;
        }
        let fast = random.u8(0..100) < workload.fast.max(30);
        planned.push(Planned {
            at,
            place: random.usize(0..nodes),
            name: random.usize(0..workload.names),
            kind: Kind::Move { to: new_name(planned.len()) },
            durability: if fast { Durability::Fast } else { Durability::Quorum },
        });
    }
}
