//! Judges each step as it is made: acknowledgements by what is durable at that moment, deletions by what
//! is left.

use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::Refusal;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Version, head};

use super::Run;
use crate::sim::client::shared_of;
use crate::sim::network::Place;
use crate::sim::process::{Answer, Deleted, Durable, Process};

/// How long a receipt may be acted upon: what its giver lost since is not the holder's fault.
const RECEIPT: Duration = Duration::from_secs(60);

impl<P: Process> Run<P> {
    /// Whether a client was told that a majority has this version.
    pub(super) fn is_promised(&self, version: &Version) -> bool {
        self.clients.acknowledged.iter().any(|(_, acknowledged, durability)| {
            acknowledged.dot == version.dot && *durability != Durability::Fast
        })
    }

    /// A node decided to delete a copy. I8: N others have theirs, with its references. I7: nothing needs it.
    fn deleted(&mut self, place: Place, deleted: &Deleted) {
        // Where who leaves does not drain, its disk is not looked at.
        if !self.plan.options.heal && self.harm.leaving.contains_key(&place) {
            return;
        }
        let Deleted { chunk, dots, collected, replicas } = deleted;
        self.deleted[usize::from(*collected)] += 1;
        let now = self.world.now();
        let nodes = &self.world.nodes;
        let lost = |at: &Place| self.harm.lost.get(at).is_some_and(|when| now.since(*when) <= RECEIPT);
        let rotted =
            |at: Place| self.harm.rotten.get(&(at, *chunk)).is_some_and(|when| now.since(*when) <= RECEIPT);
        let others: Vec<Place> = (0..nodes.len())
            .filter(|at| *at != place && (nodes[*at].durable.holds(chunk) || lost(at) || rotted(*at)))
            .collect();
        let id = nodes[place].id;
        let needs = |version: &&Version| {
            version.content.as_ref().is_some_and(|c| c.root == *chunk || shared_of(&c.root) == *chunk)
                && !self.ledger.superseded.contains(&version.dot)
        };
        let mut broken = Vec::new();
        if !collected && others.len() < *replicas {
            broken.push(("I8", format!("{id} released {chunk} with copies on {others:?} alone")));
        }
        for version in self.ledger.stored.values().filter(needs) {
            let dot = version.dot;
            // Nobody knew it when its database was dropped, or it was written without one that a roster binds, and no
            // other member has heard of it: it counts as lost, and what it refers to with it.
            let is_lost = self.rosters.dropped.contains(&dot) || self.is_unheard_of(version);
            if is_lost && !self.is_promised(version) {
                continue;
            }
            let refer = |at: &&Place| nodes[**at].durable.references(chunk).contains(&dot) || lost(at);
            let referring = others.iter().filter(refer).count();
            if *collected && dots.contains(&dot) {
                broken.push(("I7", format!("{id} collected {chunk}, which {dot} needs")));
            } else if *collected && self.is_promised(version) && !self.plan.options.budget.crowd {
                // (Where all but a few leave at once, one copy may be all there is for a while.)
                // One that lost what it had may have been one of the majority.
                let majority = replicas / 2 + 1;
                let rotten = (0..nodes.len()).filter(|at| self.has_rotted(*at, chunk, Instant::ZERO)).count();
                let had = self.harm.lost.len() + rotten;
                if others.len() + had < majority {
                    broken
                        .push(("I7", format!("{id} collected {chunk} with copies on {others:?}, for {dot}")));
                }
            } else if !collected && dots.contains(&dot) && referring < *replicas {
                broken.push(("I7", format!("{id} released {chunk} and left {dot} to {referring}")));
            }
        }
        let uploads = nodes.iter().filter_map(|node| node.process.as_ref()).flat_map(P::uploading);
        // Of a log that a roster dropped nobody waits for what is under way; whether it was acknowledged after
        // all is seen in the end.
        let uploads = uploads.filter(|dot| self.rosters.binds(self.place_of(dot), dot));
        if let Some(dot) = uploads.filter(|dot| *collected && dots.contains(dot)).min() {
            broken.push(("I7", format!("{id} collected {chunk} while it is uploaded as {dot}")));
        }
        for (invariant, detail) in broken {
            self.ledger.violations.push(self.violation(invariant, detail));
        }
    }

