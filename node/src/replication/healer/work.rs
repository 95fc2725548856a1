//! The replicator's actions, each in a task of its own that ends with one input for the machine.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::message::{Answer, Question};
use kepler_protocol::replicator::rules::{self, Kept};
use kepler_protocol::replicator::{self, Action, ActionId, Done, Input, Scrubbed, Sent, Unreachable};
use kepler_protocol::version::Dot;
use kepler_protocol::view::View;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::replication::chunks::Chunks;
use crate::replication::electorate::Electors;
use crate::store::{self, Looked, ReadError, Store, Unreadable};
use crate::swarm;
use crate::tasks::Tasks;
use crate::throttle;

/// What work needs.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) store: Store,
    pub(super) chunks: Chunks,
    pub(super) swarm: swarm::Handle,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) electors: watch::Receiver<Electors>,
    pub(super) gc_grace: Duration,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) tasks: Tasks,
}

/// Asks the rest of the node at the instant of a deletion's transaction.
#[derive(Clone)]
struct Conditions {
    view: watch::Receiver<Arc<View>>,
    electors: watch::Receiver<Electors>,
}

impl store::Conditions for Conditions {
    fn breaker(&self) -> bool {
        let view = self.view.borrow().clone();
        self.electors.borrow().roster().is_none_or(|roster| rules::breaker(roster, &view))
    }

    fn ready(&self) -> bool {
        self.electors.borrow().standing().is_ok()
    }
}

impl Worker {
    /// Reads a page once the marks before it are on disk.
    pub(super) fn page(&self, id: ActionId, after: Option<ChunkId>, noted: Shared<BoxFuture<'static, ()>>) {
        let worker = self.clone();
        self.start(id, async move {
            noted.await;
            let page = worker.store.holdings(after).await;
            Done::Page(page.map_err(|error| warn!(%error, "could not read what the disk holds")).ok())
        });
    }

    /// Begins an action.
    pub(super) fn carry_out(&self, action: Action) {
        let worker = self.clone();
        match action {
            Action::Ask { id, to, question, deadline } => {
                self.spawn(async move {
                    let result = worker.ask(to, &question, deadline).await;
                    worker.tell(Input::Answer { id, result });
                });
            }
            Action::Look { id, items } => {
                let asked = items.len();
                self.start(id, async move {
                    let looked = worker.store.look(items).await;
                    // Where nothing can be looked up, nothing is said to be here.
                    Done::Looked(looked.unwrap_or_else(|error| {
                        warn!(%error, "could not look chunks up for a peer");
                        vec![replicator::message::Holds::NotMine; asked]
                    }))
                });
            }
            Action::Promise { id, chunk, dots } => {
                self.start(id, async move { Done::Promised(worker.promise(chunk, dots).await) });
            }
            Action::References { id, chunk } => self.start(id, async move {
                let kept = worker.store.kept_references(chunk).await;
                Done::References(kept.ok().flatten().map(|kept| kept.dots))
            }),
            Action::Send { id, chunk, to, pace } => {
                let pace = match pace {
                    replicator::Pace::Full => throttle::Pace::Full,
                    replicator::Pace::Tenth => throttle::Pace::Tenth,
                };
                self.start(id, async move {
                    let sent = worker.chunks.send(chunk, to, pace).await;
                    if sent == Sent::NotHere {
                        worker.check(chunk).await;
                    }
                    Done::Sent(sent)
                });
            }
            Action::Fetch { id, chunk, from } => {
                self.start(id, async move { Done::Fetched(worker.chunks.restore(chunk, &from).await) })
            }
            Action::Release { id, claim } => {
                let conditions = self.conditions();
                self.start(id, async move {
                    let released = worker.store.release(claim, conditions).await;
                    Done::Released(released.unwrap_or_else(|error| {
                        warn!(%error, "could not release a chunk");
                        Err(Kept::Gone)
                    }))
                });
            }
            Action::Collect { id, chunks } => {
                let conditions = self.conditions();
                self.start(id, async move {
                    let collected = worker.store.collect(chunks, worker.gc_grace, conditions).await;
                    let (chunks, bytes) = collected.unwrap_or_else(|error| {
                        warn!(%error, "could not collect chunks");
                        (0, 0)
                    });
                    Done::Collected { chunks, bytes }
                });
            }
            Action::SetAside { chunk } => self.spawn(async move {
                warn!(chunk = %chunk, "the disk fails to give a chunk: it is set aside and fetched anew");
                worker.set_aside(chunk, Unreadable::SetAside).await;
            }),
            Action::Scrub { id, restart, limit } => {
                self.start(id, async move { Done::Scrubbed(worker.scrub(restart, limit).await) });
            }
            // Carried out by who owns the machine.
            Action::Page { .. } | Action::Note(_) | Action::Answer { .. } => {}
        }
    }

