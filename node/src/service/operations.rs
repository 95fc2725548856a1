//! What an operator asks of the cluster through one node: health, scrub, repair, leave, forget, verify.
//!
//! Each question goes to the members over the swarm and is answered there by [`Operator::answer`],
//! which looks at its own node alone. Nobody asks another node's HTTP. Who does not answer in time is
//! said to be silent: what is told is never complete by assumption.

mod hashing;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kepler_protocol::api;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::health::{self, Facts};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::view::{Member, State, View};
use kepler_protocol::wire::operations::{Answer, Copied, MAX_CHUNKS, MAX_DETAIL_BYTES, Question};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::healing::{ForgetError, Healing, LeaveError};
use super::memory::Memory;
use crate::replication::electorate::Electors;
use crate::store::Store;
use crate::swarm;

/// How long a member has for an answer about itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Members asked at once.
const ASKED_AT_ONCE: usize = 64;

/// How often the health is looked at while somebody follows events; longer in large clusters, so that
/// the questions a second do not grow with the members.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Who follows events without being somebody: the node's own memory of them.
const RECORDERS: usize = 1;

/// Lines of a verification.
pub type VerifyStream = Pin<Box<dyn Stream<Item = api::VerifyLine> + Send + Sync>>;

/// Why an operator's word was not followed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// This node is not admitted or not ready, or cannot decide it now.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// There is no such member.
    #[error("{0} is no member of the cluster")]
    NotAMember(NodeId),
    /// What is asked would do harm.
    #[error("{0}")]
    Conflict(String),
    /// Another one runs.
    #[error("a verification runs on this node already")]
    Busy,
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

impl From<LeaveError> for OperatorError {
    fn from(error: LeaveError) -> Self {
        match error {
            LeaveError::NotReady(why) => Self::NotReady(why),
            LeaveError::Stopping => Self::Stopping,
            no @ (LeaveError::Alone | LeaveError::NotLeaving) => Self::Conflict(no.to_string()),
        }
    }
}

impl From<ForgetError> for OperatorError {
    fn from(error: ForgetError) -> Self {
        match error {
            ForgetError::NotAMember(node) => Self::NotAMember(node),
            ForgetError::NotReady(why) => Self::NotReady(why),
            ForgetError::Stopping => Self::Stopping,
            ForgetError::Alive(why) => {
                Self::Conflict(format!("{why}; one that is alive is let go by: kepler cluster leave"))
            }
            ForgetError::MajorityLeft(why) => Self::Conflict(why),
        }
    }
}

/// Asks the members, and answers them; cheap to clone.
#[derive(Clone)]
pub struct Operator {
    pub(super) parts: Arc<Parts>,
    /// Verifications that this node runs for a client.
    pub(super) verifying: Arc<Semaphore>,
    /// Pages that it hashes for members.
    hashing: Arc<Semaphore>,
}

/// What an [`Operator`] is made of.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// What it does about its own chunks.
    pub healing: Healing,
    /// The disk.
    pub store: Store,
    /// The way to other members.
    pub swarm: swarm::Handle,
    /// Who is here.
    pub view: watch::Receiver<Arc<View>>,
    /// The roster.
    pub electors: watch::Receiver<Electors>,
    /// What this node remembers of the last hour.
    pub memory: Memory,
}

