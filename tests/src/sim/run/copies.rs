//! Where everything is once all is healed: chunks that are missing or left over, catalogs that differ.

use std::collections::BTreeSet;

use kepler_protocol::chunk::ChunkId;

use super::Run;
use crate::sim::client::shared_of;
use crate::sim::network::Place;
use crate::sim::process::{Durable, Process};

impl<P: Process> Run<P> {
    pub(super) fn pushed(&self) -> u64 {
        self.thrown.pushed + self.world.nodes.iter().map(|node| node.durable.pushed()).sum::<u64>()
    }

    /// Who owns a chunk now that all agree.
    fn owners(&self, chunk: &ChunkId) -> BTreeSet<Place> {
        let process = self.world.nodes[0].process.as_ref();
        process.map(|process| process.owners(chunk).into_iter().collect()).unwrap_or_default()
    }

    /// A chunk of a live version that an owner lacks, if there is one.
    pub(super) fn lacking(&self) -> Option<String> {
        let nodes = &self.world.nodes;
        let live = nodes[0].durable.survivors();
        let roots = live.iter().filter_map(|version| Some((version, version.content.as_ref()?.root)));
        for (version, root) in roots {
            for chunk in [root, shared_of(&root)] {
                let holders: BTreeSet<Place> =
                    (0..nodes.len()).filter(|place| nodes[*place].durable.holds(&chunk)).collect();
                let owners = self.owners(&chunk);
                // What a node alone had may be lost with it.
                let lost = holders.is_empty() && !self.harm.lost.is_empty() && !self.is_promised(version);
                if !lost && !owners.is_subset(&holders) {
                    return Some(format!("{chunk} of {} is on {holders:?}, not {owners:?}", version.dot));
                }
            }
        }
        None
    }

    /// A node that still owes copies, if there is one.
    pub(super) fn owing(&self) -> Option<String> {
        let owes = self.world.nodes.iter().find(|node| node.durable.owed() > 0)?;
        Some(format!("{} still owes {} copies", owes.id, owes.durable.owed()))
    }

    /// A chunk that is where it does not belong, or not where it does, if there is one.
    pub(super) fn misplaced(&self) -> Option<String> {
        let nodes = &self.world.nodes;
        for (place, node) in nodes.iter().enumerate() {
            let process = node.process.as_ref()?;
            // A row without a file, as an older copy of a database has them, is no copy.
            for chunk in node.durable.shelved().into_iter().filter(|chunk| node.durable.holds(chunk)) {
                if !process.keeps(&node.durable, &chunk) {
                    return Some(format!("nothing refers to {chunk}, which stays on {}", node.id));
                }
                let owners = self.owners(&chunk);
                if !owners.contains(&place) {
                    return Some(format!("{chunk} stays on {}, which does not own it", node.id));
                }
                let lacks = |owner: &&Place| !nodes[**owner].durable.holds(&chunk);
                if let Some(owner) = owners.iter().find(lacks) {
                    return Some(format!("{chunk} is on {}, and n{owner} lacks it", node.id));
                }
            }
        }
        None
    }

    /// Where two catalogs differ, if any do.
    pub(super) fn difference(&self) -> Option<String> {
        let first = self.world.nodes[0].durable.survivors();
        self.world.nodes[1..].iter().find_map(|node| {
            let other = node.durable.survivors();
            let here: BTreeSet<_> = first.iter().map(|v| (&v.name, v.dot)).collect();
            let there: BTreeSet<_> = other.iter().map(|v| (&v.name, v.dot)).collect();
            (here != there).then(|| {
                let only =
                    |a: &BTreeSet<_>, b: &BTreeSet<_>| format!("{:?}", a.difference(b).collect::<Vec<_>>());
                let (ours, theirs) = (only(&here, &there), only(&there, &here));
                format!("n0 alone holds {ours}, {} alone {theirs}\n{}", node.id, self.states())
            })
        })
    }
}
