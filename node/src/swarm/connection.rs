//! One connection as libp2p sees it: streams are opened on request, and those that the peer opens are
//! served in tasks of their own, so that nothing a request does holds the connection up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::handle::Counters;
use super::limits::{Limits, PIECE_BYTES};
use super::{ChunkStore, Inbound, Peer, Refusal, Service, calls, line, transfer};

/// What is spoken on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Transfer,
    Call(Service),
    Line,
    Ping,
}

impl Protocol {
    const ALL: [Self; 8] = [
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

/// Protocols on offer: all of them to the peer, one when a stream is opened.
#[derive(Clone, Debug)]
pub(super) struct Offered(&'static [Protocol]);

impl Offered {
    fn only(protocol: Protocol) -> Self {
        let all = &Protocol::ALL;
        let at = all.iter().position(|p| *p == protocol).expect("ALL has every protocol");
        Self(&all[at..=at])
    }
}

impl UpgradeInfo for Offered {
    type Info = Protocol;
    type InfoIter = std::iter::Copied<std::slice::Iter<'static, Protocol>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().copied()
    }
}

impl InboundUpgrade<Stream> for Offered {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offered {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: Protocol) -> Self::Future {
        ready(Ok(stream))
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

/// What libp2p runs for one connection.
pub(super) struct Handler {
    peer: Peer,
    server: Arc<Server>,
    opening: VecDeque<OpenHere>,
}

impl Handler {
    pub(super) fn new(peer: Peer, server: Arc<Server>) -> Self {
        Self { peer, server, opening: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenHere;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offered;
    type OutboundProtocol = Offered;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenHere;

    fn listen_protocol(&self) -> SubstreamProtocol<Offered, ()> {
        SubstreamProtocol::new(Offered(&Protocol::ALL), ())
    }

    fn on_behaviour_event(&mut self, open: OpenHere) {
        self.opening.push_back(open);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offered, OpenHere, Infallible>> {
        while let Some(here) = self.opening.pop_front() {
            if here.open.reply.is_closed() {
                continue; // its caller gave up
            }
            let offered = Offered::only(here.open.protocol);
            let protocol = SubstreamProtocol::new(offered, here).with_timeout(self.server.limits.connect);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offered, Offered, (), OpenHere>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.server.clone().serve(stream, protocol, self.peer),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                let OpenHere { open, load } = info;
                let _ = open.reply.send(Ok(Lane { stream, _load: load }));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let reason = match error {
                    StreamUpgradeError::Timeout => "the peer did not answer in time".into(),
                    StreamUpgradeError::NegotiationFailed => "the peer does not speak the protocol".into(),
                    StreamUpgradeError::Io(e) => e.to_string(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.open.reply.send(Err(OpenError::Stream(reason)));
            }
            _ => {}
        }
    }
}

/// What every inbound stream needs: the store, the node, and the slots that bound them.
pub(super) struct Server {
    pub limits: Limits,
    pub chunks: Arc<dyn ChunkStore>,
    pub inbound: mpsc::Sender<Inbound>,
    pub receive_slots: Arc<Semaphore>,
    pub serve_slots: Arc<Semaphore>,
    pub background_receive_slots: Arc<Semaphore>,
    pub background_serve_slots: Arc<Semaphore>,
    pub call_budget: Arc<Semaphore>,
    pub pieces: Pieces,
    pub counters: Arc<Counters>,
    pub tasks: TaskTracker,
    /// From now on whoever asks for a slot is told that this node is busy.
    pub stop: CancellationToken,
}

impl Server {
    pub(super) fn new(
        limits: Limits,
        chunks: Arc<dyn ChunkStore>,
        inbound: mpsc::Sender<Inbound>,
        counters: Arc<Counters>,
        stop: CancellationToken,
    ) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            chunks,
            inbound,
            receive_slots: semaphore(limits.receive_slots),
            serve_slots: semaphore(limits.serve_slots),
            background_receive_slots: semaphore(limits.background_receive_slots),
            background_serve_slots: semaphore(limits.background_serve_slots),
            call_budget: semaphore(
                limits.call_bytes.max(super::MAX_BODY_BYTES) / calls::BUDGET_UNIT_BYTES + 1,
            ),
            pieces: Pieces::new(limits.receive_slots * 4),
            limits,
            counters,
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Answers a stream that a peer opened, in a task of its own. Yamux bounds how many there are.
    fn serve(self: Arc<Self>, stream: Stream, protocol: Protocol, peer: Peer) {
        // Whoever stops finishes what runs and begins nothing: under load the end would never come.
        if self.stop.is_cancelled() {
            return;
        }
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            // A line is open while nothing is asked on it.
            let _busy = (protocol != Protocol::Line).then(|| self.counters.serving());
            let served = match protocol {
                Protocol::Transfer => transfer::serve(stream, &self).await,
                Protocol::Call(service) => calls::serve(stream, service, peer, &self).await,
                Protocol::Line => line::serve(stream, peer, &self).await,
                Protocol::Ping => calls::serve_ping(stream, &self.limits).await,
            };
            if let Err(error) = served {
                debug!(peer = %peer.node, protocol = protocol.as_ref(), %error, "an exchange broke off");
            }
        });
    }

    /// One of these slots, or `None` if none came free in time.
    pub(super) async fn slot(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        self.acquire(slots, 1).await
    }

    /// A share of the memory for call bodies, or `None` if none came free in time.
    pub(super) async fn share(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        self.acquire(&self.call_budget, units).await
    }

    async fn acquire(&self, slots: &Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
        if self.stop.is_cancelled() {
            return None;
        }
        let acquired = slots.clone().acquire_many_owned(permits);
        tokio::time::timeout(self.limits.slot_wait, acquired).await.ok()?.ok()
    }

    /// Waits for the store, but not for ever.
    pub(super) async fn ask<T>(&self, asked: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let patience: Duration = self.limits.answer;
        tokio::time::timeout(patience, asked).await.unwrap_or(Err(Refusal::Busy))
    }
}

/// Buffers of one piece each that are used again, so that none has to be cleared twice.
#[derive(Clone)]
pub(super) struct Pieces {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
    most: usize,
}

impl Pieces {
    fn new(most: usize) -> Self {
        Self { idle: Arc::default(), most }
    }

    /// A buffer of [`PIECE_BYTES`] with arbitrary content.
    pub(super) fn take(&self) -> Vec<u8> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| vec![0; PIECE_BYTES])
    }

    /// The first `length` bytes of a buffer; it comes back when the last of them is dropped.
    pub(super) fn freeze(&self, buffer: Vec<u8>, length: usize) -> Bytes {
        Bytes::from_owner(Piece { buffer, length, home: self.clone() })
    }
}

struct Piece {
    buffer: Vec<u8>,
    length: usize,
    home: Pieces,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut idle = self.home.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.home.most {
            idle.push(std::mem::take(&mut self.buffer));
        }
    }
}
