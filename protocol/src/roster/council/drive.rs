//! What the council does when it can: prove its database, adopt a roster, reach its floor, rejoin.

use std::time::Duration;

use super::held::Held;
use super::record::{
    ACCEPTOR, CAUGHT_UP, CONFIRMATION, CaughtUp, Confirmation, DATABASE, DECIDED, FLOOR, KnownFloor,
};
use super::{Council, Event, Founding, MAX_WANTED};
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage, Table};
use crate::identity::DatabaseId;
use crate::roster::Constants;
use crate::roster::change::Decided;
use crate::roster::paxos::Acceptor;
use crate::time::Instant;

/// The most members remembered to be ahead.
pub(super) const MAX_BEHIND: usize = 64;

/// After this a request counts as unanswered.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two comparisons of all that is seen with the floor.
const COVER_INTERVAL: Duration = Duration::from_millis(50);
/// While something is under way the council looks so often whether it can go on.
const BUSY: Duration = Duration::from_millis(50);

impl Council {
    /// Does all that has become possible.
    pub(super) fn drive(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        self.expire(now);
        // Each round adopts a roster or learns a floor, or is the last.
        for _ in 0..MAX_WANTED {
            let before = self.number();
            self.settle(storage, now)?;
            self.rejoin(storage)?;
            self.propose(storage, now)?;
            if self.number() == before {
                break;
            }
        }
        self.dispatch(now);
        self.report();
        self.wake = now + self.patience();
        if let Some(until) = self.held.as_ref().and_then(|held| self.heard_until(held))
            && until > now
        {
            self.wake = self.wake.min(until);
        }
        Ok(())
    }

    /// Between two greetings of a member that answers.
    pub(super) fn ping_interval(&self) -> Duration {
        (self.config.forget_after / 8).clamp(Duration::from_millis(100), Duration::from_secs(30))
    }

    fn patience(&self) -> Duration {
        let settled = self.standing().is_ok()
            && self.is_caught_up()
            && self.proposer.is_none()
            && self.wanted.is_empty()
            && self.behind.is_empty()
            && !self.is_telling();
        if settled { (self.ping_interval() / 2).min(Duration::from_secs(5)) } else { BUSY }
    }

    fn expire(&mut self, now: Instant) {
        for flight in self.flights.expire(now, REQUEST_TIMEOUT) {
            self.take_loss(&flight);
        }
        if self.proposer.as_ref().is_some_and(|p| p.deadline <= now) {
            self.back_off(now);
        }
        self.wanted.retain(|_, want| want.until > now);
    }

    /// Adopts a decided roster: from this transaction on nothing is answered for the one before.
    pub(super) fn adopt(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        decided: Decided,
        floor: Option<Seen>,
    ) -> Result<()> {
        self.confirm(storage, &decided)?;
        self.put(storage, DECIDED, Some(&decided))?;
        self.put::<Acceptor>(storage, ACCEPTOR, None)?;
        self.put::<KnownFloor>(storage, FLOOR, None)?;
        self.acceptor = Acceptor::new(decided.roster.number);
        let held = self.held.insert(Held::new(decided));
        if let Some(floor) = floor {
            held.floor.set_known(now, floor);
        }
        self.presence.retain(|id, database| held.binds(id, database));
        // Who was just bound counts as heard from: nobody else takes its id over at once.
        let decided = &held.decided;
        if let Some(entry) = decided.roster.members.get(&decided.changed) {
            self.presence.handle_heard(now, decided.changed, entry.database, true);
        }
        self.contact.retain(|id| held.knows(id));
        for node in self.remembered.keys().filter(|id| !held.knows(id)) {
            storage.put_record(Table::Mark, node.as_str().as_bytes(), None)?;
        }
        self.remembered.retain(|id, _| held.knows(id));
        let phase = held.phase();
        self.behind.retain(|_, theirs| *theirs > phase);
        self.events.push_back(Event::Adopted(held.roster().clone()));
        self.proposer = None;
        self.attempts = 0;
        self.propose_after = now;
        self.decider = false;
        self.adopted_at = now;
        self.told.clear();
        self.flights.forget_asked();
        self.next_cover = now;
        self.refused = None;
        Ok(())
    }

