//! Carries out what the replicator of `kepler-protocol` decides: this node's part in healing.
//!
//! One task owns the machine and feeds it; what it wants done runs in tasks of their own, which the
//! machine bounds. Nothing here must survive the process: what was under way is found again. Nothing
//! of the node waits for the healer; the way into it is the [`Handle`].

mod events;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use kepler_protocol::api::{self, Bandwidth, NodeHealth};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replica::Operator;
use kepler_protocol::replicator::message::Question;
use kepler_protocol::replicator::rules::{Databases, Dropped};
use kepler_protocol::replicator::{self, Action, Input, Replicator, rules};
use kepler_protocol::view::View;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::events::Teller;
use self::work::Worker;
use super::catalog::CatalogHandle;
use super::chunks::Chunks;
use super::electorate::Electors;
use crate::gossip;
use crate::store::Store;
use crate::swarm::{self, Inbound, Reply};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::throttle::Throttle;

/// Commands and questions that wait for the healer at most; further questions are refused.
const MAX_COMMANDS: usize = 1_024;

/// Peers' questions that wait for their answer at most; the oldest makes room.
const MAX_REPLIES: usize = 1_024;

/// How often what is kept on disk for a time is looked through, and gauges are set.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// How often who is drained looks whether the others know all that its catalog knows.
const LOOK_WHETHER_TO_LEAVE: Duration = Duration::from_secs(1);

/// What is wanted of the healer.
#[derive(Debug)]
enum Command {
    Health(oneshot::Sender<NodeHealth>),
    Steer(replicator::Command, oneshot::Sender<()>),
    Leave(oneshot::Sender<()>),
    Question(Inbound),
    Bad(ChunkId),
    Lost(ChunkId),
}

/// The way to the healer; cheap to clone. Everything but the cap is `None` once the node stops.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    throttle: Throttle,
    leaving: Arc<AtomicBool>,
}

/// Where what a [`Handle`] is told arrives.
pub struct Inbox(mpsc::Receiver<Command>, Arc<AtomicBool>);

impl Handle {
    /// A handle, and where its commands arrive.
    pub fn new(throttle: Throttle) -> (Self, Inbox) {
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let leaving = Arc::new(AtomicBool::new(false));
        (Self { commands, throttle, leaving: Arc::clone(&leaving) }, Inbox(receiver, leaving))
    }

    /// How healed this node is; without its replication queue.
    pub async fn health(&self) -> Option<NodeHealth> {
        self.ask(Command::Health).await
    }

    /// Whether this node was told to leave.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Hurries or pauses the scrub.
    pub async fn scrub(&self, action: api::Action) -> Option<()> {
        let command = match action {
            api::Action::Start => replicator::Command::Scrub,
            api::Action::Pause => replicator::Command::PauseScrub,
            api::Action::Resume => replicator::Command::ResumeScrub,
        };
        self.ask(|done| Command::Steer(command, done)).await
    }

    /// Hurries or pauses repair.
    pub async fn repair(&self, action: api::Action) -> Option<()> {
        let command = match action {
            api::Action::Start => replicator::Command::Repair,
            api::Action::Pause => replicator::Command::PauseRepair,
            api::Action::Resume => replicator::Command::ResumeRepair,
        };
        self.ask(|done| Command::Steer(command, done)).await
    }

    /// Begins to drain this node, durably.
    pub async fn leave(&self) -> Option<()> {
        self.ask(Command::Leave).await
    }

    /// Sets the bound of all background traffic, in bytes a second.
    pub fn set_cap(&self, cap: u64) {
        self.throttle.set_cap(cap);
    }

    /// The bound, and what was used of it within the last second.
    pub fn bandwidth(&self) -> Bandwidth {
        Bandwidth { cap_bytes_per_second: self.throttle.cap(), used_bytes_per_second: self.throttle.used() }
    }

    /// A copy on this disk was found rotten or gone: it is looked at again, set aside and fetched anew.
    pub async fn report_bad(&self, id: ChunkId) {
        let _ = self.commands.send(Command::Bad(id)).await;
    }

    /// A copy on this disk was set aside: it is fetched anew. Where too much waits, the inventory finds it.
    pub fn report_lost(&self, id: ChunkId) {
        let _ = self.commands.try_send(Command::Lost(id));
    }

