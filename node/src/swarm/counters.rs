//! What a swarm has done and does, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use futures_rustls::rustls::CipherSuite;

/// What a swarm has done and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes read from sockets, encryption and framing included.
    pub bytes_in: u64,
    /// Bytes written to sockets, encryption and framing included.
    pub bytes_out: u64,
    /// Bytes of chunks received.
    pub chunk_bytes_in: u64,
    /// Bytes of chunks sent.
    pub chunk_bytes_out: u64,
    /// Connections now.
    pub connections: u32,
    /// Requests of this node under way.
    pub in_flight: usize,
    /// Requests of peers being served.
    pub serving: usize,
    /// What the last connection negotiated, such as `TLS13_AES_128_GCM_SHA256`; `None` before the first.
    pub cipher_suite: Option<String>,
}

/// The live form of [`Stats`].
#[derive(Default)]
pub(super) struct Counters {
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub chunk_bytes_in: AtomicU64,
    pub chunk_bytes_out: AtomicU64,
    pub cipher_suite: AtomicU16,
    connections: AtomicU32,
    in_flight: Arc<AtomicUsize>,
    serving: Arc<AtomicUsize>,
}

impl Counters {
    pub(super) fn set_connections(&self, connections: u32) {
        self.connections.store(connections, Ordering::Relaxed);
    }

    pub(super) fn chunk_came(&self, bytes: u64) {
        self.chunk_bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn chunk_went(&self, bytes: u64) {
        self.chunk_bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a request of this node as long as the result lives.
    pub(super) fn asking(&self) -> Busy {
        Busy::new(&self.in_flight)
    }

    /// Counts a request of a peer as long as the result lives.
    pub(super) fn serving(&self) -> Busy {
        Busy::new(&self.serving)
    }

    /// What was counted so far.
    pub(super) fn read(&self) -> Stats {
        let suite = self.cipher_suite.load(Ordering::Relaxed);
        Stats {
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            chunk_bytes_in: self.chunk_bytes_in.load(Ordering::Relaxed),
            chunk_bytes_out: self.chunk_bytes_out.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            serving: self.serving.load(Ordering::Relaxed),
            cipher_suite: (suite != 0).then(|| format!("{:?}", CipherSuite::from(suite))),
        }
    }
}

/// One more, while it lives.
pub(super) struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
