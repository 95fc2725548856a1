//! The way to the healer: commands, and what can be known of it without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kepler_protocol::api::{self, Bandwidth, NodeHealth};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::replicator;
use tokio::sync::{mpsc, oneshot};

use crate::swarm::Inbound;
use crate::throttle::Throttle;

/// Commands and questions that wait for the healer at most; further questions are refused.
const MAX_COMMANDS: usize = 1_024;

/// What is wanted of the healer.
#[derive(Debug)]
pub(super) enum Command {
    Health(oneshot::Sender<NodeHealth>),
    Steer(replicator::Command, oneshot::Sender<()>),
    Leave(oneshot::Sender<()>),
    Stay(oneshot::Sender<bool>),
    Question(Inbound),
    Bad(ChunkId),
    Lost(ChunkId),
}

/// The way to the healer; cheap to clone. Everything but the cap is `None` once the node stops.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    throttle: Throttle,
    refusing: Arc<AtomicBool>,
}

/// Where what a [`Handle`] is told arrives.
pub struct Inbox(pub(super) mpsc::Receiver<Command>, pub(super) Arc<AtomicBool>);

impl Handle {
    /// A handle, and where its commands arrive.
    pub fn new(throttle: Throttle) -> (Self, Inbox) {
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let refusing = Arc::new(AtomicBool::new(false));
        (Self { commands, throttle, refusing: Arc::clone(&refusing) }, Inbox(receiver, refusing))
    }

    /// How healed this node is; without its replication queue.
    pub async fn health(&self) -> Option<NodeHealth> {
        self.ask(Command::Health).await
    }

    /// Whether copies that peers bring are taken: not by who leaves.
    pub fn takes_copies(&self) -> bool {
        !self.refusing.load(Ordering::Relaxed)
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

    /// Calls that off, durably; `false` where this node is not leaving, or has left.
    pub async fn stay(&self) -> Option<bool> {
        self.ask(Command::Stay).await
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

    /// A copy on this disk could not be read: it is looked at again. Where too much waits, the scrub finds it.
    pub fn report_unreadable(&self, id: ChunkId) {
        let _ = self.commands.try_send(Command::Bad(id));
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
