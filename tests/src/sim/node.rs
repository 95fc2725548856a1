//! A node of the real machines: `Council`, `Catalog` and `Placement` of the protocol crate, with a
//! glue that only carries things between them, the network and the disk.
//!
//! One input is one transaction: what the machines produced leaves after the commit, and a commit
//! that fails takes the process with it.

mod healing;
mod hints;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog;
use kepler_protocol::catalog::command::{Command, CommandId, Consistency, Outcome};
use kepler_protocol::catalog::memory::MemoryStorage;
use kepler_protocol::catalog::storage::{Storage, StorageError};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::quorum::{self, Placement};
use kepler_protocol::replica::{self, Operator, Replica, Request, Response, Unreachable};
use kepler_protocol::replicator::memory::Shelf;
use kepler_protocol::replicator::rules::Reference;
use kepler_protocol::replicator::{self, ActionId};
use kepler_protocol::ring::Ring;
use kepler_protocol::roster::council::{self, Founding, Peer};
use kepler_protocol::roster::{ClusterId, DatabaseId};
use kepler_protocol::swim::{self, Swim};
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Content, Dot, Version, head};
use kepler_protocol::view::{Metadata, View};
use kepler_protocol::wire::seal::KeyRing;

use super::client::shared_of;
use super::clock_heap::Trace;
use super::disk::{Data, Disk};
use super::network::Place;
use super::process::{Answer, Ask, Broken, Clocks, Deleted, Durable, Input, Output, Process, Seat, Word};
use super::rng;
use healing::{CHUNK_BYTES, Healing, Witness};
use hints::{Delivery, Queue};

/// How a cluster is set up, and which bugs are planted in it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// `REPLICATION_FACTOR`.
    pub replication_factor: u8,
    /// `FORGET_AFTER_SECS`.
    pub forget_after: Duration,
    /// How many zones the nodes are in, another one each after each start; none for 0.
    pub zones: u8,
    /// Planted in the catalog.
    pub catalog: catalog::Faults,
    /// Planted in the council.
    pub council: council::Faults,
    /// Planted in the placement of chunks.
    pub quorum: quorum::Faults,
    /// Planted here: the folder is not synced after a rename.
    pub no_folder_sync: bool,
    /// `REPAIR_DELAY_SECS`.
    pub repair_delay: Duration,
    /// `HANDOFF_GRACE_SECS`.
    pub handoff_grace: Duration,
    /// `GC_GRACE_SECS`.
    pub gc_grace: Duration,
    /// `INVENTORY_INTERVAL_SECS`.
    pub inventory_interval: Duration,
    /// The cap of background traffic, in bytes a second, when a process starts.
    pub cap: u64,
    /// Whether who leaves drains before: without it only what becomes of names is looked at.
    pub drains: bool,
    /// Planted here: who is drained does not ask whether the others know all that its catalog knows.
    pub leaves_unshared: bool,
    /// Whether what uploads still owe is queued; without, all of it is left to the comparison of what is held.
    pub queue: bool,
    /// Whether some uploads take so long that a grace ends while they are under way.
    pub slow_uploads: bool,
    /// Planted in the replicator and its store.
    pub heal: replicator::Faults,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            replication_factor: 3,
            forget_after: Duration::from_secs(3600),
            zones: 0,
            catalog: catalog::Faults::default(),
            council: council::Faults::default(),
            quorum: quorum::Faults::default(),
            no_folder_sync: false,
            repair_delay: Duration::from_secs(8),
            handoff_grace: Duration::from_secs(20),
            gc_grace: Duration::from_secs(15),
            inventory_interval: Duration::from_secs(20),
            cap: 4 << 20,
            drains: false,
            leaves_unshared: false,
            queue: true,
            slow_uploads: false,
            heal: replicator::Faults::default(),
        }
    }
}

/// What a kill leaves of a node.
pub struct Room {
    db: MemoryStorage,
    backup: MemoryStorage,
    disk: Disk,
    secret: [u8; 32],
    /// Kept with the identity, so that it outlives the database.
    epoch: u64,
    peers: Vec<Arc<swim::Record>>,
    commit: Duration,
    fails: bool,
    stored: Vec<Version>,
    shelf: Shelf,
    backup_shelf: Shelf,
    /// Kept in the database: what uploads still owe, and whether this node was told to leave.
    queue: Queue,
    backup_queue: Queue,
    leaving: bool,
    witness: Witness,
}

impl Room {
    fn keep(&mut self, chunk: ChunkId, folder: bool) -> bool {
        let path = path_of(&chunk);
        let temporary = format!("{path}.tmp");
        let whole = self.disk.read(&path) == Ok(Data::Whole(chunk));
        let written = whole
            || self.disk.write(&temporary, chunk).is_ok()
                && self.disk.sync_file(&temporary).is_ok()
                && self.disk.rename(&temporary, &path).is_ok();
        written && (!folder || self.disk.sync_dir("chunks").is_ok())
    }

