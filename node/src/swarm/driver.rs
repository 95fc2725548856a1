//! The task that polls libp2p: it follows the view, takes requests for streams, and ends connections
//! whose peer no longer answers.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kepler_protocol::view::View;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, TransportError, memory_connection_limits, ping};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::counters::Counters;
use super::handle::Handle;
use super::lane::Command;
use super::limits::Limits;
use super::membership::{Members, multiaddr};
use super::proof::ClusterKeys;
use super::server::Server;
use super::tls::Tls;
use super::{ChunkStore, Config, Inbound, StartError, transport};

/// Requests for streams that the driver has not taken yet.
const OPEN_QUEUE: usize = 256;

/// How often a free port is looked for when somebody else takes it first.
const PORT_ATTEMPTS: usize = 16;

/// Pings in a row that must fail before a connection is given up.
const LOST_PINGS: u32 = 2;

/// How long a stopping swarm lets exchanges under way finish.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the last answers have to be read: a socket that is closed with unread bytes in it resets
/// the connection, and the peer's kernel then throws away what it has not given to the peer.
const LINGER: Duration = Duration::from_millis(100);

/// How long it waits for its connections to close.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(NetworkBehaviour)]
struct Behaviour {
    connections: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    members: Members,
    ping: ping::Behaviour,
}

pub(super) fn start(
    config: Config,
    mut view: watch::Receiver<Arc<View>>,
    chunks: Arc<dyn ChunkStore>,
) -> Result<(Handle, mpsc::Receiver<Inbound>, SocketAddr), StartError> {
    let Config { node, identity, cluster_keys, listen, limits } = config;
    let tls_error = |e: &dyn std::error::Error| StartError::Tls(e.to_string());
    let identity = Keypair::ed25519_from_bytes(identity).map_err(|e| tls_error(&e))?;
    let keys = ClusterKeys::new(cluster_keys);
    let counters = Arc::new(Counters::default());
    let tls = Tls::new(&identity, keys.clone(), counters.clone()).map_err(StartError::Tls)?;
    let transport = transport::build(tls, counters.clone(), limits.handshake);

    let (inbound_sender, inbound) = mpsc::channel(limits.inbound_queue.max(1));
    let stop = CancellationToken::new();
    let server =
        Arc::new(Server::new(limits.clone(), chunks, inbound_sender, counters.clone(), stop.clone()));
    let behaviour = Behaviour {
        connections: connection_limits::Behaviour::new(connection_limits(&limits)),
        memory: memory_connection_limits::Behaviour::with_max_bytes(limits.memory_bytes),
        members: Members::new(node, server.clone(), &view.borrow_and_update()),
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(limits.stall / 2).with_timeout(limits.stall),
        ),
    };
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(limits.idle)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let mut swarm = Swarm::new(transport, behaviour, identity.public().to_peer_id(), swarm_config);
    let (listener, addr) =
        listen_on(&mut swarm, listen).map_err(|source| StartError::Listen { addr: listen, source })?;

    let (commands, command_receiver) = mpsc::channel(OPEN_QUEUE);
    let handle = Handle::new(node, commands, limits, counters.clone(), keys, stop.clone());
    let driver = Driver {
        swarm,
        listener,
        server,
        commands: command_receiver,
        view,
        counters,
        stop,
        lost_pings: HashMap::new(),
    };
    handle.set_driver(tokio::spawn(driver.run()));
    info!(%node, %addr, peer = %identity.public().to_peer_id(), "listening for other nodes");
    Ok((handle, inbound, addr))
}

fn connection_limits(limits: &Limits) -> ConnectionLimits {
    // Both ends may open as many as they like to have, at the same time.
    let per_peer = u32::try_from(limits.connections_per_peer.saturating_mul(2)).unwrap_or(u32::MAX);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_incoming))
        .with_max_pending_outgoing(Some(limits.pending_dials))
        .with_max_established(Some(limits.connections))
        .with_max_established_per_peer(Some(per_peer.max(2)))
}

