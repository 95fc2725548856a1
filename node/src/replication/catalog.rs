//! The way to the catalog: commands in, outcomes out; and its talk with other members.
//!
//! The [`Replica`](kepler_protocol::replica::Replica) itself sits on the store's writer thread.
//! This file carries its messages to and from the swarm and wakes whoever waits for a command.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kepler_protocol::api;
use kepler_protocol::catalog::command::{Command, CommandId, Outcome};
use kepler_protocol::replica::{Input, Output, Request, Response, Unreachable};
use kepler_protocol::roster::council::Peer;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::electorate::Electors;
use crate::gossip;
use crate::store::Seat;
use crate::swarm::{self, Inbound, Reply};
use crate::tasks::Tasks;

/// Commands that wait for their outcome at most; further ones are refused.
const MAX_WAITING: usize = 65_536;

/// The catalog is gone: the node is stopping, or its database failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the catalog has stopped")]
pub struct Stopped;

/// The way to the catalog; cheap to clone.
#[derive(Clone)]
pub struct CatalogHandle {
    seat: Seat<Input>,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    commands: Mutex<BTreeMap<CommandId, oneshot::Sender<Outcome>>>,
    replies: Mutex<BTreeMap<u64, Reply>>,
}

impl CatalogHandle {
    /// Asks the catalog and waits for its answer, which it gives within its own deadlines.
    ///
    /// # Errors
    /// [`Stopped`] when there is no catalog any more.
    pub async fn command(&self, command: Command) -> Result<Outcome, Stopped> {
        let id = CommandId(self.waiting.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        {
            let mut commands = self.waiting.commands.lock().unwrap_or_else(PoisonError::into_inner);
            if commands.len() >= MAX_WAITING {
                return Err(Stopped);
            }
            commands.insert(id, sender);
        }
        if self.seat.send(Input::Command(id, command)).await.is_err() {
            self.waiting.commands.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            return Err(Stopped);
        }
        receiver.await.map_err(|_| Stopped)
    }

    /// Hands the catalog something that is no command.
    ///
    /// # Errors
    /// [`Stopped`] when there is no catalog any more.
    pub async fn tell(&self, input: Input) -> Result<(), Stopped> {
        self.seat.send(input).await.map_err(|_| Stopped)
    }

    /// Hands a peer's request to the catalog.
    pub async fn inbound(&self, inbound: Inbound) {
        let Ok(request) = minicbor::decode::<Request>(&inbound.body) else {
            debug!(peer = %inbound.from.node, "a request that does not parse");
            return;
        };
        let token = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let from = Peer { node: inbound.from.node, key: inbound.from.key };
        {
            let mut replies = self.waiting.replies.lock().unwrap_or_else(PoisonError::into_inner);
            if replies.len() >= MAX_WAITING {
                return;
            }
            replies.insert(token, inbound.reply);
        }
        let _ = self.tell(Input::Request { from, token, request }).await;
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
        outputs: mpsc::UnboundedReceiver<Vec<Output>>,
        swarm: swarm::Handle,
        gossip: gossip::Handle,
        electors: watch::Sender<Electors>,
        events: broadcast::Sender<api::Event>,
        tasks: Tasks,
    ) -> (Self, CatalogHandle) {
        let handle = CatalogHandle { seat, waiting: Arc::default() };
        (Self { handle: handle.clone(), outputs, swarm, gossip, electors, events, tasks }, handle)
    }

    /// Runs until the store ends.
    pub async fn run(mut self) {
        while let Some(outputs) = self.outputs.recv().await {
            for output in outputs {
                self.carry_out(output).await;
            }
        }
        // Whoever still waits is told that there is nobody left to answer.
        self.handle.waiting.commands.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.handle.waiting.replies.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn carry_out(&self, output: Output) {
        match output {
            Output::Completed(id, outcome) => {
                let waiting = &self.handle.waiting.commands;
                if let Some(sender) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
                    // The asker may have given up; the outcome stands all the same.
                    let _ = sender.send(outcome);
                }
            }
            Output::Request { to, id, request, deadline } => {
                let (swarm, handle) = (self.swarm.clone(), self.handle.clone());
                let body = Bytes::from(minicbor::to_vec(&request).expect("a request of ours encodes"));
                self.tasks.spawn(async move {
                    let answer = swarm.call(to, swarm::Service::Catalog, body, deadline).await;
                    let result = answer
                        .map_err(|error| debug!(peer = %to, %error, "no answer"))
                        .and_then(|body| minicbor::decode::<Response>(&body).map_err(|_| ()))
                        .map_err(|()| Unreachable);
                    let _ = handle.tell(Input::Response { id, from: to, result }).await;
                });
            }
            Output::Response { token, response } => {
                let waiting = &self.handle.waiting.replies;
                if let Some(reply) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&token) {
                    reply.send(Bytes::from(minicbor::to_vec(&response).expect("a response of ours encodes")));
                }
            }
            Output::Roster(roster) => {
                info!(number = roster.number, members = roster.members.len(), "roster adopted");
                let _ = self.gossip.set_constants(roster.constants).await;
                let members = roster.members.keys().copied().collect();
                let _ = self.events.send(api::Event::Roster { number: roster.number, members });
                self.electors.send_modify(|electors| {
                    *electors = Electors::new(Some(roster), electors.standing().clone());
                });
            }
            Output::Ready(standing) => {
                match &standing {
                    Ok(()) => info!("ready"),
                    Err(reason) => info!(reason, "not ready"),
                }
                let _ = self.gossip.set_ready(standing.is_ok()).await;
                let _ = self.events.send(api::Event::Ready { ready: standing.is_ok() });
                self.electors.send_modify(|electors| {
                    let roster = electors.roster().map(|roster| roster.as_ref().clone());
                    *electors = Electors::new(roster, standing);
                });
            }
            Output::Announce(announcement) => {
                // Gossip ends before the store does; then nobody needs to know.
                let _ = self.gossip.set_announcement(announcement).await;
            }
            Output::Refused(reason) => warn!(reason, "this node is refused by the cluster"),
            Output::Written { name, dot, deleted } => {
                let _ = self.events.send(api::Event::Written { name, version: dot.to_string(), deleted });
            }
        }
    }
}
