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
//! | [`health`] | what people are told |
//!
//! # Invariants
//!
//! A copy goes only against receipts of all N owners or because all its references have ended (I7,
//! I8); nothing goes while too many members are dead (I20); every queue here has a cap, and what does
//! not fit is found again by a later pass.

mod action;
pub mod health;
pub mod holding;
pub mod inventory;
pub mod memory;
pub mod message;
pub mod placement;
pub mod plan;
pub mod rounds;
pub mod rules;
pub mod scrub;
pub mod surplus;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;

pub use action::{Action, ActionId, Command, Done, Event, Input, Pace, Scrubbed, Sent, Unreachable};

use health::{Health, Waiting};
use holding::{Holding, Note, Page};
use message::{Answer, Held, Holds, Item, MAX_CHUNKS, Question, Vouch};
use placement::Placement;
use plan::{Lack, Plan, Step};
use rounds::{Batches, Fetches, Rounds};
use scrub::Scrub;
use surplus::Releases;

/// Settings; durations are running time.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// `REPAIR_DELAY_SECS`: how long a dead member keeps its place before its chunks are copied.
    pub repair_delay: Duration,
    /// `HANDOFF_GRACE_SECS`: how long a superfluous copy is kept.
    pub handoff_grace: Duration,
    /// `GC_GRACE_SECS`: how long a chunk is kept after its last reference ended.
    pub gc_grace: Duration,
    /// `INVENTORY_INTERVAL_SECS`: between two passes over the disk.
    pub inventory_interval: Duration,
    /// `SCRUB_INTERVAL_SECS`: for one pass of re-hashing.
    pub scrub_interval: Duration,
    /// Planted bugs.
    #[doc(hidden)]
    pub faults: Faults,
}

impl Config {
    /// The defaults.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            repair_delay: Duration::from_secs(30),
            handoff_grace: Duration::from_secs(600),
            gc_grace: Duration::from_secs(3600),
            inventory_interval: Duration::from_secs(600),
            scrub_interval: Duration::from_secs(604_800),
            faults: Faults::default(),
        }
    }
}

/// Planted bugs, each one changed line, to show that a harness finds them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A reference whose dot was never seen counts as ended.
    pub unseen_is_ended: bool,
    /// A release may rest on receipts of any age.
    pub stale_receipts: bool,
    /// Who has given a promise deletes its own copy all the same: circular receipts.
    pub promise_forgotten: bool,
    /// Questions for receipts carry no references, and a release does not look for them.
    pub references_left_behind: bool,
    /// Collection does not wait.
    pub no_gc_grace: bool,
    /// A node whose catalog is not ready collects.
    pub collect_when_cut_off: bool,
    /// Deletes while too many members are dead.
    pub breaker_ignored: bool,
    /// A chunk marked gone is promised.
    pub gone_is_a_hit: bool,
    /// Owners that are believed to hold a copy are not asked for a receipt.
    pub surplus_counted: bool,
    /// Copies are made as soon as a member is dead.
    pub no_repair_delay: bool,
    /// The grace of a superfluous copy is not begun anew when an owner dies.
    pub grace_not_reset: bool,
    /// Only the first holder ever sends.
    pub healer_not_replaced: bool,
    /// Chunks whose references have all ended are offered like any other.
    pub offers_the_dead: bool,
    /// In the store: promises are kept in memory only.
    pub promise_not_durable: bool,
    /// In the store: time in which no process ran counts as grace.
    pub downtime_counts: bool,
    /// In the store: a chunk that is here already is a hit that records no reference.
    pub hit_without_reference: bool,
    /// In the store: since when a copy is superfluous is kept in memory only.
    pub grace_not_durable: bool,
    /// Who leaves is said to be drained at the first look.
    pub leaves_undrained: bool,
    /// In the throttle: the bytes of a whole second may pass at once.
    pub bursts: bool,
}

/// How long a question may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a question for a receipt may take: the owner hashes its copy first.
const VOUCH_DEADLINE: Duration = Duration::from_secs(20);

