//! The replicator: what a node does, by itself, so that every chunk has N copies where they belong.
//!
//! One [`Replicator`] a node. It is told who is here ([`Input::View`]), who counts
//! ([`Input::Roster`]) and whether its catalog can be relied on ([`Input::Ready`]), asks the
//! executor to show it what the disk holds, page by page, and to carry out what follows. It never
//! does IO, holds nothing that must survive the process, and may forget all at any time: what it was
//! about to do is found again by the next pass.
//!
//! # Driving it
//!
//! [`Replicator::handle`] takes an input; after it, and after [`Replicator::handle_timeout`] at
//! [`Replicator::poll_timeout`], carry out [`Replicator::poll_action`] until there is none, and tell
//! people of [`Replicator::poll_event`]. Actions may be carried out concurrently and in any order,
//! with one exception: a [`Action::Note`] is durable before a later [`Action::Page`] is read. Every
//! action with an id is answered by one [`Input::Done`] (or [`Input::Answer`], for [`Action::Ask`]),
//! failed ones too; an answer too many is ignored. The machine bounds how many it has under way.
//!
//! | action | answered by | the executor |
//! | --- | --- | --- |
//! | [`Action::Page`] | [`Done::Page`] | reads rows after a chunk, in the store's own order, not marked gone |
//! | [`Action::Note`] | nothing | writes grace marks, in one transaction |
//! | [`Action::Ask`] | [`Input::Answer`] | sends a [`Question`] to a peer; [`Unreachable`] after the deadline |
//! | [`Action::Answer`] | nothing | answers a peer's question |
//! | [`Action::Look`] | [`Done::Looked`] | looks up chunks and the digests of their references |
//! | [`Action::Promise`] | [`Done::Promised`] | hashes the file, then in one transaction: [`rules::promise`], adopt the references, record the promise for [`rules::PROMISE`] from the commit on |
//! | [`Action::References`] | [`Done::References`] | reads the references that have not ended |
//! | [`Action::Send`] | [`Done::Sent`] | pushes a chunk with its references (only these, where it is held), paced by the throttle |
//! | [`Action::Fetch`] | [`Done::Fetched`] | fetches a chunk from one of these, else from anyone; paced |
//! | [`Action::Release`] | [`Done::Released`] | in one transaction: [`rules::release`], mark gone; then unlink, folder fsync, drop the row |
//! | [`Action::Collect`] | [`Done::Collected`] | the same for each chunk by [`rules::collect`] |
//! | [`Action::SetAside`] | [`Input::Lost`], or nothing | sets a copy aside that cannot be read, unless it can |
//! | [`Action::Scrub`] | [`Done::Scrubbed`] | hashes chunks after the durable cursor, quarantines bad ones, moves the cursor |
//!
//! # The parts
//!
//! | part | decides |
//! | --- | --- |
//! | [`placement`] | where chunks should be for healing: the ring with the newly dead still on it |
//! | [`inventory`] | what a peer lacks of what both should hold |
//! | [`plan`] | who sends it, when, and in which order |
//! | [`surplus`] | whose receipts a superfluous copy needs |
//! | [`rules`] | what the store's transactions check before they mark, promise or collect |
//! | [`scrub`] | when which chunks are hashed again |
//! | [`unreadable`] | which copies are given up that the disk fails to give |
//! | [`departure`] | when a node that leaves may go, and that somebody stays |
//! | [`health`] | what people are told |
//! | `pass` | what becomes of each chunk that the disk shows |
//! | `collection` | which chunks without references the store is asked to collect, and when |
//! | `questions`, `answers`, `outcomes` | what peers ask; what follows from their answers, and from what was done |
//! | `calls` | which action was given out for what |
//!
//! # Invariants
//!
//! A copy goes only against receipts of all N owners or because all its references have ended (I7,
//! I8); nothing goes while too many members are dead (I20); every queue here has a cap, and what does
//! not fit is found again by a later pass.

mod action;
mod answers;
mod calls;
mod collection;
mod config;
pub mod departure;
pub mod health;
pub mod holding;
pub mod inventory;
pub mod memory;
pub mod message;
mod outcomes;
mod pass;
pub mod placement;
pub mod plan;
mod questions;
pub mod rounds;
pub mod rules;
pub mod scrub;
pub mod surplus;
#[cfg(test)]
mod tests;
pub mod unreadable;

use std::collections::VecDeque;
use std::time::Duration;

use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;

pub use action::{Action, ActionId, Command, Done, Event, Input, Pace, Scrubbed, Sent, Unreachable};
pub use config::{Config, Faults};

use calls::{Call, Calls};
use collection::Collection;
use health::{Health, Waiting};
use message::{Held, Item, Question};
use pass::Pass;
use placement::Placement;
use plan::{Plan, Step};
use rounds::{Batches, Fetches, Rounds};
use scrub::Scrub;
use surplus::Releases;
use unreadable::Unreadable;

/// How long a question may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a question for a receipt may take: the owner hashes its copy first.
const VOUCH_DEADLINE: Duration = Duration::from_secs(20);

