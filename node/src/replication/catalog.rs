//! The way to the catalog: commands in, outcomes out; and its talk with other members.
//!
//! The [`Replica`](kepler_protocol::replica::Replica) itself sits on the store's writer thread.
//! This file carries its messages to and from the swarm and wakes whoever waits for a command.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kepler_protocol::api;
use kepler_protocol::catalog::command::{Command, CommandId, Outcome};
use kepler_protocol::replica::{Input, Operator, OperatorRefused, Output, Request, Response, Unreachable};
use kepler_protocol::roster::council::Peer;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::electorate::Electors;
use crate::gossip;
use crate::store::{Room, Seat};
use crate::swarm::{self, Inbound, Reply};
use crate::tasks::Tasks;

/// How long a command waits for a disk that does not answer; the catalog itself is done within 10 s.
const COMMAND_WITHIN: Duration = Duration::from_secs(20);

/// Commands that wait for their outcome at most; further ones are refused.
const MAX_WAITING: usize = 65_536;

/// Peers' requests that wait for the catalog's answer at most; the oldest makes room, for the catalog
/// may leave one unanswered, and a peer that has waited longest has probably given up.
const MAX_REPLIES: usize = 4_096;

/// Outputs of the catalog that may wait to be carried out before no further input is taken.
const MAX_BACKLOG: usize = 65_536;

/// Why a command has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Too much is under way; nothing was done.
    #[error("too many operations are under way")]
    Busy,
    /// The disk is too full for it; nothing was done.
    #[error("the disk is full")]
    Full,
    /// The catalog is gone, and the command was not taken: the node is stopping, or its database failed.
    #[error("it is stopping")]
    Stopped,
    /// The command was taken and the catalog is gone: whether it was done is unknown.
    #[error("it stopped while the operation was under way")]
    Lost,
}

/// The way to the catalog; cheap to clone.
#[derive(Clone)]
pub struct CatalogHandle {
    seat: Seat<Input>,
    waiting: Arc<Waiting>,
    backlog: Backlog,
}

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    commands: Mutex<BTreeMap<CommandId, oneshot::Sender<Outcome>>>,
    replies: Mutex<Replies>,
    words: Mutex<BTreeMap<CommandId, oneshot::Sender<Result<(), OperatorRefused>>>>,
}

/// Who waits for an answer, by token; tokens rise, so the first is the oldest.
#[derive(Default)]
struct Replies(BTreeMap<u64, Reply>);

impl Replies {
    fn insert(&mut self, token: u64, reply: Reply) {
        self.0.insert(token, reply);
        while self.0.len() > MAX_REPLIES {
            self.0.pop_first();
        }
    }
}

/// Counts the outputs that wait to be carried out. The writer must not be held up, so what bounds
/// them is that no further input is taken while they are too many.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    /// Notes outputs that wait from now on.
    pub fn grow(&self, outputs: usize) {
        self.0.fetch_add(outputs, Ordering::Relaxed);
    }

    fn shrink(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= MAX_BACKLOG
    }
}