/// Chunks collected in one action.
const COLLECT: usize = 256;

/// Questions about gathered chunks that may wait for an answer before a pass stops reading.
const MAX_OFFERS: usize = 32;

/// Questions of peers that wait for the store.
const MAX_SERVING: usize = 1024;

/// What an action was given out for.
#[derive(Debug)]
enum Call {
    Page,
    Compare(NodeId),
    Offer(NodeId, Vec<(Item, u64)>),
    Check(ChunkId, NodeId),
    References(ChunkId),
    Vouch(ChunkId, NodeId),
    Send(ChunkId, NodeId),
    Fetch(ChunkId),
    Release(ChunkId),
    Known(Vec<ChunkId>),
    Collect,
    Scrub,
    Look(u64, Vec<Item>),
    Promise(u64),
}

/// The chunks that are being collected.
#[derive(Debug)]
enum Collecting {
    Nothing,
    /// So many owners are still to say whether they know of a reference that this node does not.
    Asking(BTreeSet<ChunkId>, usize),
    /// The store decides.
    Deciding,
}

/// What a pass over the disk has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    chunks: u64,
    kept: u64,
    surplus: u64,
    /// When the first grace of what was seen is over.
    grace_over: Option<Instant>,
}

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
    ready: bool,
    paused: bool,
    /// Questions about gathered chunks that wait for an answer.
    offers: usize,
    /// Where the pass goes on once fewer do.
    held_back: Option<ChunkId>,
    collectable: VecDeque<ChunkId>,
    collecting: Collecting,
    counting: Counts,
    counted: Counts,
    /// The last pass found nothing that who leaves has still to hand over.
    drained: bool,
    repaired: (u64, u64),
    calls: BTreeMap<ActionId, Call>,
    serving: usize,
    next_id: u64,
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
            ready: false,
            paused: false,
            offers: 0,
            held_back: None,
            collectable: VecDeque::new(),
            collecting: Collecting::Nothing,
            counting: Counts::default(),
            counted: Counts::default(),
            drained: false,
            repaired: (0, 0),
            calls: BTreeMap::new(),
            serving: 0,
            next_id: 0,
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
        self.drained && self.placement.is_leaving()
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
        if let Some(at) = self.counted.grace_over.filter(|at| *at > now) {
            wait("the end of the grace of chunks that nothing needs here", Some(at));
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
            missing: self.fetches.in_vain() as u64,
            fetching: (self.fetches.len() - self.fetches.in_vain()) as u64,
            surplus: self.counted.surplus,
            moving,
            moving_bytes,
            breaker: self.breaker(),
            paused: self.paused,
            slow: self.placement.died_together(),
            scrub: self.scrub.health(),
            waiting,
        }
    }

    fn id(&mut self, call: Call) -> ActionId {
        self.next_id += 1;
        let id = ActionId(self.next_id);
        self.calls.insert(id, call);
        id
    }

    fn ask(&mut self, to: NodeId, question: Question, deadline: Duration, call: Call) {
        let id = self.id(call);
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
                let id = self.id(Call::Fetch(chunk));
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
            let id = self.id(Call::Scrub);
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
        self.placement.died_together() && (!self.rounds.is_idle() || self.offers > 0)
    }

    fn delete(&mut self) {
        while let Some(chunk) = self.releases.start() {
            let id = self.id(Call::References(chunk));
            self.actions.push_back(Action::References { id, chunk });
        }
        if matches!(self.collecting, Collecting::Nothing) && !self.collectable.is_empty() {
            self.collect();
        }
    }

    /// Asks the other owners first: a reference that this node missed may be on its way to it.
    fn collect(&mut self) {
        let some = self.collectable.len().min(COLLECT);
        let chunks: BTreeSet<ChunkId> = self.collectable.drain(..some).collect();
        let mut questions: BTreeMap<NodeId, Vec<ChunkId>> = BTreeMap::new();
        for chunk in &chunks {
            for owner in self.placement.owners(chunk) {
                if self.placement.is_reachable(&owner) {
                    questions.entry(owner).or_default().push(*chunk);
                }
            }
        }
        self.collecting = Collecting::Asking(chunks, questions.len());
        for (owner, chunks) in questions {
            let items = chunks.iter().map(|chunk| Item { chunk: *chunk, references: 0 }).collect();
            self.ask(owner, Question::Held(Held { chunks: items }), DEADLINE, Call::Known(chunks));
        }
        self.collect_asked();
    }

    /// An owner said what it has, or nothing: what it knows a reference to stays.
    fn known(&mut self, asked: &[ChunkId], answer: Option<Answer>) {
        let Collecting::Asking(chunks, outstanding) = &mut self.collecting else { return };
        *outstanding -= 1;
        match answer {
            Some(Answer::Holds(holds)) if holds.len() == asked.len() => {
                let referred = asked.iter().zip(holds).filter(|(_, holds)| *holds == Holds::Other);
                for (chunk, _) in referred {
                    chunks.remove(chunk);
                }
            }
            _ => chunks.retain(|chunk| !asked.contains(chunk)),
        }
        self.collect_asked();
    }

    fn collect_asked(&mut self) {
        let Collecting::Asking(chunks, 0) = &mut self.collecting else { return };
        let chunks: Vec<ChunkId> = std::mem::take(chunks).into_iter().collect();
        self.collecting = Collecting::Nothing;
        if !chunks.is_empty() {
            self.collecting = Collecting::Deciding;
            let id = self.id(Call::Collect);
            self.actions.push_back(Action::Collect { id, chunks });
        }
    }

    fn begin_pass(&mut self) {
        self.counting = Counts::default();
        self.collectable.clear();
        self.read(None);
    }

    fn read(&mut self, after: Option<ChunkId>) {
        let id = self.id(Call::Page);
        self.actions.push_back(Action::Page { id, after });
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
                let id = self.id(Call::Send(chunk, to));
                self.actions.push_back(Action::Send { id, chunk, to, pace });
            }
        }
    }

    fn page(&mut self, now: Instant, page: Option<Page>) {
        let Some(page) = page else {
            self.rounds.fail(now);
            return;
        };
        let mut note = Note::default();
        for holding in &page.holdings {
            self.holding(now, holding, &mut note);
        }
        if !note.is_empty() {
            self.actions.push_back(Action::Note(note));
        }
        match page.holdings.last().filter(|_| page.more) {
            // The pass goes on when peers have answered.
            Some(last) if self.offers >= MAX_OFFERS => self.held_back = Some(last.chunk),
            Some(last) => self.read(Some(last.chunk)),
            None => self.end_of_pass(now),
        }
    }

    fn holding(&mut self, now: Instant, holding: &Holding, note: &mut Note) {
        let Holding { chunk, size, kept, .. } = *holding;
        self.counting.chunks += 1;
        let item = Item { chunk, references: holding.references };
        let mine = self.placement.is_mine(&chunk);
        if mine && holding.surplus.is_some() {
            note.wanted.push(chunk);
        }
        match (kept, holding.unreferenced_for) {
            (true, Some(_)) => note.referenced.push(chunk),
            (false, None) => {
                note.unreferenced.push(chunk);
                self.grace(now, self.config.gc_grace);
            }
            (false, Some(waited)) if waited >= self.config.gc_grace || self.config.faults.no_gc_grace => {
                if self.collectable.len() < plan::MAX_WANTS {
                    self.collectable.push_back(chunk);
                }
            }
            (false, Some(waited)) => self.grace(now, self.config.gc_grace.saturating_sub(waited)),
            (true, None) => {}
        }
        // What nothing refers to is not spread any more: else two collectors hand it to each other.
        if !kept && !self.config.faults.offers_the_dead {
            // The owners may know of a reference that was never told here: then it is superfluous.
            if !mine && holding.file {
                self.surplus(now, holding, note);
            }
            return;
        }
        if !holding.file {
            // A row without a file is no copy: an owner fetches it, anybody else has nothing to give.
            if mine {
                self.fetches.want(now, chunk);
            }
            return;
        }
        self.counting.kept += 1;
        let owners = self.placement.owners(&chunk);
        let reachable: Vec<NodeId> =
            owners.into_iter().filter(|owner| self.placement.is_reachable(owner)).collect();
        if mine {
            for peer in reachable {
                if self.rounds.count(peer, &item) {
                    self.offer(peer, item, size);
                }
            }
            return;
        }
        self.counting.surplus += 1;
        if self.rounds.is_counting() {
            for peer in reachable {
                self.offer(peer, item, size);
            }
        }
        self.surplus(now, holding, note);
    }

    fn surplus(&mut self, now: Instant, holding: &Holding, note: &mut Note) {
        let chunk = holding.chunk;
        let owners = self.placement.present_owners(&chunk);
        let leaving = self.placement.is_leaving();
        let known = match &holding.surplus {
            Some(surplus) if surplus.owners == owners => Some(surplus.held_for),
            Some(surplus) if self.config.faults.grace_not_reset => Some(surplus.held_for),
            _ => None,
        };
        if known.is_none() {
            note.surplus.push((chunk, owners.clone()));
        }
        if !leaving {
            let waited = known.unwrap_or_default();
            if waited < self.config.handoff_grace {
                self.grace(now, self.config.handoff_grace.saturating_sub(waited));
                return;
            }
            let after = self.placement.grace_after_death(now, &owners, self.config.handoff_grace);
            if let Some(at) = after.filter(|_| !self.config.faults.grace_not_reset) {
                self.grace(now, at.since(now));
                return;
            }
        }
        if owners.len() >= self.placement.receipts_needed() {
            self.releases.candidate(chunk);
        }
    }

    /// Something that was seen in this pass may go after so long.
    fn grace(&mut self, now: Instant, wait: Duration) {
        let at = now + wait;
        self.counting.grace_over = Some(self.counting.grace_over.map_or(at, |first| first.min(at)));
    }

    fn offer(&mut self, peer: NodeId, item: Item, size: u64) {
        if let Some(batch) = self.batches.add(peer, item, size) {
            self.ask_held(peer, batch);
        }
    }

    fn ask_held(&mut self, peer: NodeId, batch: Vec<(Item, u64)>) {
        let held = Held { chunks: batch.iter().map(|(item, _)| *item).collect() };
        self.offers += 1;
        self.ask(peer, Question::Held(held), DEADLINE, Call::Offer(peer, batch));
    }

    fn end_of_pass(&mut self, now: Instant) {
        for (peer, batch) in self.batches.take() {
            self.ask_held(peer, batch);
        }
        self.counted = self.counting;
        self.fetches.end_of_pass();
        self.scrub.counted(now, self.counted.chunks);
        let placement = &self.placement;
        self.rounds.end(now, placement.epoch(), |peer| placement.is_reachable(peer));
        if let Some(at) = self.counted.grace_over {
            self.rounds.grace_over(now, at);
        }
        let drained = self.counted.kept == 0 || self.config.faults.leaves_undrained;
        let before = std::mem::replace(&mut self.drained, self.placement.is_leaving() && drained);
        if !self.placement.is_leaving() {
            return;
        }
        // A peer whose view is behind may still bring a copy: it is looked for until the process ends.
        self.rounds.grace_over(now, now + Duration::from_secs(2));
        if !self.drained {
            self.events.push_back(Event::Leaving { left: self.counted.kept });
        } else if !before {
            self.events.push_back(Event::Drained);
        }
    }

    fn question(&mut self, now: Instant, from: NodeId, token: u64, question: Question) {
        let epoch = self.placement.epoch();
        let refusal = match question {
            Question::Compare(compare) => self.rounds.compare(now, epoch, &from, &compare),
            Question::Held(Held { chunks }) => {
                if self.serving < MAX_SERVING && chunks.len() <= MAX_CHUNKS {
                    self.serving += 1;
                    let id = self.id(Call::Look(token, chunks.clone()));
                    self.actions.push_back(Action::Look { id, items: chunks });
                    return;
                }
                Answer::Holds(Vec::new())
            }
            Question::Vouch(Vouch { chunk, dots }) => {
                if self.serving < MAX_SERVING && self.placement.is_owner(&chunk) {
                    self.serving += 1;
                    let id = self.id(Call::Promise(token));
                    self.actions.push_back(Action::Promise { id, chunk, dots });
                    return;
                }
                Answer::Vouched(false)
            }
        };
        self.actions.push_back(Action::Answer { token, answer: refusal });
    }

    fn answer(&mut self, now: Instant, id: ActionId, answer: Option<Answer>) {
        match (self.calls.remove(&id), answer) {
            (Some(Call::Compare(peer)), answer) => {
                if self.rounds.answered(now, self.placement.epoch(), peer, answer) {
                    self.begin_pass();
                }
            }
            (Some(Call::Offer(peer, batch)), answer) => {
                self.offers -= 1;
                match answer {
                    Some(Answer::Holds(holds)) if holds.len() == batch.len() => {
                        for ((item, size), holds) in batch.into_iter().zip(holds) {
                            self.told(now, peer, item.chunk, size, holds);
                        }
                    }
                    _ => self.rounds.undone(now),
                }
                if self.offers < MAX_OFFERS
                    && let Some(last) = self.held_back.take()
                {
                    self.read(Some(last));
                }
            }
            (Some(Call::Check(chunk, to)), answer) => {
                let lacks = match answer {
                    // Who owns it may have changed since it was asked.
                    Some(Answer::Holds(_)) if !self.placement.owners(&chunk).contains(&to) => Some(false),
                    Some(Answer::Holds(holds)) => holds.first().map(|holds| *holds == Holds::Lacks),
                    _ => None,
                };
                if let Some(step) = self.plan.checked(now, chunk, to, lacks) {
                    self.step(step);
                }
            }
            (Some(Call::Vouch(chunk, owner)), answer) => {
                let vouched = answer == Some(Answer::Vouched(true));
                if let Some(claim) = self.releases.answered(chunk, owner, vouched) {
                    let id = self.id(Call::Release(chunk));
                    self.actions.push_back(Action::Release { id, claim });
                }
            }
            (Some(Call::Known(asked)), answer) => self.known(&asked, answer),
            (Some(other), _) => {
                // Not a question's id: the executor is confused, the action is still awaited.
                self.calls.insert(id, other);
            }
            (None, _) => {}
        }
    }

    /// A peer said what it has of a chunk that is here.
    fn told(&mut self, now: Instant, peer: NodeId, chunk: ChunkId, size: u64, holds: Holds) {
        match holds {
            Holds::Same => self.plan.has(chunk, peer),
            Holds::Other => self.lacks(now, chunk, peer, Lack::References),
            Holds::Lacks => self.lacks(now, chunk, peer, Lack::Chunk(size)),
            // Our rings differ: one of us is behind.
            Holds::NotMine => self.rounds.undone(now),
        }
    }

    fn lacks(&mut self, now: Instant, chunk: ChunkId, peer: NodeId, lack: Lack) {
        let owners = self.placement.owners(&chunk);
        if !owners.contains(&peer) {
            return;
        }
        if lack == Lack::References {
            self.plan.lacks(now, (chunk, peer), lack, 0, false);
            return;
        }
        let mut lacking: BTreeSet<NodeId> = self
            .plan
            .lacking(&chunk)
            .filter(|(_, lack)| matches!(lack, Lack::Chunk(_)))
            .map(|(owner, _)| owner)
            .collect();
        lacking.insert(peer);
        let me = self.config.node;
        // Whether another is expected to have it, and so to send it before this node does.
        let has = |owner: &&NodeId| **owner != me && !lacking.contains(owner);
        let alive = |owner: &&NodeId| self.placement.is_reachable(owner);
        let others = owners.iter().filter(has).filter(alive).count();
        let mine = owners.iter().position(|owner| *owner == me);
        let turn = match mine {
            Some(place) => owners[..place].iter().filter(has).filter(alive).count(),
            None => {
                let before = owners.iter().filter(has).filter(alive).count();
                before + self.placement.strays_before(&chunk, 3)
            }
        };
        for owner in lacking {
            let of = self.plan.lacking(&chunk).find(|(node, _)| *node == owner).map(|(_, lack)| lack);
            self.plan.lacks(now, (chunk, owner), of.unwrap_or(lack), turn, others == 0);
        }
    }

    fn done(&mut self, now: Instant, id: ActionId, done: Done) {
        let Some(call) = self.calls.remove(&id) else { return };
        match (call, done) {
            (Call::Page, Done::Page(page)) => self.page(now, page),
            (Call::Look(token, items), Done::Looked(holds)) => {
                self.serving -= 1;
                let of = |(item, holds): (&Item, Holds)| match holds {
                    Holds::Lacks if !self.placement.is_mine(&item.chunk) => Holds::NotMine,
                    holds => holds,
                };
                let answer = Answer::Holds(items.iter().zip(holds).map(of).collect());
                self.actions.push_back(Action::Answer { token, answer });
            }
            (Call::Promise(token), Done::Promised(given)) => {
                self.serving -= 1;
                self.actions.push_back(Action::Answer { token, answer: Answer::Vouched(given) });
            }
            (Call::References(chunk), Done::References(dots)) => {
                let owners = self.placement.present_owners(&chunk);
                let enough = owners.len() >= self.placement.receipts_needed() && !owners.is_empty();
                let mine = self.placement.is_mine(&chunk);
                let owners = (enough && !mine).then_some(owners);
                let Some(questions) = self.releases.references(now, chunk, dots, owners) else { return };
                for owner in questions.owners {
                    for dots in questions.parts.clone() {
                        let question = Question::Vouch(Vouch { chunk, dots });
                        self.ask(owner, question, VOUCH_DEADLINE, Call::Vouch(chunk, owner));
                    }
                }
            }
            (Call::Send(chunk, to), Done::Sent(sent)) => match sent {
                Sent::Stored(bytes) => {
                    self.plan.copied(chunk, to);
                    self.repaired.0 += 1;
                    self.repaired.1 += bytes;
                    if bytes > 0 {
                        self.events.push_back(Event::Moved { chunk, to, bytes });
                    }
                }
                Sent::NotHere => self.plan.dropped(chunk, to),
                Sent::Failed => self.plan.failed(now, chunk, to),
            },
            (Call::Fetch(chunk), Done::Fetched(size)) => self.fetches.fetched(now, chunk, size.is_some()),
            (Call::Release(chunk), Done::Released(result)) => {
                self.releases.released(&chunk, result.is_ok());
                if let Ok(bytes) = result {
                    self.counted.surplus = self.counted.surplus.saturating_sub(1);
                    self.events.push_back(Event::Released { chunk, bytes });
                }
            }
            (Call::Collect, Done::Collected { chunks, bytes }) => {
                self.collecting = Collecting::Nothing;
                if chunks > 0 {
                    self.events.push_back(Event::Collected { chunks, bytes });
                }
            }
            (Call::Scrub, Done::Scrubbed(Scrubbed { checked, bad, finished })) => {
                let over = self.scrub.stepped(now, checked, bad.len() as u64, finished);
                for chunk in bad {
                    if self.placement.is_mine(&chunk) {
                        self.fetches.want(now, chunk);
                    }
                }
                if let Some((checked, bad)) = over {
                    self.events.push_back(Event::Scrubbed { checked, bad });
                }
            }
            // Done with something else than was asked: the executor is confused, the action is still awaited.
            (call, _) => drop(self.calls.insert(id, call)),
        }
    }
}