    /// Hands over a peer's question. One that cannot be taken is dropped: the peer is told so.
    pub fn inbound(&self, call: Inbound) {
        let _ = self.commands.try_send(Command::Question(call));
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// What a healer is made of.
pub struct Parts {
    /// The machine's settings.
    pub config: replicator::Config,
    /// The disk.
    pub store: Store,
    /// The way to chunks and peers.
    pub chunks: Chunks,
    /// Asked before this node leaves.
    pub catalog: CatalogHandle,
    /// The other nodes.
    pub swarm: swarm::Handle,
    /// Told when this node leaves.
    pub gossip: gossip::Handle,
    /// Who is here.
    pub view: watch::Receiver<Arc<View>>,
    /// Who votes.
    pub electors: watch::Receiver<Electors>,
    /// What happens, for people.
    pub events: broadcast::Sender<api::Event>,
    /// What was healed.
    pub metrics: Arc<Metrics>,
    /// Where work is done.
    pub tasks: Tasks,
    /// Cancelled once this node has left: the process may end.
    pub left: CancellationToken,
}

/// Owns the machine.
pub struct Healer {
    me: NodeId,
    machine: Replicator,
    inbox: mpsc::Receiver<Command>,
    inputs: mpsc::UnboundedReceiver<Input>,
    worker: Worker,
    gossip: gossip::Handle,
    view: watch::Receiver<Arc<View>>,
    electors: watch::Receiver<Electors>,
    /// What the machine was told last.
    told: (Option<u64>, Option<bool>),
    replies: BTreeMap<u64, Reply>,
    next_token: u64,
    /// Done once all marks handed over so far are on disk.
    noted: Shared<BoxFuture<'static, ()>>,
    teller: Teller,
    leaving: Arc<AtomicBool>,
    catalog: CatalogHandle,
    /// The catalog is being asked whether this node may leave.
    asking_to_leave: bool,
    /// Told when it may.
    shared: Arc<Notify>,
    /// The databases of the roster that was last noted, and those dropped by then; `None` before it was read.
    bound: Option<(Databases, Dropped)>,
    /// Deletions that the disk failed are being tried again.
    retrying: Option<JoinHandle<()>>,
    left: CancellationToken,
    tasks: Tasks,
}

impl Healer {
    /// A healer that is told what arrives in `inbox`.
    pub fn new(parts: Parts, inbox: Inbox) -> Self {
        let Parts { config, store, chunks, catalog, swarm, gossip, view, electors, events, metrics, .. } =
            parts;
        let (tasks, left) = (parts.tasks, parts.left);
        let (sender, inputs) = mpsc::unbounded_channel();
        let me = config.node;
        let machine = Replicator::new(store.now(), config);
        let worker = Worker {
            store,
            chunks,
            swarm,
            view: view.clone(),
            electors: electors.clone(),
            gc_grace: config.gc_grace,
            inputs: sender,
            tasks: tasks.clone(),
        };
        Self {
            me,
            machine,
            inbox: inbox.0,
            inputs,
            worker,
            gossip,
            view,
            electors,
            told: (None, None),
            replies: BTreeMap::new(),
            next_token: 0,
            noted: std::future::ready(()).boxed().shared(),
            teller: Teller::new(me, events, &metrics),
            leaving: inbox.1,
            catalog,
            asking_to_leave: false,
            shared: Arc::new(Notify::new()),
            bound: None,
            retrying: None,
            left,
            tasks,
        }
    }

    /// Runs until the node stops.
    pub async fn run(mut self) {
        let stop = self.tasks.stop().clone();
        if matches!(self.worker.store.is_leaving().await, Ok(true)) {
            info!("going on to leave");
            self.begin_to_leave().await;
        }
        self.tell_view();
        self.tell_electors();
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut inbox_lives = true;
        let shared = self.shared.clone();
        loop {
            self.carry_out();
            let now = self.worker.store.now();
            let due = self.machine.poll_timeout().map(|at| at.since(now));
            tokio::select! {
                () = stop.cancelled() => return,
                Some(input) = self.inputs.recv() => self.machine.handle(self.worker.store.now(), input),
                command = self.inbox.recv(), if inbox_lives => match command {
                    Some(command) => self.command(command).await,
                    None => inbox_lives = false,
                },
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.tell_view();
                }
                changed = self.electors.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.tell_electors();
                }
                () = tokio::time::sleep(due.unwrap_or(TIDY_EVERY)), if due.is_some() => {
                    self.machine.handle_timeout(self.worker.store.now());
                }
                () = shared.notified() => self.all_is_shared(),
                _ = tidy.tick() => self.tidy().await,
            }
        }
    }