    /// Whether a chunk has a file, whatever is in it.
    fn is_named(&self, chunk: &ChunkId) -> bool {
        self.disk.peek(&path_of(chunk)).is_some()
    }

    /// Stores a chunk with its references: whether it is durable, and whether it was here before.
    fn take(
        &mut self,
        chunk: ChunkId,
        dots: &[Dot],
        recovered: bool,
        folder: bool,
        faults: replicator::Faults,
    ) -> (bool, bool) {
        let gone = self.shelf.row(&chunk).is_some_and(|row| row.gone);
        let held = self.shelf.has(&chunk) && self.is_whole(&chunk);
        let stored = if gone { faults.gone_is_a_hit } else { self.keep(chunk, folder) };
        (stored && self.shelf.enter(chunk, CHUNK_BYTES, dots, recovered, faults), held)
    }

    /// The version under a dot, wherever it is.
    fn version(&self, dot: &Dot) -> Option<Version> {
        self.db.survivor(dot).ok().flatten().map(|survivor| survivor.version)
    }
}

fn path_of(chunk: &ChunkId) -> String {
    format!("chunks/{chunk}")
}

impl Durable for Room {
    fn power_cut(&mut self, random: &mut fastrand::Rng) {
        self.disk.crash(random);
    }

    fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    fn back_up(&mut self) {
        self.backup = self.db.clone();
        self.backup_shelf = self.shelf.clone();
        self.backup_queue = self.queue.clone();
        self.witness.back_up();
    }

    fn restore(&mut self) {
        self.db = std::mem::take(&mut self.backup);
        self.shelf = std::mem::take(&mut self.backup_shelf);
        self.queue = std::mem::take(&mut self.backup_queue);
        self.leaving = false;
        self.witness.restore();
    }

    fn lose_database(&mut self) {
        self.db = MemoryStorage::new();
        self.peers.clear();
        self.leaving = false;
        self.queue = Queue::default();
        self.rebuild_shelf();
    }

    fn fail_commit(&mut self) {
        self.fails = true;
    }

    fn set_commit_time(&mut self, commit: Duration) {
        self.commit = commit;
    }

    fn take_stored(&mut self) -> Vec<Version> {
        std::mem::take(&mut self.stored)
    }

    fn knows(&self, version: &Version) -> bool {
        self.version(&version.dot).is_some()
            || self.db.stub(&version.dot).ok().flatten().is_some()
            || self.db.seen().is_ok_and(|seen| seen.contains(&version.dot))
    }

    fn holds(&self, chunk: &ChunkId) -> bool {
        self.disk.durable(&path_of(chunk)) == Some(Data::Whole(*chunk)) && self.shelf.has(chunk)
    }

    fn references(&self, chunk: &ChunkId) -> BTreeSet<Dot> {
        self.shelf.row(chunk).map(|row| row.dots.clone()).unwrap_or_default()
    }

    fn shelved(&self) -> Vec<ChunkId> {
        self.shelf.rows().map(|(chunk, _)| *chunk).collect()
    }

    fn take_deleted(&mut self) -> Vec<Deleted> {
        std::mem::take(&mut self.witness.deleted)
    }

    fn take_broken(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.witness.broken)
    }

    fn known(&self) -> Vec<Version> {
        self.db.all_survivors().map(|s| s.version.clone()).collect()
    }

    fn busiest(&self) -> u64 {
        self.witness.busiest
    }

    fn delivered(&self) -> u64 {
        self.witness.delivered
    }

    fn owed(&self) -> usize {
        self.queue.len()
    }

    fn forgotten(&self) -> u64 {
        self.witness.forgotten
    }

    fn pushed(&self) -> u64 {
        self.witness.pushed
    }

    fn survivors(&self) -> Vec<Version> {
        self.db.all_survivors().filter(|s| s.published).map(|s| s.version.clone()).collect()
    }
}

/// A question to a peer, as bytes where the machines have a wire form.
#[derive(Clone, Debug)]
pub enum Question {
    /// To the replica, with the key that the transport has proved.
    Replica([u8; 32], Vec<u8>),
    /// To the store: keep this chunk for an upload.
    Store(ChunkId, Dot),
    /// To the store: keep this copy.
    Push {
        /// The chunk.
        chunk: ChunkId,
        /// Its references.
        dots: Vec<Dot>,
        /// Whether there may be others.
        recovered: bool,
    },
    /// To the store: have you this chunk?
    Fetch(ChunkId),
    /// To the replicator.
    Heal(Vec<u8>),
    /// To membership: are you there?
    Probe,
    /// To membership: what I know; what do you?
    Exchange(Vec<u8>),
}

/// A question to whoever has this identity key, or to anybody at the address.
#[derive(Clone, Debug)]
pub struct Addressed {
    key: Option<[u8; 32]>,
    request: Question,
}

