//! The phases of a run, and what each waits for how long: warm-up, chaos, heal, liveness, placement, verify.

use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::time::Instant;

use super::{Options, QUESTION, RESTART, Run};
use crate::sim::client::{Kind, Planned};
use crate::sim::invariants::Violation;
use crate::sim::network::Place;
use crate::sim::process::{Durable, Process};

/// How long a cluster may take to become ready at first, and again when everything is healed.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How long after that a node may refuse writes: its view may still lack somebody whose rumour it missed.
const WRITES_WITHIN: Duration = Duration::from_secs(15);

/// How long catalogs may differ once everything is healed and all are ready.
const EQUAL_WITHIN: Duration = Duration::from_secs(30);

/// How often a run looks whether it may go on.
const LOOK: Duration = Duration::from_millis(250);

/// How long owners may lack chunks of live versions once everything is healed and catalogs are equal.
const COPIED_WITHIN: Duration = Duration::from_secs(60);

/// How much longer where copies rot: until the scrub has come round to them.
const ROT_FOUND_WITHIN: Duration = Duration::from_secs(60);

/// How much longer where all but a few left at once and join again with empty disks: until all have heard of all.
const CROWD_HEARD_WITHIN: Duration = Duration::from_secs(120);

/// How long copies may take to be nowhere else: a promise that was just given holds for two
/// minutes, and a copy that comes late has its grace before it.
const PLACED_WITHIN: Duration = Duration::from_secs(360);

/// How long who leaves may take once everything is healed: what it has just promised it keeps for two minutes.
const LEFT_WITHIN: Duration = Duration::from_secs(240);

/// For how long nothing may be sent in the background then.
const QUIET: Duration = Duration::from_secs(45);

impl<P: Process> Run<P> {
    pub(super) fn warm_up(&mut self) -> Result<(), Violation> {
        let first = self.plan.options.nodes - self.plan.options.late;
        for place in 0..first {
            self.world.start(place);
            self.advance(Duration::from_millis(300));
        }
        self.until_ready("warm-up", first)
    }

    pub(super) fn chaos(&mut self) {
        self.started_at = self.world.now();
        let offset = self.started_at.since(Instant::ZERO);
        for (index, (at, _)) in self.plan.faults.iter().enumerate() {
            self.world.mark(*at + offset, index as u64);
        }
        for (index, question) in self.plan.questions.iter().enumerate() {
            self.world.mark(question.at + offset, QUESTION + index as u64);
        }
        let Options { nodes, late, chaos, .. } = self.plan.options;
        for index in 0..late {
            let at = self.started_at + chaos * (index as u32 + 1) / (late as u32 + 2);
            self.world.mark(at, RESTART + (nodes - late + index) as u64);
        }
        self.advance(self.plan.options.chaos);
        self.heal();
    }

    fn heal(&mut self) {
        self.healed = true;
        self.healed_at = self.world.now();
        self.harm.heal();
        self.world.network.heal();
        for place in 0..self.plan.options.nodes {
            self.world.thaw(place);
            let durable = &mut self.world.nodes[place].durable;
            durable.set_commit_time(Duration::from_millis(1));
            (durable.disk().failing, durable.disk().full) = (0, false);
        }
        for place in 0..self.plan.options.nodes {
            self.start(place);
        }
    }

    /// Every node is ready and takes a write, and then all catalogs are equal.
    pub(super) fn liveness(&mut self) -> Result<(), Violation> {
        if self.plan.options.heal {
            self.until_left()?;
        }
        self.until_ready("healing", self.plan.options.nodes)?;
        self.advance(Duration::from_secs(2));
        for place in 0..self.plan.options.nodes {
            let planned = Planned {
                at: self.world.now(),
                place,
                name: self.plan.options.workload.names + place,
                kind: Kind::Put,
                durability: Durability::Quorum,
            };
            let before = self.clients.ended[0];
            // Some uploads are slow by themselves where healing is looked at.
            let patience = if self.plan.options.heal { 8 } else { 1 };
            let deadline = self.world.now() + WRITES_WITHIN * patience;
            while self.clients.ended[0] == before && self.world.now() < deadline {
                if self.clients.under_way() == 0 {
                    self.ask(&planned);
                }
                self.advance(LOOK);
            }
            if self.clients.ended[0] == before {
                let detail = format!("n{place} takes no write after healing\n{}", self.states());
                return Err(self.violation("I17", detail));
            }
        }
        let deadline = self.world.now() + EQUAL_WITHIN;
        loop {
            let Some(difference) = self.difference() else {
                self.equal_after = self.world.now().since(self.healed_at);
                return Ok(());
            };
            if self.world.now() >= deadline {
                return Err(self.violation("I10", difference));
            }
            self.advance(LOOK);
        }
    }

