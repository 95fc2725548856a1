//! Logs and metrics: how the node tells what it does.
//!
//! [`init_logging`] sets tracing up once a process. [`Metrics`] holds one Prometheus registry that
//! every part shares: the families below belong to the parts named by their struct, and a part with
//! families of its own adds them by [`Metrics::register`]. Metrics are counters and gauges in
//! memory; nothing here blocks, reads a clock or decides anything.

use std::sync::Mutex;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends logs of level `info` and above to standard error.
///
/// # Errors
/// Logging was set up before.
pub fn init_logging(format: LogFormat) -> anyhow::Result<()> {
    init_logging_with(format, "info")
}

/// Sends what `filter` lets through to standard error: a level, or directives such as
/// `info,kepler_node::gateway=debug`.
///
/// # Errors
/// The filter is malformed, or logging was set up before.
pub fn init_logging_with(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colour).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    done.map_err(|error| anyhow::anyhow!("set up logging: {error}"))
}

/// Whether `filter` is one that [`init_logging_with`] takes.
///
/// # Errors
/// What is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), String> {
    // The parser cuts other text in the middle of a character. Targets are names of modules.
    if !filter.is_ascii() {
        return Err("has characters other than ASCII".to_owned());
    }
    match EnvFilter::builder().parse(filter) {
        Ok(_) if filter.len() <= 1024 => Ok(()),
        Ok(_) => Err("longer than 1,024 bytes".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Everything the node counts, in one registry. Names begin with `kepler_`.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// The gateway.
    pub http: HttpMetrics,
    /// The replication queue.
    pub queue: QueueMetrics,
    /// Chunks between members.
    pub transfers: TransferMetrics,
    /// Members and the roster.
    pub membership: MembershipMetrics,
    /// The data directory.
    pub disk: DiskMetrics,
}

impl Metrics {
    /// All families at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kepler");
        let metrics = Self {
            http: HttpMetrics::new(&mut registry),
            queue: QueueMetrics::new(&mut registry),
            transfers: TransferMetrics::new(&mut registry),
            membership: MembershipMetrics::new(&mut registry),
            disk: DiskMetrics::new(&mut registry),
            registry: Mutex::default(),
        };
        Self { registry: Mutex::new(registry), ..metrics }
    }

    /// Adds a part's own families. Names must not be taken.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.lock())
    }

    /// Everything in the OpenMetrics text format, which Prometheus scrapes.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.lock()).expect("writing to a String does not fail");
        out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        // A panic while registering leaves the registry as it was.
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// A request by what it asked for and how it was answered; few values each, whatever clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `GET`, `PUT` …, or `OTHER`.
    pub method: &'static str,
    /// The route's pattern.
    pub route: &'static str,
    /// `2xx` to `5xx`.
    pub status: &'static str,
}

/// A route's pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's pattern.
    pub route: &'static str,
}

/// What the gateway counts.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds from a request's head to the end of its answer's head.
    pub seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    /// Body bytes received.
    pub bytes_in: Counter,
    /// Body bytes sent.
    pub bytes_out: Counter,
    /// Those of files and chunks among them.
    pub content_out: Counter,
    /// Requests under way, answer's body included.
    pub in_flight: Gauge,
    /// Connections open.
    pub connections: Gauge,
    /// Connections refused at the cap.
    pub connections_refused: Counter,
}

impl HttpMetrics {
    fn new(registry: &mut Registry) -> Self {
        let seconds: Family<RouteLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 18)));
        let it = Self {
            requests: Family::default(),
            seconds,
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            content_out: Counter::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
        };
        registry.register("http_requests", "HTTP requests answered", it.requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's head to its answer's head",
            it.seconds.clone(),
        );
        registry.register("http_received_bytes", "Body bytes received from clients", it.bytes_in.clone());
        registry.register("http_sent_bytes", "Body bytes sent to clients", it.bytes_out.clone());
        registry.register(
            "http_sent_content_bytes",
            "Bytes of files and chunks sent to clients",
            it.content_out.clone(),
        );
        registry.register("http_requests_in_flight", "HTTP requests under way", it.in_flight.clone());
        registry.register("http_connections", "HTTP connections open", it.connections.clone());
        registry.register(
            "http_connections_refused",
            "HTTP connections refused at the connection cap",
            it.connections_refused.clone(),
        );
        it
    }
}