impl CatalogHandle {
    /// Asks the catalog and waits for its answer, which it gives within its own deadlines, or until its disk
    /// has kept it waiting for [`COMMAND_WITHIN`].
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn command(&self, command: Command) -> Result<Outcome, CommandError> {
        if self.backlog.is_full() {
            return Err(CommandError::Busy);
        }
        let begins = matches!(command, Command::Begin { .. } | Command::Delete { .. });
        if begins && self.seat.room() != Room::Enough {
            return Err(CommandError::Full);
        }
        // What may be given up without a trace: a dot that comes too late is closed.
        let harmless = matches!(command, Command::Begin { .. } | Command::Read { .. });
        // It would only stand in the way of what is to end.
        if harmless && self.seat.room() == Room::Nothing {
            return Err(CommandError::Full);
        }
        let id = CommandId(self.waiting.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        {
            let mut commands = self.waiting.commands.lock().unwrap_or_else(PoisonError::into_inner);
            if commands.len() >= MAX_WAITING {
                return Err(CommandError::Busy);
            }
            commands.insert(id, sender);
        }
        // Whoever is dropped while waiting for a seat takes its entry along.
        let mut entry = Entry { waiting: &self.waiting, id: Some(id) };
        let stuck = tokio::time::timeout(COMMAND_WITHIN, self.seat.stuck());
        let mut stuck = std::pin::pin!(stuck);
        let send = self.seat.send(Input::Command(id, command));
        let sent = if harmless {
            tokio::select! {
                sent = send => sent,
                full = &mut stuck => return Err(if full.is_ok() { CommandError::Full } else { CommandError::Busy }),
            }
        } else {
            // What ends something waits for the room: left out, its dot would stay open until a restart.
            tokio::time::timeout(COMMAND_WITHIN, send).await.map_err(|_| CommandError::Busy)?
        };
        sent.map_err(|_| CommandError::Stopped)?;
        entry.id = None;
        tokio::select! {
            outcome = receiver => outcome.map_err(|_| CommandError::Lost),
            full = &mut stuck => Err(match (harmless, full) {
                (true, Ok(())) => CommandError::Full,
                (true, Err(_)) => CommandError::Busy,
                (false, _) => CommandError::Lost,
            }),
        }
    }

    /// Whether the catalog waits for room on its disk: it answers nothing until it has it.
    pub fn is_stuck(&self) -> bool {
        self.seat.room() == Room::Nothing
    }

    /// Hands the catalog something that is no command.
    ///
    /// # Errors
    /// [`CommandError::Stopped`] when there is no catalog any more.
    pub async fn tell(&self, input: Input) -> Result<(), CommandError> {
        self.seat.send(input).await.map_err(|_| CommandError::Stopped)
    }

    /// Hands an operator's word to the catalog and waits for what becomes of it.
    ///
    /// # Errors
    /// The refusal; `None` when there is no catalog any more.
    pub async fn operate(&self, word: Operator) -> Result<(), Option<OperatorRefused>> {
        let id = CommandId(self.waiting.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        self.waiting.words.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let asked = async {
            match self.tell(Input::Operator(id, word)).await {
                Ok(()) => receiver.await.map_err(|_| None),
                Err(_) => Err(None),
            }
        };
        let late = || Err(Some(OperatorRefused::NotYet("its disk is full, or does not answer".into())));
        let answered = tokio::time::timeout(COMMAND_WITHIN, asked).await.unwrap_or_else(|_| late());
        self.waiting.words.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        answered?.map_err(Some)
    }

    /// Hands a peer's request to the catalog. One that cannot be taken is dropped: the peer is told so.
    pub fn inbound(&self, inbound: Inbound) {
        if self.backlog.is_full() {
            debug!(peer = %inbound.from.node, "a request is dropped: too much waits");
            return;
        }
        let request = match Request::from_bytes(&inbound.body) {
            Ok(request) => request,
            Err(error) => return debug!(peer = %inbound.from.node, %error, "a request that does not parse"),
        };
        let token = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let from = Peer { node: inbound.from.node, key: inbound.from.key };
        self.waiting.replies.lock().unwrap_or_else(PoisonError::into_inner).insert(token, inbound.reply);
        // Other calls wait behind this one.
        if let Ok(Some(_)) | Err(_) = self.seat.try_send(Input::Request { from, token, request }) {
            self.waiting.replies.lock().unwrap_or_else(PoisonError::into_inner).0.remove(&token);
        }
    }
}

/// Removes a command that was never handed over.
struct Entry<'a> {
    waiting: &'a Waiting,
    id: Option<CommandId>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.waiting.commands.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }
}

/// Carries out what the replica wants done.
pub struct Driver {
    handle: CatalogHandle,
    outputs: mpsc::UnboundedReceiver<Vec<Output>>,
    swarm: swarm::Handle,
    gossip: gossip::Handle,
    electors: watch::Sender<Electors>,
    events: broadcast::Sender<api::Event>,
    tasks: Tasks,
}

impl Driver {
    /// A driver of the replica in `seat`, whose outputs arrive on `outputs`.
    pub fn new(
        seat: Seat<Input>,
        (outputs, backlog): (mpsc::UnboundedReceiver<Vec<Output>>, Backlog),
        swarm: swarm::Handle,
        gossip: gossip::Handle,
        electors: watch::Sender<Electors>,
        events: broadcast::Sender<api::Event>,
        tasks: Tasks,
    ) -> (Self, CatalogHandle) {
        let handle = CatalogHandle { seat, waiting: Arc::default(), backlog };
        (Self { handle: handle.clone(), outputs, swarm, gossip, electors, events, tasks }, handle)
    }

