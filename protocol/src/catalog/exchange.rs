//! Exchange: healing what pushes and relays missed.
//!
//! A node whose peer announces another digest compares with it what they have seen, and pulls from
//! it, in pages, every name of which the peer holds something that the node has not seen; the peer
//! does the same in turn. Rules of the receiver, page by page:
//!
//! - versions are merged;
//! - where everything that the peer holds of the name is then known, its stubs are adopted, and
//!   survivors that the peer has seen and does not hold are dropped: something supersedes them;
//! - what the peer had seen when it was compared is merged after the last one.
//!
//! Pages of a peer whose database cannot be relied on only bring versions. A node that is not ready itself checks
//! all its survivors against the peer before it merges the peer's `seen`: stubs that a member
//! would have been sent may be collected for those who were no members.

mod compare;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::compare::Comparison;
use super::message::{Check, Cursor, MAX_CHECKED, NamePart, Page, Pull, Request, Response};
use super::seen::Seen;
use super::storage::Result;
use super::{Catalog, Event, Purpose, SharedSeen, Step, Unreachable};
use crate::identity::DatabaseId;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::{Dot, Origin};

/// How many names one page looks up.
const PAGE_NAMES: usize = 1000;

/// A peer that had nothing new is left alone for 2 to this power intervals at most.
const MAX_QUIET: u32 = 4;

#[derive(Debug)]
struct Peer {
    /// Whether its last announcement differed.
    differs: bool,
    /// What it announced last: members are told of changes only, so it is compared again after
    /// every exchange, failed ones too.
    digest: Option<[u8; 16]>,
    not_before: Instant,
    /// Exchanges in a row that brought nothing.
    quiet: u32,
    /// Somebody asked for a check of everything.
    thorough: bool,
}

#[derive(Debug)]
struct Current {
    peer: NodeId,
    request: u64,
    phase: Phase,
    /// What the peer had seen, once all is compared, and its database.
    theirs: SharedSeen,
    database: Option<DatabaseId>,
    /// Origins of which the peer had seen more, as far as pages were asked of them.
    wanted: BTreeSet<Origin>,
    /// All pages could drop, and all they held was understood.
    whole: bool,
    thorough: bool,
    learnt: bool,
}

/// How far an exchange came.
#[derive(Debug)]
enum Phase {
    /// What both have seen is compared.
    Comparing(Box<Comparison>),
    /// Pages are asked for, the next one after this.
    Pulling(Option<Cursor>),
    /// In a thorough exchange after the last page: the names up to this one are checked.
    Checking(Option<Name>),
}

/// Whom to exchange with, and the exchange under way.
#[derive(Debug)]
pub(super) struct Exchange {
    peers: BTreeMap<NodeId, Peer>,
    current: Option<Current>,
    next: Instant,
}

impl Exchange {
    pub const fn new(now: Instant) -> Self {
        Self { peers: BTreeMap::new(), current: None, next: now }
    }

    pub fn agrees(&mut self, peer: NodeId) {
        if self.peers.get(&peer).is_some_and(|p| !p.thorough) {
            self.peers.remove(&peer);
        }
    }

    fn peer(&mut self, now: Instant, peer: NodeId) -> &mut Peer {
        let fresh = Peer { differs: false, digest: None, not_before: now, quiet: 0, thorough: false };
        self.peers.entry(peer).or_insert(fresh)
    }

    pub fn differs(&mut self, now: Instant, peer: NodeId, digest: [u8; 16]) {
        let peer = self.peer(now, peer);
        (peer.differs, peer.digest) = (true, Some(digest));
    }

    pub fn urge(&mut self, now: Instant, peer: NodeId) {
        let peer = self.peer(now, peer);
        (peer.differs, peer.thorough, peer.not_before) = (true, true, now);
    }

    /// Begins an exchange with one of `peers` at the next timeout: this node has to catch up with
    /// what its roster started from, and does not vote before.
    pub fn hurry(&mut self, now: Instant, peers: impl IntoIterator<Item = NodeId>) {
        for peer in peers {
            let peer = self.peer(now, peer);
            (peer.differs, peer.not_before, peer.quiet) = (true, now, 0);
        }
        self.next = self.next.min(now);
    }