/// What the replication queue counts.
#[derive(Clone, Debug, Default)]
pub struct QueueMetrics {
    /// Rows waiting.
    pub depth: Gauge,
    /// Seconds that the oldest row has waited.
    pub oldest_seconds: Gauge,
    /// Rows delivered.
    pub delivered: Counter,
    /// Attempts that failed.
    pub failed: Counter,
}

impl QueueMetrics {
    fn new(registry: &mut Registry) -> Self {
        let it = Self::default();
        registry.register("queue_depth", "Copies owed to other nodes", it.depth.clone());
        registry.register("queue_oldest_seconds", "Age of the oldest copy owed", it.oldest_seconds.clone());
        registry.register("queue_delivered", "Owed copies delivered", it.delivered.clone());
        registry.register("queue_failed_attempts", "Deliveries that failed", it.failed.clone());
        it
    }

    /// Sets what waits.
    pub fn set(&self, depth: u64, oldest_secs: Option<u64>) {
        self.depth.set(gauge(depth));
        self.oldest_seconds.set(gauge(oldest_secs.unwrap_or(0)));
    }
}

/// Which way bytes went, as seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Direction {
    /// From a peer.
    In,
    /// To a peer.
    Out,
}

/// Why a chunk moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Purpose {
    /// A client waits for it.
    Client,
    /// Hand-off, repair, rebalance.
    Background,
}

/// A transfer's direction and purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransferLabels {
    /// Which way.
    pub direction: Direction,
    /// Why.
    pub purpose: Purpose,
}

/// What transfers between members count.
#[derive(Clone, Debug)]
pub struct TransferMetrics {
    /// Chunks moved.
    pub chunks: Family<TransferLabels, Counter>,
    /// Their bytes.
    pub bytes: Family<TransferLabels, Counter>,
    /// Transfers that failed.
    pub failed: Family<TransferLabels, Counter>,
    /// Transfers under way.
    pub in_flight: Gauge,
    /// Seconds a chunk took.
    pub seconds: Histogram,
    /// 1 for what the last connection negotiated.
    pub cipher: Family<CipherLabels, Gauge>,
}

/// What encrypts the connections between members.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CipherLabels {
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    pub suite: String,
}

impl TransferMetrics {
    fn new(registry: &mut Registry) -> Self {
        let it = Self {
            chunks: Family::default(),
            bytes: Family::default(),
            failed: Family::default(),
            in_flight: Gauge::default(),
            seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 18)),
            cipher: Family::default(),
        };
        registry.register("transfer_cipher", "What the last connection negotiated", it.cipher.clone());
        registry.register("transfer_chunks", "Chunks moved between members", it.chunks.clone());
        registry.register("transfer_bytes", "Chunk bytes moved between members", it.bytes.clone());
        registry.register("transfer_failures", "Transfers between members that failed", it.failed.clone());
        registry.register("transfers_in_flight", "Transfers between members under way", it.in_flight.clone());
        registry.register("transfer_duration_seconds", "Time to move a chunk", it.seconds.clone());
        it
    }

    /// Counts a chunk that moved.
    pub fn moved(&self, direction: Direction, purpose: Purpose, bytes: u64, seconds: f64) {
        let labels = TransferLabels { direction, purpose };
        self.chunks.get_or_create(&labels).inc();
        self.bytes.get_or_create(&labels).inc_by(bytes);
        self.seconds.observe(seconds);
    }

    /// Counts a transfer that failed.
    pub fn failed(&self, direction: Direction, purpose: Purpose) {
        self.failed.get_or_create(&TransferLabels { direction, purpose }).inc();
    }
}

/// A member state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// `alive`, `suspect` …
    pub state: &'static str,
}

