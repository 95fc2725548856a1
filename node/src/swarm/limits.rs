//! Every bound and deadline of the swarm, in one place.

use std::time::Duration;

use crate::throttle::{Pace, Throttle};

/// Bytes of a chunk that are handled at once, in bytes.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Bytes of the call budget that a permit stands for.
pub(super) const BUDGET_UNIT_BYTES: usize = 1 << 10;

/// The most streams on one Yamux connection. More would end the connection, so what a well-behaved
/// peer opens stays far below: see [`Limits::chunks_per_peer`] and [`Limits::calls_per_peer`].
pub(super) const MAX_STREAMS_PER_CONNECTION: usize = 1024;

/// The most bytes that unread streams of one connection may hold; Yamux needs 256 KiB a stream.
pub(super) const MAX_CONNECTION_WINDOW: usize = MAX_STREAMS_PER_CONNECTION * (256 << 10);

/// Bounds and deadlines of a swarm; what they bound is waited for, not dropped, unless said.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Chunks this node sends to or asks of one peer at once.
    pub chunks_per_peer: usize,
    /// The same of background traffic, which has turns of its own and so never waits before clients.
    pub background_per_peer: usize,
    /// Calls this node makes to one peer at once.
    pub calls_per_peer: usize,
    /// Chunks received at once, over all peers; each holds a few pieces of 256 KiB.
    pub receive_slots: usize,
    /// Chunks sent at the request of peers at once, over all peers; each is held whole.
    pub serve_slots: usize,
    /// Chunks of background traffic received at once, over all peers, beside those of clients.
    pub background_receive_slots: usize,
    /// Chunks of background traffic sent at the request of peers at once; each is held whole.
    pub background_serve_slots: usize,
    /// Bytes of call bodies held at once, over all peers; at least 1 MiB.
    pub call_bytes: usize,
    /// Calls that wait for the node to take them.
    pub inbound_queue: usize,
    /// Connections opened to one peer when there is more to do than one carries.
    pub connections_per_peer: usize,
    /// Connections in all; more are refused.
    pub connections: u32,
    /// Connections whose peer has not proved itself yet; more are refused.
    pub pending_incoming: u32,
    /// Dials under way; more fail at once.
    pub pending_dials: u32,
    /// Resident bytes of the process above which new connections are refused.
    pub memory_bytes: usize,
    /// From a TCP connection to a proved peer.
    pub handshake: Duration,
    /// How long an open stream is waited for, dialling included.
    pub connect: Duration,
    /// How long a connection without streams is kept.
    pub idle: Duration,
    /// How long a transfer may make no progress.
    pub stall: Duration,
    /// How long a request waits for a slot before it is refused as busy.
    pub slot_wait: Duration,
    /// How long a call waits for the node's answer before it fails.
    pub answer: Duration,
    /// The slowest transfer allowed: a chunk has `stall` and its size at this rate.
    pub bytes_per_second: u64,
    /// The same of background traffic, which shares its bound with much else.
    pub background_bytes_per_second: u64,
    /// The bound on background traffic; that of clients never meets it.
    pub throttle: Throttle,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            chunks_per_peer: 16,
            background_per_peer: 4,
            calls_per_peer: 128,
            receive_slots: 8,
            serve_slots: 8,
            background_receive_slots: 16,
            background_serve_slots: 4,
            call_bytes: 64 << 20,
            inbound_queue: 256,
            connections_per_peer: 2,
            connections: 4096,
            pending_incoming: 128,
            pending_dials: 256,
            memory_bytes: 4 << 30,
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(10),
            slot_wait: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            bytes_per_second: 1 << 20,
            background_bytes_per_second: 16 << 10,
            throttle: Throttle::new(50_000_000),
        }
    }
}

impl Limits {
    /// How long moving `bytes` may take in all, waiting for a slot included.
    pub(super) fn transfer(&self, bytes: u64) -> Duration {
        self.moving(bytes, self.bytes_per_second)
    }

    /// The same of background traffic.
    pub(super) fn background_transfer(&self, bytes: u64) -> Duration {
        self.moving(bytes, self.background_bytes_per_second)
    }

    /// The time allowed for one or the other.
    pub(super) fn allowance(&self, background: bool, bytes: u64) -> Duration {
        if background { self.background_transfer(bytes) } else { self.transfer(bytes) }
    }

    /// How bytes may flow: those of clients as they come, others at a pace.
    pub(super) const fn flow(&self, pace: Option<Pace>) -> Flow<'_> {
        match pace {
            None => Flow::Client,
            Some(pace) => Flow::Background(&self.throttle, pace),
        }
    }

    fn moving(&self, bytes: u64, bytes_per_second: u64) -> Duration {
        let moving = Duration::from_millis(bytes.saturating_mul(1000) / bytes_per_second.max(1));
        self.connect + self.slot_wait + self.stall + moving
    }
}

/// Whose bytes they are, and so whether they are bounded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flow<'a> {
    /// A client waits for them: nothing holds them up.
    Client,
    /// Nobody does: each piece waits until the bound lets it pass.
    Background(&'a Throttle, Pace),
}

impl Flow<'_> {
    /// Bytes that go at once.
    pub(super) fn piece(&self) -> usize {
        match self {
            Self::Client => PIECE_BYTES,
            Self::Background(throttle, _) => throttle.piece(),
        }
    }

    /// Waits until a piece may go.
    pub(super) async fn pass(&self, bytes: usize) {
        match self {
            Self::Client => {}
            Self::Background(throttle, pace) => throttle.take(bytes, *pace).await,
        }
    }
}
