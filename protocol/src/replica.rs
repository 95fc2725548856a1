//! A node's replica of names: council and catalog on one storage.
//!
//! This is what sits on the writer thread of a node, and what the simulator runs as it is. Every
//! step happens inside one transaction; what it says leaves only after the commit. The council
//! decides who votes, the catalog what names mean; this file carries news from one to the other in
//! the transaction in which it became true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::command::{Command, CommandId, Outcome};
use crate::catalog::electorate::{Electorate, HomeList};
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage};
use crate::catalog::{self, Catalog, Transmit};
use crate::identity::DatabaseId;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::roster::council::{self, Council, ForgetRefused, Peer};
use crate::roster::message::RequestId;
use crate::swim::Announcement;
use crate::time::Instant;
use crate::version::Dot;
use crate::view::View;

pub use self::message::{Malformed, Request, Response};
pub use crate::catalog::Unreachable;

mod message;
#[cfg(test)]
mod tests;

/// How long a council waits for an answer.
const COUNCIL_DEADLINE: Duration = Duration::from_secs(5);

/// The most questions to other nodes that wait for an answer.
const MAX_CALLS: usize = 65_536;

/// An operator's word on the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// This member is gone for good: the members decide on its removal. `Ok` says that this is under
    /// way; [`Output::Roster`] shows when it is done.
    Forget(NodeId),
    /// These members are gone for good, and a majority with them: the others are the roster from now
    /// on. `Ok` says that it is adopted here.
    ForgetLost(BTreeSet<NodeId>),
    /// This node is to leave, and says so in gossip. Once the others know all that it has seen, it proposes its
    /// own removal; `Ok` says that it is off the roster and nothing is known to it alone, so that it may say
    /// `left`. To be asked again until then.
    Leave,
    /// This node is to leave no more. Where it is off the roster already, it joins again as a newcomer.
    Stay,
}

/// Why an operator's word was not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorRefused {
    /// A forget was not begun.
    #[error(transparent)]
    Forget(#[from] ForgetRefused),
    /// It is too early to leave; ask again.
    #[error("this node cannot leave yet: {0}")]
    NotYet(String),
}

/// What a replica is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The services ask; answered by one [`Output::Completed`].
    Command(CommandId, Command),
    /// An operator asks; answered by one [`Output::Operated`].
    Operator(CommandId, Operator),
    /// A peer asks; answered by at most one [`Output::Response`].
    Request {
        /// Who.
        from: Peer,
        /// Comes back with the answer.
        token: u64,
        /// What.
        request: Request,
    },
    /// A peer answered, or did not.
    Response {
        /// The request's.
        id: u64,
        /// Who was asked.
        from: NodeId,
        /// The answer.
        result: std::result::Result<Response, Unreachable>,
    },
    /// Who is here has changed.
    View(Arc<View>),
    /// A member's datagram said what it has.
    Announced {
        /// The member.
        from: NodeId,
        /// What it said.
        announcement: Announcement,
    },
}

/// What a replica wants done, once the step is committed.
#[derive(Clone, Debug)]
pub enum Output {
    /// A command is answered.
    Completed(CommandId, Outcome),
    /// An operator's word is followed, or not.
    Operated(CommandId, std::result::Result<(), OperatorRefused>),
    /// The members that seem lost for good changed, where a majority is; empty where none is. Health
    /// says so: only [`Operator::ForgetLost`] helps.
    MajorityLost(BTreeSet<NodeId>),
    /// Ask a member.
    Request {
        /// The member.
        to: NodeId,
        /// Comes back with the answer.
        id: u64,
        /// What.
        request: Request,
        /// After this, report [`Unreachable`].
        deadline: Duration,
    },
    /// Answer a peer.
    Response {
        /// The request's.
        token: u64,
        /// The answer.
        response: Response,
    },
    /// A decided roster was adopted.
    Roster(Roster),
    /// Where this node stands.
    Ready {
        /// Whether it may serve, else what it waits for.
        standing: std::result::Result<(), String>,
        /// Whether it knows all that some roster started from, so that what it lists is what there was.
        caught_up: bool,
    },
    /// What datagrams are to say from now on.
    Announce(Announcement),
    /// The cluster refuses this node.
    Refused(String),
    /// A version survives here that did not before.
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
}

/// Whose question waits for an answer.
#[derive(Clone, Copy, Debug)]
enum Call {
    Catalog(u64),
    Council(RequestId),
}

/// Council and catalog of one node.
pub struct Replica {
    council: Council,
    catalog: Catalog,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    outputs: VecDeque<Output>,
    announced: Option<Announcement>,
    ready: Option<(std::result::Result<(), String>, bool)>,
    lost: BTreeSet<NodeId>,
    /// What was seen when this node was first asked to leave: as a member, and again once it was none any more.
    leaving: Option<(bool, Seen)>,
}