/// An answer to a peer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// From the replica.
    Replica(Vec<u8>),
    /// From the store: whether the chunk is durable.
    Stored(bool),
    /// From the store.
    Pushed {
        /// Whether the copy is durable.
        stored: bool,
        /// Whether it was there before.
        held: bool,
    },
    /// From the store: whether its bytes come with this.
    Fetched(bool),
    /// From the replicator.
    Heal(Vec<u8>),
    /// From membership: yes.
    Here,
    /// From membership.
    Exchanged(Vec<u8>),
}

/// What a request was sent for.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Replica(u64),
    Store(u64),
    Probe(u64),
    Exchange,
    Heal(ActionId),
    Push(ActionId),
    Fetch(u64),
    Read(u64),
    Gather(hints::Row),
    Owed(hints::Row),
}

/// What is placed, and for whom.
enum Placing {
    /// A client's write: its first chunk, which it shares with others.
    Shared { operation: u64, dot: Dot, value: ChunkId, durability: Durability },
    /// A client's write: publish it when it is placed.
    Client { operation: u64, dot: Dot, value: ChunkId },
    /// A `fast` version: settle it when it is placed.
    Fast { dot: Dot, value: ChunkId, shared: bool },
}

impl Placing {
    const fn dot(&self) -> Dot {
        match self {
            Self::Shared { dot, .. } | Self::Client { dot, .. } | Self::Fast { dot, .. } => *dot,
        }
    }
}

/// A read whose chunks are looked for.
struct Reading {
    operation: u64,
    survivors: Vec<Version>,
    local: bool,
    /// What is still to be found, the first being looked for.
    chunks: Vec<ChunkId>,
    /// Who is still to be asked for the first.
    candidates: VecDeque<NodeId>,
    /// Somebody who may have it did not answer in time.
    silent: bool,
}

/// What a command was given for.
enum Issued {
    Begin { operation: u64, value: ChunkId, durability: Durability },
    Last { operation: u64 },
    Abort { operation: u64 },
    Nothing,
}

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
    /// When to ask next whether it may leave, once it is to.
    leave_at: Option<Instant>,
    has_left: bool,
    reads: BTreeMap<u64, Reading>,
    sent: BTreeMap<u64, Sent>,
    next_request: u64,
    issued: BTreeMap<CommandId, Issued>,
    next_command: u64,
    placements: BTreeMap<u64, (Placing, Placement, ChunkId)>,
    next_placement: u64,
    /// Uploads whose second chunk is still to come.
    slow: VecDeque<(Instant, Placing, ChunkId, Durability)>,
    next_sweep: Instant,
    outputs: VecDeque<Output<Node>>,
}

/// Anything else is a bug that a run should end with.
const SOUND: &str = "a replica sends what a replica takes";

fn id16(seed: u64, part: &str, index: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&rng::bytes(seed, part, index)[..16]);
    id
}

/// Names what operators ask, beside the commands of clients.
const OPERATOR: CommandId = CommandId(u64::MAX);
const LEAVE: CommandId = CommandId(u64::MAX - 1);

/// How often a node that is to leave looks whether it may.
const LOOK_WHETHER_TO_LEAVE: Duration = Duration::from_secs(1);

/// How often unpublished `fast` versions are looked for.
const SWEEP: Duration = Duration::from_secs(3);

/// Between the chunks of a slow upload.
const SLOW: Duration = Duration::from_secs(34);

/// How long an exchange of members waits for an answer.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(2);

/// How long membership waits for an answer over a stream.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);

/// Requests whose late answers are still told apart.
const REMEMBERED: u64 = 4096;

impl Node {
    fn unique(seat: &Seat) -> u64 {
        (seat.place as u64) << 32 | seat.run
    }

    fn place_of(&self, node: &NodeId) -> Option<Place> {
        self.seat.ids.iter().position(|id| id == node)
    }

    fn request(&mut self, to: NodeId, request: Question, deadline: Instant, sent: Sent) {
        let Some(to) = self.place_of(&to) else { return };
        // The transport proves identities: another process under the same id is not who is meant.
        let id = self.seat.ids[to];
        let request = Addressed { key: self.swim.member(&id).map(|(_, s)| s.metadata.key), request };
        self.next_request += 1;
        let id = self.next_request;
        self.sent.insert(id, sent);
        self.sent.remove(&(id.saturating_sub(REMEMBERED)));
        self.outputs.push_back(Output::Request { to, id, request, deadline });
    }

    fn command(
        &mut self,
        room: &mut Room,
        now: Instant,
        command: Command,
        issued: Issued,
    ) -> Result<(), StorageError> {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.issued.insert(id, issued);
        self.replica.handle(&mut room.db, now, replica::Input::Command(id, command))
    }

