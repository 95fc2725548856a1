//! Who may connect, where members are, and on which connection a stream is opened: the swarm's face of
//! the view.
//!
//! Invariants: a connection exists only to a member of the current view that is neither dead nor left,
//! under the identity key that the view binds to it. Addresses come from the view alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use kepler_protocol::node_id::NodeId;
use kepler_protocol::view::View;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::identity::PeerId;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, ToSwarm,
};
use tracing::debug;

use super::Peer;
use super::connection::Handler;
use super::lane::{Open, OpenError, OpenHere};
use super::server::Server;

/// A connection with fewer streams than this is not worth a second one beside it.
const BUSY_STREAMS: usize = 2;

/// The peer at the other end is no member.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a member")]
struct NotAMember(PeerId);

/// The libp2p peer id of an Ed25519 key: an identity multihash of its protobuf form.
pub(super) fn peer_id(key: &[u8; 32]) -> PeerId {
    let mut bytes = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    bytes.extend_from_slice(key);
    PeerId::from_bytes(&bytes).expect("36 bytes behind an identity header are a peer id")
}

/// `/ip4/…/tcp/…` of a socket address.
pub(super) fn multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Part::Tcp(addr.port()))
}

struct Known {
    peer: Peer,
    addr: SocketAddr,
}

struct Connected {
    id: ConnectionId,
    /// Cloned into each stream: the number of clones is the number of streams.
    load: Arc<()>,
}

impl Connected {
    fn streams(&self) -> usize {
        Arc::strong_count(&self.load) - 1
    }
}

#[derive(Default)]
struct Link {
    connections: Vec<Connected>,
    dialing: Option<ConnectionId>,
    waiting: VecDeque<Open>,
}

/// The behaviour.
pub(super) struct Members {
    node: NodeId,
    server: Arc<Server>,
    by_node: BTreeMap<NodeId, PeerId>,
    by_peer: HashMap<PeerId, Known>,
    links: HashMap<PeerId, Link>,
    events: VecDeque<ToSwarm<Infallible, OpenHere>>,
}

impl Members {
    pub(super) fn new(node: NodeId, server: Arc<Server>, view: &View) -> Self {
        let mut members = Self {
            node,
            server,
            by_node: BTreeMap::new(),
            by_peer: HashMap::new(),
            links: HashMap::new(),
            events: VecDeque::new(),
        };
        members.set_view(view);
        members
    }

