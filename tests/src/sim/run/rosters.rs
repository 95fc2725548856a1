//! Who was a member, and what became of those that are no more.
//!
//! Who left had nothing that others lack. Who was given up counts as lost, with all that it alone knew.

use std::collections::{BTreeMap, BTreeSet};

use kepler_protocol::identity::DatabaseId;
use kepler_protocol::version::{Dot, Version};

use super::Run;
use crate::sim::client::shared_of;
use crate::sim::network::Place;
use crate::sim::process::{Durable, Process};

/// The greatest roster so far, and who was on one before.
#[derive(Default)]
pub(super) struct Rosters {
    pub(super) number: u64,
    pub(super) members: BTreeSet<Place>,
    /// Members that left.
    pub(super) left: u64,
    /// Members that were taken off a roster, for whatever reason.
    pub(super) removed: u64,
    /// Versions that no member of some roster knew when it was adopted.
    pub(super) unknown: BTreeSet<Dot>,
    /// Databases that the greatest roster binds.
    databases: BTreeMap<Place, DatabaseId>,
    /// Versions that no member knew when a roster dropped a database, whoever's.
    pub(super) dropped: BTreeSet<Dot>,
    /// How many databases of members that stayed were dropped.
    pub(super) rebound: u64,
}

impl Rosters {
    /// Whether the greatest roster binds the database of a dot.
    pub(super) fn binds(&self, place: Option<Place>, dot: &Dot) -> bool {
        let database = place.and_then(|place| self.databases.get(&place));
        database.is_some_and(|database| database.began(dot.origin.generation))
    }
}

/// What was counted on disks that were thrown away since.
#[derive(Default)]
pub(super) struct Thrown {
    pub(super) pushed: u64,
    pub(super) forgotten: u64,
    pub(super) busiest: u64,
}

impl<P: Process> Run<P> {
    pub(super) fn place_of(&self, dot: &Dot) -> Option<Place> {
        self.world.nodes.iter().position(|node| node.id == dot.origin.node)
    }

    /// A node holds a greater roster. Who is taken off it counts as lost: what only such members know may come back as
    /// conflicts.
    pub(super) fn adopted(&mut self, number: u64, databases: BTreeMap<Place, DatabaseId>) {
        let members: BTreeSet<Place> = databases.keys().copied().collect();
        let gone = self.rosters.members.difference(&members).count() as u64;
        let other = |(at, old): &(&Place, &DatabaseId)| databases.get(*at).is_some_and(|new| new != *old);
        let rebound = self.rosters.databases.iter().filter(other).count() as u64;
        if gone + rebound > 0 {
            let known =
                |version: &Version| members.iter().any(|at| self.world.nodes[*at].durable.knows(version));
            let lost =
                self.ledger.stored.values().filter(|version| !known(version)).map(|version| version.dot);
            let lost: Vec<Dot> = lost.collect();
            self.rosters.dropped.extend(&lost);
            if gone > 0 {
                self.rosters.unknown.extend(lost);
            }
        }
        self.rosters.rebound += rebound;
        self.rosters.databases = databases;
        self.rosters.removed += gone;
        (self.rosters.number, self.rosters.members) = (number, members);
    }

    /// Whether a version was written by one that the greatest roster does not bind, and no other member knows it. (Its
    /// writer may be a member again, with another database.)
    pub(super) fn is_unheard_of(&self, version: &Version) -> bool {
        let writer = self.place_of(&version.dot);
        let mut others = self.rosters.members.iter().filter(|at| Some(**at) != writer);
        !self.rosters.binds(writer, &version.dot)
            && !others.any(|at| self.world.nodes[*at].durable.knows(version))
    }

    /// Who left had nothing that others lack; its disk is thrown away.
    pub(super) fn throw_away(&mut self, place: Place) {
        let node = &self.world.nodes[place];
        let others = || self.world.nodes.iter().enumerate().filter(|(other, _)| *other != place);
        let mut broken = Vec::new();
        for version in node.durable.known() {
            if !others().any(|(_, other)| other.durable.knows(&version)) {
                broken.push(("I1", format!("{} left, and nobody else knows {}", node.id, version.dot)));
            }
        }
        let staying = others().filter(|(_, other)| other.process.as_ref().is_none_or(|p| !p.is_leaving()));
        let wanted = staying.filter(|(other, _)| self.rosters.members.contains(other)).count().min(3);
        let live = self.ledger.stored.values().filter(|v| !self.ledger.superseded.contains(&v.dot));
        for version in live.filter(|version| self.is_promised(version)) {
            let Some(root) = version.content.as_ref().map(|content| content.root) else { continue };
            for chunk in [root, shared_of(&root)].iter().filter(|chunk| node.durable.holds(chunk)) {
                let holders: Vec<Place> =
                    others().filter(|(_, o)| o.durable.holds(chunk)).map(|(other, _)| other).collect();
                if holders.len() < wanted {
                    let (id, dot) = (node.id, version.dot);
                    broken.push(("I8", format!("{id} left with {chunk} of {dot}, which {holders:?} have")));
                }
            }
        }
        let durable = &node.durable;
        self.thrown.pushed += durable.pushed();
        self.thrown.forgotten += durable.forgotten();
        self.thrown.busiest = self.thrown.busiest.max(durable.busiest());
        for (invariant, detail) in broken {
            self.ledger.violations.push(self.violation(invariant, detail));
        }
        self.world.wipe(place);
    }
}