/// The machine.
#[derive(Debug)]
pub struct Replicator {
    config: Config,
    placement: Placement,
    rounds: Rounds,
    batches: Batches,
    plan: Plan,
    releases: Releases,
    fetches: Fetches,
    scrub: Scrub,
    unreadable: Unreadable,
    ready: bool,
    paused: bool,
    pass: Pass,
    collection: Collection,
    repaired: (u64, u64),
    calls: Calls,
    /// Questions of peers that wait for the store.
    serving: usize,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Replicator {
    /// A machine that knows nothing yet. It does nothing before it is told a view and a roster.
    pub fn new(now: Instant, config: Config) -> Self {
        let faults = config.faults;
        let delay = if faults.no_repair_delay { Duration::ZERO } else { config.repair_delay };
        Self {
            placement: Placement::new(config.node, delay, now),
            rounds: Rounds::new(now, config.inventory_interval),
            batches: Batches::default(),
            plan: Plan::new(faults.healer_not_replaced),
            releases: Releases::new(faults),
            fetches: Fetches::default(),
            scrub: Scrub::new(now, config.scrub_interval),
            unreadable: Unreadable::new(now),
            ready: false,
            paused: false,
            pass: Pass::default(),
            collection: Collection::default(),
            repaired: (0, 0),
            calls: Calls::default(),
            serving: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            config,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::View(view) => {
                let change = self.placement.handle_view(now, view);
                self.rings_changed(now, change);
            }
            Input::Roster(roster) => {
                let change = self.placement.handle_roster(now, roster);
                self.rings_changed(now, change);
            }
            Input::Ready(ready) => self.ready = ready,
            Input::Question { from, token, question } => self.question(now, from, token, question),
            Input::Answer { id, result } => self.answer(now, id, result.ok()),
            Input::Done { id, done } => self.done(now, id, done),
            Input::Lost(chunk) => {
                if self.placement.is_mine(&chunk) {
                    self.fetches.want(now, chunk);
                }
            }
            Input::Unreadable(chunk) => self.unreadable(now, chunk),
            Input::Command(command) => self.command(now, command),
        }
        self.pump(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let change = self.placement.advance(now);
        self.rings_changed(now, change);
        self.pump(now);
    }

    /// When [`Replicator::handle_timeout`] is due, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.placement.is_known() {
            return None;
        }
        let plan = self.plan.poll_timeout().filter(|_| !self.waits_for_peers());
        let work = [plan, self.fetches.poll_timeout()].into_iter().flatten();
        let work = work.filter(|_| !self.paused);
        let rest = [self.placement.poll_timeout(), self.rounds.poll_timeout(), self.scrub.poll_timeout()];
        work.chain(rest.into_iter().flatten()).min()
    }

    /// The next thing to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to tell people.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether so many members are dead, as of the last view and roster told, that nothing may be
    /// deleted: for the executor's transactions ([`rules::release`], [`rules::collect`]).
    pub fn breaker(&self) -> bool {
        self.placement.breaker()
    }

    /// Whether this node leaves and the last pass found nothing that is still to be handed over.
    pub fn is_drained(&self) -> bool {
        self.pass.drained && self.placement.is_leaving()
    }

    /// How what this node holds is, in numbers.
    pub fn health(&self, now: Instant) -> Health {
        let (under_replicated, single_copy, moving, moving_bytes) = self.plan.count();
        let mut waiting = Vec::new();
        let mut wait = |what: &str, until: Option<Instant>| {
            waiting.push(Waiting { what: what.into(), remaining: until.map(|at| at.since(now)) });
        };
        if let Some(at) = self.placement.poll_timeout() {
            wait("absent members to return before their chunks are copied", Some(at));
        }
        if self.breaker() {
            wait("members to return: too many are dead to delete anything", None);
        }
        if let Some(at) = self.pass.counted.grace_over.filter(|at| *at > now) {
            wait("the end of the grace of chunks that nothing needs here", Some(at));
        }
        if self.placement.died_together() {
            wait("members that died together to return: repair runs at a tenth of the cap until then", None);
        }
        if self.unreadable.in_doubt() {
            wait("somebody to look at this node's disk: it fails to give too many chunks", None);
        }
        if self.paused {
            wait("an operator to resume repair", None);
        }
        if let Some(at) = self.rounds.poll_timeout().filter(|at| self.rounds.is_idle() && *at > now) {
            wait("the next comparison with peers", Some(at));
        }
        Health {
            under_replicated,
            single_copy,
            missing: self.fetches.which(true),
            fetching: self.fetches.which(false),
            surplus: self.pass.counted.surplus,
            moving,
            moving_bytes,
            breaker: self.breaker(),
            paused: self.paused,
            slow: self.placement.died_together(),
            scrub: self.scrub.health(),
            waiting,
        }
    }

    /// A copy that the disk fails to give is given up where it can be had elsewhere, and not too many at once.
    fn unreadable(&mut self, now: Instant, chunk: ChunkId) {
        let owners = self.placement.owners(&chunk);
        let elsewhere = owners.iter().any(|owner| self.placement.is_reachable(owner));
        if elsewhere && self.unreadable.found(now) {
            self.actions.push_back(Action::SetAside { chunk });
        }
    }

