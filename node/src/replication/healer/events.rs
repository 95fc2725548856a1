//! What people are told of healing: events, metrics, and a few lines in the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kepler_protocol::api;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::{Event, health::Health};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::broadcast;
use tracing::{debug, info};

use crate::telemetry::Metrics;

/// The most moved chunks that are told one by one within a second.
const MOVED_A_SECOND: u32 = 10;

/// Deletions of single chunks are told together, this often.
const RELEASED_EVERY: Duration = Duration::from_secs(1);

/// Tells people.
pub(super) struct Teller {
    me: NodeId,
    events: broadcast::Sender<api::Event>,
    counts: Counts,
    /// Chunks and bytes sent since there was nothing to send, by receiver.
    sent: BTreeMap<NodeId, (u64, u64)>,
    told: (Instant, u32),
    released: (Instant, u64),
}

#[derive(Default)]
struct Counts {
    moved: Counter,
    moved_bytes: Counter,
    released: Counter,
    collected: Counter,
    collected_bytes: Counter,
    scrub_passes: Counter,
    scrub_bad: Counter,
    under_replicated: Gauge,
    single_copy: Gauge,
    missing: Gauge,
    surplus: Gauge,
    breaker: Gauge,
}

impl Teller {
    pub(super) fn new(me: NodeId, events: broadcast::Sender<api::Event>, metrics: &Metrics) -> Self {
        let counts = Counts::default();
        metrics.register(|registry| {
            let c = &counts;
            for (name, help, counter) in [
                ("healing_moved_chunks", "Chunks sent by repair and hand-off", &c.moved),
                ("healing_moved_bytes", "Their bytes on the wire", &c.moved_bytes),
                ("healing_released_chunks", "Superfluous copies deleted against receipts", &c.released),
                ("healing_collected_chunks", "Chunks deleted that nothing referred to", &c.collected),
                ("healing_collected_bytes", "Their bytes", &c.collected_bytes),
                ("scrub_passes", "Passes of hashing everything again", &c.scrub_passes),
                ("scrub_bad_chunks", "Rotten chunks that they found", &c.scrub_bad),
            ] {
                registry.register(name, help, counter.clone());
            }
            for (name, help, gauge) in [
                ("under_replicated_chunks", "Chunks that an owner lacks", &c.under_replicated),
                ("single_copy_chunks", "Chunks of which no other owner has a copy", &c.single_copy),
                ("missing_chunks", "Chunks lost here and not fetched anew yet", &c.missing),
                ("surplus_chunks", "Copies that belong elsewhere", &c.surplus),
                ("breaker", "Whether so many members are dead that nothing is deleted", &c.breaker),
            ] {
                registry.register(name, help, gauge.clone());
            }
        });
        let long_ago = Instant::now();
        Self { me, events, counts, sent: BTreeMap::new(), told: (long_ago, 0), released: (long_ago, 0) }
    }

    pub(super) fn tell(&mut self, event: Event, under_replicated: u64) {
        match event {
            Event::RepairStarted { node } => {
                info!(peer = %node, chunks = under_replicated, "repair begins");
                self.send(api::Event::RepairStarted { node, chunks: under_replicated });
            }
            Event::Moved { chunk, to, bytes } => {
                self.counts.moved.inc();
                self.counts.moved_bytes.inc_by(bytes);
                let sum = self.sent.entry(to).or_default();
                *sum = (sum.0 + 1, sum.1 + bytes);
                debug!(chunk = %chunk, peer = %to, bytes, "moved");
                if self.told.0.elapsed() >= Duration::from_secs(1) {
                    self.told = (Instant::now(), 0);
                }
                if self.told.1 < MOVED_A_SECOND {
                    self.told.1 += 1;
                    self.send(api::Event::Moved { cid: chunk, from: self.me, to, bytes });
                }
            }
            Event::Repaired { chunks, bytes } => {
                info!(chunks, bytes, "repair is done");
                for (node, (chunks, bytes)) in std::mem::take(&mut self.sent) {
                    self.send(api::Event::Repaired { node, chunks, bytes });
                }
            }
            Event::Released { chunk, bytes } => {
                debug!(chunk = %chunk, bytes, "released");
                self.counts.released.inc();
                self.released.1 += 1;
                self.flush_released();
            }
            Event::Collected { chunks, bytes } => {
                info!(chunks, bytes, "collected");
                self.counts.collected.inc_by(chunks);
                self.counts.collected_bytes.inc_by(bytes);
                self.send(api::Event::Collected { chunks, bytes });
            }
            Event::Scrubbed { checked, bad } => {
                info!(checked, bad, "scrubbed");
                self.counts.scrub_passes.inc();
                self.counts.scrub_bad.inc_by(bad);
                self.send(api::Event::Scrubbed { checked, bad });
            }
            Event::Leaving { left } => {
                self.send(api::Event::Leaving { node: self.me, left_chunks: left });
            }
            Event::Drained => self.send(api::Event::Leaving { node: self.me, left_chunks: 0 }),
        }
    }

    /// A copy here was found rotten by somebody who read it.
    pub(super) fn quarantined(&self, id: ChunkId) {
        self.send(api::Event::Quarantined { cid: id });
    }

    /// Sets the gauges, and tells what was gathered.
    pub(super) fn measure(&mut self, health: &Health) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.counts.under_replicated.set(gauge(health.under_replicated));
        self.counts.single_copy.set(gauge(health.single_copy));
        self.counts.missing.set(gauge(health.missing.len() as u64));
        self.counts.surplus.set(gauge(health.surplus));
        self.counts.breaker.set(i64::from(health.breaker));
        self.flush_released();
    }

    fn flush_released(&mut self) {
        if self.released.1 > 0 && self.released.0.elapsed() >= RELEASED_EVERY {
            let chunks = self.released.1;
            self.released = (Instant::now(), 0);
            info!(chunks, "superfluous copies deleted, all owners having vouched for theirs");
            self.send(api::Event::Released { chunks });
        }
    }

    fn send(&self, event: api::Event) {
        // Whether anybody follows makes no difference.
        let _ = self.events.send(event);
    }
}
