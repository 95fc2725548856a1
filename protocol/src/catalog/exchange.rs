//! Exchange: healing what pushes and relays missed.
//!
//! A node whose peer announces another digest pulls from it, in pages, every name of which the
//! peer holds something that the node has not seen; the peer, seeing the node's `seen` in the
//! request, pulls in turn if it lacks anything. Rules of the receiver, page by page:
//!
//! - versions are merged;
//! - where everything that the peer holds of the name is then known, its stubs are adopted, and
//!   survivors that the peer has seen and does not hold are dropped: something supersedes them;
//! - the peer's whole `seen`, of the transaction of the first page, is merged after the last one.
//!
//! Pages of a peer whose database cannot be relied on only bring versions. A node that is not ready itself checks
//! all its survivors against the peer before it merges the peer's `seen`: stubs that a member
//! would have been sent may be collected for those who were no members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::message::{Check, Cursor, MAX_CHECKED, NamePart, Page, Pull, Request, Response, encoded_len};
use super::read::published;
use super::seen::{Seen, SeenSet};
use super::storage::Result;
use super::{Catalog, Event, Purpose, Step, Unreachable};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::roster::DatabaseId;
use crate::time::Instant;
use crate::version::Dot;

/// What a page carries of names and closed dots, in encoded bytes.
const PAGE_BYTES: usize = 384 << 10;

/// How many names one page looks up.
const PAGE_NAMES: usize = 1000;