    fn client(
        &mut self,
        room: &mut Room,
        clocks: Clocks,
        operation: u64,
        ask: Ask,
    ) -> Result<(), StorageError> {
        let (command, issued) = match ask {
            Ask::Get { name } => (Command::Read { name }, Issued::Last { operation }),
            Ask::Delete { name, only, precondition } => {
                let durability = Durability::Quorum;
                let created_at = clocks.wall;
                let command = Command::Delete { name, version: only, precondition, durability, created_at };
                (command, Issued::Last { operation })
            }
            Ask::Put { name, value, precondition, durability } => (
                Command::Begin { name, precondition, durability },
                Issued::Begin { operation, value, durability },
            ),
        };
        self.command(room, clocks.now, command, issued)
    }

    /// Who owns a chunk by the ring over the whole roster.
    fn roster_owners(&mut self, chunk: &ChunkId) -> Vec<NodeId> {
        let number = self.replica.council().number().unwrap_or(0);
        if self.roster_ring.0 != number
            && let Some(roster) = self.replica.council().roster()
        {
            self.roster_ring = (number, roster.ring());
        }
        self.roster_ring.1.owners(chunk.key(), self.replica.council().replicas())
    }

    fn place(
        &mut self,
        room: &mut Room,
        now: Instant,
        placing: Placing,
        value: ChunkId,
        durability: Durability,
    ) {
        let replicas = self.replica.council().replicas();
        let owners = self.roster_owners(&value);
        let preference = quorum::candidates(&self.view, value.key(), replicas, &owners);
        let config = quorum::Config::new(durability, replicas);
        let placement =
            Placement::with_faults(now, config, preference, owners, self.seat.id, self.setup.quorum);
        self.next_placement += 1;
        self.placements.insert(self.next_placement, (placing, placement, value));
        self.step_placement(room, now, self.next_placement);
    }

    fn step_placement(&mut self, room: &mut Room, now: Instant, id: u64) {
        let folder = !self.setup.no_folder_sync;
        loop {
            let Some((placing, placement, value)) = self.placements.get_mut(&id) else { return };
            let Some(to) = placement.poll_transmit() else { return };
            let (value, dot) = (*value, placing.dot());
            if to == self.seat.id {
                if room.take(value, &[dot], false, folder, self.setup.heal).0 {
                    placement.handle_ack(now, to);
                } else {
                    placement.handle_failure(now, to);
                }
            } else {
                let deadline = now + Duration::from_secs(5);
                self.request(to, Question::Store(value, dot), deadline, Sent::Store(id));
            }
        }
    }

    /// Takes up what placements came to.
    fn end_placements(&mut self, room: &mut Room, clocks: Clocks) -> Result<bool, StorageError> {
        let ended = |(id, (_, placement, _)): (&u64, &(Placing, Placement, ChunkId))| {
            Some((*id, placement.outcome()?.clone()))
        };
        let over: Vec<(u64, quorum::Outcome)> = self.placements.iter().filter_map(ended).collect();
        let any = !over.is_empty();
        for (id, outcome) in over {
            let Some((placing, _, chunk)) = self.placements.remove(&id) else { continue };
            let done = matches!(outcome, quorum::Outcome::Done { .. });
            if let quorum::Outcome::Done { owed, .. } = outcome {
                self.owe(room, clocks.now, chunk, placing.dot(), &owed);
            }
            let (command, issued) = match (placing, done) {
                (Placing::Shared { operation, dot, value, durability }, true) => {
                    let placing = Placing::Client { operation, dot, value };
                    if self.setup.slow_uploads && value.digest()[1] < 32 {
                        self.slow.push_back((clocks.now + SLOW, placing, value, durability));
                        continue;
                    }
                    self.place(room, clocks.now, placing, value, durability);
                    continue;
                }
                (Placing::Fast { dot, value, shared: true }, true) => {
                    let placing = Placing::Fast { dot, value, shared: false };
                    self.place(room, clocks.now, placing, value, Durability::Quorum);
                    continue;
                }
                (Placing::Client { operation, dot, value }, true) => {
                    let content = Some(Content { root: value, size: 1, chunks: 1, content_type: None });
                    let command = Command::Publish {
                        dot,
                        content,
                        created_at: clocks.wall,
                        within: std::time::Duration::from_secs(9),
                    };
                    (command, Issued::Last { operation })
                }
                (Placing::Client { operation, dot, .. } | Placing::Shared { operation, dot, .. }, false) => {
                    (Command::Abort { dot }, Issued::Abort { operation })
                }
                (Placing::Fast { dot, .. }, true) => (Command::Settle { dot }, Issued::Nothing),
                (Placing::Fast { .. }, false) => continue,
            };
            self.command(room, clocks.now, command, issued)?;
        }
        Ok(any)
    }

