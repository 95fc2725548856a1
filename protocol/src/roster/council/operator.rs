//! What an operator says of members that do not come back, and what this node itself takes for lost.
//!
//! A [`forget`](Council::forget) is one more change that the members decide on. Where a majority is
//! lost for good nobody can decide any more: then [`forget_lost`](Council::forget_lost) makes the
//! survivors the roster on the operator's word alone. It is the one roster that is not decided by
//! the members of the one before; its number is so much greater that nothing the lost ones may
//! still decide among themselves ever comes near it. Whoever of them returns is a newcomer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Council;
use super::held::Held;
use super::propose::FORGET_TRIES;
use crate::catalog::storage::{Result, Storage};
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::roster::change::{Change, Decided, Reason};
use crate::roster::readiness::majority_of_members;
use crate::time::Instant;

/// Why an operator's forget was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgetRefused {
    /// There is no such member.
    #[error("{0} is no member of the roster")]
    NotAMember(NodeId),
    /// The member is up, or it is this node.
    #[error("{0}: only members that are gone can be forgotten")]
    Alive(String),
    /// This node cannot propose anything.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// The others are a majority, which can decide on the removal of one member after the other.
    #[error("{survivors} of {members} members remain, which is a majority: forget the others one by one")]
    MajorityLeft {
        /// Members that would remain.
        survivors: usize,
        /// Members of the present roster.
        members: usize,
    },
}

impl Council {
    /// An operator says that a member is gone for good. Inner `Ok`: the change is under way.
    ///
    /// # Errors
    /// The storage failed.
    pub fn forget(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        node: NodeId,
    ) -> Result<Result<(), ForgetRefused>> {
        self.advance(now);
        if let Err(why) = self.standing() {
            return Ok(Err(ForgetRefused::NotReady(why)));
        }
        let Some(held) = &self.held else { return Ok(Err(ForgetRefused::NotAMember(node))) };
        if let Err(refused) = self.check_gone(now, held.roster(), node) {
            return Ok(Err(refused));
        }
        let change = Change { node, entry: None, reason: Reason::Forgotten };
        self.want(now, change, Duration::ZERO, FORGET_TRIES);
        self.drive(storage, now)?;
        self.commit_mark(storage)?;
        Ok(Ok(()))
    }

    /// This node leaves and proposes its own removal: while it still votes, so that of two members the one that
    /// stays has a majority afterwards. To be asked again until [`Council::is_member`] says that it is done.
    ///
    /// # Errors
    /// The storage failed.
    pub fn resign(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        self.advance(now);
        if !self.is_member() || !self.presence.leaving() {
            return Ok(());
        }
        let change = Change { node: self.config.node, entry: None, reason: Reason::Left };
        self.want(now, change, Duration::ZERO, FORGET_TRIES);
        self.drive(storage, now)?;
        self.commit_mark(storage)
    }

    /// An operator says that these members are gone for good and that with them a majority is lost:
    /// the others are the roster from now on. Inner `Ok`: it is adopted here, and the other survivors
    /// are told. What only the lost ones knew is gone until one of them returns.
    ///
    /// # Errors
    /// The storage failed.
    pub fn forget_lost(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        lost: &BTreeSet<NodeId>,
    ) -> Result<Result<(), ForgetRefused>> {
        self.advance(now);
        let decided = match self.without(now, lost) {
            Ok(decided) => decided,
            Err(refused) => return Ok(Err(refused)),
        };
        self.adopt(storage, now, decided, None)?;
        self.decider = true;
        self.drive(storage, now)?;
        self.commit_mark(storage)?;
        Ok(Ok(()))
    }

    /// The roster of whoever is not among `lost`.
    fn without(&self, now: Instant, lost: &BTreeSet<NodeId>) -> Result<Decided, ForgetRefused> {
        let not_ready = |why: &str| Err(ForgetRefused::NotReady(why.into()));
        let Some(held) = &self.held else { return not_ready("it is no member of any roster") };
        let roster = held.roster();
        if !self.is_bound(roster) {
            return not_ready("its database is not the one that the roster binds it to");
        }
        lost.iter().try_for_each(|node| self.check_gone(now, roster, *node))?;
        let (members, survivors) = (roster.members.len(), roster.members.len() - lost.len());
        Decided::without(roster, lost)
            .filter(|_| survivors < majority_of_members(roster))
            .ok_or(ForgetRefused::MajorityLeft { survivors, members })
    }

    fn check_gone(&self, now: Instant, roster: &Roster, node: NodeId) -> Result<(), ForgetRefused> {
        if !roster.members.contains_key(&node) {
            return Err(ForgetRefused::NotAMember(node));
        }
        let change = Change { node, entry: None, reason: Reason::Forgotten };
        self.presence.judge(now, roster, &change, self.config.forget_after).map_err(ForgetRefused::Alive)
    }

    /// The members that seem to be lost for good, where so many are that no majority is left: silent
    /// for the time after which members are forgotten, or here with another database or another
    /// identity. Empty otherwise. Only an operator can help then.
    pub fn lost_majority(&self) -> BTreeSet<NodeId> {
        let Some(roster) = self.held.as_ref().map(Held::roster) else { return BTreeSet::new() };
        let lost: BTreeSet<NodeId> = roster
            .members
            .iter()
            .filter(|(id, entry)| match **id == self.config.node {
                true => !self.is_bound(roster),
                false => self.presence.seems_lost(self.now, id, entry, self.config.forget_after),
            })
            .map(|(id, _)| *id)
            .collect();
        if roster.members.len() - lost.len() < majority_of_members(roster) { lost } else { BTreeSet::new() }
    }
}
