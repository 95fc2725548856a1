//! Carries out what the replicator of `kepler-protocol` decides: this node's part in healing.
//!
//! The way into it is the [`Handle`], for people; nothing of the node waits for the healer.

use kepler_protocol::api::{Action, Bandwidth, NodeHealth};
use kepler_protocol::chunk::ChunkId;
use tokio::sync::{mpsc, oneshot};

use crate::throttle::Throttle;

/// Commands that wait for the healer at most.
const MAX_COMMANDS: usize = 64;

/// What people want of the healer.
#[derive(Debug)]
pub(crate) enum Command {
    Health(oneshot::Sender<NodeHealth>),
    Scrub(Action, oneshot::Sender<()>),
    Repair(Action, oneshot::Sender<()>),
    Leave(oneshot::Sender<()>),
    Bad(ChunkId),
}

/// The way to the healer; cheap to clone. Everything but the cap is `None` once the node stops.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    throttle: Throttle,
}

impl Handle {
    /// A handle, and where its commands arrive.
    pub(crate) fn new(throttle: Throttle) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        (Self { commands, throttle }, receiver)
    }

    /// How healed this node is; without its replication queue.
    pub async fn health(&self) -> Option<NodeHealth> {
        self.ask(Command::Health).await
    }

    /// Hurries or pauses the scrub.
    pub async fn scrub(&self, action: Action) -> Option<()> {
        self.ask(|done| Command::Scrub(action, done)).await
    }

    /// Hurries or pauses repair.
    pub async fn repair(&self, action: Action) -> Option<()> {
        self.ask(|done| Command::Repair(action, done)).await
    }

    /// Begins to drain this node.
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
    /// Where much is reported already this one is left to the scrub.
    pub async fn report_bad(&self, id: ChunkId) {
        let _ = self.commands.send(Command::Bad(id)).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}
