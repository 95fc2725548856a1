//! One run from a seed: warm-up, chaos, heal, liveness, verify.
//!
//! A [`Plan`] holds everything that is decided before the run, so that it can be printed, run
//! again, and shrunk by leaving parts out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::Refusal;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Dot, Version, head};

use super::client::{self, Clients, Kind, Planned, Workload, name_of, shared_of};
use super::faults::{self, Budget, Fault};
use super::invariants::{Ledger, Violation};
use super::network::{Link, Place};
use super::process::{Answer, Deleted, Durable, Process, Word};
use super::rng;
use super::world::{Happening, World};

/// What a run is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How long things go wrong.
    pub chaos: Duration,
    /// What goes wrong.
    pub budget: Budget,
    /// What clients do.
    pub workload: Workload,
    /// How links behave when nothing is wrong with them.
    pub usual: Link,
    /// Which wall clocks the nodes have: another number, other clocks.
    pub clocks: u64,
    /// How many of the nodes start only in the midst of what goes wrong.
    pub late: usize,
    /// Whether to wait in the end until every chunk is where it belongs and nowhere else.
    pub heal: bool,
}

impl Options {
    /// The options that CI runs for a seed: three to five nodes, a minute and a half of chaos.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: [3, 3, 3, 4, 5][(seed % 5) as usize],
            chaos: Duration::from_secs(90),
            budget: Budget::default(),
            workload: Workload::default(),
            usual: Link { forged: 10_000, ..Link::default() },
            clocks: 0,
            late: 0,
            heal: false,
        }
    }
}

/// Everything decided before a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it was made from.
    pub options: Options,
    /// What goes wrong, in order of time; instants count from the end of the warm-up.
    pub faults: Vec<(Instant, Fault)>,
    /// What clients ask, in order of time; instants count from the end of the warm-up.
    pub questions: Vec<Planned>,
}

impl Plan {
    /// The plan of some options.
    pub fn new(options: Options) -> Self {
        let end = Instant::ZERO + options.chaos;
        let mut random = rng::stream(options.seed, "faults", 0);
        let faults = faults::plan(&options.budget, options.nodes, Instant::ZERO, end, &mut random);
        let mut random = rng::stream(options.seed, "questions", 0);
        let questions = client::plan(&options.workload, options.nodes, Instant::ZERO, end, &mut random);
        Self { options, faults, questions }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.options)?;
        for (at, fault) in &self.faults {
            writeln!(f, "{:>12} {fault}", at.as_micros())?;
        }
        for question in &self.questions {
            let Planned { at, place, name, kind, durability } = question;
            writeln!(f, "{:>12} {kind:?} of {name} through {place}, {durability:?}", at.as_micros())?;
        }
        Ok(())
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was broken; empty if nothing.
    pub violations: Vec<Violation>,
    /// The fingerprint of all that happened.
    pub trace: u64,
    /// The fingerprint of the state in the end.
    pub state: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// Faults injected.
    pub faults: u64,
    /// Messages lost, cut off or doubled.
    pub disturbed: u64,
    /// Forged datagrams delivered.
    pub forged: u64,
    /// Operations that ended ok, failed, or nobody knows.
    pub operations: [u64; 3],
    /// Datagrams and stream messages.
    pub messages: u64,
    /// Rosters that were decided.
    pub rosters: u64,
    /// Events of the loop.
    pub events: u64,
    /// Copies sent in the background; superfluous and unreferenced ones deleted.
    pub copies: [u64; 3],
    /// Members that left, that were forgotten, and that were taken off the roster because they were dead for long.
    pub gone: [u64; 3],
    /// Copies delivered that uploads still owed.
    pub delivered: u64,
    /// The most that a node sent in the background within a second, in percent of its cap.
    pub busiest: u64,
    /// What clients missed of versions that only members knew who were given up: those count as lost.
    pub excused: u64,
    /// Lines of JSON: what clients saw.
    pub history: String,
}

