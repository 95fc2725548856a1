//! Carries out what the replicator of `kepler-protocol` decides: this node's part in healing.
//!
//! One task owns the machine and feeds it; what it wants done runs in tasks of their own, which the
//! machine bounds. Nothing here must survive the process: what was under way is found again. Nothing
//! of the node waits for the healer; the way into it is the [`Handle`].

mod events;
mod handle;
mod leaving;
mod state;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use kepler_protocol::api;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::departure::Departure;
use kepler_protocol::replicator::message::Question;
use kepler_protocol::replicator::rules::Bound;
use kepler_protocol::replicator::{self, Action, Input, Replicator};
use kepler_protocol::view::View;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::events::Teller;
use self::handle::Command;
use self::work::Worker;
use super::catalog::CatalogHandle;
use super::chunks::Chunks;
use super::electorate::Electors;
use crate::gossip;
use crate::store::Store;
use crate::swarm::{self, Reply};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

pub use self::handle::{Handle, Inbox};

/// Peers' questions that wait for their answer at most; the oldest makes room.
const MAX_REPLIES: usize = 1_024;

/// How often what is kept on disk for a time is looked through, and gauges are set.
const TIDY_EVERY: Duration = Duration::from_secs(5);

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
    departure: Departure,
    /// Told to whoever brings copies.
    refusing: Arc<AtomicBool>,
    catalog: CatalogHandle,
    /// Whether the catalog says that this node may leave, as often as it is asked.
    may_leave: mpsc::Sender<bool>,
    may_leave_answers: mpsc::Receiver<bool>,
    /// Which databases were last noted as bound; `None` before it was read.
    bound: Option<Bound>,
    /// After which chunk deletions that failed are tried next.
    retried: Option<ChunkId>,
    /// Deletions that the disk failed are being tried again.
    retrying: Option<JoinHandle<Option<ChunkId>>>,
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
        let (may_leave, may_leave_answers) = mpsc::channel(1);
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
            departure: Departure::new(config.repair_delay, config.faults),
            refusing: inbox.1,
            catalog,
            may_leave,
            may_leave_answers,
            bound: None,
            retried: None,
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
        self.tell_electors().await;
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut inbox_lives = true;
        loop {
            self.carry_out();
            self.look_whether_to_leave().await;
            let now = self.worker.store.now();
            let due = [self.machine.poll_timeout(), self.departure.poll_timeout()];
            let due = due.into_iter().flatten().min().map(|at| at.since(now));
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
                    self.tell_electors().await;
                }
                () = tokio::time::sleep(due.unwrap_or(TIDY_EVERY)), if due.is_some() => {
                    self.machine.handle_timeout(self.worker.store.now());
                }
                Some(may) = self.may_leave_answers.recv() => self.may_leave(may),
                _ = tidy.tick() => self.tidy().await,
            }
        }
    }

    fn tell_view(&mut self) {
        let view = self.view.borrow_and_update().clone();
        self.machine.handle(self.worker.store.now(), Input::View(view));
    }

    async fn tell_electors(&mut self) {
        let electors = self.electors.borrow_and_update().clone();
        let now = self.worker.store.now();
        if let Some(roster) = electors.roster()
            && self.told.0 != Some(roster.number)
        {
            if let Some(entry) = roster.members.get(&self.me)
                && let Err(error) = self.worker.store.doubt_if_other(entry.database).await
            {
                // Nothing is released or collected by a database that cannot be written.
                warn!(%error, "could not note that references may be lost");
                return;
            }
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
            Command::Stay(done) => {
                let _ = done.send(self.cancel_leaving().await);
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
                info!("every chunk has its copies elsewhere");
            }
            let under_replicated = self.machine.health(self.worker.store.now()).under_replicated;
            self.teller.tell(event, under_replicated);
        }
    }

    async fn tidy(&mut self) {
        let health = self.machine.health(self.worker.store.now());
        self.teller.measure(&health);
        if let Err(error) = self.worker.store.forget_promises().await {
            debug!(%error, "could not forget promises that are over");
        }
        // One at a time: a disk that hangs is not asked ever more.
        if self.retrying.as_ref().is_none_or(JoinHandle::is_finished) {
            if let Some(retried) = self.retrying.take() {
                self.retried = retried.await.unwrap_or_default();
            }
            let (store, after) = (self.worker.store.clone(), self.retried);
            self.retrying = Some(self.tasks.spawn(async move {
                store.retry_deletions(after).await.unwrap_or_else(|error| {
                    debug!(%error, "could not finish deletions");
                    None
                })
            }));
        }
        self.end_lost_logs().await;
    }
}
