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
//! Invariant: a node whose [`standing`](Council::standing) is good has seen everything that was
//! acknowledged under any roster before the one it holds, or was entitled to answer for that one
//! and, the floor being unknown, is asked for a majority under both lists.

mod answer;
mod drive;
mod operator;

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::time::Duration;

use minicbor::{Decode, Encode};

use super::admission::Presence;
use super::floor::Floor;
use super::message::{
    Ballot, Change, Decided, Mark, Phase, Question, RING_VERSION, Reason, Request, RequestId, Response,
};
use super::paxos::{Acceptor, Proposer};
use super::readiness::{Contact, Proof};
use super::{ClusterId, Constants, DatabaseId, Entry, Roster};
use crate::catalog::electorate::HomeList;
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage, StorageError, Table};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::ring::Ring;
use crate::time::Instant;
use crate::view::View;

pub use operator::ForgetRefused;

/// The most requests under way at once.
const MAX_IN_FLIGHT: usize = 1024;
/// The most changes waiting to be proposed.
const MAX_WANTED: usize = 256;

/// How this node comes by its first roster; a roster on disk goes before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Founding {
    /// It founds a cluster: it has neither seeds nor persisted peers. The id is random.
    Found {
        /// The new cluster's name.
        cluster: ClusterId,
    },
    /// It asks the members that gossip shows it.
    Join,
}

/// What a council is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Its identity key.
    pub key: [u8; 32],
    /// Its failure zone, at most 63 bytes.
    pub zone: Option<String>,
    /// Bytes it offers.
    pub capacity: u64,
    /// The configured N; must be the cluster's.
    pub replication_factor: u8,
    /// `FORGET_AFTER_SECS`: after so long without a word a member is given up.
    pub forget_after: Duration,
    /// How it comes by its first roster.
    pub founding: Founding,
    /// Random: the id of the database if it has none yet, or must have another.
    pub fresh_database: DatabaseId,
    /// Random: seeds nonces, delays and further database ids.
    pub seed: u64,
}

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

/// Mistakes that tests plant to see that they are found; all off.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A restarted node does not wait for any answer before it takes its database for the latest.
    pub ready_without_nonces: bool,
    /// A database found to be behind goes on under its id.
    pub keep_database_id_when_behind: bool,
    /// The next roster is proposed and voted before the floor of the present one is known and seen.
    pub propose_before_floor: bool,
    /// Promises and acceptances are not written down.
    pub forget_promises: bool,
    /// One home list counts although the floor is not known.
    pub single_list_before_floor: bool,
}

/// The floor of a roster this node has wholly seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct CaughtUp {
    #[n(0)]
    number: u64,
    #[n(1)]
    database: DatabaseId,
}

/// What this node had seen when it adopted a roster.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
struct Confirmation {
    #[n(0)]
    number: u64,
    #[n(1)]
    database: DatabaseId,
    #[n(2)]
    seen: Seen,
}

#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
struct KnownFloor {
    #[n(0)]
    number: u64,
    #[n(1)]
    seen: Seen,
}

/// The roster this node holds, with what follows from it.
#[derive(Debug)]
struct Held {
    decided: Decided,
    floor: Floor,
    /// Built when a name is first asked about.
    ring: OnceLock<Ring>,
    previous_ring: OnceLock<Ring>,
    /// Whether the floor is written down.
    floor_kept: bool,
}

impl Held {
    fn new(decided: Decided) -> Self {
        let floor = Floor::new(&decided);
        Self { decided, floor, ring: OnceLock::new(), previous_ring: OnceLock::new(), floor_kept: false }
    }

    const fn roster(&self) -> &Roster {
        &self.decided.roster
    }

    const fn number(&self) -> u64 {
        self.decided.roster.number
    }

    fn phase(&self) -> Phase {
        Phase { number: self.number(), floor: self.floor.known().is_some() }
    }

    fn binds(&self, node: &NodeId, database: DatabaseId) -> bool {
        let lists = [self.roster(), self.floor.previous()];
        lists.into_iter().any(|r| r.members.get(node).is_some_and(|e| e.database == database))
    }

    fn knows(&self, node: &NodeId) -> bool {
        self.roster().members.contains_key(node) || self.floor.previous().members.contains_key(node)
    }
}

/// A change this node would propose.
#[derive(Clone, Debug)]
struct Want {
    change: Change,
    /// Not before; spreads the proposals of members that see the same.
    after: Instant,
    /// Forgotten unless asked for again.
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hello,
    Join,
    Learn,
    Adopt(Phase),
    Prepare(Ballot),
    Accept(Ballot),
}

#[derive(Clone, Debug)]
struct Flight {
    to: NodeId,
    kind: Kind,
    sent: Instant,
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
    last_sent: BTreeMap<(NodeId, u8), Instant>,
    refused: Option<String>,
    in_flight: BTreeMap<RequestId, Flight>,
    next_id: u64,
    outbox: VecDeque<(NodeId, RequestId, Request)>,
    events: VecDeque<Event>,
    reported: Option<Result<(), String>>,
    wake: Instant,
}

const DATABASE: &[u8] = b"database";
const DECIDED: &[u8] = b"decided";
const ACCEPTOR: &[u8] = b"acceptor";
const FLOOR: &[u8] = b"floor";
const CONFIRMATION: &[u8] = b"confirmation";
const CAUGHT_UP: &[u8] = b"caught-up";
const MARK: &[u8] = b"mark";

