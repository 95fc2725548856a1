//! Streams to peers: what is spoken on them, and how one is asked for.

use std::fmt;
use std::sync::Arc;

use kepler_protocol::node_id::NodeId;
use libp2p::swarm::Stream;
use tokio::sync::oneshot;

use super::Service;
use super::error::{CallError, TransferError};

/// What is spoken on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Transfer,
    Call(Service),
    Line,
    Ping,
}

impl Protocol {
    /// All of them, which is what a connection offers.
    pub const ALL: [Self; 8] = [
        Self::Transfer,
        Self::Call(Service::Catalog),
        Self::Call(Service::Gossip),
        Self::Call(Service::Load),
        Self::Call(Service::Replicator),
        Self::Call(Service::Operations),
        Self::Line,
        Self::Ping,
    ];
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        match self {
            Self::Transfer => "/kepler/transfer/1",
            Self::Call(Service::Catalog) => "/kepler/catalog/1",
            Self::Call(Service::Gossip) => "/kepler/gossip/1",
            Self::Call(Service::Load) => "/kepler/load/1",
            Self::Call(Service::Replicator) => "/kepler/replicator/1",
            Self::Call(Service::Operations) => "/kepler/operations/1",
            Self::Line => "/kepler/line/1",
            Self::Ping => "/kepler/ping/1",
        }
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it is not a member")]
    NotAMember,
    #[error("{0}")]
    Dial(String),
    #[error("the stream was not opened: {0}")]
    Stream(String),
}

/// An open stream. While it is held, its connection counts as that much busier.
pub(super) struct Lane {
    pub stream: Stream,
    pub _load: Arc<()>,
}

/// Somebody waits for a stream.
pub(super) struct Open {
    pub protocol: Protocol,
    pub reply: oneshot::Sender<Result<Lane, OpenError>>,
}

/// An [`Open`] that goes to one connection.
pub(super) struct OpenHere {
    pub open: Open,
    pub load: Arc<()>,
}

impl fmt::Debug for OpenHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenHere({:?})", self.open.protocol)
    }
}

/// Asks the driver for a stream.
pub(super) struct Command {
    pub to: NodeId,
    pub open: Open,
}

impl From<OpenError> for CallError {
    fn from(error: OpenError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<OpenError> for TransferError {
    fn from(error: OpenError) -> Self {
        Self::Unreachable(error.to_string())
    }
}