    /// Members are here again: what they differ in was written while they were away, so nothing that
    /// was found before says that there is little to learn.
    pub fn returned(&mut self, now: Instant, nodes: &[NodeId]) {
        for node in nodes {
            if let Some(peer) = self.peers.get_mut(node) {
                (peer.not_before, peer.quiet) = (now, 0);
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.current.is_some() {
            return None; // The driver reports every request at its deadline.
        }
        let first = self.peers.values().filter(|p| p.differs).map(|p| p.not_before).min()?;
        Some(first.max(self.next))
    }
}

impl Catalog {
    pub(super) fn exchange_timeout(&mut self, step: &Step<'_>) {
        if self.exchange.current.is_some() || self.exchange.next > step.now {
            return;
        }
        let due: Vec<NodeId> = self
            .exchange
            .peers
            .iter()
            .filter(|(_, p)| p.differs && p.not_before <= step.now)
            .map(|(node, _)| *node)
            .collect();
        if due.is_empty() {
            return;
        }
        let reachable: Vec<NodeId> = due.iter().filter(|n| self.is_reachable(n)).copied().collect();
        for node in due.iter().filter(|node| !reachable.contains(node)) {
            if let Some(peer) = self.exchange.peers.get_mut(node) {
                peer.not_before = step.now + self.config.exchange_interval;
            }
        }
        let Some(peer) = self.rng.choice(reachable) else { return };
        let thorough =
            self.exchange.peers.get(&peer).is_some_and(|p| p.thorough) || step.electorate.standing().is_err();
        self.exchange.next = step.now + self.exchange_pace(step);
        let comparison =
            Comparison::new(Arc::clone(self.knowledge.seen()), Arc::clone(self.knowledge.census()));
        let current = Current {
            peer,
            request: 0,
            phase: Phase::Comparing(Box::new(comparison)),
            theirs: Arc::default(),
            database: None,
            wanted: BTreeSet::new(),
            whole: true,
            thorough,
            learnt: false,
        };
        self.compare_next(step, current);
    }

    fn own_database(&self, step: &Step<'_>) -> Option<DatabaseId> {
        let members = step.electorate.members();
        let own = members.into_iter().find(|(node, _)| *node == self.config.node);
        // Before it is ready a node's database may not be the one that the roster binds.
        own.filter(|_| step.electorate.standing().is_ok()).map(|(_, database)| database)
    }

    /// Asks what is still to be compared.
    fn compare_next(&mut self, step: &Step<'_>, mut current: Current) -> Option<Current> {
        let Phase::Comparing(comparison) = &mut current.phase else { return Some(current) };
        let Some(question) = comparison.next() else { return Some(current) };
        self.send_exchange(step, current, Request::Compare(question));
        None
    }

    fn pull(&mut self, step: &Step<'_>, mut current: Current, after: Option<Cursor>) {
        let pull = Pull { after: after.clone(), ..self.wish(&mut current.wanted) };
        current.phase = Phase::Pulling(after);
        self.send_exchange(step, current, Request::Pull(pull));
    }

    fn send_exchange(&mut self, step: &Step<'_>, mut current: Current, request: Request) {
        let deadline = step.now + self.config.request_timeout * 5;
        current.request = self.request(current.peer, request, deadline, Purpose::Exchange);
        self.exchange.current = Some(current);
    }

    pub(super) fn exchange_answer(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        request: u64,
        response: std::result::Result<Response, Unreachable>,
    ) -> Result<()> {
        let is_current = |c: &mut Current| c.peer == from && c.request == request;
        let Some(mut current) = self.exchange.current.take_if(is_current) else { return Ok(()) };
        match (response, &mut current.phase) {
            (Ok(Response::Compared(answer)), Phase::Comparing(comparison)) => {
                if comparison.take(answer).is_err() {
                    self.end_exchange(step, &current, false);
                    return Ok(());
                }
                let Some(current) = self.compare_next(step, current) else { return Ok(()) };
                self.compared(step, current)
            }
            (Ok(Response::Page(page)), Phase::Pulling(after)) => {
                let (before, asked_after) = (self.knowledge.changes(), after.take());
                let same_database = page.database == current.database;
                let next = if same_database { self.apply(step, &mut current, page)? } else { None };
                let learnt = before != self.knowledge.changes();
                current.learnt |= learnt;
                if !same_database || (next.is_some() && next == asked_after && !learnt) {
                    self.end_exchange(step, &current, false);
                    return Ok(());
                }
                if next.is_some() {
                    self.pull(step, current, next);
                    return Ok(());
                }
                current.phase = Phase::Checking(None);
                self.check_next(step, current)
            }
            (Ok(Response::Superseded(dots)), Phase::Checking(_)) if current.thorough => {
                for dot in dots {
                    if let Some(survivor) = step.storage.survivor(&dot)? {
                        self.knowledge.drop_superseded(step.storage, &survivor.version.name, dot)?;
                        current.learnt = true;
                    }
                }
                self.check_next(step, current)
            }
            _ => {
                self.end_exchange(step, &current, false);
                Ok(())
            }
        }
    }

    /// All is compared: asks for pages of what the peer has seen more of, if there is any.
    fn compared(&mut self, step: &mut Step<'_>, mut current: Current) -> Result<()> {
        if let Phase::Comparing(comparison) = std::mem::replace(&mut current.phase, Phase::Checking(None)) {
            (current.theirs, current.wanted, current.database) = comparison.finish();
        }
        if let Some(database) = current.database {
            self.collect.announced(current.peer, database, Arc::clone(&current.theirs));
        }
        if current.wanted.is_empty() {
            return self.check_next(step, current);
        }
        self.pull(step, current, None);
        Ok(())
    }

    /// After the last page: what is left to check, then the end.
    fn check_next(&mut self, step: &mut Step<'_>, mut current: Current) -> Result<()> {
        let theirs = Arc::clone(&current.theirs);
        if let Phase::Checking(checked) = &mut current.phase
            && current.whole
            && current.thorough
        {
            let mut dots = Vec::new();
            loop {
                let names = step.storage.names(checked.as_ref(), PAGE_NAMES)?;
                for name in &names {
                    let ours = step.storage.survivors(name)?.into_iter().map(|s| s.version.dot);
                    dots.extend(ours);
                    *checked = Some(name.clone());
                    if dots.len() >= MAX_CHECKED / 2 {
                        break;
                    }
                }
                if names.is_empty() || dots.len() >= MAX_CHECKED / 2 {
                    break;
                }
            }
            dots.truncate(MAX_CHECKED);
            if !dots.is_empty() {
                self.send_exchange(step, current, Request::Check(Check { dots }));
                return Ok(());
            }
        }
        if current.whole {
            let before = self.knowledge.changes();
            for origin in &current.wanted {
                if let Some(set) = theirs.origin(origin) {
                    self.knowledge.union(step.storage, origin, set)?;
                }
            }
            current.learnt |= before != self.knowledge.changes();
        }
        self.end_exchange(step, &current, true);
        Ok(())
    }

    /// The least time between two exchanges: a tenth of the usual while this node cannot vote.
    fn exchange_pace(&self, step: &Step<'_>) -> Duration {
        let catching_up = step.electorate.standing().is_err();
        if catching_up { self.config.exchange_interval / 10 } else { self.config.exchange_interval }
    }

    fn end_exchange(&mut self, step: &Step<'_>, current: &Current, done: bool) {
        let interval = self.exchange_pace(step);
        let ours = self.knowledge.digest();
        if let Some(peer) = self.exchange.peers.get_mut(&current.peer) {
            peer.differs = peer.digest.is_some_and(|theirs| theirs != ours);
            peer.thorough &= !done;
            // One that failed says nothing of what there is to learn.
            peer.quiet = match (current.learnt, done) {
                (true, _) => 0,
                (false, true) => (peer.quiet + 1).min(MAX_QUIET),
                (false, false) => peer.quiet,
            };
            let intervals = if done { 1 << peer.quiet } else { 2 };
            peer.not_before = step.now + interval * intervals;
        }
        if done {
            self.events.push_back(Event::Exchanged { peer: current.peer, learnt: current.learnt });
        }
    }

    /// Merges a page; returns where the next begins.
    fn apply(&mut self, step: &mut Step<'_>, current: &mut Current, page: Page) -> Result<Option<Cursor>> {
        let theirs = Arc::clone(&current.theirs);
        for part in &page.names {
            self.apply_name(step, current, part, &theirs, page.ready)?;
        }
        if page.ready {
            for dot in page.closed.iter().filter(|dot| theirs.contains(dot)) {
                self.knowledge.close(step.storage, *dot)?;
            }
        } else {
            current.whole = false;
        }
        Ok(page.next)
    }

    fn apply_name(
        &mut self,
        step: &mut Step<'_>,
        current: &mut Current,
        part: &NamePart,
        theirs: &Seen,
        ready: bool,
    ) -> Result<()> {
        for version in part.versions.iter().filter(|v| v.name == part.name) {
            self.learn(step.storage, version)?;
        }
        let is_known = part.holds.iter().all(|dot| self.knowledge.contains(dot));
        if !is_known && part.last {
            current.whole = false;
        }
        if !is_known || !ready {
            return Ok(());
        }
        let stubs: BTreeSet<Dot> = part.stubs.iter().map(|stub| stub.dot).collect();
        // Unpublished ones too: that a peer has seen one says that it was published before this
        // database was set back to an older copy.
        for ours in step.storage.survivors(&part.name)?.into_iter().map(|s| s.version) {
            let superseded = theirs.contains(&ours.dot) || stubs.contains(&ours.dot);
            if superseded && !part.holds.contains(&ours.dot) {
                self.knowledge.drop_superseded(step.storage, &part.name, ours.dot)?;
                current.learnt = true;
            }
        }
        for stub in part.stubs.iter().filter(|stub| stub.name.as_ref() == Some(&part.name)) {
            let mark = part.last && theirs.contains(&stub.dot);
            self.knowledge.adopt_stub(step.storage, stub, mark)?;
        }
        Ok(())
    }
}