    fn ask(&mut self, to: NodeId, question: Question, deadline: Duration, call: Call) {
        let id = self.calls.begin(call);
        self.actions.push_back(Action::Ask { id, to, question, deadline });
    }

    fn rings_changed(&mut self, now: Instant, change: placement::Change) {
        for node in change.given_up {
            self.events.push_back(Event::RepairStarted { node });
        }
        if !change.rings {
            return;
        }
        self.rounds.restart(now);
        self.releases.void();
        let placement = &self.placement;
        self.plan.retain(|chunk, to| placement.is_reachable(to) && placement.owners(chunk).contains(to));
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Repair => {
                self.paused = false;
                self.rounds.sooner(now);
            }
            Command::PauseRepair => self.paused = true,
            Command::ResumeRepair => self.paused = false,
            Command::Scrub => self.scrub.hurry(now),
            Command::PauseScrub => self.scrub.pause(true),
            Command::ResumeScrub => self.scrub.pause(false),
        }
    }

    /// Gives out everything that may be done now.
    fn pump(&mut self, now: Instant) {
        if !self.placement.is_known() {
            return;
        }
        if self.rounds.begin(now, self.placement.epoch()) {
            self.begin_pass();
        }
        while let Some((peer, compare)) = self.rounds.ask(now) {
            self.ask(peer, Question::Compare(compare), DEADLINE, Call::Compare(peer));
        }
        if !self.paused {
            while !self.waits_for_peers()
                && let Some(step) = self.plan.next(now)
            {
                let (Step::Check(chunk, to) | Step::Send { chunk, to, .. }) = step;
                // Who owns it may have changed since it was found to be lacking.
                if self.placement.is_reachable(&to) && self.placement.owners(&chunk).contains(&to) {
                    self.step(step);
                } else {
                    self.plan.dropped(chunk, to);
                }
            }
            while let Some(chunk) = self.fetches.next(now) {
                let owners = self.placement.owners(&chunk);
                let from = owners.into_iter().filter(|owner| self.placement.is_reachable(owner)).collect();
                let id = self.calls.begin(Call::Fetch(chunk));
                self.actions.push_back(Action::Fetch { id, chunk, from });
            }
            // Whom the others removed while it was leaving is never ready again. The receipts it needs are theirs.
            let last = self.placement.is_leaving() && self.placement.is_removed();
            let may = self.ready || last || self.config.faults.collect_when_cut_off;
            if may && (!self.breaker() || self.config.faults.breaker_ignored) {
                self.delete();
            }
        }
        if std::mem::take(&mut self.plan.again) | std::mem::take(&mut self.releases.again) {
            self.rounds.undone(now);
        }
        if let Some((restart, limit)) = self.scrub.next(now) {
            let id = self.calls.begin(Call::Scrub);
            self.actions.push_back(Action::Scrub { id, restart, limit });
        }
        if self.plan.is_empty() && self.repaired.0 > 0 {
            let (chunks, bytes) = std::mem::take(&mut self.repaired);
            self.events.push_back(Event::Repaired { chunks, bytes });
        }
    }

    /// After members died together nothing is sent before all peers have said what they lack: only then
    /// is it known which copies are the last, and those go first.
    fn waits_for_peers(&self) -> bool {
        self.placement.died_together() && (!self.rounds.is_idle() || self.pass.offers > 0)
    }

    fn delete(&mut self) {
        while let Some(chunk) = self.releases.start() {
            let id = self.calls.begin(Call::References(chunk));
            self.actions.push_back(Action::References { id, chunk });
        }
        let placement = &self.placement;
        let reachable = |chunk: &ChunkId| {
            let owners = placement.owners(chunk).into_iter();
            owners.filter(|owner| placement.is_reachable(owner)).collect()
        };
        let Some(questions) = self.collection.start(reachable) else { return };
        for (owner, chunks) in questions {
            let items = chunks.iter().map(|chunk| Item { chunk: *chunk, references: 0 }).collect();
            self.ask(owner, Question::Held(Held { chunks: items }), DEADLINE, Call::Known(chunks));
        }
        self.collect_asked();
    }

    fn collect_asked(&mut self) {
        if let Some(chunks) = self.collection.decide() {
            let id = self.calls.begin(Call::Collect);
            self.actions.push_back(Action::Collect { id, chunks });
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Check(chunk, to) => {
                let held = Held { chunks: vec![Item { chunk, references: 0 }] };
                self.ask(to, Question::Held(held), DEADLINE, Call::Check(chunk, to));
            }
            Step::Send { chunk, to, single } => {
                let slow = self.placement.died_together() && !single;
                let pace = if slow { Pace::Tenth } else { Pace::Full };
                let id = self.calls.begin(Call::Send(chunk, to));
                self.actions.push_back(Action::Send { id, chunk, to, pace });
            }
        }
    }
}
