//! How a process begins on what a kill has left: the settings of its machines, all from the seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kepler_protocol::catalog;
use kepler_protocol::catalog::storage::StorageError;
use kepler_protocol::identity::{ClusterId, DatabaseId};
use kepler_protocol::replica::{self, Replica};
use kepler_protocol::replicator::departure::Departure;
use kepler_protocol::ring::Ring;
use kepler_protocol::roster::council::{self, Founding};
use kepler_protocol::swim::{self, Swim};
use kepler_protocol::view::{Metadata, View};
use kepler_protocol::wire::seal::KeyRing;

use super::commands::Commands;
use super::healing::Healing;
use super::hints::Delivery;
use super::reads::Reads;
use super::requests::Requests;
use super::room::Room;
use super::setup::Setup;
use super::uploads::Uploads;
use super::{GOSSIP_PORT, Node, address};
use crate::sim::process::{Broken, Clocks, Seat};
use crate::sim::rng;

/// Tells the runs of a node's process apart, and nodes.
fn unique(seat: &Seat) -> u64 {
    (seat.place as u64) << 32 | seat.run
}

fn id16(seed: u64, part: &str, index: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&rng::bytes(seed, part, index)[..16]);
    id
}

/// The key by which others know a node again.
pub(super) fn identity(seat: &Seat) -> [u8; 32] {
    rng::bytes(seat.seed, "identity", unique(seat))
}

impl Node {
    pub(super) fn begin(setup: &Setup, seat: Seat, room: &mut Room, clocks: Clocks) -> Result<Self, Broken> {
        let unique = unique(&seat);
        room.fails = false;
        room.epoch += 1;
        let identity = swim::SigningKey::from_bytes(&room.secret);
        let key = identity.verifying_key().to_bytes();
        room.db.begin();
        let founding = if seat.place == 0 && seat.run == 1 {
            Founding::Found { cluster: ClusterId(id16(seat.seed, "cluster", 0)) }
        } else {
            Founding::Join
        };
        let moved = seat.place as u64 + seat.run;
        let zone = (setup.zones > 0).then(|| format!("zone-{}", moved % u64::from(setup.zones)));
        let council = council::Config {
            node: seat.id,
            key,
            zone: zone.clone(),
            capacity: 1 << 30,
            replication_factor: setup.replication_factor,
            forget_after: setup.forget_after,
            founding,
            fresh_database: DatabaseId(id16(seat.seed, "database", unique)),
            seed: rng::word(seat.seed, "council", unique),
        };
        let mut catalog = catalog::Config::new(seat.id);
        catalog.faults = setup.catalog;
        let config = replica::Config {
            council,
            catalog,
            council_faults: setup.council,
            seed: rng::word(seat.seed, "catalog", unique),
            generation: rng::word(seat.seed, "generation", unique),
        };
        let replica = Replica::open(config, &mut room.db, clocks.now).map_err(|_| Broken)?;
        let founder = seat.place == 0 && seat.run == 1;
        let seeds = if founder { vec![] } else { (0..2).filter(|p| *p != seat.place).map(address).collect() };
        let swim = swim::Config {
            id: seat.id,
            identity,
            metadata: Metadata {
                key,
                addr: address(seat.place).ip(),
                gossip_port: GOSSIP_PORT,
                transfer_port: 5000,
                http_port: 3000,
                zone,
                capacity: 1 << 30,
                version: String::new(),
            },
            keys: KeyRing::open_to_all(),
            epoch: room.epoch,
            period: Duration::from_millis(500),
            seeds,
            peers: room.peers.clone(),
            constants: replica.council().constants(),
        };
        let swim = Swim::new(clocks.now, swim, rng::stream(seat.seed, "swim", unique));
        let database = replica.council().database();
        let mut node = Self {
            setup: *setup,
            healing: Healing::open(setup, seat.id, room, database, clocks.wall.0),
            delivery: Delivery::new(clocks.now, &room.queue),
            departure: Departure::new(setup.repair_delay, setup.heal),
            has_left: false,
            reads: Reads::default(),
            key,
            replica,
            swim,
            views: 0,
            stale: true,
            stirred: false,
            view: Arc::new(View::without_ring(0, [])),
            roster_ring: (u64::MAX, Ring::default()),
            requests: Requests::default(),
            commands: Commands::default(),
            uploads: Uploads::new(clocks.now),
            outputs: VecDeque::new(),
            seat,
        };
        if room.leaving {
            node.begin_to_leave();
        }
        let opened = (|| {
            node.settle(room, clocks)?;
            node.replica.before_commit(&mut room.db)
        })();
        opened.map_err(|_: StorageError| Broken)?;
        room.db.commit();
        Ok(node)
    }
}