    pub(super) fn stepped(&mut self, place: Place) {
        let now = self.world.now();
        for version in self.world.nodes[place].durable.take_stored() {
            self.ledger.stored(self.plan.options.seed, now, version);
        }
        let leaving = !self.plan.options.heal && self.harm.leaving.contains_key(&place);
        for (invariant, detail) in
            self.world.nodes[place].durable.take_broken().into_iter().filter(|_| !leaving)
        {
            self.ledger.violations.push(self.violation(invariant, detail));
        }
        for deleted in self.world.nodes[place].durable.take_deleted() {
            self.deleted(place, &deleted);
        }
        if let Some(process) = &self.world.nodes[place].process {
            if process.is_leaving() {
                self.harm.leavers.insert(place);
            } else if self.harm.leavers.remove(&place) {
                self.harm.stayed += 1;
            }
        }
        if let Some(process) = &self.world.nodes[place].process
            && let Some(number) = process.roster()
            && number > self.rosters.number
        {
            let databases = process.databases();
            self.adopted(number, databases);
        }
    }

    pub(super) fn answered(&mut self, operation: u64, place: Place, answer: &Answer) {
        self.world.trace.mix(operation);
        self.clients.answered(operation, answer, self.world.now());
        self.move_on(operation, place, answer);
        if let Answer::Refused(Refusal::PreconditionFailed { head: Some(dot) }) = answer
            && self.ledger.stored.get(dot).is_some_and(Version::is_tombstone)
        {
            let detail =
                format!("operation {operation} was refused for the head {dot}, which is a tombstone");
            self.ledger.violations.push(self.violation("I9", detail));
        }
        if let Answer::Read { lacking: Some(chunk), survivors, .. } = answer
            && self.verifying
            && head(survivors).is_some_and(|head| self.is_promised(head))
        {
            let detail = format!("operation {operation}: nobody has {chunk}");
            self.ledger.violations.push(self.violation("I1", detail));
        }
        let Answer::Written(version) = answer else { return };
        let Some((_, _, durability)) = self.clients.acknowledged.last() else { return };
        let Some(process) = &self.world.nodes[place].process else { return };
        let replicas = process.replicas();
        let majority_of = |replicas: usize| match durability {
            Durability::Fast => 1,
            Durability::Quorum => replicas / 2 + 1,
            Durability::All => replicas,
        };
        let needed = majority_of(replicas);
        // Chunks are placed for the N of the time, versions voted over the roster of the end.
        let placed_for = self.began_with.remove(&operation).unwrap_or(replicas).min(replicas);
        let needed_chunks = majority_of(placed_for.max(1));
        // What was durable and is lost since the operation began had been durable all the same, and so
        // had what a node that leaves has given away since.
        let began = self.clients.began(operation);
        let lost = |place: Place| {
            self.harm.lost.get(&place).is_some_and(|at| *at >= began)
                || self.harm.leaving.contains_key(&place)
        };
        let count = |has: &dyn Fn(&P::Durable) -> bool| {
            let nodes = self.world.nodes.iter().enumerate();
            nodes.filter(|(place, node)| has(&node.durable) || lost(*place)).count()
        };
        let know = count(&|durable| durable.knows(version));
        for homes in process.homes(&version.name).iter().filter(|_| *durability != Durability::Fast) {
            let knows = |place: &&Place| self.world.nodes[**place].durable.knows(version) || lost(**place);
            let at_home = homes.iter().filter(knows).count();
            if at_home < homes.len() / 2 + 1 {
                let detail = format!(
                    "operation {operation} ({}) was acknowledged with {at_home} of its home replicas {homes:?}",
                    version.dot
                );
                self.ledger.violations.push(self.violation("I4", detail));
            }
        }
        let chunk = version.content.as_ref().map(|c| c.root);
        let hold = chunk.map_or(needed, |root| {
            let of = |chunk: ChunkId| {
                let nodes = self.world.nodes.iter().enumerate();
                let had = |place: Place| lost(place) || self.has_rotted(place, &chunk, began);
                nodes.filter(|(place, node)| node.durable.holds(&chunk) || had(*place)).count()
            };
            if process.owners(&root).is_empty() { of(root) } else { of(root).min(of(shared_of(&root))) }
        });
        if know < needed || hold < needed_chunks {
            let detail = format!(
                "operation {operation} ({}, {durability:?}) was acknowledged with {know} durable versions and \
                 {hold} durable chunks where {needed} are needed",
                version.dot
            );
            self.ledger.violations.push(self.violation("I4", detail));
        }
    }
}
