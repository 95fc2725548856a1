//! Healing as people see and steer it, on this node: health, scrub, repair, verify, leave, forget.
//!
//! Nothing here is needed for healing to happen: it only tells how far it is, and hurries or pauses
//! what happens anyway. Leaving and forgetting are the two words of an operator that change the
//! cluster. Asking all members is for the caller.

use std::collections::BTreeSet;
use std::sync::Arc;

use kepler_protocol::api::{Action, Bandwidth, NodeHealth};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replica::{Operator, OperatorRefused};
use kepler_protocol::replicator::departure;
use kepler_protocol::roster::council::ForgetRefused;
use kepler_protocol::view::View;
use tokio::sync::watch;

use crate::replication::catalog::CatalogHandle;
use crate::replication::electorate::Electors;
use crate::replication::healer;
use crate::store::{self, ReadError, Store};

/// The most chunks that one call of [`Healing::verify`] hashes.
pub const MAX_VERIFIED: usize = 1_024;

/// Why nothing was steered: the node is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this node is stopping")]
pub struct Stopping;

/// Why a node does not leave.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LeaveError {
    /// No other member is here that stays: there is nobody to take its chunks.
    #[error("this node is the only member here that stays: there is nobody to take what it holds")]
    Alone,
    /// This node is not admitted or not ready.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// There is nothing to call off.
    #[error("this node is not leaving")]
    NotLeaving,
    /// It is stopping.
    #[error("this node is stopping")]
    Stopping,
}

/// Why a member is not forgotten.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForgetError {
    /// Nobody of that name is on the roster.
    #[error("{0} is no member of the cluster")]
    NotAMember(NodeId),
    /// It is alive: let it leave instead.
    #[error("{0}")]
    Alive(String),
    /// Enough others remain to decide on the removal of one after the other.
    #[error("{0}")]
    MajorityLeft(String),
    /// This node cannot decide it now.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// The node is stopping, or its database failed.
    #[error("this node is stopping")]
    Stopping,
}

/// What a fresh look at one copy on this node's disk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The chunk.
    pub id: ChunkId,
    /// Its bytes, as its row says.
    pub size: u64,
    /// Whether the copy is whole.
    pub copy: Copy,
}

/// How a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// Its bytes match its id.
    Intact,
    /// They do not. It was set aside and is fetched anew.
    Corrupt,
    /// The node believed to have it, and the bytes are not there. It is fetched anew.
    Missing,
    /// The disk failed to give it.
    Unreadable,
}

/// Health and steering of this node; cheap to clone.
#[derive(Clone)]
pub struct Healing {
    healer: healer::Handle,
    store: Store,
    catalog: CatalogHandle,
    me: NodeId,
    view: watch::Receiver<Arc<View>>,
    electors: watch::Receiver<Electors>,
}

impl Healing {
    /// Puts the parts together.
    pub const fn new(
        healer: healer::Handle,
        store: Store,
        catalog: CatalogHandle,
        me: NodeId,
        view: watch::Receiver<Arc<View>>,
        electors: watch::Receiver<Electors>,
    ) -> Self {
        Self { healer, store, catalog, me, view, electors }
    }