    /// Gives the database another id: all that was said in the name of the old one is void.
    pub(super) fn replace_database(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.database = match std::mem::replace(&mut self.fresh_database_used, true) {
            false => self.config.fresh_database,
            true => DatabaseId(self.rng.u128(..).to_be_bytes()),
        };
        self.drawn_here = true;
        self.proof.proved = false;
        self.confirmation = None;
        self.caught_up = None;
        self.acceptor = Acceptor::default();
        self.proposer = None;
        let database = self.database;
        self.put(storage, DATABASE, Some(&database))?;
        self.put::<Acceptor>(storage, ACCEPTOR, None)?;
        self.put::<Confirmation>(storage, CONFIRMATION, None)?;
        self.put::<CaughtUp>(storage, CAUGHT_UP, None)?;
        self.events.push_back(Event::DatabaseReplaced(database));
        Ok(())
    }

    /// Sees whether the database is proved, the floor known, and reached.
    fn settle(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        if !self.proof.proved {
            let drawn_here = self.drawn_here && self.is_bound(held.roster());
            self.proof.proved = drawn_here
                || self.proof.outstanding(held.roster(), &self.config.node) == 0
                || self.faults.ready_without_nonces;
        }
        let silent = match held.floor.known() {
            Some(_) if self.is_caught_up() => return Ok(()),
            _ => self.silent_members(now, held.floor.previous()),
        };
        let (me, database) = (self.config.node, self.database);
        let Some(held) = &mut self.held else { return Ok(()) };
        if let Some(own) = &self.confirmation
            && own.number == held.number()
            && own.database == database
            && self.proof.proved
        {
            held.floor.confirm(me, own.seen.clone(), silent);
        }
        held.floor.conclude(now);
        if let Some(seen) = held.floor.known()
            && !held.floor_kept
        {
            held.floor_kept = true;
            let known = KnownFloor { number: held.number(), seen: seen.clone() };
            let phase = held.phase();
            self.behind.retain(|_, theirs| *theirs > phase);
            self.events.push_back(Event::FloorKnown);
            self.put(storage, FLOOR, Some(&known))?;
        }
        self.cover(storage, now)
    }

    fn cover(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        if self.next_cover > now || held.floor.known().is_none() {
            return Ok(());
        }
        self.next_cover = now + COVER_INTERVAL;
        if held.floor.is_covered_by(&storage.seen()?) {
            let caught_up = CaughtUp { number: held.number(), database: self.database };
            self.caught_up = Some(caught_up);
            self.put(storage, CAUGHT_UP, Some(&caught_up))?;
        }
        Ok(())
    }

    /// Who was removed takes another database id and asks to be let in again, once nobody waits
    /// for its confirmation any more.
    fn rejoin(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        let removed = !held.roster().members.contains_key(&self.config.node);
        let bound_before = self.confirmation.as_ref().is_some_and(|c| c.database == self.database);
        if removed && held.phase().floor && !self.presence.leaving() && (bound_before || !self.drawn_here) {
            self.replace_database(storage)?;
        }
        Ok(())
    }

    /// Another cluster of the same key: a founder alone joins the one with more members, or of
    /// two that are alone the one with the greater id joins the other.
    pub(super) fn take_foreign(
        &mut self,
        storage: &mut dyn Storage,
        theirs: Constants,
        members: u32,
    ) -> Result<()> {
        let Some(own) = self.held.as_ref().map(Held::roster) else { return Ok(()) };
        let alone = own.members.len() == 1 && own.members.contains_key(&self.config.node);
        let joins = members > 1 || members == 1 && own.constants.cluster > theirs.cluster;
        if !alone || !joins || own.constants.replication_factor != theirs.replication_factor {
            return Ok(());
        }
        self.held = None;
        self.wanted.clear();
        self.behind.clear();
        self.config.founding = Founding::Join;
        self.put::<Decided>(storage, DECIDED, None)?;
        self.put::<KnownFloor>(storage, FLOOR, None)?;
        self.replace_database(storage)
    }

    fn report(&mut self) {
        let standing = self.standing();
        let same = match (&self.reported, &standing) {
            (Some(Ok(())), Ok(())) => true,
            (Some(Err(before)), Err(now)) => before == now,
            _ => false,
        };
        if !same {
            self.reported = Some(standing.clone());
            self.events.push_back(Event::Ready(standing));
        }
    }
}