/// Listens, and says where.
///
/// libp2p sets `SO_REUSEPORT`, with which a second node on the same port would start and take half of
/// the first one's connections. An ordinary socket, opened for a moment, finds out.
fn listen_on(swarm: &mut Swarm<Behaviour>, wanted: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
    let mut last = io::Error::other("no port was tried");
    for _ in 0..PORT_ATTEMPTS {
        let addr = TcpListener::bind(wanted)?.local_addr()?;
        match swarm.listen_on(multiaddr(addr)) {
            Ok(listener) => return Ok((listener, addr)),
            Err(TransportError::Other(e)) => last = e,
            Err(TransportError::MultiaddrNotSupported(_)) => {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
        }
    }
    Err(last)
}

/// What the driver is woken by, besides views.
enum Step {
    Event(Box<SwarmEvent<BehaviourEvent>>),
    Command(Command),
    /// The last handle is gone.
    Abandoned,
}

impl Step {
    async fn next(swarm: &mut Swarm<Behaviour>, commands: &mut mpsc::Receiver<Command>) -> Self {
        tokio::select! {
            event = swarm.select_next_some() => Self::Event(Box::new(event)),
            command = commands.recv() => command.map_or(Self::Abandoned, Self::Command),
        }
    }
}

struct Driver {
    swarm: Swarm<Behaviour>,
    listener: ListenerId,
    server: Arc<Server>,
    commands: mpsc::Receiver<Command>,
    view: watch::Receiver<Arc<View>>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    lost_pings: HashMap<ConnectionId, u32>,
}

impl Driver {
    async fn run(mut self) {
        let stop = self.stop.clone();
        let mut view_lives = true;
        loop {
            // A view that was published before a request or a connection came is applied before it.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = self.view.changed(), if view_lives => {
                    view_lives = changed.is_ok();
                    let view = self.view.borrow_and_update().clone();
                    self.swarm.behaviour_mut().members.set_view(&view);
                }
                step = Step::next(&mut self.swarm, &mut self.commands) => match step {
                    Step::Event(event) => self.on_event(*event),
                    Step::Command(Command { to, open }) => {
                        self.swarm.behaviour_mut().members.open(&to, open);
                    }
                    Step::Abandoned => break,
                },
            }
        }
        self.wind_down().await;
    }

    /// Takes nothing new, lets what runs finish, and closes connections, each for a bounded time.
    async fn wind_down(mut self) {
        self.stop.cancel();
        self.swarm.remove_listener(self.listener);
        self.commands.close();
        let tasks = self.server.tasks.clone();
        tasks.close();
        let _ = tokio::time::timeout(DRAIN, async {
            tokio::select! {
                () = tasks.wait() => {}
                () = self.poll_for_ever() => {}
            }
        })
        .await;
        let _ = tokio::time::timeout(LINGER, self.poll_for_ever()).await;
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let _ = tokio::time::timeout(GOODBYE, async {
            while self.swarm.connected_peers().next().is_some() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event);
            }
        })
        .await;
    }

    async fn poll_for_ever(&mut self) {
        loop {
            let event = self.swarm.select_next_some().await;
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                debug!(peer = %peer_id, addr = %endpoint.get_remote_address(), "connected");
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.lost_pings.remove(&connection_id);
                let cause = cause.map(|c| c.to_string());
                debug!(peer = %peer_id, cause = cause.as_deref().unwrap_or("closed"), "disconnected");
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                debug!(addr = %send_back_addr, error = %chain(&error), "an incoming connection was refused");
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                let peer = peer_id.map(|p| p.to_string()).unwrap_or_default();
                debug!(peer, error = %chain(&error), "a node was not reached");
            }
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "accepting a connection failed"),
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                warn!(%error, "no longer listening for other nodes");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(&event),
            _ => {}
        }
        let info = self.swarm.network_info();
        self.counters.set_connections(info.connection_counters().num_established());
    }

    /// A peer that vanished without a word leaves a connection behind that would swallow requests for
    /// minutes; it is closed once pings go unanswered.
    fn on_ping(&mut self, event: &ping::Event) {
        if event.result.is_ok() {
            self.lost_pings.remove(&event.connection);
            return;
        }
        let lost = self.lost_pings.entry(event.connection).or_default();
        *lost += 1;
        if *lost >= LOST_PINGS {
            debug!(peer = %event.peer, "closing a connection that no longer answers");
            self.swarm.close_connection(event.connection);
        }
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
