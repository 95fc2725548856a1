//! The council: this node's part in agreeing on the roster, and whether it may answer for it.
//!
//! One sans-IO machine per node, over the transaction of the step ([`Storage`]). The driver commits
//! before anything a step produced leaves the process; on a storage error it throws the machine
//! away and builds it anew with [`Council::open`]. It shares the storage with the catalog, whose
//! `seen` it only compares with floors.
//!
//! What it keeps, and where it comes from:
//!
//! - The roster: numbered lists that differ by one member, each decided by the members of the one
//!   before ([`paxos`](super::paxos)). Only decided lists are adopted or passed on, and n+1 is not
//!   proposed before the floor of n is known and seen.
//! - The floor of the roster ([`floor`](super::floor)): what this node had seen is recorded in the
//!   transaction that adopts a roster, and given out once the database is proved to be the latest.
//! - Readiness ([`readiness`](super::readiness)) and admission ([`admission`](super::admission)).
//!
//! | part | decides |
//! | --- | --- |
//! | [`drive`] | what has become possible: adopting, reaching the floor, rejoining |
//! | [`propose`] | which change is proposed, and getting it decided |
//! | [`answer`], [`tell`] | what is made of requests and answers; whom to ask and tell |
//! | [`standing`] | whether this node may answer for its roster |
//! | [`operator`] | what an operator says of members that do not come back |
//! | [`held`], [`flights`], [`record`] | the roster held; requests under way; what is written down |
//!
//! Invariant: a node whose [`standing`](Council::standing) is good has seen everything that was
//! acknowledged under any roster before the one it holds, or was entitled to answer for that one
//! and, the floor being unknown, is asked for a majority under both lists.

mod answer;
mod config;
mod drive;
mod flights;
mod hear;
mod held;
mod operator;
mod propose;
mod record;
mod standing;
mod tell;

use std::collections::{BTreeMap, VecDeque};

use super::admission::Presence;
use super::change::{Change, Decided, Phase, Reason};
use super::message::{Mark, Request, RequestId, Response};
use super::paxos::{Acceptor, Proposer};
use super::readiness::{Contact, Proof};
use super::{Constants, Entry, Roster};
use crate::catalog::electorate::HomeList;
use crate::catalog::storage::{Result, Storage, Table};
use crate::identity::{ClusterId, DatabaseId};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::view::View;
use flights::Flights;
use held::Held;
use propose::Want;
use record::{
    ACCEPTOR, CAUGHT_UP, CONFIRMATION, CaughtUp, Confirmation, DATABASE, DECIDED, FLOOR, KnownFloor, MARK,
    load,
};

pub use config::{Config, Faults, Founding};
pub use operator::ForgetRefused;

/// The most changes waiting to be proposed.
const MAX_WANTED: usize = 256;

/// The other end of a request, as the transport has proved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node id under which it is known.
    pub node: NodeId,
    /// Its proved identity key.
    pub key: [u8; 32],
}

/// No answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable;

/// What became of the council's doings.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A decided roster was adopted; reservations under others are void.
    Adopted(Roster),
    /// The floor of the roster became known: from now on one home list counts.
    FloorKnown,
    /// [`Council::standing`] changed.
    Ready(Result<(), String>),
    /// Somebody refused to admit this node; the text is for people.
    Refused(String),
    /// The database was given another id. What others know of the old one is void.
    DatabaseReplaced(DatabaseId),
}

/// One node's part in the roster.
#[derive(Debug)]
pub struct Council {
    config: Config,
    faults: Faults,
    rng: fastrand::Rng,
    now: Instant,
    database: DatabaseId,
    /// Whether the database's id was drawn by this process: nobody can have lost what it held.
    drawn_here: bool,
    fresh_database_used: bool,
    mark: u64,
    marked: bool,
    held: Option<Held>,
    acceptor: Acceptor,
    confirmation: Option<Confirmation>,
    caught_up: Option<CaughtUp>,
    remembered: BTreeMap<NodeId, Mark>,
    proof: Proof,
    contact: Contact,
    presence: Presence,
    proposer: Option<Proposer>,
    ballot_floor: u64,
    attempts: u32,
    propose_after: Instant,
    wanted: BTreeMap<NodeId, Want>,
    behind: BTreeMap<NodeId, Phase>,
    /// Whether this node decided the roster: it tells the others at once.
    decider: bool,
    adopted_at: Instant,
    told: BTreeMap<NodeId, Phase>,
    next_join: Instant,
    next_probe: Instant,
    next_cover: Instant,
    refused: Option<String>,
    flights: Flights,
    outbox: VecDeque<(NodeId, RequestId, Request)>,
    events: VecDeque<Event>,
    reported: Option<Result<(), String>>,
    wake: Instant,
}