    /// Places the chunks of `fast` versions that nobody else knows yet.
    fn sweep(&mut self, room: &mut Room, now: Instant) -> Result<(), StorageError> {
        self.next_sweep = now + SWEEP;
        let under_way: BTreeSet<Dot> = self
            .placements
            .values()
            .filter_map(|(placing, ..)| match placing {
                Placing::Fast { dot, .. } => Some(*dot),
                Placing::Client { .. } | Placing::Shared { .. } => None,
            })
            .collect();
        for survivor in room.db.unpublished(None, 64)? {
            let dot = survivor.version.dot;
            let Some(content) = survivor.version.content else { continue };
            if !under_way.contains(&dot) {
                let value = content.root;
                let placing = Placing::Fast { dot, value, shared: true };
                self.place(room, now, placing, shared_of(&value), Durability::Quorum);
            }
        }
        Ok(())
    }

    fn input(&mut self, room: &mut Room, clocks: Clocks, input: Input<Self>) -> Result<(), StorageError> {
        let now = clocks.now;
        match input {
            Input::Client { operation, ask } => self.client(room, clocks, operation, ask)?,
            Input::Datagram { from, bytes } => {
                self.swim.handle_datagram(now, address(from), &bytes);
            }
            Input::Request { request: Addressed { key: Some(key), .. }, .. } if key != self.key => {}
            Input::Request { from, token, request: Addressed { request, .. } } => {
                let node = self.seat.ids[from];
                match request {
                    // Who leaves takes nothing that it would have to hand over at once.
                    Question::Store(..) if room.leaving => {
                        let response = Reply::Stored(false);
                        self.outputs.push_back(Output::Response { token, response });
                    }
                    Question::Push { .. } if room.leaving => {
                        let response = Reply::Pushed { stored: false, held: false };
                        self.outputs.push_back(Output::Response { token, response });
                    }
                    Question::Store(chunk, dot) => {
                        let folder = !self.setup.no_folder_sync;
                        let response =
                            Reply::Stored(room.take(chunk, &[dot], false, folder, self.setup.heal).0);
                        self.outputs.push_back(Output::Response { token, response });
                    }
                    Question::Push { chunk, dots, recovered } => {
                        let folder = !self.setup.no_folder_sync;
                        let (stored, held) = room.take(chunk, &dots, recovered, folder, self.setup.heal);
                        let response = Reply::Pushed { stored, held };
                        self.outputs.push_back(Output::Response { token, response });
                    }
                    Question::Fetch(chunk) => {
                        let response = Reply::Fetched(room.shelf.has(&chunk) && room.is_whole(&chunk));
                        self.outputs.push_back(Output::Response { token, response });
                    }
                    Question::Heal(bytes) => self.heal_asked(now, node, token, &bytes),
                    Question::Probe => {
                        self.outputs.push_back(Output::Response { token, response: Reply::Here });
                    }
                    Question::Exchange(bytes) => {
                        if let Ok(answer) = self.swim.handle_exchange_request(now, &bytes) {
                            let response = Reply::Exchanged(answer);
                            self.outputs.push_back(Output::Response { token, response });
                        }
                    }
                    Question::Replica(key, bytes) => {
                        let request = Request::from_bytes(&bytes).expect(SOUND);
                        let from = Peer { node, key };
                        let input = replica::Input::Request { from, token, request };
                        self.replica.handle(&mut room.db, now, input)?;
                    }
                }
            }
            Input::Response { from, id, response } => {
                let node = self.seat.ids[from];
                match self.sent.get(&id) {
                    Some(Sent::Replica(id)) => {
                        let id = *id;
                        let result = match response {
                            Some(Reply::Replica(bytes)) => Ok(Response::from_bytes(&bytes).expect(SOUND)),
                            _ => Err(Unreachable),
                        };
                        let input = replica::Input::Response { id, from: node, result };
                        self.replica.handle(&mut room.db, now, input)?;
                    }
                    Some(Sent::Store(id)) => {
                        let id = *id;
                        if let Some((_, placement, _)) = self.placements.get_mut(&id) {
                            match response {
                                Some(Reply::Stored(true)) => placement.handle_ack(now, node),
                                _ => placement.handle_failure(now, node),
                            }
                            self.step_placement(room, now, id);
                        }
                    }
                    Some(Sent::Probe(probe)) => {
                        let probe = *probe;
                        self.swim.handle_stream_probe(now, probe, response.is_some());
                    }
                    Some(Sent::Heal(id)) => {
                        let id = *id;
                        self.heal_answered(now, id, response);
                    }
                    Some(Sent::Push(id)) => {
                        let id = *id;
                        self.heal_pushed(room, now, id, response);
                    }
                    Some(Sent::Fetch(key)) => {
                        let key = *key;
                        self.heal_fetched(room, now, key, response);
                    }
                    Some(Sent::Read(key)) => {
                        let key = *key;
                        self.sent.remove(&id);
                        let found = response.map(|reply| matches!(reply, Reply::Fetched(true)));
                        self.read_on(room, now, key, found);
                    }
                    Some(Sent::Gather(row)) => {
                        let row = *row;
                        self.sent.remove(&id);
                        self.gather(room, now, row, matches!(response, Some(Reply::Fetched(true))));
                    }
                    Some(Sent::Owed(row)) => {
                        let row = *row;
                        self.sent.remove(&id);
                        self.owed_answered(room, now, row, response);
                    }
                    Some(Sent::Exchange) => {
                        if let Some(Reply::Exchanged(bytes)) = response {
                            // Another cluster's answer is refused by the machine: nothing to do.
                            let _ = self.swim.handle_exchange_response(now, &bytes);
                        }
                    }
                    None => {}
                }
            }
            Input::Operator(Word::Leave) => {
                let alone = self.members().len() < 2;
                if self.setup.drains && (alone || self.replica.council().standing().is_err()) {
                    return Ok(());
                }
                room.leaving = self.setup.drains;
                self.begin_to_leave(now);
            }
            Input::Operator(Word::Cap(cap)) => self.heal_cap(room, now, cap),
            Input::Operator(Word::Forget(place)) => {
                let word = Operator::Forget(self.seat.ids[place]);
                self.replica.handle(&mut room.db, now, replica::Input::Operator(OPERATOR, word))?;
            }
            Input::Operator(Word::ForgetLost(places)) => {
                let lost = (0..self.seat.ids.len()).filter(|place| places >> place & 1 == 1);
                let word = Operator::ForgetLost(lost.map(|place| self.seat.ids[place]).collect());
                self.replica.handle(&mut room.db, now, replica::Input::Operator(OPERATOR, word))?;
            }
            Input::Timeout => {
                if self.leave_at.is_some_and(|at| at <= now) {
                    self.leave_at = Some(now + LOOK_WHETHER_TO_LEAVE);
                    let drained = !self.setup.drains || self.healing.machine.is_drained();
                    if drained && self.setup.leaves_unshared {
                        self.has_left = true;
                    } else if drained {
                        let word = replica::Input::Operator(LEAVE, Operator::Leave);
                        self.replica.handle(&mut room.db, now, word)?;
                    }
                }
                self.swim.handle_timeout(now);
                if self.replica.poll_timeout().is_some_and(|at| at <= now) {
                    self.replica.handle_timeout(&mut room.db, now)?;
                }
                let due: Vec<u64> = self
                    .placements
                    .iter()
                    .filter(|(_, (_, p, _))| p.poll_timeout().is_some_and(|at| at <= now))
                    .map(|(id, _)| *id)
                    .collect();
                for id in due {
                    if let Some((_, placement, _)) = self.placements.get_mut(&id) {
                        placement.handle_timeout(now);
                    }
                    self.step_placement(room, now, id);
                }
                if self.next_sweep <= now {
                    self.sweep(room, now)?;
                }
                while self.slow.front().is_some_and(|(due, ..)| *due <= now) {
                    if let Some((_, placing, value, durability)) = self.slow.pop_front() {
                        self.place(room, now, placing, value, durability);
                    }
                }
                self.pay(room, now);
                self.heal_timeout(room, now);
            }
        }
        Ok(())
    }

