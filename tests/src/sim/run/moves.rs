//! Moves go on as they are answered; in the end each file is under its new name or its old one.

use super::Run;
use crate::sim::client::Moved;
use crate::sim::network::Place;
use crate::sim::process::{Answer, Durable, Process};

impl<P: Process> Run<P> {
    /// The client of a move asks for what comes next.
    pub(super) fn move_on(&mut self, operation: u64, place: Place, answer: &Answer) {
        let node = &self.world.nodes[place];
        let Some(process) = &node.process else { return };
        let (session, faults) = ((node.id.as_str(), node.run), process.relocation());
        let next = self.clients.move_on(operation, answer, session, self.world.now(), faults);
        let Some((operation, ask)) = next else { return };
        self.began_with.insert(operation, process.replicas());
        self.world.ask(place, operation, ask);
    }

    /// I1: what was moved is under its new name or its old one, whoever was lost. Once all is healed and catalogs are
    /// equal.
    pub(super) fn moved(&mut self) {
        let survivors = self.world.nodes[0].durable.survivors();
        let lives = |dot| survivors.iter().any(|version| version.dot == dot && !version.is_tombstone());
        // Somebody else wrote over the old name, or deleted all that was there.
        let replaced = |moved: &Moved| {
            let dot = moved.from.dot;
            let others = self.ledger.stored.values().filter(|version| version.context.contains(&dot));
            others.into_iter().any(|version| !version.is_tombstone() || version.context.len() > 1)
        };
        let gone = |moved: &&Moved| {
            !lives(moved.to.dot) && !lives(moved.from.dot) && (moved.done || !replaced(moved))
        };
        let (excused, broken): (Vec<&Moved>, Vec<&Moved>) =
            self.clients.moved.iter().filter(gone).partition(|moved| {
                self.rosters.unknown.contains(&moved.to.dot) || self.rosters.unknown.contains(&moved.from.dot)
            });
        self.excused += excused.len() as u64;
        let broken: Vec<_> = broken
            .into_iter()
            .map(|Moved { from, to, .. }| {
                let detail = format!("{} ({}) was moved to {} ({})", from.name, from.dot, to.name, to.dot);
                self.violation("I1", format!("{detail}, and is under neither name"))
            })
            .collect();
        self.ledger.violations.extend(broken);
    }
}