    /// Who is leaving leaves.
    fn until_left(&mut self) -> Result<(), Violation> {
        let deadline = self.world.now() + LEFT_WITHIN;
        loop {
            let leaves = |place: &Place| {
                self.world.nodes[*place].process.as_ref().is_some_and(|process| process.is_leaving())
            };
            let Some(place) = (0..self.plan.options.nodes).find(leaves) else { return Ok(()) };
            if self.world.now() >= deadline {
                let detail = format!("n{place} does not get to leave\n{}", self.states());
                return Err(self.violation("I17", detail));
            }
            self.advance(LOOK);
        }
    }

    /// Every chunk is where it belongs and nowhere else, and then nothing moves any more.
    pub(super) fn placement(&mut self) -> Result<(), Violation> {
        let healed = self.world.now();
        let budget = self.plan.options.budget;
        let later = if budget.rot { ROT_FOUND_WITHIN } else { Duration::ZERO };
        let later = if budget.crowd { CROWD_HEARD_WITHIN } else { later };
        let (copied, placed) = (healed + COPIED_WITHIN + later, healed + PLACED_WITHIN);
        while let Some(misplaced) = self.lacking().or_else(|| self.misplaced()).or_else(|| self.owing()) {
            let late = self.world.now() >= copied && self.lacking().is_some();
            if late || self.world.now() >= placed {
                let detail = format!("{misplaced}\n{}", self.states());
                return Err(self.violation("I5", detail));
            }
            self.advance(Duration::from_secs(2));
        }
        // What was taken last may not have been acknowledged yet.
        self.advance(Duration::from_secs(2));
        let before = self.pushed();
        self.advance(QUIET);
        match self.pushed() - before {
            0 => Ok(()),
            sent => Err(self.violation("I17", format!("{sent} copies were sent with all at its place"))),
        }
    }

    /// Reads every name through every node, and judges the history.
    pub(super) fn verify(&mut self) -> Result<(), Violation> {
        self.verifying = true;
        for place in 0..self.plan.options.nodes {
            for name in 0..self.plan.options.workload.names + self.plan.options.nodes {
                let now = self.world.now();
                let (node, run) = (self.world.nodes[place].id, self.world.nodes[place].run);
                let (operation, ask) = self.clients.invoke_get(name, place, node.as_str(), run, now);
                self.world.ask(place, operation, ask);
            }
        }
        for name in self.clients.moved.iter().map(|moved| moved.name).collect::<Vec<_>>() {
            let place = name % self.plan.options.nodes;
            let (node, run) = (self.world.nodes[place].id, self.world.nodes[place].run);
            let (operation, ask) = self.clients.invoke_get(name, place, node.as_str(), run, self.world.now());
            self.world.ask(place, operation, ask);
        }
        let deadline = self.world.now() + Duration::from_secs(30);
        while self.clients.under_way() > 0 && self.world.now() < deadline {
            self.advance(LOOK);
        }
        if self.clients.under_way() > 0 {
            return Err(self.violation("I17", "a read is not answered after healing".into()));
        }
        self.moved();
        Ok(())
    }

    fn until_ready(&mut self, phase: &str, places: usize) -> Result<(), Violation> {
        let deadline = self.world.now() + READY_WITHIN;
        loop {
            let reasons: Vec<String> = (0..places).filter_map(|p| self.unready(p)).collect();
            if reasons.is_empty() {
                return Ok(());
            }
            if self.world.now() >= deadline {
                let detail = format!("not ready after {phase}: {reasons:?}\n{}", self.states());
                return Err(self.violation("I17", detail));
            }
            self.advance(LOOK);
        }
    }

    /// What every process believes, for whoever looks into a failure.
    pub(super) fn states(&self) -> String {
        let states = self.world.nodes.iter().filter_map(|n| Some(n.process.as_ref()?.describe()));
        states.collect::<Vec<_>>().join("\n")
    }

    fn unready(&self, place: Place) -> Option<String> {
        let Some(process) = &self.world.nodes[place].process else {
            return Some(format!("n{place} does not run"));
        };
        let Options { nodes, late, .. } = self.plan.options;
        let enough = process.replicas() >= (nodes - late).min(3);
        match process.ready() {
            Ok(()) if enough => None,
            Ok(()) => Some(format!("n{place} knows too few members")),
            Err(why) => Some(format!("n{place}: {why}")),
        }
    }
}