    /// Carries what one machine says to the others until all are silent.
    fn settle(&mut self, room: &mut Room, clocks: Clocks) -> Result<(), StorageError> {
        let now = clocks.now;
        loop {
            let mut busy = self.end_placements(room, clocks)?;
            while let Some(output) = self.replica.poll_output() {
                busy = true;
                self.output(room, clocks, output);
            }
            if !busy {
                break;
            }
        }
        self.membership(room, now)?;
        if std::mem::take(&mut self.stirred) {
            return self.settle(room, clocks);
        }
        if self.stale {
            self.stale = false;
            self.views += 1;
            self.view = Arc::new(self.swim.view(self.views));
            room.peers = self.swim.members().map(|(_, record)| Arc::clone(record)).collect();
            self.replica.handle(&mut room.db, now, replica::Input::View(Arc::clone(&self.view)))?;
            self.heal_view(room, now, View::clone(&self.view));
            return self.settle(room, clocks);
        }
        self.heal(room, now);
        if self.has_left {
            self.swim.left();
        }
        while let Some(transmit) = self.swim.poll_transmit() {
            if let Some(to) = place_at(transmit.to).filter(|to| *to < self.seat.ids.len()) {
                self.outputs.push_back(Output::Datagram { to, bytes: transmit.datagram });
            }
        }
        if std::mem::take(&mut self.has_left) {
            room.leaving = false;
            self.outputs.push_back(Output::Exit);
        }
        Ok(())
    }

    fn begin_to_leave(&mut self, now: Instant) {
        self.swim.leave();
        self.leave_at = Some(now);
    }