/// How a replica is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The council's settings.
    pub council: council::Config,
    /// The catalog's settings.
    pub catalog: catalog::Config,
    /// Planted bugs of the council.
    #[doc(hidden)]
    pub council_faults: council::Faults,
    /// Seeds back-off and the choice of peers.
    pub seed: u64,
    /// 64 random bits, never given twice: with the database they name the log of this node's writes
    /// until the next opening.
    pub generation: u64,
}

impl Replica {
    /// Opens what `storage` holds.
    ///
    /// # Errors
    /// The storage failed, or holds what no replica wrote.
    pub fn open(config: Config, storage: &mut dyn Storage, now: Instant) -> Result<Self> {
        let council = Council::open_with_faults(config.council, config.council_faults, storage, now)?;
        let generation = council.database().generation(config.generation);
        let mut catalog = Catalog::open(config.catalog, storage, now, config.seed, generation)?;
        catalog.handle_roster(storage, now, &council)?;
        let mut replica = Self {
            council,
            catalog,
            calls: BTreeMap::new(),
            next_call: 0,
            outputs: VecDeque::new(),
            announced: None,
            ready: None,
            lost: BTreeSet::new(),
            leaving: None,
        };
        if let Some(roster) = replica.council.roster() {
            replica.outputs.push_back(Output::Roster(roster.clone()));
        }
        replica.settle(storage, now)?;
        Ok(replica)
    }

    /// Takes one input.
    ///
    /// # Errors
    /// The storage failed: throw the replica away.
    pub fn handle(&mut self, storage: &mut dyn Storage, now: Instant, input: Input) -> Result<()> {
        self.council.advance(now);
        match input {
            Input::Command(id, command) => {
                self.catalog.handle_command(storage, now, &self.council, id, command)?;
            }
            Input::Operator(id, word) => {
                let done = self.operate(storage, now, word)?;
                self.outputs.push_back(Output::Operated(id, done));
            }
            Input::Request { from, token, request: Request::Catalog(request) } => {
                self.catalog.handle_request(storage, now, &self.council, from.node, token, request)?;
            }
            Input::Request { from, token, request: Request::Council(request) } => {
                let response = self.council.handle_request(storage, now, from, request)?;
                self.outputs.push_back(Output::Response { token, response: Response::Council(response) });
            }
            Input::Response { id, from, result } => self.handle_response(storage, now, id, from, result)?,
            Input::View(view) => {
                self.council.handle_view(storage, now, &view)?;
                self.catalog.handle_view(storage, now, &self.council, &view)?;
            }
            Input::Announced { from, announcement } => {
                let Announcement { seen_digest, database, mark, roster } = announcement;
                self.council.handle_announcement(storage, now, from, roster, database, mark)?;
                self.catalog.handle_announcement(now, from, database, seen_digest);
            }
        }
        self.settle(storage, now)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The storage failed: throw the replica away.
    pub fn handle_timeout(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        self.council.handle_timeout(storage, now)?;
        self.catalog.handle_timeout(storage, now, &self.council)?;
        self.settle(storage, now)
    }

    /// When [`Replica::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let council = self.council.poll_timeout();
        Some(self.catalog.poll_timeout().map_or(council, |catalog| catalog.min(council)))
    }

    /// To be called once before the commit of a transaction that changed anything: raises the mark.
    ///
    /// # Errors
    /// The storage failed: throw the replica away.
    pub fn before_commit(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.council.note_commit(storage)
    }

