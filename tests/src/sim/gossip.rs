//! A stand-in for membership: heartbeats to all, and who is silent for five seconds is dead.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use kepler_protocol::node_id::NodeId;
use kepler_protocol::roster::DatabaseId;
use kepler_protocol::time::Instant;
use kepler_protocol::view::{Member, Metadata, State, View};
use minicbor::{Decode, Encode};

const PERIOD: Duration = Duration::from_millis(500);
const DEAD_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Encode, Decode)]
pub struct Heartbeat {
    #[n(0)]
    pub node: NodeId,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key: [u8; 32],
    #[n(2)]
    pub ready: bool,
    #[n(3)]
    pub roster: Option<(u64, DatabaseId, u64)>,
    #[cbor(n(4), with = "minicbor::bytes")]
    pub seen: [u8; 16],
}

pub struct Gossip {
    own: Heartbeat,
    others: BTreeMap<NodeId, (Instant, Heartbeat)>,
    next: Instant,
    epoch: u64,
    states: BTreeMap<NodeId, (State, [u8; 32])>,
}

impl Gossip {
    pub fn new(node: NodeId, key: [u8; 32], now: Instant) -> Self {
        let own = Heartbeat { node, key, ready: false, roster: None, seen: [0; 16] };
        Self { own, others: BTreeMap::new(), next: now, epoch: 0, states: BTreeMap::new() }
    }

    pub fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Option<Heartbeat> {
        let heard: Heartbeat = minicbor::decode(bytes).ok()?;
        self.others.insert(heard.node, (now, heard.clone()));
        Some(heard)
    }

    pub fn key_of(&self, node: &NodeId) -> Option<[u8; 32]> {
        self.others.get(node).map(|(_, heard)| heard.key)
    }

    fn present(&self, now: Instant) -> BTreeMap<NodeId, (State, [u8; 32])> {
        let own = if self.own.ready { State::Alive } else { State::Joining };
        let mut states = BTreeMap::from([(self.own.node, (own, self.own.key))]);
        for (node, (at, heard)) in &self.others {
            let state = match (now.since(*at) > DEAD_AFTER, heard.ready) {
                (true, _) => State::Dead,
                (false, true) => State::Alive,
                (false, false) => State::Joining,
            };
            states.insert(*node, (state, heard.key));
        }
        states
    }

    pub fn announce(&mut self, now: Instant, ready: bool, roster: (u64, DatabaseId, u64), seen: [u8; 16]) -> bool {
        (self.own.ready, self.own.roster, self.own.seen) = (ready, Some(roster), seen);
        self.present(now) != self.states
    }

    pub fn view(&mut self, now: Instant, reference: u64) -> Option<View> {
        self.states = self.present(now);
        self.epoch += 1;
        let members = self.states.iter().map(|(id, (state, key))| Member {
            id: *id,
            state: *state,
            incarnation: 1,
            metadata: Metadata {
                key: *key,
                addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
                gossip_port: 1,
                transfer_port: 1,
                http_port: 1,
                zone: None,
                capacity: 1 << 30,
                version: String::new(),
            },
        });
        Some(View::new(self.epoch, reference, members))
    }

    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.next {
            return None;
        }
        self.next = now + PERIOD;
        Some(minicbor::to_vec(&self.own).expect("encoding to memory does not fail"))
    }

    pub fn poll_timeout(&self) -> Instant {
        self.next
    }
}