    /// What this node knows of the chunks it answers for, and what it does about them.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn health(&self) -> Result<NodeHealth, Stopping> {
        let mut health = self.healer.health().await.ok_or(Stopping)?;
        if let Ok(queue) = self.store.queue_status().await {
            health.queue_depth = queue.depth;
            health.queue_oldest_secs = queue.oldest.map(|oldest| oldest.as_secs());
        }
        Ok(health)
    }

    /// The cap of all background traffic, and what was used of it lately.
    pub fn bandwidth(&self) -> Bandwidth {
        self.healer.bandwidth()
    }

    /// Hurries or pauses the scrub.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn scrub(&self, action: Action) -> Result<(), Stopping> {
        self.healer.scrub(action).await.ok_or(Stopping)
    }

    /// Hurries or pauses repair. `cap` sets the bound of all background traffic, in bytes a second,
    /// until the node is started again.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn repair(&self, action: Action, cap: Option<u64>) -> Result<(), Stopping> {
        if let Some(cap) = cap {
            self.healer.set_cap(cap);
        }
        self.healer.repair(action).await.ok_or(Stopping)
    }

    /// Begins to drain this node: it owns nothing from now on, and leaves the roster and stops once
    /// every chunk it holds has N verified copies elsewhere. Harmless to repeat; goes on after a restart.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub async fn leave(&self) -> Result<(), LeaveError> {
        self.electors.borrow().standing().clone().map_err(LeaveError::NotReady)?;
        if !departure::may_begin(&self.me, &self.view.borrow()) {
            return Err(LeaveError::Alone);
        }
        self.healer.leave().await.ok_or(LeaveError::Stopping)
    }

    /// Has this node stay after all.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub async fn stay(&self) -> Result<(), LeaveError> {
        match self.healer.stay().await {
            Some(true) => Ok(()),
            Some(false) => Err(LeaveError::NotLeaving),
            None => Err(LeaveError::Stopping),
        }
    }

    /// Takes members that will not return from the roster. With `lost` (on a survivor, where a majority
    /// is lost for good) the others become the roster on the operator's word.
    ///
    /// # Errors
    /// See [`ForgetError`]; those named before the one that is refused are being forgotten.
    pub async fn forget(&self, nodes: &BTreeSet<NodeId>, lost: bool) -> Result<(), ForgetError> {
        let words: Vec<Operator> = match lost {
            true => vec![Operator::ForgetLost(nodes.clone())],
            false => nodes.iter().copied().map(Operator::Forget).collect(),
        };
        for word in words {
            self.catalog.operate(word).await.map_err(|refused| match refused {
                None => ForgetError::Stopping,
                Some(OperatorRefused::Forget(ForgetRefused::NotAMember(node))) => {
                    ForgetError::NotAMember(node)
                }
                Some(OperatorRefused::Forget(ForgetRefused::NotReady(reason))) => {
                    ForgetError::NotReady(reason)
                }
                Some(OperatorRefused::Forget(alive @ ForgetRefused::Alive(_))) => {
                    ForgetError::Alive(alive.to_string())
                }
                Some(OperatorRefused::Forget(left @ ForgetRefused::MajorityLeft { .. })) => {
                    ForgetError::MajorityLeft(left.to_string())
                }
                Some(OperatorRefused::NotYet(reason)) => ForgetError::NotReady(reason),
            })?;
        }
        Ok(())
    }

    /// Hashes the next chunks on this disk after `after`, by id: at most `limit` and [`MAX_VERIFIED`].
    /// None means that there are no more. What is bad is mended like anything that the scrub finds.
    ///
    /// # Errors
    /// The database failed.
    pub async fn verify(
        &self,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Vec<Verified>, store::DatabaseError> {
        let page = self.store.chunks_after(after, limit.clamp(1, MAX_VERIFIED)).await?;
        let mut found = Vec::with_capacity(page.len());
        for (id, held) in page {
            let copy = match self.store.read(id).await {
                Ok(_) => Copy::Intact,
                Err(ReadError::Database(error)) => return Err(error),
                // It may have been deleted since the page was read.
                Err(_) if !self.store.held(vec![id]).await?.first().is_some_and(Option::is_some) => continue,
                Err(ReadError::Missing(_)) => Copy::Missing,
                Err(ReadError::Corrupt(_)) => Copy::Corrupt,
                Err(ReadError::Io { .. }) => Copy::Unreadable,
            };
            if !matches!(copy, Copy::Intact) {
                self.healer.report_bad(id).await;
            }
            found.push(Verified { id, size: held.size, copy });
        }
        Ok(found)
    }
}