    fn tell_view(&mut self) {
        let view = self.view.borrow_and_update().clone();
        self.machine.handle(self.worker.store.now(), Input::View(view));
    }

    fn tell_electors(&mut self) {
        let electors = self.electors.borrow_and_update().clone();
        let now = self.worker.store.now();
        if let Some(roster) = electors.roster()
            && self.told.0 != Some(roster.number)
        {
            self.told.0 = Some(roster.number);
            self.machine.handle(now, Input::Roster(roster.as_ref().clone()));
        }
        let ready = electors.standing().is_ok();
        if self.told.1 != Some(ready) {
            self.told.1 = Some(ready);
            self.machine.handle(now, Input::Ready(ready));
        }
    }

    async fn command(&mut self, command: Command) {
        let now = self.worker.store.now();
        match command {
            Command::Health(answer) => {
                let health = self.health().await;
                let _ = answer.send(health);
            }
            Command::Steer(command, done) => {
                self.machine.handle(now, Input::Command(command));
                let _ = done.send(());
            }
            Command::Leave(done) => {
                if let Err(error) = self.worker.store.set_leaving(true).await {
                    // Whoever asked sees that nobody answers.
                    return warn!(%error, "could not note that this node leaves");
                }
                self.begin_to_leave().await;
                let _ = done.send(());
            }
            Command::Question(call) => match Question::from_bytes(&call.body) {
                Ok(question) => {
                    let token = self.next_token;
                    self.next_token += 1;
                    self.replies.insert(token, call.reply);
                    if self.replies.len() > MAX_REPLIES {
                        self.replies.pop_first();
                    }
                    let from = call.from.node;
                    self.machine.handle(now, Input::Question { from, token, question });
                }
                Err(error) => debug!(peer = %call.from.node, %error, "a question that does not parse"),
            },
            Command::Bad(id) => self.worker.look_again(id),
            Command::Lost(id) => {
                self.teller.quarantined(id);
                self.machine.handle(now, Input::Lost(id));
            }
        }
    }

    async fn begin_to_leave(&mut self) {
        if !self.leaving.swap(true, Ordering::Relaxed) {
            info!("leaving: this node owns nothing from now on, and hands over what it holds");
            let _ = self.gossip.leave().await;
        }
    }