impl Council {
    /// Takes up what the storage holds, or founds or prepares to join a cluster if it holds
    /// nothing. `now` starts every period of silence anew.
    pub fn open(config: Config, storage: &mut dyn Storage, now: Instant) -> Result<Self> {
        Self::open_with_faults(config, Faults::default(), storage, now)
    }

    /// [`Council::open`] with planted mistakes.
    #[doc(hidden)]
    pub fn open_with_faults(
        config: Config,
        faults: Faults,
        storage: &mut dyn Storage,
        now: Instant,
    ) -> Result<Self> {
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let stored: Option<DatabaseId> = load(storage, DATABASE)?;
        let decided: Option<Decided> = load(storage, DECIDED)?;
        let mut remembered = BTreeMap::new();
        for (key, value) in storage.records(Table::Mark)? {
            let node = std::str::from_utf8(&key).ok().and_then(|text| text.parse().ok());
            if let (Some(node), Ok(mark)) = (node, minicbor::decode(&value)) {
                remembered.insert(node, mark);
            }
        }
        let nonce = rng.u64(..);
        let mut council = Self {
            presence: Presence::new(config.node, now),
            database: stored.unwrap_or(config.fresh_database),
            drawn_here: stored.is_none(),
            fresh_database_used: stored.is_none(),
            mark: load(storage, MARK)?.unwrap_or(0),
            marked: false,
            acceptor: load(storage, ACCEPTOR)?.unwrap_or_default(),
            confirmation: load(storage, CONFIRMATION)?,
            caught_up: load(storage, CAUGHT_UP)?,
            remembered,
            proof: Proof::new(nonce),
            contact: Contact::default(),
            held: decided.map(Held::new),
            proposer: None,
            ballot_floor: 0,
            attempts: 0,
            propose_after: now,
            wanted: BTreeMap::new(),
            behind: BTreeMap::new(),
            decider: false,
            adopted_at: now,
            told: BTreeMap::new(),
            next_join: now,
            next_probe: now,
            next_cover: now,
            refused: None,
            flights: Flights::default(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            reported: None,
            wake: now,
            config,
            faults,
            rng,
            now,
        };
        if stored.is_none() {
            let database = council.database;
            council.put(storage, DATABASE, Some(&database))?;
        }
        let known: Option<KnownFloor> = load(storage, FLOOR)?;
        if let (Some(held), Some(known)) = (&mut council.held, known)
            && held.number() == known.number
        {
            held.floor.set_known(now, known.seen);
            held.floor_kept = true;
        }
        if council.held.is_none()
            && let Founding::Found { cluster } = council.config.founding
        {
            council.found(storage, now, cluster)?;
        }
        council.drive(storage, now)?;
        council.commit_mark(storage)?;
        Ok(council)
    }

    fn found(&mut self, storage: &mut dyn Storage, now: Instant, cluster: ClusterId) -> Result<()> {
        let constants = Constants {
            cluster,
            reference_capacity: self.config.capacity,
            replication_factor: self.config.replication_factor,
        };
        let empty = Roster { number: 0, constants, members: BTreeMap::new() };
        let change = Change { node: self.config.node, entry: Some(self.entry()), reason: Reason::Founded };
        self.adopt(storage, now, Decided::after(&empty, &change), None)
    }

    /// What the roster should bind this node to.
    fn entry(&self) -> Entry {
        Entry {
            key: self.config.key,
            database: self.database,
            zone: self.config.zone.clone(),
            capacity: self.config.capacity,
        }
    }

    // Verbs. Each ends by doing all that has become possible.

    /// Answers another council.
    pub fn handle_request(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        from: Peer,
        request: Request,
    ) -> Result<Response> {
        self.advance(now);
        let answer = self.answer(storage, now, from, request)?;
        self.drive(storage, now)?;
        self.commit_mark(storage)?;
        Ok(self.response(answer))
    }

    /// Takes the answer to a request from [`Council::poll_transmit`], or that none came. One that
    /// is no longer waited for is ignored.
    pub fn handle_response(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        id: RequestId,
        from: NodeId,
        result: Result<Response, Unreachable>,
    ) -> Result<()> {
        self.advance(now);
        if let Some(flight) = self.flights.end(id, from) {
            match result {
                Ok(response) => self.take_response(storage, now, &flight, response)?,
                Err(Unreachable) => self.take_loss(&flight),
            }
            self.drive(storage, now)?;
        }
        self.commit_mark(storage)
    }

    /// Takes a new snapshot of who is here: it shows whom to ask for admission, and who is gone.
    pub fn handle_view(&mut self, storage: &mut dyn Storage, now: Instant, view: &View) -> Result<()> {
        self.advance(now);
        self.presence.handle_view(now, view);
        self.drive(storage, now)?;
        self.commit_mark(storage)
    }

    /// Takes what a member announces of itself in every datagram: the [`Council::number`] it
    /// holds (0 for none), its database and its mark. Raises no mark of this node's own.
    pub fn handle_announcement(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        from: NodeId,
        number: u64,
        database: DatabaseId,
        mark: u64,
    ) -> Result<()> {
        self.advance(now);
        self.hear(storage, now, from, None, number, Mark { database, count: mark })?;
        if self.behind.contains_key(&from) {
            self.drive(storage, now)?;
        }
        self.commit_mark(storage)
    }

    /// Somebody answered a request on a name with a greater [`Council::number`]: fetches it.
    pub fn handle_behind(&mut self, now: Instant, from: NodeId, number: u64) {
        self.advance(now);
        self.note_phase(from, number);
        self.wake = self.wake.min(now);
    }

    /// The catalog has learnt of dots: looks whether the floor is reached.
    pub fn handle_seen_grown(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        self.advance(now);
        if self.is_caught_up() || self.next_cover > now {
            return Ok(());
        }
        self.drive(storage, now)?;
        self.commit_mark(storage)
    }

    /// Does what time has brought.
    pub fn handle_timeout(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        self.advance(now);
        if self.wake <= now {
            self.drive(storage, now)?;
        }
        self.commit_mark(storage)
    }

    /// When [`Council::handle_timeout`] wants to be called.
    pub const fn poll_timeout(&self) -> Instant {
        self.wake
    }

    /// The next request to send, to whom, under which id.
    pub fn poll_transmit(&mut self) -> Option<(NodeId, RequestId, Request)> {
        self.outbox.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Tells what time it is. Every verb does; call it before asking [`Council::standing`] in a
    /// step of the catalog, so that a process that was stopped for long does not answer on
    /// silence it has not noticed.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Raises the mark. Call it once in every transaction in which the catalog wrote anything,
    /// before the commit. The council's own verbs raise it themselves.
    pub fn note_commit(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.marked = true;
        self.commit_mark(storage)
    }

    // Questions.

    /// What requests on names and announcements carry: [`Phase::to_wire`] of the roster held, so
    /// it grows when a roster is adopted and again when its floor becomes known. `None` before
    /// admission. The roster's own number is in [`Council::roster`].
    pub fn number(&self) -> Option<u64> {
        self.held.as_ref().map(|held| held.phase().to_wire())
    }

    /// The home lists that each must give a majority for `name`: one, or two while the floor of
    /// the present roster is unknown (the one before first). Empty before admission.
    pub fn homes(&self, name: &Name) -> Vec<HomeList> {
        let Some(held) = &self.held else { return Vec::new() };
        held.homes(name, held.phase().floor || self.faults.single_list_before_floor)
    }

    /// N of the present roster; 0 before admission.
    pub fn replicas(&self) -> usize {
        self.roster().map_or(0, Roster::replicas)
    }

    /// The members with the databases they are bound to.
    pub fn members(&self) -> Vec<(NodeId, DatabaseId)> {
        let members = self.roster().into_iter().flat_map(|r| &r.members);
        members.map(|(id, entry)| (*id, entry.database)).collect()
    }

    /// The roster held.
    pub fn roster(&self) -> Option<&Roster> {
        self.held.as_ref().map(Held::roster)
    }

    /// The cluster's constants, once admitted.
    pub fn constants(&self) -> Option<Constants> {
        self.roster().map(|roster| roster.constants)
    }

    /// The present database id.
    pub const fn database(&self) -> DatabaseId {
        self.database
    }

    /// How many catalog transactions were committed. Announce it only after the commit.
    pub const fn mark(&self) -> u64 {
        self.mark
    }
}
