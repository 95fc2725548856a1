//! Gossip: the SWIM machine on a UDP socket and a thread of its own.
//!
//! The thread does nothing but gossip, so neither hashing, disks nor bulk transfers delay a probe. What it
//! learns leaves by a `watch` channel that carries the current [`View`] and by a bounded channel of [`Event`]s; what it is
//! told comes in by a bounded channel behind [`Handle`].
//!
//! Deliberately absent: persistence (the composition root saves what [`Event::Peers`] brings, and draws the epoch) and streams
//! (it answers [`Event::PushPull`] and [`Event::StreamProbe`] over the swarm).

mod socket;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kepler_protocol::node_id::NodeId;
use kepler_protocol::roster::Constants;
use kepler_protocol::swim::{self, Announcement, Counters, Record};
use kepler_protocol::view::{State, View};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::{mpsc, oneshot, watch};

/// Events kept for a composition root that is busy.
const MAX_EVENTS: usize = 1_024;

/// Commands waiting for the gossip thread.
const MAX_COMMANDS: usize = 256;

/// How the node gossips.
#[derive(Clone, Debug)]
pub struct Config {
    /// The machine's settings. Where `metadata.gossip_port` is 0 it becomes the bound port.
    pub swim: swim::Config,
    /// Where to listen; port 0 picks a free one.
    pub bind: SocketAddr,
    /// From the system's randomness: nonces and salts come from it.
    pub seed: u64,
}

/// What the composition root should know or do.
#[derive(Debug)]
pub enum Event {
    /// Send `payload` to `to` over the swarm and hand the answer to [`Handle::push_pull_answer`].
    PushPull {
        /// Whom.
        to: NodeId,
        /// What.
        payload: Vec<u8>,
    },
    /// Ask `to` over the swarm whether it is there and call [`Handle::stream_probed`] with `token`.
    StreamProbe {
        /// Whom.
        to: NodeId,
        /// To be handed back.
        token: u64,
    },
    /// A member announced something else than before.
    Announced {
        /// Who.
        node: NodeId,
        /// What.
        announcement: Announcement,
    },
    /// A member's state or metadata changed; the view that says so is published already.
    MemberChanged {
        /// Whose.
        node: NodeId,
        /// Before; none for a new one.
        previous: Option<State>,
        /// Now.
        state: State,
    },
    /// This node's id belongs to a live node with another identity.
    IdInUse {
        /// Who said so.
        by: SocketAddr,
    },
    /// Others doubted this node.
    Refuted {
        /// Its incarnation from now on.
        incarnation: u64,
    },
    /// A node with our key belongs to another cluster.
    ForeignCluster {
        /// Who.
        node: NodeId,
        /// Where.
        from: SocketAddr,
    },
    /// Members to be persisted for the next start.
    Peers(Vec<(State, Arc<Record>)>),
}

/// The events; ends when the gossip thread ends.
pub type Inbox = mpsc::Receiver<Event>;

/// The gossip thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gossip has stopped")]
pub struct Stopped;

/// Buckets of round trips: from 20 microseconds to some seconds, each a quarter above the one before.
const ROUND_TRIP_FIRST: f64 = 20e-6;
const ROUND_TRIP_STEP: f64 = 1.25;
const ROUND_TRIP_BUCKETS: u16 = 56;

enum Command {
    Ready(bool),
    Constants(Constants),
    Keys(kepler_protocol::wire::seal::KeyRing),
    Leave,
    Stay,
    Forget(NodeId, oneshot::Sender<bool>),
    Goodbye(State, oneshot::Sender<()>),
    PushPull(Vec<u8>, oneshot::Sender<Option<Vec<u8>>>),
    PushPullAnswer(Vec<u8>),
    StreamProbed(u64, bool),
    Counters(oneshot::Sender<(Counters, u8)>),
    Heard(oneshot::Sender<BTreeMap<NodeId, Duration>>),
}

/// The way to the gossip thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<View>>,
    local_addr: SocketAddr,
    announcement: Arc<Mutex<Option<Announcement>>>,
    round_trips: Histogram,
}

impl Handle {
    /// The current view, and a way to wait for the next.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Where this node listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    async fn command(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.command(command(answer)).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Admitted and caught up, or not.
    ///
    /// # Errors
    /// Like all of these: when the gossip thread has ended.
    pub async fn set_ready(&self, ready: bool) -> Result<(), Stopped> {
        self.command(Command::Ready(ready)).await
    }

    /// The cluster's constants; before they are known nobody is on the ring.
    pub async fn set_constants(&self, constants: Constants) -> Result<(), Stopped> {
        self.command(Command::Constants(constants)).await
    }