    /// Tells membership what to say, and the others what it heard.
    fn membership(&mut self, room: &mut Room, now: Instant) -> Result<(), StorageError> {
        self.swim.set_ready(self.replica.council().standing().is_ok());
        if let Some(constants) = self.replica.council().constants() {
            self.swim.set_constants(constants);
        }
        while let Some(event) = self.swim.poll_event() {
            match event {
                swim::Event::MemberChanged { .. } => self.stale = true,
                swim::Event::Announced { node, announcement } => {
                    self.stirred = true;
                    let input = replica::Input::Announced { from: node, announcement };
                    self.replica.handle(&mut room.db, now, input)?;
                }
                swim::Event::StreamProbe { target, token } => {
                    let deadline = now + PROBE_DEADLINE;
                    self.request(target, Question::Probe, deadline, Sent::Probe(token));
                }
                swim::Event::PushPull { to } => {
                    let payload = self.swim.exchange_payload();
                    self.request(to, Question::Exchange(payload), now + EXCHANGE_DEADLINE, Sent::Exchange);
                }
                swim::Event::IdInUse { .. }
                | swim::Event::Refuted { .. }
                | swim::Event::ForeignCluster { .. } => {}
            }
        }
        Ok(())
    }

    fn output(&mut self, room: &mut Room, clocks: Clocks, output: replica::Output) {
        match output {
            replica::Output::Completed(id, outcome) => {
                if let Some(issued) = self.issued.remove(&id) {
                    self.completed(room, clocks, issued, outcome);
                }
            }
            replica::Output::Request { to, id, request, deadline } => {
                let question = Question::Replica(self.key, request.to_bytes());
                self.request(to, question, clocks.now + deadline, Sent::Replica(id));
            }
            replica::Output::Response { token, response } => {
                let response = Reply::Replica(response.to_bytes());
                self.outputs.push_back(Output::Response { token, response });
            }
            replica::Output::Announce(announcement) => self.swim.set_announcement(announcement),
            replica::Output::Written { dot, .. } => {
                if let Some(version) = room.version(&dot) {
                    room.stored.push(version);
                }
            }
            replica::Output::Operated(LEAVE, Ok(())) => self.has_left = true,
            replica::Output::Operated(OPERATOR, Ok(())) => room.witness.forgotten += 1,
            replica::Output::Roster(roster) => {
                self.healing.forget_removed(&roster);
                self.healing.machine.handle(clocks.now, replicator::Input::Roster(roster));
            }
            replica::Output::Ready(ready) => {
                self.healing.machine.handle(clocks.now, replicator::Input::Ready(ready.is_ok()));
            }
            replica::Output::Refused(_)
            | replica::Output::Conflict { .. }
            | replica::Output::Operated(..)
            | replica::Output::MajorityLost(_) => {}
        }
    }

    fn completed(&mut self, room: &mut Room, clocks: Clocks, issued: Issued, outcome: Outcome) {
        let (operation, answer) = match (issued, outcome) {
            (Issued::Begin { operation, value, durability }, Outcome::Begun { dot }) => {
                let placing = Placing::Shared { operation, dot, value, durability };
                self.place(room, clocks.now, placing, shared_of(&value), durability);
                return;
            }
            (Issued::Abort { operation }, _) => (operation, Answer::NoOwners),
            (Issued::Nothing, _) => return,
            (Issued::Last { operation } | Issued::Begin { operation, .. }, outcome) => match outcome {
                Outcome::Published { version, .. } => (operation, Answer::Written(version)),
                Outcome::Read { survivors, consistency } => {
                    let local = consistency == Consistency::Local;
                    let root = head(&survivors).and_then(|head| Some(head.content.as_ref()?.root));
                    let chunks = root.map(|root| vec![shared_of(&root), root]).unwrap_or_default();
                    let candidates = VecDeque::new();
                    let reading = Reading { operation, survivors, local, chunks, candidates, silent: false };
                    self.next_command += 1;
                    self.reads.insert(self.next_command, reading);
                    self.look(room, clocks.now, self.next_command);
                    return;
                }
                Outcome::Refused(refusal) => (operation, Answer::Refused(refusal)),
                Outcome::Begun { .. } | Outcome::Done => return,
            },
        };
        self.outputs.push_back(Output::Answer { operation, answer });
    }

    /// Looks for the next chunk of a read here, then at its owners, then at every other member.
    fn look(&mut self, room: &mut Room, now: Instant, key: u64) {
        loop {
            let Some(reading) = self.reads.get_mut(&key) else { return };
            let Some(chunk) = reading.chunks.first().copied() else {
                self.read_ends(key, None);
                return;
            };
            if !(room.shelf.has(&chunk) && room.is_whole(&chunk)) {
                let others = self.view.ring().preference(chunk.key(), 3);
                reading.candidates = others.into_iter().filter(|id| *id != self.seat.id).collect();
                self.read_on(room, now, key, Some(false));
                return;
            }
            reading.chunks.remove(0);
        }
    }