impl Report {
    /// Adds another run's figures; its violations too.
    pub fn add(&mut self, other: &Self) {
        self.violations.extend(other.violations.iter().cloned());
        self.simulated += other.simulated;
        self.faults += other.faults;
        self.messages += other.messages;
        self.disturbed += other.disturbed;
        self.forged += other.forged;
        self.events += other.events;
        self.rosters += other.rosters;
        for (sum, more) in self.operations.iter_mut().zip(other.operations) {
            *sum += more;
        }
        for (sum, more) in self.copies.iter_mut().zip(other.copies) {
            *sum += more;
        }
        for (sum, more) in self.gone.iter_mut().zip(other.gone) {
            *sum += more;
        }
        self.busiest = self.busiest.max(other.busiest);
        self.excused += other.excused;
        self.delivered += other.delivered;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        let [ok, fail, unknown] = self.operations;
        write!(
            f,
            "{hours:.2} h simulated, {} faults, {} operations ({ok} ok, {fail} failed, {unknown} unknown), \
             {} rosters, {} messages ({} lost or doubled), {} forged, {} events, {} copies sent, {} owed ones delivered, {} released, \
             {} collected, {} left, {} forgotten, {} given up, {} % of the cap at most in a second, {} excused, {} violations",
            self.faults,
            ok + fail + unknown,
            self.rosters,
            self.messages,
            self.disturbed,
            self.forged,
            self.events,
            self.copies[0],
            self.delivered,
            self.copies[1],
            self.copies[2],
            self.gone[0],
            self.gone[1],
            self.gone[2],
            self.busiest,
            self.excused,
            self.violations.len(),
        )
    }
}

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

/// How long copies may take to be nowhere else: a promise that was just given holds for two
/// minutes, and a copy that comes late has its grace before it.
const PLACED_WITHIN: Duration = Duration::from_secs(360);

/// How long who leaves may take once everything is healed: what it has just promised it keeps for two minutes.
const LEFT_WITHIN: Duration = Duration::from_secs(240);

/// For how long nothing may be sent in the background then.
const QUIET: Duration = Duration::from_secs(45);

/// How long a receipt may be acted upon: what its giver lost since is not the holder's fault.
const RECEIPT: Duration = Duration::from_secs(60);

const UNDO: u64 = 1 << 40;
const QUESTION: u64 = 1 << 41;
const RESTART: u64 = 1 << 42;

/// A run under way.
pub struct Run<P: Process> {
    /// The cluster.
    pub world: World<P>,
    plan: Plan,
    clients: Clients,
    ledger: Ledger,
    active: BTreeSet<usize>,
    /// Nodes whose database is an older copy and that have not started on it yet.
    restored: BTreeSet<Place>,
    /// N at the node that each operation was asked of, when it was.
    began_with: BTreeMap<u64, usize>,
    /// For how long nodes that leave stay away.
    leaving: BTreeMap<Place, Duration>,
    /// When a node last lost state that had been durable.
    lost: BTreeMap<Place, Instant>,
    started_at: Instant,
    injected: u64,
    healed: bool,
    /// Superfluous and unreferenced copies deleted.
    deleted: [u64; 2],
    /// The greatest roster so far.
    members: (u64, BTreeSet<Place>),
    /// Members that left, and that were taken off a roster for whatever reason.
    left: u64,
    removed: u64,
    /// Versions that no member of some roster knew when it was adopted.
    unknown: BTreeSet<Dot>,
    /// Of disks that were thrown away since.
    thrown: (u64, u64, u64),
    /// All is healed: whatever was promised can be read.
    verifying: bool,
}

/// Runs a plan to its end.
pub fn run<P: Process>(plan: &Plan, config: P::Config) -> Report {
    Run::<P>::new(plan, config).to_end()
}

