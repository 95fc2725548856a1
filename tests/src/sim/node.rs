//! A node of the real machines: `Council`, `Catalog` and `Placement` of the protocol crate, with a
//! glue that only carries things between them, the network and the disk.
//!
//! One input is one transaction: what the machines produced leaves after the commit, and a commit
//! that fails takes the process with it.
//!
//! | module | decides |
//! | --- | --- |
//! | [`setup`] | how a cluster is set up, and which bugs are planted |
//! | [`room`], [`queue`], [`witness`] | what is durable; what uploads still owe; what a process measures by itself |
//! | [`message`], [`requests`] | what nodes say to each other; what each request was sent for |
//! | [`start`] | how a process begins |
//! | [`inputs`], [`carry`] | which machine an input is handed to; what the machines say, until all are silent |
//! | [`commands`], [`uploads`], [`reads`] | what clients asked of the catalog; where their chunks go; where they are found |
//! | [`hints`], [`healing`] | delivering what uploads still owe; what the replicator wants done |

mod carry;
mod commands;
mod healing;
mod hints;
mod inputs;
mod message;
mod queue;
mod reads;
mod requests;
mod room;
mod setup;
mod start;
mod uploads;
mod witness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::identity::DatabaseId;
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::relocation;
use kepler_protocol::replica::Replica;
use kepler_protocol::replicator::Faults;
use kepler_protocol::replicator::departure::Departure;
use kepler_protocol::replicator::rules::{Reference, databases};
use kepler_protocol::ring::Ring;
use kepler_protocol::swim::Swim;
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use kepler_protocol::view::View;

use super::clock_heap::Trace;
use super::network::Place;
use super::process::{Broken, Clocks, Input, Output, Process, Seat};
use commands::Commands;
use healing::Healing;
use hints::Delivery;
use reads::Reads;
use requests::Requests;
use uploads::Uploads;

pub use message::{Addressed, Question, Reply};
pub use room::Room;
pub use setup::Setup;

/// A running node.
pub struct Node {
    setup: Setup,
    seat: Seat,
    key: [u8; 32],
    replica: Replica,
    swim: Swim,
    views: u64,
    stale: bool,
    /// The replica has heard something since its outputs were taken.
    stirred: bool,
    view: Arc<View>,
    roster_ring: (u64, Ring),
    healing: Healing,
    delivery: Delivery,
    departure: Departure,
    has_left: bool,
    reads: Reads,
    requests: Requests,
    commands: Commands,
    uploads: Uploads,
    outputs: VecDeque<Output<Node>>,
}

impl Node {
    fn place_of(&self, node: &NodeId) -> Option<Place> {
        self.seat.ids.iter().position(|id| id == node)
    }

    /// Who owns a chunk by the ring over the whole roster.
    pub(super) fn roster_owners(&mut self, chunk: &ChunkId) -> Vec<NodeId> {
        let number = self.replica.council().number().unwrap_or(0);
        if self.roster_ring.0 != number
            && let Some(roster) = self.replica.council().roster()
        {
            self.roster_ring = (number, roster.ring());
        }
        self.roster_ring.1.owners(chunk.key(), self.replica.council().replicas())
    }
}

impl Process for Node {
    type Durable = Room;
    type Config = Setup;
    type Request = Addressed;
    type Response = Reply;

    fn blank(_: &Setup, seat: &Seat) -> Room {
        Room::blank(start::identity(seat))
    }

    fn start(setup: &Setup, seat: Seat, room: &mut Room, clocks: Clocks) -> Result<Self, Broken> {
        Self::begin(setup, seat, room, clocks)
    }

    fn handle(&mut self, room: &mut Room, clocks: Clocks, input: Input<Self>) -> Result<(), Broken> {
        room.witness.tick(clocks.now, clocks.wall.0);
        room.db.begin();
        let done = self.input(room, clocks, input).and_then(|()| self.settle(room, clocks)).and_then(|()| {
            if room.db.changes() > 0 { self.replica.before_commit(&mut room.db) } else { Ok(()) }
        });
        if done.is_err() || (room.db.changes() > 0 && std::mem::take(&mut room.fails)) {
            room.db.rollback();
            room.stored.clear();
            return Err(Broken);
        }
        room.db.commit();
        Ok(())
    }