    /// Does what the machine wants done, and tells what it has to tell.
    fn carry_out(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Note(note) => {
                    let (store, before) = (self.worker.store.clone(), self.noted.clone());
                    let noting = async move {
                        before.await;
                        if let Err(error) = store.note(note).await {
                            warn!(%error, "could not keep marks about chunks");
                        }
                    };
                    self.noted = noting.boxed().shared();
                    // Whether or not a page is asked for next.
                    self.tasks.spawn(self.noted.clone());
                }
                Action::Page { id, after } => self.worker.page(id, after, self.noted.clone()),
                Action::Answer { token, answer } => {
                    if let Some(reply) = self.replies.remove(&token) {
                        reply.send(answer.to_bytes().into());
                    }
                }
                action => self.worker.carry_out(action),
            }
        }
        while let Some(event) = self.machine.poll_event() {
            if matches!(event, replicator::Event::Drained) {
                self.drained();
            }
            let under_replicated = self.machine.health(self.worker.store.now()).under_replicated;
            self.teller.tell(event, under_replicated);
        }
    }

    /// Everything has its copies elsewhere: once the others know all that this node's catalog knows too,
    /// it may leave.
    fn drained(&mut self) {
        if !self.leaving.load(Ordering::Relaxed) || std::mem::replace(&mut self.asking_to_leave, true) {
            return;
        }
        info!("every chunk has its copies elsewhere");
        let (catalog, shared) = (self.catalog.clone(), self.shared.clone());
        self.tasks.spawn(async move {
            while let Err(refused) = catalog.operate(Operator::Leave).await {
                let Some(reason) = refused else { return };
                debug!(%reason, "not leaving yet");
                tokio::time::sleep(LOOK_WHETHER_TO_LEAVE).await;
            }
            shared.notify_one();
        });
    }

    /// The others know all that this node knows: says that it has left, and ends the process, unless a chunk
    /// came meanwhile.
    fn all_is_shared(&mut self) {
        self.asking_to_leave = false;
        if self.left.is_cancelled() {
            return;
        }
        if !self.machine.is_drained() {
            return info!("a chunk came that has no copies elsewhere yet");
        }
        info!("left: every chunk has its copies elsewhere");
        let (store, left) = (self.worker.store.clone(), self.left.clone());
        let stop = self.tasks.stop().clone();
        self.tasks.spawn(async move {
            while let Err(error) = store.set_leaving(false).await {
                warn!(%error, "could not note that this node has left");
                // Who is stopped meanwhile leaves at its next start.
                tokio::select! {
                    () = tokio::time::sleep(LOOK_WHETHER_TO_LEAVE) => {}
                    () = stop.cancelled() => return,
                }
            }
            left.cancel();
        });
    }

    async fn tidy(&mut self) {
        let health = self.machine.health(self.worker.store.now());
        self.teller.measure(&health);
        if let Err(error) = self.worker.store.forget_promises().await {
            debug!(%error, "could not forget promises that are over");
        }
        // One at a time: a disk that hangs is not asked ever more.
        if self.retrying.as_ref().is_none_or(JoinHandle::is_finished) {
            let store = self.worker.store.clone();
            self.retrying = Some(self.tasks.spawn(async move {
                if let Err(error) = store.retry_deletions().await {
                    debug!(%error, "could not finish deletions");
                }
            }));
        }
        self.end_lost_logs().await;
    }

    /// Declares ended what nobody has seen of the logs of databases that the roster dropped. Only once
    /// this node has seen all that the others know of them.
    async fn end_lost_logs(&mut self) {
        let roster = {
            let electors = self.electors.borrow();
            match (electors.roster(), electors.standing()) {
                (Some(roster), Ok(())) => roster.clone(),
                _ => return,
            }
        };
        let (bound, known) = match &self.bound {
            Some(noted) => noted,
            None => match self.worker.store.noted_databases().await {
                Ok(noted) => self.bound.insert(noted),
                Err(error) => return warn!(%error, "could not read which databases were bound"),
            },
        };
        let present = rules::databases(&roster);
        if *bound == present {
            return;
        }
        let dropped = rules::dropped(known, bound, &present);
        match self.worker.store.note_databases(present.clone(), dropped.clone()).await {
            Ok(()) => self.bound = Some((present, dropped)),
            Err(error) => warn!(%error, "could not note which databases are bound"),
        }
    }

    async fn health(&self) -> NodeHealth {
        let health = self.machine.health(self.worker.store.now());
        let usage = self.worker.store.usage().await.map_or(0, |usage| usage.chunks);
        let at = self.worker.store.scrubbed_at().await.ok().flatten();
        let scrub = api::ScrubStatus {
            at: at.map(|at| at.to_string()),
            checked: health.scrub.checked,
            bad: health.scrub.bad,
            running: health.scrub.running,
            progress: if usage == 0 { 1.0 } else { (health.scrub.checked as f64 / usage as f64).min(1.0) },
            paused: health.scrub.paused,
        };
        let waiting = health.waiting.into_iter().take(16).map(|waiting| api::Waiting {
            what: waiting.what,
            until_secs: waiting.remaining.map(|remaining| remaining.as_secs()),
        });
        NodeHealth {
            // What is fetched anew is lacking here, and nobody else may know yet.
            under_replicated: health.under_replicated + health.fetching,
            single_copy: health.single_copy,
            missing: health.missing,
            surplus: health.surplus,
            moving: health.moving,
            moving_bytes: health.moving_bytes,
            scrub,
            breaker: health.breaker,
            paused: health.paused,
            waiting: waiting.collect(),
            ..NodeHealth::idle(self.me)
        }
    }
}