impl Operator {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            verifying: Arc::new(Semaphore::new(1)),
            hashing: Arc::new(Semaphore::new(2)),
        }
    }

    /// What this node does about its own chunks.
    pub fn healing(&self) -> &Healing {
        &self.parts.healing
    }

    /// How the cluster is, by what all members say within a few seconds.
    pub async fn health(&self) -> api::Health {
        let view = self.parts.view.borrow().clone();
        let electors = self.parts.electors.borrow().clone();
        let states: BTreeMap<NodeId, State> = view.members().map(|m| (m.id, m.state)).collect();
        let roster = electors.roster().map(AsRef::as_ref);
        let mut asked = health::members(roster, &states);
        asked.insert(self.parts.me);
        let answers = self.ask(asked, &Question::Health).await;
        let nodes = answers.into_iter().map(|(node, answer)| match answer {
            // Whatever it says of itself, it is the node that was asked.
            Some(Answer::Health(health)) => api::NodeHealth { node, answered: true, ..*health },
            _ => api::NodeHealth::silent(node),
        });
        let standing = electors.standing().as_ref().copied().map_err(String::as_str);
        health::judge(Facts { roster, states: &states, standing }, nodes.collect())
    }

    /// Hurries, pauses or goes on with scrubbing.
    pub async fn scrub(&self, request: api::ScrubRequest) -> api::Accepted {
        self.tell(request.all, &Question::Scrub(request.action)).await
    }

    /// Hurries, pauses or goes on with repair, and sets the cap on background traffic.
    pub async fn repair(&self, request: api::RepairRequest) -> api::Accepted {
        // In range by the gateway's check; saturating where it is not.
        let cap = request.bandwidth_mbps.map(|mbps| (mbps * 1e6) as u64);
        self.tell(request.all, &Question::Repair(request.action, cap)).await
    }

    /// Drains this node, so that it can leave.
    ///
    /// # Errors
    /// See [`OperatorError`].
    pub async fn leave(&self) -> Result<api::Accepted, OperatorError> {
        self.parts.healing.leave().await?;
        Ok(accepted(self.parts.me))
    }

    /// Has this node stay after all.
    ///
    /// # Errors
    /// See [`OperatorError`].
    pub async fn stay(&self) -> Result<api::Accepted, OperatorError> {
        self.parts.healing.stay().await?;
        Ok(accepted(self.parts.me))
    }

    /// Takes members that will not return from the roster; with `lost`, on the operator's word alone.
    ///
    /// # Errors
    /// See [`OperatorError`].
    pub async fn forget(&self, nodes: &BTreeSet<NodeId>, lost: bool) -> Result<api::Accepted, OperatorError> {
        if nodes.contains(&self.parts.me) {
            return Err(OperatorError::Conflict(
                "this node is asked to forget itself: ask another one, or let it leave".to_owned(),
            ));
        }
        self.parts.healing.forget(nodes, lost).await?;
        Ok(accepted(self.parts.me))
    }

    /// When the members last hashed their copies of these chunks, by member, in the order asked; a
    /// member that does not answer is absent. At most [`MAX_CHUNKS`] chunks.
    pub async fn verified(&self, ids: &[ChunkId]) -> BTreeMap<NodeId, Vec<Copied>> {
        let view = self.parts.view.borrow().clone();
        let members = view.members().filter(|m| m.state.is_reachable()).map(|m| m.id);
        let members = members.chain([self.parts.me]).collect();
        let answers = self.ask(members, &Question::Verified(ids.to_vec())).await;
        let answers = answers.into_iter().filter_map(|(node, answer)| match answer {
            Some(Answer::Verified(copies)) if copies.len() == ids.len() => Some((node, copies)),
            _ => None,
        });
        answers.collect()
    }

    /// Answers a member that asks, or this node itself. `None` where it cannot.
    pub async fn answer(&self, question: Question) -> Option<Answer> {
        let Parts { me, healing, store, memory, .. } = &*self.parts;
        let done = |done: Result<(), super::healing::Stopping>| match done {
            Ok(()) => Answer::Accepted,
            Err(stopping) => refused(&stopping.to_string()),
        };
        match question {
            Question::Health => {
                let health = healing.health().await.ok()?;
                Some(Answer::Health(Box::new(api::NodeHealth { node: *me, ..health })))
            }
            Question::Scrub(action) => Some(done(healing.scrub(action).await)),
            Question::Repair(action, cap) => Some(done(healing.repair(action, cap).await)),
            Question::Verified(ids) if ids.len() > MAX_CHUNKS => Some(refused("too many chunks at once")),
            Question::Verified(ids) => {
                let held = store.held(ids).await.ok()?;
                let copies = held.into_iter().map(|held| Copied {
                    held: held.is_some(),
                    verified_at: held.and_then(|held| held.verified_at),
                });
                Some(Answer::Verified(copies.collect()))
            }
            Question::Replaced(name) => Some(Answer::Replaced(store.replaced(&name).await.ok()?)),
            Question::Recent(millis) => Some(Answer::Recent(memory.told(Duration::from_millis(millis)))),
            Question::Verify(after) => {
                let _turn = self.hashing.acquire().await.ok()?;
                hashing::page(healing, store, after).await.map(Answer::Page)
            }
        }
    }

    /// Tells those who follow events when the word for the cluster's health changes, until `stop`.
    /// While nobody follows, nobody is asked.
    pub async fn watch(self, events: broadcast::Sender<api::Event>, stop: CancellationToken) {
        let mut last = None;
        loop {
            let members = self.parts.view.borrow().members().count();
            let pause = WATCH_EVERY.max(Duration::from_millis(100 * members as u64));
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            if events.receiver_count() <= RECORDERS {
                last = None;
                continue;
            }
            let Some(health) = stop.run_until_cancelled(self.health()).await else { return };
            if last.replace(health.status).is_some_and(|last| last != health.status) {
                let _ = events.send(api::Event::Health { status: health.status });
            }
        }
    }

    /// Asks one member, which may be this node itself.
    pub(super) async fn ask_one(
        &self,
        node: NodeId,
        question: &Question,
        within: Duration,
    ) -> Option<Answer> {
        if node == self.parts.me {
            return tokio::time::timeout(within, self.answer(question.clone())).await.ok()?;
        }
        let body = minicbor::to_vec(question).expect("a question of ours encodes");
        let service = swarm::Service::Operations;
        let answer = self.parts.swarm.call(node, service, body.into(), within).await.ok()?;
        minicbor::decode(&answer).ok()
    }

    /// This node and others that can be asked, at most `most`; and those that cannot.
    pub(super) fn some(&self, most: usize) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let view = self.parts.view.borrow().clone();
        let here = |m: &&Member| m.state.is_reachable() || m.id == self.parts.me;
        let (here, away): (Vec<_>, Vec<_>) =
            view.members().filter(|m| m.state != State::Left).partition(here);
        let others = here.into_iter().map(|m| m.id);
        let asked = [self.parts.me].into_iter().chain(others).take(most).collect();
        (asked, away.into_iter().map(|m| m.id).collect())
    }

    pub(super) fn me(&self) -> NodeId {
        self.parts.me
    }

    pub(super) async fn ask(
        &self,
        nodes: BTreeSet<NodeId>,
        question: &Question,
    ) -> BTreeMap<NodeId, Option<Answer>> {
        futures::stream::iter(nodes)
            .map(|node| async move { (node, self.ask_one(node, question, ANSWER_WITHIN).await) })
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await
    }

    async fn tell(&self, all: bool, word: &Question) -> api::Accepted {
        let mut nodes = BTreeSet::from([self.parts.me]);
        if all {
            let view = self.parts.view.borrow().clone();
            nodes.extend(view.members().filter(|m| m.state.is_reachable()).map(|m| m.id));
        }
        let answers = self.ask(nodes, word).await.into_iter().map(|(node, answer)| {
            let detail = match answer {
                Some(Answer::Accepted) => None,
                Some(Answer::Refused(why)) => Some(why),
                _ => Some("it did not answer: say it again".to_owned()),
            };
            api::Answered { node, accepted: detail.is_none(), detail }
        });
        api::Accepted { nodes: answers.collect() }
    }
}

fn accepted(node: NodeId) -> api::Accepted {
    api::Accepted { nodes: vec![api::Answered { node, accepted: true, detail: None }] }
}

fn refused(why: &str) -> Answer {
    Answer::Refused(why[..why.floor_char_boundary(MAX_DETAIL_BYTES)].to_owned())
}
