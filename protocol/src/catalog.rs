//! The catalog: names to versions.
//!
//! [`Catalog`] is one state machine a node. It keeps every version that survives, shares what it
//! learns with the other members, votes on names as a home replica, and coordinates the reads and
//! writes of its own services. The node drives it over SQLite, the simulator over
//! [`memory::MemoryStorage`]; both drive this type.
//!
//! The driver's duties:
//!
//! - Each verb runs in one storage transaction, committed before anything that
//!   [`Catalog::poll_transmit`] or [`Catalog::poll_event`] yields leaves the process. If a verb or
//!   the commit fails, the machine is thrown away and rebuilt by [`Catalog::open`].
//! - Every [`Transmit::Request`] is answered by exactly one [`Catalog::handle_response`], with
//!   [`Unreachable`] at its deadline at the latest. Every [`Transmit::Response`] is sent or dropped.
//! - [`Catalog::handle_roster`] is called after opening, and in the transaction in which a change
//!   of the electorate becomes durable.
//! - Time is monotonic running time.
//!
//! | module | owns |
//! | --- | --- |
//! | [`merge`] | what becomes of a version that is learnt: the invariant of survivors |
//! | [`seen`], [`storage`], [`memory`] | seen dots; what is durable; a database in memory |
//! | [`command`], [`message`] | what services and other nodes say |
//! | [`electorate`] | who votes |
//! | `dots` | reserving, opening and closing dots |
//! | `operation`, `read`, `write`, `reserve` | operations of this node as a coordinator |
//! | `vote` | this node as a replica: reservations and votes |
//! | `exchange`, `relay`, `collect` | healing what a push missed; passing on; dropping stubs |
//! | `audit` | a slow pass by fingerprints that finds what rot hid |

pub mod command;
#[doc(hidden)]
pub mod conformance;
pub mod electorate;
pub mod memory;
pub mod merge;
pub mod message;
pub mod seen;
pub mod storage;

mod audit;
mod census;
mod collect;
mod dots;
mod exchange;
mod fingerprint;
mod operation;
mod read;
mod relay;
mod reserve;
#[cfg(test)]
mod tests;
mod vote;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::command::{Command, CommandId, Outcome};
use self::electorate::Electorate;
use self::merge::{Knowledge, Learned};
use self::message::{Request, Response};
use self::operation::Operation;
use self::seen::Seen;
use self::storage::{Result, Storage};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::roster::DatabaseId;
use crate::time::Instant;
use crate::version::{Dot, Version};
use crate::view::View;

/// Settings of a catalog.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// How long stragglers are waited for once a majority has acknowledged (`ACK_GRACE_MS`).
    pub ack_grace: Duration,
    /// How long a read of a name waits for a majority.
    pub read_timeout: Duration,
    /// How long a write, from its publishing command on, may take in all.
    pub write_timeout: Duration,
    /// How long one request waits for its answer before it is sent again.
    pub request_timeout: Duration,
    /// How long a reservation stands.
    pub reservation: Duration,
    /// How long a recorded vote is kept.
    pub vote_kept: Duration,
    /// The least time between two exchanges that this node begins.
    pub exchange_interval: Duration,
    /// The least time between two windows of names that this node compares by fingerprints.
    pub audit_interval: Duration,
    /// How often stubs are looked through for what everybody has seen.
    pub collect_interval: Duration,
    /// Planted bugs.
    #[doc(hidden)]
    pub faults: Faults,
}

impl Config {
    /// The defaults, for this node.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            ack_grace: Duration::from_millis(500),
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(9),
            request_timeout: Duration::from_secs(2),
            reservation: Duration::from_secs(5),
            vote_kept: Duration::from_secs(600),
            exchange_interval: Duration::from_secs(1),
            audit_interval: audit::INTERVAL,
            collect_interval: Duration::from_secs(10),
            faults: Faults::default(),
        }
    }
}

/// Planted bugs, each one changed line, to show that a harness finds them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Majorities are counted over the live members of the view instead of the roster.
    pub majority_over_view: bool,
    /// Generation and block of dots start from 1 after a lost database.
    pub reuse_dots: bool,
    /// The context of a write is taken from the local state only.
    pub local_context_only: bool,
    /// A tombstone can be the head.
    pub tombstone_as_head: bool,
    /// A replica that is not ready answers all the same.
    pub answer_before_ready: bool,
    /// A repeated vote counts as another.
    pub count_repeated_votes: bool,
    /// The stamp's count is the wall clock.
    pub wall_clock_stamp: bool,
}