    fn poll(&mut self) -> Option<Output<Self>> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let machines = [self.replica.poll_timeout(), self.swim.poll_timeout(), self.uploads.poll_timeout()];
        machines
            .into_iter()
            .flatten()
            .chain(self.departure.poll_timeout())
            .chain(self.healing.poll_timeout())
            .chain(self.delivery.next)
            .min()
    }

    fn commit_time(&self, room: &Room) -> Duration {
        room.commit
    }

    fn ready(&self) -> Result<(), String> {
        self.replica.council().standing()
    }

    fn membership(&self) -> u64 {
        let mut members = Trace::default();
        for (state, record) in self.swim.members() {
            let statement = record.statement();
            members.mix_bytes(statement.id.as_str().as_bytes());
            members.mix(statement.incarnation);
            members.mix(state as u64);
        }
        members.value()
    }

    fn describe(&self) -> String {
        let seen: Vec<String> = self
            .replica
            .catalog()
            .seen()
            .iter()
            .map(|(origin, set)| {
                format!("{origin} to {} and {:?}", set.prefix(), set.runs().collect::<Vec<_>>())
            })
            .collect();
        let roster = self.replica.council().roster().map_or(0, |roster| roster.number);
        let members: Vec<String> = self
            .swim
            .members()
            .map(|(state, record)| {
                let statement = record.statement();
                let heard = self.swim.announcement_of(&statement.id).is_some();
                let key = statement.metadata.key[0];
                format!("{} {state:?} {} key {key:02x} heard {heard}", statement.id, statement.incarnation)
            })
            .collect();
        let ring: Vec<NodeId> = self.view.ring().nodes().collect();
        let own = self.swim.view(0).member(&self.seat.id).map(|own| (own.state, own.incarnation));
        let leaving = if self.is_leaving() {
            let standing = self.replica.council().standing();
            let (drained, member) = (self.healing.machine.is_drained(), self.replica.council().is_member());
            format!(" leaving (drained {drained}, member {member}, {standing:?}, {:?})", self.healing.why())
        } else {
            String::new()
        };
        format!(
            "{} {own:?}{leaving} at roster {roster}, ring {ring:?}, members {members:?}, has seen {seen:?}",
            self.seat.id
        )
    }

    fn homes(&self, name: &Name) -> Vec<Vec<Place>> {
        let lists = self.replica.council().homes(name).into_iter();
        lists.map(|list| list.nodes.iter().filter_map(|id| self.place_of(id)).collect()).collect()
    }

    fn roster(&self) -> Option<u64> {
        self.replica.council().roster().map(|roster| roster.number)
    }

    fn members(&self) -> BTreeSet<Place> {
        let roster = self.replica.council().roster();
        let ids = roster.into_iter().flat_map(|roster| roster.members.keys());
        ids.filter_map(|id| self.place_of(id)).collect()
    }

    fn databases(&self) -> BTreeMap<Place, DatabaseId> {
        let roster = self.replica.council().roster();
        let databases = roster.map(databases).unwrap_or_default().into_iter();
        databases.filter_map(|(id, database)| Some((self.place_of(&id)?, database))).collect()
    }

    fn is_leaving(&self) -> bool {
        self.departure.is_leaving()
    }

    fn replicas(&self) -> usize {
        self.replica.council().replicas()
    }

    fn owners(&self, chunk: &ChunkId) -> Vec<Place> {
        let owners = self.view.ring().owners(chunk.key(), self.replicas());
        owners.iter().filter_map(|id| self.place_of(id)).collect()
    }

    fn relocation(&self) -> relocation::Faults {
        self.setup.relocation
    }

    fn uploading(&self) -> Vec<Dot> {
        self.uploads.dots()
    }

    fn keeps(&self, room: &Room, chunk: &ChunkId) -> bool {
        let seen = self.replica.catalog().seen();
        // What nobody saw of a log is ended once no database is bound that it could be of, whatever was noted.
        let roster = self.replica.council().roster();
        let bound = |dot: &Dot| {
            let entry = roster.and_then(|roster| roster.members.get(&dot.origin.node));
            entry.is_some_and(|entry| entry.database.began(dot.origin.generation))
        };
        let ended = |dot: &Dot| match room.worth(seen, dot, Faults::default()) {
            Reference::Ended => true,
            Reference::Unseen => !bound(dot),
            Reference::Live => false,
        };
        let row = room.shelf.row(chunk);
        row.is_some_and(|row| row.recovered || !row.dots.iter().all(ended))
    }
}

const GOSSIP_PORT: u16 = 4000;

fn address(place: Place) -> SocketAddr {
    SocketAddr::from(([10, 0, (place >> 8) as u8, place as u8], GOSSIP_PORT))
}

fn place_at(address: SocketAddr) -> Option<Place> {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [ten, _, high, low] = ip.octets();
            (ten == 10).then_some(usize::from(high) << 8 | usize::from(low))
        }
        IpAddr::V6(_) => None,
    }
}