    /// Looks at a copy that was reported as bad, and has it fetched anew if it is.
    pub(super) fn look_again(&self, id: ChunkId) {
        let worker = self.clone();
        self.spawn(async move { worker.check(id).await });
    }

    /// Sets a copy aside if it is rotten or its bytes are gone, and tells the machine. What becomes of one that the
    /// disk fails to give is for the machine to say.
    async fn check(&self, id: ChunkId) {
        self.set_aside(id, Unreadable::Stays).await;
    }

    async fn set_aside(&self, id: ChunkId, unreadable: Unreadable) {
        let held = self.store.held(vec![id]).await;
        if !held.is_ok_and(|held| held.first().is_some_and(Option::is_some)) {
            return;
        }
        match self.store.quarantine(id, unreadable).await {
            Ok(Looked::SetAside) => {
                self.chunks.note_quarantined(id);
                self.tell(Input::Lost(id));
            }
            Ok(Looked::Unreadable) => self.tell(Input::Unreadable(id)),
            Ok(Looked::Intact) => {}
            Err(error) => warn!(chunk = %id, %error, "could not quarantine"),
        }
    }

    async fn ask(&self, to: NodeId, question: &Question, deadline: Duration) -> Result<Answer, Unreachable> {
        let body = question.to_bytes().into();
        let answer = self.swarm.call(to, swarm::Service::Replicator, body, deadline).await;
        let answer = answer.map_err(|error| {
            debug!(peer = %to, %error, "no answer");
            Unreachable
        })?;
        Answer::from_bytes(&answer).map_err(|error| {
            debug!(peer = %to, %error, "an answer that does not parse");
            Unreachable
        })
    }

    async fn promise(&self, chunk: ChunkId, dots: Vec<Dot>) -> bool {
        match self.store.promise(chunk, dots).await {
            Ok(promised) => promised,
            Err(bad @ (ReadError::Corrupt(_) | ReadError::Io { .. })) => {
                warn!(chunk = %chunk, error = %bad, "a chunk to be vouched for is rotten or cannot be read");
                self.check(chunk).await;
                false
            }
            Err(error) => {
                warn!(chunk = %chunk, %error, "could not vouch for a chunk");
                false
            }
        }
    }

    async fn scrub(&self, restart: bool, limit: usize) -> Scrubbed {
        match self.store.scrub(restart, limit).await {
            Ok(step) => {
                for id in &step.bad {
                    warn!(chunk = %id, "a chunk is rotten or gone: it was set aside");
                    self.chunks.note_quarantined(*id);
                }
                for id in step.unreadable {
                    warn!(chunk = %id, "the disk fails to give a chunk");
                    self.look_again(id);
                }
                Scrubbed { checked: step.checked, bad: step.bad, finished: step.finished }
            }
            Err(error) => {
                warn!(%error, "could not hash chunks again");
                Scrubbed::default()
            }
        }
    }

    fn conditions(&self) -> Conditions {
        Conditions { view: self.view.clone(), electors: self.electors.clone() }
    }

    fn start(&self, id: ActionId, work: impl Future<Output = Done> + Send + 'static) {
        let inputs = self.inputs.clone();
        self.spawn(async move {
            // Nobody listens any more only where the node stops.
            let _ = inputs.send(Input::Done { id, done: work.await });
        });
    }

    /// Work is dropped where it stands when the node stops: whatever must not be is in tasks of its own.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.stop().clone();
        self.tasks.spawn(async move {
            let _ = stop.run_until_cancelled(work).await;
        });
    }

    fn tell(&self, input: Input) {
        let _ = self.inputs.send(input);
    }
}