/// A peer could not be asked, or did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer could not be reached")]
pub struct Unreachable;

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A request to a member.
    Request {
        /// The member.
        to: NodeId,
        /// Names the request; hand it back with the answer.
        id: u64,
        /// The request.
        request: Request,
        /// When to give up and report [`Unreachable`].
        deadline: Instant,
    },
    /// The answer to a request.
    Response {
        /// The token that came with the request.
        token: u64,
        /// The answer.
        response: Response,
    },
}

/// What the services and the council should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command is answered.
    Completed {
        /// The command.
        id: CommandId,
        /// Its answer.
        outcome: Outcome,
    },
    /// A version survives here that did not before: written here (its dot's node is this one) or
    /// learnt.
    Written {
        /// The name.
        name: Name,
        /// The version.
        dot: Dot,
        /// Whether it is a tombstone.
        deleted: bool,
    },
    /// A name has a second live version since just now, concurrent with the first.
    Conflict {
        /// The name.
        name: Name,
    },
    /// More is seen than before: announce [`Catalog::seen_digest`] and tell the council.
    SeenChanged,
    /// Whether this node may vote has changed, as the electorate says.
    Ready(std::result::Result<(), String>),
    /// `from` holds a newer roster than this node: the council should fetch it.
    Behind {
        /// Who has it.
        from: NodeId,
        /// Its number.
        number: u64,
    },
    /// All that `peer` knew at its beginning was exchanged.
    Exchanged {
        /// The peer.
        peer: NodeId,
        /// Whether anything was new.
        learnt: bool,
    },
    /// The disk had lost a live version, which was put back, or had brought one back, which was dropped.
    Healed {
        /// The name.
        name: Name,
        /// The version.
        dot: Dot,
        /// Whether it was put back.
        restored: bool,
    },
    /// Somebody offered a known dot with other content, or no version at all; it was not stored.
    Contradiction {
        /// The dot.
        dot: Dot,
    },
}

/// What a verb works with.
struct Step<'a> {
    storage: &'a mut dyn Storage,
    now: Instant,
    electorate: &'a dyn Electorate,
}

/// The catalog of one node. See the module's text for the duties of its driver.
pub struct Catalog {
    config: Config,
    rng: fastrand::Rng,
    knowledge: Knowledge,
    /// The changes of `knowledge` that were told by [`Event::SeenChanged`].
    told: u64,
    dots: dots::Dots,
    operations: BTreeMap<u64, Operation>,
    /// Writes by their dots.
    writes: BTreeMap<Dot, u64>,
    /// When an operation is next to be looked at.
    alarms: BTreeSet<(Instant, u64)>,
    /// Requests under way and what they are for.
    requests: BTreeMap<u64, Purpose>,
    next_operation: u64,
    next_request: u64,
    replica: vote::Replica,
    exchange: exchange::Exchange,
    relays: relay::Relays,
    collect: collect::Collector,
    audit: audit::Auditor,
    /// Members that the view does not rule out, where there is a view.
    reachable: Option<BTreeSet<NodeId>>,
    ready: Option<std::result::Result<(), String>>,
    /// No write begins here any more.
    closed: bool,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// What a request was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Operation { id: u64, node: NodeId },
    Exchange,
    Audit,
    Relay(u64),
    Nothing,
}

