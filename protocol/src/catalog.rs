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
//! | `learn`, `shared` | what follows from what is learnt; whether the others know it all |
//! | `requests`, `config`, `event` | requests under way; settings; what a catalog says |
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
mod config;
mod dots;
mod drive;
mod event;
mod exchange;
mod fingerprint;
mod learn;
mod operation;
mod publish;
mod read;
mod relay;
mod requests;
mod reserve;
mod shared;
mod stage;
#[cfg(test)]
mod tests;
mod vote;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use self::command::{Command, CommandId};
use self::electorate::Electorate;
use self::merge::Knowledge;
use self::message::{Request, Response};
use self::operation::Operation;
use self::requests::{Purpose, Requests};
use self::seen::Seen;
use self::storage::{Result, Storage};
use crate::identity::DatabaseId;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::Dot;
use crate::view::View;

pub use self::config::{Config, Faults};
pub use self::event::{Event, Transmit, Unreachable};

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
    requests: Requests,
    next_operation: u64,
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
            requests: Requests::new(rng.u64(..1 << 62)),
            next_operation: 0,
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
        match self.requests.end(request_id) {
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

    /// How many operations are under way: begun writes, reads, deletes.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    fn request(&mut self, to: NodeId, request: Request, deadline: Instant, purpose: Purpose) -> u64 {
        let id = self.requests.begin(purpose);
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