    /// Runs until the store ends.
    pub async fn run(mut self) {
        while let Some(outputs) = self.outputs.recv().await {
            for output in outputs {
                self.carry_out(output).await;
                self.handle.backlog.shrink();
            }
        }
        // Whoever still waits is told that there is nobody left to answer.
        self.handle.waiting.commands.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.handle.waiting.replies.lock().unwrap_or_else(PoisonError::into_inner).0.clear();
        self.handle.waiting.words.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn carry_out(&self, output: Output) {
        match output {
            Output::Completed(id, outcome) => {
                let waiting = &self.handle.waiting.commands;
                let sender = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                // The asker may have given up; the outcome stands all the same, but what only he could have
                // gone on with is ended.
                if let Some(Outcome::Begun { dot }) = sender.and_then(|sender| sender.send(outcome).err()) {
                    let handle = self.handle.clone();
                    self.tasks.spawn(async move { handle.command(Command::Abort { dot }).await });
                }
            }
            Output::Request { to, id, request, deadline } => {
                let (swarm, handle) = (self.swarm.clone(), self.handle.clone());
                let body = Bytes::from(request.to_bytes());
                self.tasks.spawn(async move {
                    let answer = swarm.call(to, swarm::Service::Catalog, body, deadline).await;
                    let result = answer
                        .map_err(|error| debug!(peer = %to, %error, "no answer"))
                        .and_then(|body| {
                            let parsed = Response::from_bytes(&body);
                            parsed
                                .map_err(|error| debug!(peer = %to, %error, "an answer that does not parse"))
                        })
                        .map_err(|()| Unreachable);
                    let _ = handle.tell(Input::Response { id, from: to, result }).await;
                });
            }
            Output::Response { token, response } => {
                let waiting = &self.handle.waiting.replies;
                if let Some(reply) = waiting.lock().unwrap_or_else(PoisonError::into_inner).0.remove(&token) {
                    reply.send(Bytes::from(response.to_bytes()));
                }
            }
            Output::Operated(id, result) => {
                let waiting = &self.handle.waiting.words;
                if let Some(sender) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
                    let _ = sender.send(result);
                }
            }
            Output::MajorityLost(lost) if lost.is_empty() => info!("a majority of the roster is here again"),
            Output::MajorityLost(lost) => {
                warn!(
                    ?lost,
                    "a majority of the roster seems lost for good: only `kepler cluster forget --lost` helps then"
                );
            }
            Output::Roster(roster) => {
                info!(number = roster.number, members = roster.members.len(), "roster adopted");
                let _ = self.gossip.set_constants(roster.constants).await;
                let members = roster.members.keys().copied().collect();
                let _ = self.events.send(api::Event::Roster { number: roster.number, members });
                self.electors.send_modify(|electors| {
                    let caught_up = electors.was_caught_up();
                    *electors = Electors::new(Some(roster), electors.standing().clone(), caught_up);
                });
            }
            Output::Ready { standing, caught_up } => {
                match &standing {
                    Ok(()) => info!("ready"),
                    Err(reason) => info!(reason, "not ready"),
                }
                let _ = self.gossip.set_ready(standing.is_ok()).await;
                let _ = self.events.send(api::Event::Ready { ready: standing.is_ok() });
                self.electors.send_modify(|electors| {
                    let roster = electors.roster().map(|roster| roster.as_ref().clone());
                    *electors = Electors::new(roster, standing, caught_up);
                });
            }
            Output::Announce(announcement) => {
                // Gossip ends before the store does; then nobody needs to know.
                let _ = self.gossip.set_announcement(announcement);
            }
            Output::Refused(reason) => warn!(reason, "this node is refused by the cluster"),
            Output::Written { name, dot, deleted } => {
                let _ = self.events.send(api::Event::Written { name, version: dot.to_string(), deleted });
            }
            Output::Conflict { name } => {
                warn!(%name, "concurrent versions of one name");
                let _ = self.events.send(api::Event::Conflict { name });
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