/// What membership counts.
#[derive(Clone, Debug, Default)]
pub struct MembershipMetrics {
    /// Members by state, this node included.
    pub members: Family<StateLabels, Gauge>,
    /// The roster's number.
    pub roster: Gauge,
    /// 1 while this node is ready, else 0.
    pub ready: Gauge,
    /// Datagrams received and dropped for want of a valid seal or form.
    pub datagrams_dropped: Counter,
}

impl MembershipMetrics {
    fn new(registry: &mut Registry) -> Self {
        let it = Self::default();
        registry.register("members", "Members by state", it.members.clone());
        registry.register("roster_number", "Number of the agreed list of members", it.roster.clone());
        registry.register("ready", "Whether this node is ready", it.ready.clone());
        registry.register("gossip_dropped", "Datagrams dropped as invalid", it.datagrams_dropped.clone());
        it
    }

    /// Sets how many members are in each state; a state without members is set to 0.
    pub fn set_members(&self, counts: impl IntoIterator<Item = (kepler_protocol::view::State, u64)>) {
        use kepler_protocol::view::State;
        let states = [
            (State::Joining, "joining"),
            (State::Alive, "alive"),
            (State::Suspect, "suspect"),
            (State::Dead, "dead"),
            (State::Leaving, "leaving"),
            (State::Left, "left"),
        ];
        let mut totals = [0; 6];
        for (state, count) in counts {
            if let Some(at) = states.iter().position(|(known, _)| *known == state) {
                totals[at] += count;
            }
        }
        for ((_, state), total) in states.into_iter().zip(totals) {
            self.members.get_or_create(&StateLabels { state }).set(gauge(total));
        }
    }
}

/// What the data directory counts.
#[derive(Clone, Debug)]
pub struct DiskMetrics {
    /// Chunks stored.
    pub chunks: Gauge,
    /// Their bytes.
    pub bytes: Gauge,
    /// Bytes free.
    pub free_bytes: Gauge,
    /// Chunks that failed their hash and were set aside.
    pub quarantined: Counter,
}

impl DiskMetrics {
    fn new(registry: &mut Registry) -> Self {
        let it = Self {
            chunks: Gauge::default(),
            bytes: Gauge::default(),
            free_bytes: Gauge::default(),
            quarantined: Counter::default(),
        };
        registry.register("disk_chunks", "Chunks stored here", it.chunks.clone());
        registry.register("disk_used_bytes", "Bytes of chunks stored here", it.bytes.clone());
        registry.register("disk_free_bytes", "Bytes free on the disk", it.free_bytes.clone());
        registry.register("disk_quarantined", "Chunks that failed their hash", it.quarantined.clone());
        it
    }

    /// Sets what is stored.
    pub fn set(&self, chunks: u64, bytes: u64, free: u64) {
        self.chunks.set(gauge(chunks));
        self.bytes.set(gauge(bytes));
        self.free_bytes.set(gauge(free));
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use kepler_protocol::view::State;

    use super::*;

    #[test]
    fn every_part_finds_its_families_in_one_registry() {
        let metrics = Metrics::new();
        metrics.queue.set(3, Some(9));
        metrics.transfers.moved(Direction::Out, Purpose::Client, 10, 0.1);
        metrics.membership.set_members([(State::Alive, 2), (State::Dead, 1)]);
        metrics.disk.set(1, 2, u64::MAX);
        let own: Counter = metrics.register(|registry| {
            let own = Counter::default();
            registry.register("own", "A part's own", own.clone());
            own
        });
        own.inc();
        let text = metrics.encode();
        for line in [
            "kepler_queue_depth 3",
            "kepler_queue_oldest_seconds 9",
            "kepler_transfer_bytes_total{direction=\"Out\",purpose=\"Client\"} 10",
            "kepler_members{state=\"alive\"} 2",
            "kepler_members{state=\"suspect\"} 0",
            "kepler_disk_free_bytes 9223372036854775807",
            "kepler_own_total 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn log_filters_are_checked_before_they_are_used() {
        assert_eq!(check_filter("info,kepler_node=debug"), Ok(()));
        assert!(check_filter(" 0\u{fffc}=").is_err(), "it made the parser panic");
        assert!(check_filter("info,kepler_node=loud").is_err());
    }
}