/// Leaves out faults and questions for as long as the run still breaks the same invariant.
pub fn shrink<P: Process>(plan: &Plan, config: &P::Config, attempts: usize) -> Plan {
    let broken = |plan: &Plan| run::<P>(plan, config.clone()).violations.first().map(|v| v.invariant);
    let first = broken(plan);
    let mut best = plan.clone();
    let mut left = attempts;
    let mut piece = (best.faults.len() + best.questions.len()).div_ceil(2);
    while piece > 0 && left > 0 {
        let mut at = 0;
        while at < best.faults.len() + best.questions.len() && left > 0 {
            left -= 1;
            let dropped = |index: usize| index >= at && index < at + piece;
            let mut smaller = best.clone();
            let mut index = 0;
            let mut keep = || {
                index += 1;
                !dropped(index - 1)
            };
            smaller.faults.retain(|_| keep());
            smaller.questions.retain(|_| keep());
            if broken(&smaller) == first {
                best = smaller;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    best
}

impl<P: Process> Run<P> {
    /// A cluster that has not begun.
    pub fn new(plan: &Plan, config: P::Config) -> Self {
        let Options { seed, nodes, usual, clocks, .. } = plan.options;
        let mut world = World::new(seed, nodes, config, usual);
        if clocks > 0 {
            let mut random = rng::stream(clocks, "wall", 0);
            for node in &mut world.nodes {
                node.wall = faults::any_wall(&mut random);
            }
        }
        Self {
            world,
            plan: plan.clone(),
            clients: Clients::default(),
            ledger: Ledger::default(),
            active: BTreeSet::new(),
            restored: BTreeSet::new(),
            began_with: BTreeMap::new(),
            leaving: BTreeMap::new(),
            lost: BTreeMap::new(),
            started_at: Instant::ZERO,
            injected: 0,
            healed: false,
            deleted: [0; 2],
            members: (0, BTreeSet::new()),
            left: 0,
            removed: 0,
            unknown: BTreeSet::new(),
            thrown: (0, 0, 0),
            verifying: false,
        }
    }

    /// All phases.
    pub fn to_end(mut self) -> Report {
        let phases = self.warm_up().and_then(|()| {
            self.chaos();
            self.liveness()?;
            if self.plan.options.heal {
                self.placement()?;
            }
            self.verify()
        });
        if let Err(violation) = phases {
            self.ledger.violations.push(violation);
        }
        self.report()
    }

    fn warm_up(&mut self) -> Result<(), Violation> {
        let first = self.plan.options.nodes - self.plan.options.late;
        for place in 0..first {
            self.world.start(place);
            self.advance(Duration::from_millis(300));
        }
        self.until_ready("warm-up", first)
    }

    fn chaos(&mut self) {
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
        self.active.clear();
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
    fn liveness(&mut self) -> Result<(), Violation> {
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
            let Some(difference) = self.difference() else { return Ok(()) };
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
    fn placement(&mut self) -> Result<(), Violation> {
        let healed = self.world.now();
        let (copied, placed) = (healed + COPIED_WITHIN, healed + PLACED_WITHIN);
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

    fn pushed(&self) -> u64 {
        self.thrown.0 + self.world.nodes.iter().map(|node| node.durable.pushed()).sum::<u64>()
    }

    /// Who owns a chunk now that all agree.
    fn owners(&self, chunk: &ChunkId) -> BTreeSet<Place> {
        let process = self.world.nodes[0].process.as_ref();
        process.map(|process| process.owners(chunk).into_iter().collect()).unwrap_or_default()
    }

    /// A chunk of a live version that an owner lacks, if there is one.
    fn lacking(&self) -> Option<String> {
        let nodes = &self.world.nodes;
        let live = nodes[0].durable.survivors();
        let roots = live.iter().filter_map(|version| Some((version, version.content.as_ref()?.root)));
        for (version, root) in roots {
            for chunk in [root, shared_of(&root)] {
                let holders: BTreeSet<Place> =
                    (0..nodes.len()).filter(|place| nodes[*place].durable.holds(&chunk)).collect();
                let owners = self.owners(&chunk);
                // What a node alone had may be lost with it.
                let lost = holders.is_empty() && !self.lost.is_empty() && !self.is_promised(version);
                if !lost && !owners.is_subset(&holders) {
                    return Some(format!("{chunk} of {} is on {holders:?}, not {owners:?}", version.dot));
                }
            }
        }
        None
    }

    /// A node that still owes copies, if there is one.
    fn owing(&self) -> Option<String> {
        let owes = self.world.nodes.iter().find(|node| node.durable.owed() > 0)?;
        Some(format!("{} still owes {} copies", owes.id, owes.durable.owed()))
    }

    /// A chunk that is where it does not belong, or not where it does, if there is one.
    fn misplaced(&self) -> Option<String> {
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

    /// Whether a client was told that a majority has this version.
    fn is_promised(&self, version: &Version) -> bool {
        self.clients.acknowledged.iter().any(|(_, acknowledged, durability)| {
            acknowledged.dot == version.dot && *durability != Durability::Fast
        })
    }

    /// A node decided to delete a copy. I8: N others have theirs, with its references. I7: nothing needs it.
    fn deleted(&mut self, place: Place, deleted: &Deleted) {
        // Where who leaves does not drain, its disk is not looked at.
        if !self.plan.options.heal && self.leaving.contains_key(&place) {
            return;
        }
        let Deleted { chunk, dots, collected, replicas } = deleted;
        self.deleted[usize::from(*collected)] += 1;
        let now = self.world.now();
        let nodes = &self.world.nodes;
        let lost = |at: &Place| self.lost.get(at).is_some_and(|when| now.since(*when) <= RECEIPT);
        let others: Vec<Place> = (0..nodes.len())
            .filter(|at| *at != place && (nodes[*at].durable.holds(chunk) || lost(at)))
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
            let refer = |at: &&Place| nodes[**at].durable.references(chunk).contains(&dot) || lost(at);
            let referring = others.iter().filter(refer).count();
            if *collected && dots.contains(&dot) {
                broken.push(("I7", format!("{id} collected {chunk}, which {dot} needs")));
            } else if *collected && self.is_promised(version) {
                // One that lost what it had may have been one of the majority.
                let majority = replicas / 2 + 1;
                let had = self.lost.len();
                if others.len() + had < majority {
                    broken
                        .push(("I7", format!("{id} collected {chunk} with copies on {others:?}, for {dot}")));
                }
            } else if !collected && dots.contains(&dot) && referring < *replicas {
                broken.push(("I7", format!("{id} released {chunk} and left {dot} to {referring}")));
            }
        }
        let uploads = nodes.iter().filter_map(|node| node.process.as_ref()).flat_map(P::uploading);
        if let Some(dot) = uploads.filter(|dot| *collected && dots.contains(dot)).min() {
            broken.push(("I7", format!("{id} collected {chunk} while it is uploaded as {dot}")));
        }
        for (invariant, detail) in broken {
            self.ledger.violations.push(self.violation(invariant, detail));
        }
    }

    /// Reads every name through every node, and judges the history.
    fn verify(&mut self) -> Result<(), Violation> {
        self.verifying = true;
        for place in 0..self.plan.options.nodes {
            for name in 0..self.plan.options.workload.names + self.plan.options.nodes {
                let now = self.world.now();
                let (node, run) = (self.world.nodes[place].id, self.world.nodes[place].run);
                let (operation, ask) = self.clients.invoke_get(name, place, node.as_str(), run, now);
                self.world.ask(place, operation, ask);
            }
        }
        let deadline = self.world.now() + Duration::from_secs(30);
        while self.clients.under_way() > 0 && self.world.now() < deadline {
            self.advance(LOOK);
        }
        if self.clients.under_way() > 0 {
            return Err(self.violation("I17", "a read is not answered after healing".into()));
        }
        Ok(())
    }

    fn violation(&self, invariant: &'static str, detail: String) -> Violation {
        Violation { seed: self.plan.options.seed, invariant, at: self.world.now(), detail }
    }

    fn report(mut self) -> Report {
        let nodes: Vec<String> = self.world.nodes.iter().map(|n| n.id.to_string()).collect();
        let history = self.clients.complete(&self.ledger, &nodes);
        let mut excused = 0;
        match crate::history::checker::check(&history) {
            Ok(found) => {
                for violation in found {
                    let detail = violation.to_string();
                    let names = |dot: &Dot| detail.contains(&format!("{dot} "));
                    if self.unknown.iter().any(names) {
                        excused += 1;
                        continue;
                    }
                    self.ledger.violations.push(self.violation(violation.invariant, detail));
                }
            }
            Err(malformed) => {
                self.ledger.violations.push(self.violation("history", malformed.to_string()));
            }
        }
        let mut state = super::clock_heap::Trace::default();
        for node in &self.world.nodes {
            let survivors = node.durable.survivors();
            let names: BTreeSet<_> = survivors.iter().map(|v| &v.name).collect();
            for name in names {
                let head = head(survivors.iter().filter(|v| v.name == *name));
                state.mix_bytes(head.map(|v| v.dot.to_string()).unwrap_or_default().as_bytes());
            }
            for version in survivors {
                state.mix_bytes(version.dot.to_string().as_bytes());
            }
        }
        let traffic = self.world.network.traffic;
        let pushed = self.pushed();
        let delivered = self.world.nodes.iter().map(|node| node.durable.delivered()).sum();
        let forgotten = self.world.nodes.iter().map(|n| n.durable.forgotten()).sum::<u64>() + self.thrown.1;
        let busiest = self.world.nodes.iter().map(|n| n.durable.busiest()).fold(self.thrown.2, u64::max);
        Report {
            violations: self.ledger.violations,
            trace: self.world.trace.value(),
            state: state.value(),
            simulated: self.world.now().since(Instant::ZERO),
            faults: self.injected,
            disturbed: traffic.lost + traffic.doubled,
            forged: self.world.counts.forged,
            operations: self.clients.ended,
            messages: traffic.datagrams + traffic.messages,
            rosters: self.world.nodes.iter().filter_map(|n| n.process.as_ref()?.roster()).max().unwrap_or(0),
            events: self.world.counts.events,
            copies: [pushed, self.deleted[0], self.deleted[1]],
            gone: [self.left, forgotten, self.removed.saturating_sub(self.left + forgotten)],
            busiest,
            excused,
            delivered,
            history: history.to_json_lines(),
        }
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
    fn states(&self) -> String {
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

    /// Where two catalogs differ, if any do.
    fn difference(&self) -> Option<String> {
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

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        let until = self.world.now() + time;
        self.world.mark(until, u64::MAX);
        while let Some(happening) = self.world.next(until) {
            match happening {
                Happening::Mark(u64::MAX) if self.world.now() == until => break,
                Happening::Mark(mark) => self.marked(mark),
                Happening::Stepped(place) => self.stepped(place),
                Happening::Answered { operation, place, answer } => self.answered(operation, place, &answer),
                Happening::Broken { operation } => self.clients.broken(operation, self.world.now()),
                Happening::Tampered { place, forgery } => {
                    let detail = format!("n{place} believed a datagram that was {forgery:?}");
                    self.ledger.violations.push(self.violation("I19", detail));
                }
                Happening::Left(place) => {
                    self.left += 1;
                    if self.plan.options.heal {
                        self.throw_away(place);
                    }
                    let away = self.leaving.remove(&place).unwrap_or(Duration::from_secs(1));
                    let away = if self.healed { Duration::from_secs(1) } else { away };
                    self.world.mark(self.world.now() + away, RESTART + place as u64);
                }
                Happening::Stopped(place) => {
                    let at = self.world.now() + Duration::from_secs(1);
                    self.world.mark(at, RESTART + place as u64);
                }
            }
        }
    }

    /// Who is taken off the roster counts as lost: what only such members know may come back as conflicts.
    fn given_up(&mut self, members: &BTreeSet<Place>) {
        if self.members.1.is_subset(members) {
            return;
        }
        let known = |version: &Version| members.iter().any(|at| self.world.nodes[*at].durable.knows(version));
        let lost = self.ledger.stored.values().filter(|version| !known(version)).map(|version| version.dot);
        let lost: Vec<Dot> = lost.collect();
        self.unknown.extend(lost);
    }

    /// Who left had nothing that others lack; its disk is thrown away.
    fn throw_away(&mut self, place: Place) {
        let node = &self.world.nodes[place];
        let others = || self.world.nodes.iter().enumerate().filter(|(other, _)| *other != place);
        let mut broken = Vec::new();
        for version in node.durable.known() {
            if !others().any(|(_, other)| other.durable.knows(&version)) {
                broken.push(("I1", format!("{} left, and nobody else knows {}", node.id, version.dot)));
            }
        }
        let staying = others().filter(|(_, other)| other.process.as_ref().is_none_or(|p| !p.is_leaving()));
        let wanted = staying.filter(|(other, _)| self.members.1.contains(other)).count().min(3);
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
        self.thrown.0 += durable.pushed();
        self.thrown.1 += durable.forgotten();
        self.thrown.2 = self.thrown.2.max(durable.busiest());
        for (invariant, detail) in broken {
            self.ledger.violations.push(self.violation(invariant, detail));
        }
        self.world.wipe(place);
    }

    fn stepped(&mut self, place: Place) {
        let now = self.world.now();
        for version in self.world.nodes[place].durable.take_stored() {
            self.ledger.stored(self.plan.options.seed, now, version);
        }
        let leaving = !self.plan.options.heal && self.leaving.contains_key(&place);
        for (invariant, detail) in
            self.world.nodes[place].durable.take_broken().into_iter().filter(|_| !leaving)
        {
            self.ledger.violations.push(self.violation(invariant, detail));
        }
        for deleted in self.world.nodes[place].durable.take_deleted() {
            self.deleted(place, &deleted);
        }
        if let Some(process) = &self.world.nodes[place].process
            && let Some(number) = process.roster()
            && number > self.members.0
        {
            let members = process.members();
            self.given_up(&members);
            self.removed += self.members.1.difference(&members).count() as u64;
            self.members = (number, members);
        }
    }

    fn answered(&mut self, operation: u64, place: Place, answer: &Answer) {
        self.world.trace.mix(operation);
        self.clients.answered(operation, answer, self.world.now());
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
            self.lost.get(&place).is_some_and(|at| *at >= began) || self.leaving.contains_key(&place)
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
            let of = |chunk: ChunkId| count(&|durable| durable.holds(&chunk));
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

    fn ask(&mut self, planned: &Planned) {
        let place = planned.place;
        if !self.world.is_up(place) {
            return;
        }
        let now = self.world.now();
        let (node, run) = (self.world.nodes[place].id, self.world.nodes[place].run);
        let (operation, ask) = self.clients.invoke(planned, node.as_str(), run, now);
        if let Some(process) = &self.world.nodes[place].process {
            self.began_with.insert(operation, process.replicas());
        }
        self.world.ask(place, operation, ask);
    }

    fn marked(&mut self, mark: u64) {
        match mark {
            u64::MAX => {}
            RESTART.. => self.start((mark - RESTART) as usize),
            QUESTION.. => {
                let planned = self.plan.questions[(mark - QUESTION) as usize];
                self.ask(&planned);
            }
            UNDO.. if !self.healed => self.undo((mark - UNDO) as usize),
            UNDO.. => {}
            _ => self.inject(mark as usize),
        }
    }

    /// Starts a node. On an older copy of its database only where everybody can contradict it: a copy
    /// that nobody up can contradict is the operator's risk, who is to start blank instead.
    fn start(&mut self, place: Place) {
        let alone =
            (0..self.plan.options.nodes).any(|other| !self.world.is_responsive(other) && other != place);
        let cut = self
            .active
            .iter()
            .any(|index| matches!(self.plan.faults[*index].1, Fault::Cut { .. } | Fault::Lossy { .. }));
        if self.restored.remove(&place) && (alone || cut) {
            self.world.nodes[place].durable.lose_database();
        }
        self.world.start(place);
    }

    fn later(&mut self, index: usize, time: Duration) {
        let at = self.world.now() + time;
        self.world.mark(at, UNDO + index as u64);
        self.active.insert(index);
    }

    fn inject(&mut self, index: usize) {
        self.injected += 1;
        let fault = self.plan.faults[index].1.clone();
        match fault {
            Fault::Kill { place, power, down } => {
                self.world.kill(place, power);
                self.later(index, down);
            }
            Fault::LoseDatabase { place, down } => {
                self.world.kill(place, false);
                self.world.nodes[place].durable.lose_database();
                self.lost.insert(place, self.world.now());
                self.later(index, down);
            }
            Fault::RestoreDatabase { place, down } => {
                self.world.kill(place, false);
                self.world.nodes[place].durable.restore();
                self.restored.insert(place);
                self.lost.insert(place, self.world.now());
                self.later(index, down);
            }
            Fault::EmptyDisk { place, down } => {
                self.world.kill(place, false);
                self.world.wipe(place);
                self.lost.insert(place, self.world.now());
                self.later(index, down);
            }
            Fault::CommitFails { place, down } => {
                self.world.nodes[place].durable.fail_commit();
                self.later(index, down);
            }
            Fault::Freeze { place, time } => {
                self.world.freeze(place);
                self.later(index, time);
            }
            Fault::Cut { time, .. } | Fault::Lossy { time, .. } => {
                self.later(index, time);
                self.lay_network();
            }
            Fault::Clock { place, wall } => {
                let moved = rng::word(self.plan.options.clocks, "jump", index as u64) % 4_000_000_000_000;
                self.world.nodes[place].wall =
                    if self.plan.options.clocks == 0 { wall } else { moved as i64 };
            }
            Fault::DiskErrors { place, count } => self.world.nodes[place].durable.disk().failing += count,
            Fault::DiskFull { place, time } => {
                self.world.nodes[place].durable.disk().full = true;
                self.later(index, time);
            }
            Fault::SlowDisk { place, commit, time } => {
                self.world.nodes[place].durable.set_commit_time(commit);
                self.later(index, time);
            }
            Fault::Leave { place, away } => {
                if self.world.is_up(place) && self.may_leave(place) {
                    self.leaving.insert(place, away);
                    self.world.operate(place, Word::Leave);
                }
            }
            Fault::Forget { place, by } => self.world.operate(by, Word::Forget(place)),
            Fault::Cap { place, cap } => self.world.operate(place, Word::Cap(cap)),
            Fault::Backup { place } => self.world.nodes[place].durable.back_up(),
        }
    }

    /// Where who leaves drains, two members stay who do not.
    fn may_leave(&self, place: Place) -> bool {
        let stays = |at: &Place| {
            let process = self.world.nodes[*at].process.as_ref();
            *at != place && !self.leaving.contains_key(at) && process.is_none_or(|p| !p.is_leaving())
        };
        !self.plan.options.heal || self.members.1.iter().filter(|at| stays(at)).count() >= 2
    }

    fn undo(&mut self, index: usize) {
        self.active.remove(&index);
        match self.plan.faults[index].1.clone() {
            Fault::Kill { place, .. }
            | Fault::LoseDatabase { place, .. }
            | Fault::RestoreDatabase { place, .. }
            | Fault::EmptyDisk { place, .. }
            | Fault::CommitFails { place, .. } => self.start(place),
            Fault::Freeze { place, .. } => self.world.thaw(place),
            Fault::Cut { .. } | Fault::Lossy { .. } => self.lay_network(),
            Fault::DiskFull { place, .. } => self.world.nodes[place].durable.disk().full = false,
            Fault::SlowDisk { place, .. } => {
                self.world.nodes[place].durable.set_commit_time(Duration::from_millis(1));
            }
            Fault::Clock { .. }
            | Fault::DiskErrors { .. }
            | Fault::Backup { .. }
            | Fault::Cap { .. }
            | Fault::Leave { .. }
            | Fault::Forget { .. } => {}
        }
    }

    /// Makes the network what the faults that last say.
    fn lay_network(&mut self) {
        let count = self.plan.options.nodes;
        self.world.network.heal();
        for index in &self.active {
            match self.plan.faults[*index].1 {
                Fault::Cut { hears, datagrams, streams, .. } => {
                    for from in 0..count {
                        for to in (0..count).filter(|to| hears >> (from * count + to) & 1 == 0) {
                            self.world.network.change(from, to, |link| {
                                link.datagrams &= !datagrams;
                                link.streams &= !streams;
                            });
                        }
                    }
                }
                Fault::Lossy { place, loss, duplication, delay, .. } => {
                    for other in 0..count {
                        for (from, to) in [(place, other), (other, place)] {
                            self.world.network.change(from, to, |link| {
                                (link.loss, link.duplication, link.delay) = (loss, duplication, delay);
                            });
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Names that clients use, for whoever looks at a run from outside.
    pub fn names(&self) -> BTreeMap<usize, String> {
        (0..self.plan.options.workload.names).map(|i| (i, name_of(i).to_string())).collect()
    }
}