impl Catalog {
    /// Opens the catalog in `storage`: lets standing reservations run anew, and closes the dots that
    /// were left open as soon as the electorate says that the database is intact. `seed` feeds back-off
    /// and the choice of peers. `generation` is [`DatabaseId::generation`] of bits never given twice: the
    /// log of this node's writes until the next opening.
    ///
    /// # Errors
    ///
    /// If the storage fails or holds records that no catalog wrote.
    pub fn open(
        config: Config,
        storage: &mut dyn Storage,
        now: Instant,
        seed: u64,
        generation: u64,
    ) -> Result<Self> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let knowledge = Knowledge::open(storage)?;
        let dots = dots::Dots::open(&config, storage, generation)?;
        Ok(Self {
            knowledge,
            told: 0,
            dots,
            operations: BTreeMap::new(),
            writes: BTreeMap::new(),
            alarms: BTreeSet::new(),
            requests: BTreeMap::new(),
            next_operation: 0,
            // Answers to a catalog that was thrown away must not be taken for answers to this one.
            next_request: rng.u64(..1 << 62),
            replica: vote::Replica::open(&config, storage, now)?,
            exchange: exchange::Exchange::new(now),
            relays: relay::Relays::default(),
            collect: collect::Collector::new(now + config.collect_interval),
            audit: audit::Auditor::new(now + config.audit_interval),
            reachable: None,
            ready: None,
            closed: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            rng,
            config,
        })
    }

    /// Does what the services ask. Each command is answered by one [`Event::Completed`].
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_command(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        electorate: &dyn Electorate,
        id: CommandId,
        command: Command,
    ) -> Result<()> {
        self.command(&mut Step { storage, now, electorate }, id, command)?;
        self.tell();
        Ok(())
    }

    /// Answers a member. `token` comes back in the [`Transmit::Response`].
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_request(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        electorate: &dyn Electorate,
        from: NodeId,
        token: u64,
        request: Request,
    ) -> Result<()> {
        let response = self.answer(&mut Step { storage, now, electorate }, from, request)?;
        self.transmits.push_back(Transmit::Response { token, response });
        self.tell();
        Ok(())
    }

    /// Takes the answer of a member. An answer that is no longer waited for is ignored.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_response(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        electorate: &dyn Electorate,
        request_id: u64,
        from: NodeId,
        response: std::result::Result<Response, Unreachable>,
    ) -> Result<()> {
        let mut step = Step { storage, now, electorate };
        if let Ok(Response::Behind(number)) = response {
            self.events.push_back(Event::Behind { from, number });
        }
        match self.requests.remove(&request_id) {
            Some(Purpose::Operation { id, node }) if node == from => {
                self.operation_answer(&mut step, id, node, request_id, response)?;
            }
            Some(Purpose::Exchange) => self.exchange_answer(&mut step, from, request_id, response)?,
            Some(Purpose::Audit) => self.audit_answer(&mut step, from, request_id, response)?,
            Some(Purpose::Relay(relay)) => self.relay_answer(&step, relay, response.is_ok()),
            Some(_) | None => {}
        }
        self.tell();
        Ok(())
    }

    /// A member announced the digest of what it has seen, under its database, in a datagram.
    pub fn handle_announcement(
        &mut self,
        now: Instant,
        from: NodeId,
        database: DatabaseId,
        seen_digest: [u8; 16],
    ) {
        if from == self.config.node {
            return;
        }
        self.collect.heard(from, database, seen_digest);
        if seen_digest == self.knowledge.digest() {
            self.collect.announced(from, database, Arc::clone(self.knowledge.seen()));
            self.exchange.agrees(from);
        } else {
            self.exchange.differs(now, from, seen_digest);
        }
    }

    /// Who is here has changed: members that came back are asked again at once.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_view(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        electorate: &dyn Electorate,
        view: &View,
    ) -> Result<()> {
        let members = view.members().filter(|m| m.state.is_reachable()).map(|m| m.id);
        self.handle_reachable(storage, now, electorate, members.collect())
    }

    /// What [`Self::handle_view`] takes from a view: who may be up, this node included.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_reachable(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        electorate: &dyn Electorate,
        members: BTreeSet<NodeId>,
    ) -> Result<()> {
        let before = self.reachable.replace(members.clone()).unwrap_or_default();
        let returned: Vec<NodeId> = members.difference(&before).copied().collect();
        if !returned.is_empty() {
            self.exchange.returned(now, &returned);
            self.ask_again(&mut Step { storage, now, electorate }, &returned)?;
        }
        self.tell();
        Ok(())
    }

    /// The roster, its floor or this node's standing changed: standing reservations are void if the
    /// number did, and operations begin anew under it.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_roster(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        electorate: &dyn Electorate,
    ) -> Result<()> {
        let mut step = Step { storage, now, electorate };
        self.replica.handle_roster(step.storage, electorate.number())?;
        if electorate.is_intact() {
            self.dots.close_left(step.storage, &mut self.knowledge)?;
        }
        let standing = electorate.standing();
        if self.ready.as_ref() != Some(&standing) {
            if standing.is_err() {
                let members = electorate.members().into_iter().map(|(member, _)| member);
                self.exchange.hurry(now, members.filter(|member| *member != self.config.node));
            }
            self.ready = Some(standing.clone());
            self.events.push_back(Event::Ready(standing));
        }
        self.collect.handle_members(&electorate.members());
        self.restart_operations(&mut step)?;
        self.tell();
        Ok(())
    }

    /// The database was found to be behind what it once was: what it holds as left open may have
    /// been published since.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_database_replaced(
        &mut self,
        storage: &mut dyn Storage,
        database: &DatabaseId,
    ) -> Result<()> {
        self.dots.replaced(&self.config, storage, database)
    }

    /// Does what is due.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn handle_timeout(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        electorate: &dyn Electorate,
    ) -> Result<()> {
        let mut step = Step { storage, now, electorate };
        let due: Vec<(Instant, u64)> = self.alarms.iter().take_while(|(at, _)| *at <= now).copied().collect();
        for (at, id) in due {
            if self.alarms.remove(&(at, id)) {
                self.operation_timeout(&mut step, id)?;
            }
        }
        self.replica.handle_timeout(step.storage, now)?;
        self.exchange_timeout(&step);
        self.collect_timeout(&mut step)?;
        self.audit_timeout(&step)?;
        self.tell();
        Ok(())
    }

    /// When [`Self::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let passes = [self.exchange.poll_timeout(), self.collect.poll_timeout(), self.audit.poll_timeout()];
        [alarm, self.replica.poll_timeout()].into_iter().chain(passes).flatten().min()
    }

    /// The next thing to send, once the step is committed.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to tell, once the step is committed.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What this node has seen.
    pub fn seen(&self) -> &Seen {
        self.knowledge.seen()
    }

    /// The digest to announce.
    pub fn seen_digest(&self) -> [u8; 16] {
        self.knowledge.digest()
    }

    /// Begins a thorough exchange with `peer` soon, whatever it announced: for a newcomer that has
    /// to catch up. [`Event::Exchanged`] tells when it succeeded.
    pub fn request_exchange(&mut self, now: Instant, peer: NodeId) {
        self.exchange.urge(now, peer);
    }

    /// Merges a published version that came by another road than a catalog message.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn merge(&mut self, storage: &mut dyn Storage, version: &Version) -> Result<Learned> {
        let learned = self.learn(storage, version)?;
        self.tell();
        Ok(learned)
    }

    /// Takes no more writes: this node is about to leave. What has begun goes on; reads always do.
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// What this node alone may know of until it is done, if there is such a thing: writes under way, and
    /// `fast` ones that are not published.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn unfinished(&self, storage: &dyn Storage) -> Result<Option<String>> {
        let writes = self.operations.values().filter(|op| !matches!(op.goal, operation::Goal::Read)).count();
        Ok(if writes > 0 {
            Some(format!("{writes} writes are under way"))
        } else if !storage.unpublished(None, 1)?.is_empty() {
            Some("a fast write is not with its owners yet".into())
        } else {
            None
        })
    }

    /// Whether all of `seen` is known to every other member that is here; else what there is to wait for.
    pub fn is_shared(&self, electorate: &dyn Electorate, seen: &Seen) -> std::result::Result<(), String> {
        let members = electorate.members();
        let mut others = members.iter().filter(|(id, _)| *id != self.config.node && self.is_reachable(id));
        match others.clone().next() {
            None => Err("no other member is here".into()),
            Some(_) => match others.find(|(id, database)| !self.collect.has_seen(id, *database, seen)) {
                Some((behind, _)) => Err(format!("{behind} does not know yet all that this node knows")),
                None => Ok(()),
            },
        }
    }

    /// How many operations are under way: begun writes, reads, deletes.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    fn learn(&mut self, storage: &mut dyn Storage, version: &Version) -> Result<Learned> {
        let learned = self.knowledge.learn(storage, version)?;
        match learned {
            Learned::New => self.written(storage, version)?,
            Learned::Known => {}
            Learned::Refused => self.events.push_back(Event::Contradiction { dot: version.dot }),
        }
        Ok(learned)
    }

    /// A version survives here that did not before.
    fn written(&mut self, storage: &dyn Storage, version: &Version) -> Result<()> {
        let Version { name, dot, .. } = version.clone();
        self.events.push_back(Event::Written { name, dot, deleted: version.is_tombstone() });
        self.published(storage, version)
    }

    /// A version counts for readers that did not before.
    fn published(&mut self, storage: &dyn Storage, version: &Version) -> Result<()> {
        let survivors = storage.survivors(&version.name)?;
        let live: Vec<Dot> = survivors
            .iter()
            .filter(|s| s.published && !s.version.is_tombstone())
            .map(|s| s.version.dot)
            .collect();
        if live.len() == 2 && live.contains(&version.dot) {
            self.events.push_back(Event::Conflict { name: version.name.clone() });
        }
        Ok(())
    }

    /// The end of every step.
    fn tell(&mut self) {
        if self.told != self.knowledge.changes() {
            self.told = self.knowledge.changes();
            self.events.push_back(Event::SeenChanged);
        }
    }

    fn request(&mut self, to: NodeId, request: Request, deadline: Instant, purpose: Purpose) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.requests.insert(id, purpose);
        self.transmits.push_back(Transmit::Request { to, id, request, deadline });
        id
    }

    /// Whether this node may vote, in the electorate's eyes.
    fn may_vote(&self, electorate: &dyn Electorate) -> bool {
        electorate.standing().is_ok() || self.config.faults.answer_before_ready
    }

    fn is_reachable(&self, node: &NodeId) -> bool {
        self.reachable.as_ref().is_none_or(|members| members.contains(node))
    }
}

type SharedSeen = Arc<Seen>;