/// How many closed dots one page carries.
const PAGE_CLOSED: usize = 2000;

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
    asked: Seen,
    after: Option<Cursor>,
    /// The peer's `seen` and database at the first page.
    first: Option<(Seen, Option<DatabaseId>)>,
    /// All pages could drop, and all they held was understood.
    whole: bool,
    thorough: bool,
    /// In a thorough exchange after the last page: the names before this one are checked.
    checked: Option<Name>,
    learnt: bool,
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
        self.pull(
            step,
            Current {
                peer,
                request: 0,
                asked: Seen::default(),
                after: None,
                first: None,
                whole: true,
                thorough,
                checked: None,
                learnt: false,
            },
        );
    }

    fn own_database(&self, step: &Step<'_>) -> Option<DatabaseId> {
        let members = step.electorate.members();
        let own = members.into_iter().find(|(node, _)| *node == self.config.node);
        // Before it is ready a node's database may not be the one that the roster binds.
        own.filter(|_| step.electorate.standing().is_ok()).map(|(_, database)| database)
    }

    fn pull(&mut self, step: &Step<'_>, mut current: Current) {
        current.asked = self.knowledge.seen().clone();
        let pull = Pull {
            database: self.own_database(step),
            seen: current.asked.clone(),
            after: current.after.clone(),
        };
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
        match response {
            Ok(Response::Page(page)) => {
                let before = self.knowledge.changes();
                let database = page.database;
                let (next, theirs) = self.apply(step, &mut current, page)?;
                let learnt = before != self.knowledge.changes();
                current.learnt |= learnt;
                if let Some(database) = database {
                    self.collect.announced(from, database, Arc::new(theirs.clone()));
                }
                let (_, first_database) = current.first.get_or_insert((theirs, database));
                if *first_database != database || (next.is_some() && next == current.after && !learnt) {
                    self.end_exchange(step, &current, false);
                    return Ok(());
                }
                current.after = next;
                if current.after.is_some() {
                    self.pull(step, current);
                    return Ok(());
                }
                self.check_next(step, current)
            }
            Ok(Response::Superseded(dots)) if current.thorough => {
                for dot in dots {
                    if let Some(survivor) = step.storage.survivor(&dot)? {
                        self.knowledge.drop_superseded(step.storage, &survivor.version.name, dot)?;
                        current.learnt = true;
                    }
                }
                self.check_next(step, current)
            }
            Ok(_) | Err(Unreachable) => {
                self.end_exchange(step, &current, false);
                Ok(())
            }
        }
    }

    /// After the last page: what is left to check, then the end.
    fn check_next(&mut self, step: &mut Step<'_>, mut current: Current) -> Result<()> {
        let Some((theirs, _)) = &current.first else { return Ok(()) };
        if current.whole && current.thorough {
            let mut dots = Vec::new();
            loop {
                let names = step.storage.names(current.checked.as_ref(), PAGE_NAMES)?;
                for name in &names {
                    let ours = step.storage.survivors(name)?.into_iter().map(|s| s.version.dot);
                    dots.extend(ours.filter(|dot| theirs.contains(dot)));
                    current.checked = Some(name.clone());
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
            self.knowledge.union(step.storage, theirs)?;
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
            peer.quiet = if current.learnt { 0 } else { (peer.quiet + 1).min(MAX_QUIET) };
            peer.not_before = step.now + interval * (1 << peer.quiet);
        }
        if done {
            self.events.push_back(Event::Exchanged { peer: current.peer, learnt: current.learnt });
        }
    }

    /// Merges a page; returns where the next begins, and what the peer has seen.
    fn apply(
        &mut self,
        step: &mut Step<'_>,
        current: &mut Current,
        page: Page,
    ) -> Result<(Option<Cursor>, Seen)> {
        let mut theirs = current.asked.clone();
        page.seen.iter().for_each(|(origin, set)| theirs.set_origin(*origin, set.clone()));
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
        Ok((page.next, theirs))
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

    /// Which of a peer's survivors are seen here and do not survive.
    pub(super) fn check(&mut self, step: &mut Step<'_>, dots: &[Dot]) -> Result<Response> {
        if !step.electorate.is_intact() {
            let why = step.electorate.standing().err();
            return Ok(Response::NotReady(why.unwrap_or_default()));
        }
        let mut superseded = Vec::new();
        for dot in dots.iter().take(MAX_CHECKED) {
            let known = self.knowledge.contains(dot) || step.storage.stub(dot)?.is_some();
            if known && step.storage.survivor(dot)?.is_none() {
                superseded.push(*dot);
            }
        }
        Ok(Response::Superseded(superseded))
    }

    /// The page of names and closed dots after `pull.after` that the asker has not seen.
    pub(super) fn page(&mut self, step: &mut Step<'_>, from: NodeId, pull: Pull) -> Result<Page> {
        let theirs = &pull.seen;
        if pull.after.is_none() && !self.knowledge.seen().is_superset(theirs) {
            self.exchange.differs(step.now, from, theirs.digest());
        }
        let mut page = Page {
            database: self.own_database(step),
            seen: difference(self.knowledge.seen(), theirs),
            closed: Vec::new(),
            names: Vec::new(),
            next: None,
            ready: step.electorate.is_intact() || self.config.faults.answer_before_ready,
        };
        self.fill(step, &mut page, theirs, pull.after)?;
        if let Some(database) = pull.database {
            self.collect.announced(from, database, Arc::new(pull.seen));
        }
        Ok(page)
    }

    fn fill(&self, step: &Step<'_>, page: &mut Page, theirs: &Seen, after: Option<Cursor>) -> Result<()> {
        let mut room = PAGE_BYTES;
        let mut last_name = None;
        match after {
            None | Some(Cursor::Closed(_)) => {
                let after = match &after {
                    Some(Cursor::Closed(dot)) => Some(dot),
                    _ => None,
                };
                page.closed = step.storage.closed_unseen_by(theirs, after, PAGE_CLOSED)?;
                if let Some(dot) = page.closed.last().filter(|_| page.closed.len() == PAGE_CLOSED) {
                    page.next = Some(Cursor::Closed(*dot));
                    return Ok(());
                }
            }
            Some(Cursor::Name(name)) => last_name = Some(name),
            Some(Cursor::Within(name, stub)) => {
                let part = self.part(step, theirs, &name, stub.as_ref(), &mut room)?;
                if !part.last {
                    page.next = Some(within(&part, stub));
                    page.names.push(part);
                    return Ok(());
                }
                page.names.push(part);
                last_name = Some(name);
            }
        }
        let names = step.storage.names_unseen_by(theirs, last_name.as_ref(), PAGE_NAMES)?;
        let is_full = names.len() == PAGE_NAMES;
        for name in names {
            let before = room;
            let part = self.part(step, theirs, &name, None, &mut room)?;
            if !part.last && before < PAGE_BYTES / 2 {
                // It begins the next page, where it may fit as a whole.
                page.next = last_name.map(Cursor::Name);
                return Ok(());
            }
            if !part.last {
                page.next = Some(within(&part, None));
                page.names.push(part);
                return Ok(());
            }
            last_name = Some(name);
            if !(part.holds.is_empty() && part.stubs.is_empty()) {
                page.names.push(part);
            }
        }
        if is_full {
            page.next = last_name.map(Cursor::Name);
        }
        Ok(())
    }

    fn part(
        &self,
        step: &Step<'_>,
        theirs: &Seen,
        name: &Name,
        after: Option<&Dot>,
        room: &mut usize,
    ) -> Result<NamePart> {
        let ours = published(&*step.storage, name)?;
        let holds: Vec<Dot> = ours.iter().map(|v| v.dot).collect();
        let mut part =
            NamePart { name: name.clone(), holds, versions: Vec::new(), stubs: Vec::new(), last: true };
        *room = room.saturating_sub(encoded_len(&part));
        for version in ours.into_iter().filter(|v| !theirs.contains(&v.dot)) {
            let bytes = encoded_len(&version);
            // One version always goes, so that a page always moves on.
            if bytes > *room && !(part.versions.is_empty() && *room > PAGE_BYTES / 2) {
                part.last = false;
                return Ok(part);
            }
            *room = room.saturating_sub(bytes);
            part.versions.push(version);
        }
        for stub in step.storage.stubs(name)? {
            let wanted = !theirs.contains(&stub.dot) || !self.knowledge.contains(&stub.dot);
            if !wanted || after.is_some_and(|after| stub.dot <= *after) {
                continue;
            }
            let bytes = encoded_len(&stub);
            if bytes > *room {
                part.last = false;
                return Ok(part);
            }
            *room -= bytes;
            part.stubs.push(stub);
        }
        Ok(part)
    }
}

/// Where a name that did not fit goes on.
fn within(part: &NamePart, before: Option<Dot>) -> Cursor {
    Cursor::Within(part.name.clone(), part.stubs.last().map(|stub| stub.dot).or(before))
}

/// The sets of `ours` that are not equal to those of `theirs`; empty where only they have one.
fn difference(ours: &Seen, theirs: &Seen) -> Seen {
    let mut difference = Seen::default();
    for (origin, set) in ours.iter().filter(|(origin, set)| theirs.origin(origin) != Some(set)) {
        difference.set_origin(*origin, set.clone());
    }
    for (origin, _) in theirs.iter().filter(|(origin, _)| ours.origin(origin).is_none()) {
        difference.set_origin(*origin, SeenSet::default());
    }
    difference
}
