//! One connection as libp2p sees it: streams are opened on request, and those that the peer opens are
//! served in tasks of their own, so that nothing a request does holds the connection up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
};
use tracing::debug;

use super::lane::{Lane, OpenError, OpenHere, Protocol};
use super::server::Server;
use super::{Peer, calls, line, transfer};

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
            }) => serve(&self.server, stream, protocol, self.peer),
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

/// Answers a stream that a peer opened, in a task of its own. Yamux bounds how many there are.
fn serve(server: &Arc<Server>, stream: Stream, protocol: Protocol, peer: Peer) {
    // Whoever stops finishes what runs and begins nothing: under load the end would never come.
    if server.stop.is_cancelled() {
        return;
    }
    let tasks = server.tasks.clone();
    let server = Arc::clone(server);
    tasks.spawn(async move {
        // A line is open while nothing is asked on it.
        let _busy = (protocol != Protocol::Line).then(|| server.counters.serving());
        let served = match protocol {
            Protocol::Transfer => transfer::serve(stream, &server).await,
            Protocol::Call(service) => calls::serve(stream, service, peer, &server).await,
            Protocol::Line => line::serve(stream, peer, &server).await,
            Protocol::Ping => calls::serve_ping(stream, &server.limits).await,
        };
        if let Err(error) = served {
            debug!(peer = %peer.node, protocol = protocol.as_ref(), %error, "an exchange broke off");
        }
    });
}