    /// Follows a new view: connections to whoever is no longer reachable in it are closed.
    pub(super) fn set_view(&mut self, view: &View) {
        self.by_node.clear();
        self.by_peer.clear();
        for member in view.members().filter(|m| m.state.is_reachable() && m.id != self.node) {
            let metadata = &member.metadata;
            let id = peer_id(&metadata.key);
            let peer = Peer { node: member.id, key: metadata.key };
            let addr = SocketAddr::new(metadata.addr, metadata.transfer_port);
            self.by_node.insert(member.id, id);
            self.by_peer.insert(id, Known { peer, addr });
        }
        let gone: Vec<PeerId> =
            self.links.keys().filter(|id| !self.by_peer.contains_key(id)).copied().collect();
        for peer_id in gone {
            self.fail_waiting(&peer_id, &OpenError::NotAMember);
            debug!(peer = %peer_id, "closing connections: no longer a member");
            self.events.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All });
        }
    }

    /// Opens a stream to a member, connecting first if need be. The caller bounds how many wait.
    pub(super) fn open(&mut self, to: &NodeId, open: Open) {
        let Some(peer_id) = self.by_node.get(to).copied() else {
            let _ = open.reply.send(Err(OpenError::NotAMember));
            return;
        };
        let most = self.server.limits.connections_per_peer;
        let link = self.links.entry(peer_id).or_default();
        let busy = match link.connections.iter().min_by_key(|c| c.streams()) {
            Some(connection) => {
                let here = OpenHere { open, load: connection.load.clone() };
                let handler = NotifyHandler::One(connection.id);
                let busy = connection.streams() > BUSY_STREAMS;
                self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: here });
                busy && link.connections.len() < most
            }
            None => {
                link.waiting.retain(|waiting| !waiting.reply.is_closed());
                link.waiting.push_back(open);
                true
            }
        };
        if busy && link.dialing.is_none() {
            // A port of its own: a second connection from the listening port would be the same one.
            let opts = DialOpts::peer_id(peer_id).condition(PeerCondition::Always);
            let opts = opts.allocate_new_port().build();
            link.dialing = Some(opts.connection_id());
            self.events.push_back(ToSwarm::Dial { opts });
        }
    }

    fn fail_waiting(&mut self, peer_id: &PeerId, error: &OpenError) {
        if let Some(link) = self.links.get_mut(peer_id) {
            for open in link.waiting.drain(..) {
                let _ = open.reply.send(Err(error.clone()));
            }
        }
    }

    fn admit(&self, id: PeerId) -> Result<Handler, ConnectionDenied> {
        match self.by_peer.get(&id) {
            Some(known) => Ok(Handler::new(known.peer, self.server.clone())),
            None => Err(ConnectionDenied::new(NotAMember(id))),
        }
    }

    fn on_established(&mut self, peer_id: PeerId, id: ConnectionId) {
        let link = self.links.entry(peer_id).or_default();
        link.dialing.take_if(|dialing| *dialing == id);
        let load = Arc::new(());
        for open in link.waiting.drain(..) {
            let event = OpenHere { open, load: load.clone() };
            self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(id), event });
        }
        link.connections.push(Connected { id, load });
    }

    fn on_closed(&mut self, peer_id: PeerId, id: ConnectionId) {
        if let Some(link) = self.links.get_mut(&peer_id) {
            link.connections.retain(|c| c.id != id);
        }
        self.forget_if_idle(&peer_id);
    }

    fn on_dial_failure(&mut self, peer_id: PeerId, id: ConnectionId, reason: String) {
        let Some(link) = self.links.get_mut(&peer_id) else { return };
        if link.dialing.take_if(|dialing| *dialing == id).is_some() && link.connections.is_empty() {
            self.fail_waiting(&peer_id, &OpenError::Dial(reason));
        }
        self.forget_if_idle(&peer_id);
    }

    fn forget_if_idle(&mut self, peer_id: &PeerId) {
        let idle = self.links.get(peer_id).is_some_and(|link| {
            link.connections.is_empty() && link.dialing.is_none() && link.waiting.is_empty()
        });
        if idle {
            self.links.remove(peer_id);
        }
    }
}

impl NetworkBehaviour for Members {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(peer)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let known = peer.and_then(|peer| self.by_peer.get(&peer));
        Ok(known.map(|known| multiaddr(known.addr)).into_iter().collect())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.on_established(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.on_closed(peer_id, connection_id);
            }
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer_id), connection_id, error }) => {
                self.on_dial_failure(peer_id, connection_id, error.to_string());
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, OpenHere>> {
        // Whoever adds events polls afterwards: the driver's loop, or the swarm itself.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    #[test]
    fn peer_ids_are_those_that_libp2p_derives() {
        for seed in 0..20u8 {
            let pair = Keypair::ed25519_from_bytes([seed; 32]).expect("any 32 bytes are a secret key");
            let key = pair.public().try_into_ed25519().expect("it is an Ed25519 key").to_bytes();
            assert_eq!(peer_id(&key), pair.public().to_peer_id(), "seed {seed}");
        }
    }

    #[test]
    fn addresses_of_both_families_are_written_as_libp2p_writes_them() {
        let of = |text: &str| multiaddr(text.parse().expect("an address")).to_string();
        assert_eq!(of("127.0.0.1:80"), "/ip4/127.0.0.1/tcp/80");
        assert_eq!(of("[::1]:80"), "/ip6/::1/tcp/80");
    }
}
