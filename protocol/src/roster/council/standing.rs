//! Whether this node may answer for the roster it holds, and whether its database is what it once was.

use super::Council;
use super::held::Held;
use crate::roster::Roster;
use crate::time::Instant;

impl Council {
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

    pub(super) fn is_bound(&self, roster: &Roster) -> bool {
        let entry = roster.members.get(&self.config.node);
        entry.is_some_and(|e| e.key == self.config.key && e.database == self.database)
    }

    /// Whether this database is proved to be the latest and was caught up with some roster: what
    /// it has seen and does not hold is superseded, even while this node waits to see more. A
    /// database that was found to be behind is not: what it closed may have been published.
    pub fn is_intact(&self) -> bool {
        self.proof.proved && self.caught_up_number() > 0
    }

    /// Whether this node, with this database, once knew all that a roster started from: what it lists is
    /// then what there was, whoever is away now.
    pub fn was_caught_up(&self) -> bool {
        self.held.is_some() && self.caught_up_number() > 0
    }

    fn caught_up_number(&self) -> u64 {
        self.caught_up.filter(|c| c.database == self.database).map_or(0, |c| c.number)
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.held.as_ref().is_some_and(|h| h.number() == self.caught_up_number())
    }

    /// Whether this node may take part in deciding the next roster.
    pub(super) fn may_vote(&self) -> bool {
        self.standing().is_ok() && (self.is_caught_up() || self.faults.propose_before_floor)
    }

    pub(super) fn heard_until(&self, held: &Held) -> Option<Instant> {
        if self.faults.ready_without_nonces {
            return Some(Instant::from_micros(u64::MAX));
        }
        self.contact.heard_until(held.roster(), &self.config.node, self.config.forget_after / 2)
    }
}