    /// What every datagram tells from now on. Wakes nobody: the next datagram takes it along.
    ///
    /// # Errors
    /// When the gossip thread has ended.
    pub fn set_announcement(&self, announcement: Announcement) -> Result<(), Stopped> {
        *self.announcement.lock().unwrap_or_else(PoisonError::into_inner) = Some(announcement);
        if self.commands.is_closed() { Err(Stopped) } else { Ok(()) }
    }

    /// Seconds from a probe to its answer, for metrics.
    pub fn round_trips(&self) -> Histogram {
        self.round_trips.clone()
    }

    /// Replaces the cluster's keys: the first seals, all open.
    pub async fn set_keys(&self, keys: kepler_protocol::wire::seal::KeyRing) -> Result<(), Stopped> {
        self.command(Command::Keys(keys)).await
    }

    /// Begins to leave: this node is `leaving` and owns nothing.
    pub async fn leave(&self) -> Result<(), Stopped> {
        self.command(Command::Leave).await
    }

    /// Calls that off: this node owns its share again.
    pub async fn stay(&self) -> Result<(), Stopped> {
        self.command(Command::Stay).await
    }

    /// Ends a leave: says `left`, waits until it is sent; the thread ends.
    pub async fn left(&self) -> Result<(), Stopped> {
        self.call(|answer| Command::Goodbye(State::Left, answer)).await
    }

    /// Says that this process ends, waits until it is sent; the thread ends.
    pub async fn announce_dead(&self) -> Result<(), Stopped> {
        self.call(|answer| Command::Goodbye(State::Dead, answer)).await
    }

    /// Forgets a dead or gone member; false if it is here or not known.
    pub async fn forget(&self, node: NodeId) -> Result<bool, Stopped> {
        self.call(|answer| Command::Forget(node, answer)).await
    }

    /// A member's payload, received over the swarm; its answer, or none if the payload is no valid one.
    pub async fn push_pull(&self, payload: Vec<u8>) -> Result<Option<Vec<u8>>, Stopped> {
        self.call(|answer| Command::PushPull(payload, answer)).await
    }

    /// What a member answered to [`Event::PushPull`].
    pub async fn push_pull_answer(&self, payload: Vec<u8>) -> Result<(), Stopped> {
        self.command(Command::PushPullAnswer(payload)).await
    }

    /// Whether the member of an [`Event::StreamProbe`] answered over the swarm.
    pub async fn stream_probed(&self, token: u64, ok: bool) -> Result<(), Stopped> {
        self.command(Command::StreamProbed(token, ok)).await
    }

    /// How long ago each member's last datagram came, whatever it said; who was never heard is absent.
    pub async fn heard(&self) -> Result<BTreeMap<NodeId, Duration>, Stopped> {
        self.call(Command::Heard).await
    }

    /// Counts for metrics, and the local health multiplier.
    pub async fn counters(&self) -> Result<(Counters, u8), Stopped> {
        self.call(Command::Counters).await
    }
}

/// Binds the socket and starts the thread. It ends with the last [`Handle`], or after a goodbye.
///
/// # Errors
/// When the address cannot be bound or the thread not be started.
pub fn start(mut config: Config) -> io::Result<(Handle, Inbox)> {
    let socket = std::net::UdpSocket::bind(config.bind)?;
    socket.set_nonblocking(true)?;
    let local_addr = socket.local_addr()?;
    if config.swim.metadata.gossip_port == 0 {
        config.swim.metadata.gossip_port = local_addr.port();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (commands, commanded) = mpsc::channel(MAX_COMMANDS);
    let (events, inbox) = mpsc::channel(MAX_EVENTS);
    let clock = socket::Clock::start();
    let machine = swim::Swim::new(clock.now(), config.swim, fastrand::Rng::with_seed(config.seed));
    let (publish, view) = watch::channel(Arc::new(machine.view(1)));
    let announcement = Arc::<Mutex<Option<Announcement>>>::default();
    let round_trips =
        Histogram::new(exponential_buckets(ROUND_TRIP_FIRST, ROUND_TRIP_STEP, ROUND_TRIP_BUCKETS));
    let driver = {
        let _entered = runtime.enter();
        socket::Driver::new(
            tokio::net::UdpSocket::from_std(socket)?,
            clock,
            machine,
            commanded,
            events,
            publish,
            (announcement.clone(), round_trips.clone()),
        )
    };
    std::thread::Builder::new().name("gossip".into()).spawn(move || runtime.block_on(driver.run()))?;
    Ok((Handle { commands, view, local_addr, announcement, round_trips }, inbox))
}

#[cfg(test)]
mod tests;