    /// The next thing to be done; to be asked only after the commit.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        let announcement = Announcement {
            seen_digest: self.catalog.seen_digest(),
            database: self.council.database(),
            mark: self.council.mark(),
            roster: self.council.number().unwrap_or(0),
        };
        (self.announced != Some(announcement)).then(|| {
            self.announced = Some(announcement);
            Output::Announce(announcement)
        })
    }

    /// Who votes, and how the members agree on it.
    pub const fn council(&self) -> &Council {
        &self.council
    }

    /// Names.
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn operate(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        word: Operator,
    ) -> Result<std::result::Result<(), OperatorRefused>> {
        Ok(match word {
            Operator::Forget(node) => self.council.forget(storage, now, node)?.map_err(Into::into),
            Operator::ForgetLost(lost) => self.council.forget_lost(storage, now, &lost)?.map_err(Into::into),
            Operator::Stay => {
                self.catalog.reopen();
                self.leaving = None;
                Ok(())
            }
            Operator::Leave => {
                self.catalog.close();
                // What is published later is to be known to the others too.
                if let Some(unfinished) = self.catalog.unfinished(storage)? {
                    self.leaving = None;
                    return Ok(Err(OperatorRefused::NotYet(unfinished)));
                }
                // Until it is off the roster it votes, and what it voted for meanwhile is to be known too.
                let member = self.council.is_member();
                if self.leaving.as_ref().is_none_or(|(was_member, _)| *was_member && !member) {
                    self.leaving = Some((member, self.catalog.seen().clone()));
                }
                let Some((_, seen)) = &self.leaving else { return Ok(Ok(())) };
                // Who is off the roster never gets a standing again: it does not ask for one.
                let standing = if member { self.council.standing() } else { Ok(()) };
                let may = standing.and(self.catalog.is_shared(&self.council, seen));
                if member && may.is_ok() {
                    self.council.resign(storage, now)?;
                    Err(OperatorRefused::NotYet("the members have not taken it off their roster yet".into()))
                } else {
                    may.map_err(OperatorRefused::NotYet)
                }
            }
        })
    }

    fn handle_response(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        id: u64,
        from: NodeId,
        result: std::result::Result<Response, Unreachable>,
    ) -> Result<()> {
        match (self.calls.remove(&id), result) {
            (Some(Call::Catalog(id)), Ok(Response::Catalog(response))) => {
                self.catalog.handle_response(storage, now, &self.council, id, from, Ok(response))
            }
            (Some(Call::Catalog(id)), _) => {
                self.catalog.handle_response(storage, now, &self.council, id, from, Err(Unreachable))
            }
            (Some(Call::Council(id)), Ok(Response::Council(response))) => {
                self.council.handle_response(storage, now, id, from, Ok(response))
            }
            (Some(Call::Council(id)), _) => {
                self.council.handle_response(storage, now, id, from, Err(council::Unreachable))
            }
            // Answered twice, or never asked.
            (None, _) => Ok(()),
        }
    }

    /// Carries news between the two until there is none, and gathers what is to be sent.
    fn settle(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        loop {
            let mut quiet = true;
            while let Some(event) = self.council.poll_event() {
                quiet = false;
                match event {
                    council::Event::Adopted(roster) => self.outputs.push_back(Output::Roster(roster)),
                    council::Event::Refused(reason) => self.outputs.push_back(Output::Refused(reason)),
                    council::Event::DatabaseReplaced(database) => {
                        self.catalog.handle_database_replaced(storage, &database)?;
                    }
                    council::Event::FloorKnown | council::Event::Ready(_) => {}
                }
                self.catalog.handle_roster(storage, now, &self.council)?;
            }
            while let Some(event) = self.catalog.poll_event() {
                quiet = false;
                match event {
                    catalog::Event::Completed { id, outcome } => {
                        self.outputs.push_back(Output::Completed(id, outcome));
                    }
                    catalog::Event::Written { name, dot, deleted } => {
                        self.outputs.push_back(Output::Written { name, dot, deleted });
                    }
                    catalog::Event::Conflict { name } => self.outputs.push_back(Output::Conflict { name }),
                    catalog::Event::SeenChanged | catalog::Event::Exchanged { .. } => {
                        self.council.handle_seen_grown(storage, now)?;
                    }
                    catalog::Event::Behind { from, number } => self.council.handle_behind(now, from, number),
                    catalog::Event::Ready(_)
                    | catalog::Event::Contradiction { .. }
                    | catalog::Event::Healed { .. } => {}
                }
            }
            if quiet {
                break;
            }
        }
        let ready = (self.council.standing(), self.council.was_caught_up());
        if self.ready.as_ref() != Some(&ready) {
            self.ready = Some(ready.clone());
            let (standing, caught_up) = ready;
            self.outputs.push_back(Output::Ready { standing, caught_up });
        }
        let lost = self.council.lost_majority();
        if self.lost != lost {
            self.lost.clone_from(&lost);
            self.outputs.push_back(Output::MajorityLost(lost));
        }
        while let Some(transmit) = self.catalog.poll_transmit() {
            match transmit {
                Transmit::Request { to, id, request, deadline } => {
                    self.ask(to, Call::Catalog(id), Request::Catalog(request), deadline - now);
                }
                Transmit::Response { token, response } => {
                    self.outputs.push_back(Output::Response { token, response: Response::Catalog(response) });
                }
            }
        }
        while let Some((to, id, request)) = self.council.poll_transmit() {
            self.ask(to, Call::Council(id), Request::Council(request), COUNCIL_DEADLINE);
        }
        Ok(())
    }

    fn ask(&mut self, to: NodeId, call: Call, request: Request, deadline: Duration) {
        if self.calls.len() >= MAX_CALLS {
            // The oldest is forgotten: its asker has a deadline of its own.
            self.calls.pop_first();
        }
        let id = self.next_call;
        self.next_call += 1;
        self.calls.insert(id, call);
        self.outputs.push_back(Output::Request { to, id, request, deadline });
    }
}

impl Electorate for Council {
    fn number(&self) -> Option<u64> {
        self.number()
    }

    fn homes(&self, name: &Name) -> Vec<HomeList> {
        self.homes(name)
    }

    fn replicas(&self) -> usize {
        self.replicas()
    }

    fn members(&self) -> Vec<(NodeId, DatabaseId)> {
        self.members()
    }

    fn standing(&self) -> std::result::Result<(), String> {
        self.standing()
    }

    fn is_intact(&self) -> bool {
        self.is_intact()
    }
}