    /// Who was asked for a chunk has it, or not, or has not answered.
    fn read_on(&mut self, room: &mut Room, now: Instant, key: u64, found: Option<bool>) {
        let Some(reading) = self.reads.get_mut(&key) else { return };
        reading.silent |= found.is_none();
        let Some(chunk) = reading.chunks.first().copied() else { return };
        if found == Some(true) {
            reading.chunks.remove(0);
            reading.silent = false;
            self.look(room, now, key);
        } else if let Some(next) = reading.candidates.pop_front() {
            let deadline = now + Duration::from_secs(2);
            self.request(next, Question::Fetch(chunk), deadline, Sent::Read(key));
        } else {
            // Nobody has it only where everybody says so.
            let lacking = (!reading.silent).then_some(chunk);
            self.read_ends(key, lacking);
        }
    }

    fn read_ends(&mut self, key: u64, lacking: Option<ChunkId>) {
        let Some(Reading { operation, survivors, local, .. }) = self.reads.remove(&key) else { return };
        let answer = Answer::Read { survivors, local, lacking };
        self.outputs.push_back(Output::Answer { operation, answer });
    }
}

impl Process for Node {
    type Durable = Room;
    type Config = Setup;
    type Request = Addressed;
    type Response = Reply;

    fn blank(_: &Setup, seat: &Seat) -> Room {
        Room {
            db: MemoryStorage::new(),
            backup: MemoryStorage::new(),
            disk: Disk::default(),
            secret: rng::bytes(seat.seed, "identity", Self::unique(seat)),
            epoch: 0,
            peers: Vec::new(),
            commit: Duration::from_millis(1),
            fails: false,
            stored: Vec::new(),
            shelf: Shelf::default(),
            backup_shelf: Shelf::default(),
            queue: Queue::default(),
            backup_queue: Queue::default(),
            leaving: false,
            witness: Witness::default(),
        }
    }

    fn start(setup: &Setup, seat: Seat, room: &mut Room, clocks: Clocks) -> Result<Self, Broken> {
        let unique = Self::unique(&seat);
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
            leave_at: None,
            has_left: false,
            reads: BTreeMap::new(),
            key,
            replica,
            swim,
            views: 0,
            stale: true,
            stirred: false,
            view: Arc::new(View::without_ring(0, [])),
            roster_ring: (u64::MAX, Ring::default()),
            sent: BTreeMap::new(),
            next_request: 0,
            issued: BTreeMap::new(),
            next_command: 0,
            placements: BTreeMap::new(),
            next_placement: 0,
            slow: VecDeque::new(),
            next_sweep: clocks.now + SWEEP,
            outputs: VecDeque::new(),
            seat,
        };
        if room.leaving {
            node.begin_to_leave(clocks.now);
        }
        let opened = (|| {
            node.settle(room, clocks)?;
            node.replica.before_commit(&mut room.db)
        })();
        opened.map_err(|_: StorageError| Broken)?;
        room.db.commit();
        Ok(node)
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
        let placements = self.placements.values().filter_map(|(_, p, _)| p.poll_timeout());
        let machines = [self.replica.poll_timeout(), self.swim.poll_timeout()];
        placements
            .chain(machines.into_iter().flatten())
            .chain([self.next_sweep])
            .chain(self.leave_at)
            .chain(self.healing.poll_timeout())
            .chain(self.delivery.next)
            .chain(self.slow.front().map(|(due, ..)| *due))
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

    fn is_leaving(&self) -> bool {
        self.leave_at.is_some()
    }

    fn replicas(&self) -> usize {
        self.replica.council().replicas()
    }

    fn owners(&self, chunk: &ChunkId) -> Vec<Place> {
        let owners = self.view.ring().owners(chunk.key(), self.replicas());
        owners.iter().filter_map(|id| self.place_of(id)).collect()
    }

    fn uploading(&self) -> Vec<Dot> {
        let slow = self.slow.iter().map(|(_, placing, ..)| placing.dot());
        // A `fast` version is in the catalog before its chunks are placed elsewhere, and may be superseded meanwhile.
        let placed = self.placements.values().filter(|(p, ..)| !matches!(p, Placing::Fast { .. }));
        placed.map(|(placing, ..)| placing.dot()).chain(slow).collect()
    }

    fn keeps(&self, room: &Room, chunk: &ChunkId) -> bool {
        let worth = |dot: &Dot| {
            let survives = room.db.survivor(dot).ok().flatten().is_some();
            let faults = replicator::Faults::default();
            Reference::judge(dot, self.replica.catalog().seen(), survives, false, faults)
        };
        let row = room.shelf.row(chunk);
        row.is_some_and(|row| row.recovered || row.dots.iter().any(|dot| worth(dot) != Reference::Ended))
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