fn load<T: for<'b> Decode<'b, ()>>(storage: &dyn Storage, key: &'static [u8]) -> Result<Option<T>> {
    let Some(bytes) = storage.record(Table::Council, key)? else { return Ok(None) };
    let damaged = |_| StorageError(format!("the council's record {} is damaged", key.escape_ascii()));
    minicbor::decode(&bytes).map(Some).map_err(damaged)
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
            last_sent: BTreeMap::new(),
            refused: None,
            in_flight: BTreeMap::new(),
            next_id: 0,
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
        if self.in_flight.get(&id).is_some_and(|f| f.to == from)
            && let Some(flight) = self.in_flight.remove(&id)
        {
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
        let list = |roster: &Roster, ring: &OnceLock<Ring>| HomeList {
            nodes: ring.get_or_init(|| roster.ring()).owners(name.key(), roster.replicas()),
            majority: roster.majority(),
        };
        let present = list(held.roster(), &held.ring);
        let previous = held.floor.previous();
        let single = held.phase().floor || self.faults.single_list_before_floor;
        if single || previous.members.is_empty() {
            return vec![present];
        }
        vec![list(previous, &held.previous_ring), present]
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

    /// Whether this node may answer for the roster it holds, as of the last time it was told;
    /// else, for people, what it waits for.
    pub fn standing(&self) -> Result<(), String> {
        let Some(held) = &self.held else {
            return Err(match &self.refused {
                Some(why) => format!("not admitted: {why}"),
                None => "waiting to be admitted by the members that gossip shows".into(),
            });
        };
        let (roster, me) = (held.roster(), &self.config.node);
        let factor = roster.constants.replication_factor;
        if factor != self.config.replication_factor {
            let own = self.config.replication_factor;
            return Err(format!("the replication factor is set to {own}, but the cluster's is {factor}"));
        }
        if !self.is_bound(roster) {
            return Err(match &self.refused {
                Some(why) => format!("not admitted: {why}"),
                None => format!("waiting for roster {} to be followed by one with this node", roster.number),
            });
        }
        if !self.proof.proved {
            let more = self.proof.outstanding(roster, me);
            return Err(format!("waiting for {more} more members to say that this database is the latest"));
        }
        if self.heard_until(held).is_none_or(|until| until <= self.now) {
            return Err("a majority of the roster does not answer".into());
        }
        if self.is_caught_up() {
            return Ok(());
        }
        let entitled =
            self.caught_up_number() == held.floor.previous().number && self.is_bound(held.floor.previous());
        match held.floor.known() {
            None if entitled => Ok(()),
            None => Err(format!(
                "waiting for the floor of roster {}: {} members have not confirmed it",
                roster.number,
                held.floor.missing().count()
            )),
            Some(_) => Err(format!("catching up with what roster {} started from", roster.number)),
        }
    }

    /// Whether the roster held has this node's id.
    pub fn is_member(&self) -> bool {
        self.roster().is_some_and(|roster| roster.members.contains_key(&self.config.node))
    }

    fn is_bound(&self, roster: &Roster) -> bool {
        let entry = roster.members.get(&self.config.node);
        entry.is_some_and(|e| e.key == self.config.key && e.database == self.database)
    }

    /// Whether this database is proved to be the latest and was caught up with some roster: what
    /// it has seen and does not hold is superseded, even while this node waits to see more. A
    /// database that was found to be behind is not: what it closed may have been published.
    pub fn is_intact(&self) -> bool {
        self.proof.proved && self.caught_up_number() > 0
    }

    fn caught_up_number(&self) -> u64 {
        self.caught_up.filter(|c| c.database == self.database).map_or(0, |c| c.number)
    }

    fn is_caught_up(&self) -> bool {
        self.held.as_ref().is_some_and(|h| h.number() == self.caught_up_number())
    }

    /// Whether this node may take part in deciding the next roster.
    fn may_vote(&self) -> bool {
        self.standing().is_ok() && (self.is_caught_up() || self.faults.propose_before_floor)
    }

    fn heard_until(&self, held: &Held) -> Option<Instant> {
        if self.faults.ready_without_nonces {
            return Some(Instant::from_micros(u64::MAX));
        }
        self.contact.heard_until(held.roster(), &self.config.node, self.config.forget_after / 2)
    }

    // Durable records.

    fn put<T: Encode<()>>(&mut self, storage: &mut dyn Storage, key: &[u8], value: Option<&T>) -> Result<()> {
        self.marked = true;
        let bytes = value.map(|v| minicbor::to_vec(v).expect("writing to a Vec cannot fail"));
        storage.put_record(Table::Council, key, bytes.as_deref())
    }

    fn commit_mark(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if std::mem::take(&mut self.marked) {
            self.mark += 1;
            let bytes = minicbor::to_vec(self.mark).expect("writing to a Vec cannot fail");
            storage.put_record(Table::Council, MARK, Some(&bytes))?;
        }
        Ok(())
    }

    fn request(&self, question: Question) -> Request {
        Request {
            number: self.number().unwrap_or(0),
            cluster: self.constants().map(|c| c.cluster),
            database: self.database,
            mark: self.mark,
            question,
        }
    }

    fn join_question(&self) -> Question {
        Question::Join {
            entry: self.entry(),
            replication_factor: self.config.replication_factor,
            ring_version: RING_VERSION,
        }
    }
}
