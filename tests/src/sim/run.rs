//! One run from a seed: warm-up, chaos, heal, liveness, verify.
//!
//! A [`Plan`] holds everything that is decided before the run.
//!
//! | module | decides |
//! | --- | --- |
//! | [`plan`], [`report`], [`shrink`](mod@shrink) | what a run is made of; what came of it; what a violation does not need |
//! | [`phases`] | what comes after what, and how long each may take |
//! | [`harm`] | what goes wrong, and what it took |
//! | [`rosters`] | who was a member, and what becomes of those that are no more |
//! | [`moves`] | how moves go on, and whether their files are there in the end |
//! | [`judge`], [`copies`] | whether a step keeps what was promised; where everything is in the end |

mod copies;
mod harm;
mod judge;
mod moves;
mod phases;
mod plan;
mod report;
mod rosters;
mod shrink;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kepler_protocol::time::Instant;
use kepler_protocol::version::{Dot, head};

use super::client::{Clients, Planned, name_of};
use super::clock_heap::Trace;
use super::faults;
use super::invariants::{Ledger, Violation};
use super::process::{Durable, Process};
use super::rng;
use super::world::{Happening, World};
use harm::Harm;
use rosters::{Rosters, Thrown};

pub use plan::{Options, Plan};
pub use report::Report;
pub use shrink::shrink;

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
    harm: Harm,
    /// N at the node that each operation was asked of, when it was.
    began_with: BTreeMap<u64, usize>,
    started_at: Instant,
    healed: bool,
    healed_at: Instant,
    /// From then until all catalogs were equal.
    equal_after: Duration,
    /// Superfluous and unreferenced copies deleted.
    deleted: [u64; 2],
    rosters: Rosters,
    thrown: Thrown,
    /// What members alone knew who were given up since.
    excused: u64,
    /// All is healed: whatever was promised can be read.
    verifying: bool,
}

/// Runs a plan to its end.
pub fn run<P: Process>(plan: &Plan, config: P::Config) -> Report {
    Run::<P>::new(plan, config).to_end()
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
            harm: Harm::default(),
            began_with: BTreeMap::new(),
            started_at: Instant::ZERO,
            healed: false,
            healed_at: Instant::ZERO,
            equal_after: Duration::ZERO,
            deleted: [0; 2],
            rosters: Rosters::default(),
            thrown: Thrown::default(),
            excused: 0,
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
                    self.rosters.left += 1;
                    self.harm.leavers.remove(&place);
                    if self.plan.options.heal {
                        self.throw_away(place);
                    }
                    let away = self.harm.leaving.remove(&place).unwrap_or(Duration::from_secs(1));
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

    fn violation(&self, invariant: &'static str, detail: String) -> Violation {
        Violation { seed: self.plan.options.seed, invariant, at: self.world.now(), detail }
    }

    fn report(mut self) -> Report {
        let nodes: Vec<String> = self.world.nodes.iter().map(|n| n.id.to_string()).collect();
        let history = self.clients.complete(&self.ledger, &nodes);
        let mut excused = self.excused;
        match crate::history::checker::check(&history) {
            Ok(found) => {
                for violation in found {
                    let detail = violation.to_string();
                    let names = |dot: &Dot| detail.contains(&format!("{dot} "));
                    if self.rosters.unknown.iter().any(names) {
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
        let mut state = Trace::default();
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
        let forgotten =
            self.world.nodes.iter().map(|n| n.durable.forgotten()).sum::<u64>() + self.thrown.forgotten;
        let busiest =
            self.world.nodes.iter().map(|n| n.durable.busiest()).fold(self.thrown.busiest, u64::max);
        Report {
            violations: self.ledger.violations,
            trace: self.world.trace.value(),
            state: state.value(),
            simulated: self.world.now().since(Instant::ZERO),
            faults: self.harm.injected,
            disturbed: traffic.lost + traffic.doubled,
            forged: self.world.counts.forged,
            operations: self.clients.ended,
            messages: traffic.datagrams + traffic.messages,
            rosters: self.world.nodes.iter().filter_map(|n| n.process.as_ref()?.roster()).max().unwrap_or(0),
            events: self.world.counts.events,
            copies: [pushed, self.deleted[0], self.deleted[1]],
            gone: [
                self.rosters.left,
                forgotten,
                self.rosters.removed.saturating_sub(self.rosters.left + forgotten),
            ],
            rot: [self.harm.rotted, self.world.nodes.iter().map(|n| n.durable.set_aside()).sum()],
            rebound: self.rosters.rebound,
            stayed: self.harm.stayed,
            busiest,
            excused,
            equal_after: self.equal_after,
            moved: self.clients.moved.iter().filter(|moved| moved.done).count() as u64,
            delivered,
            history: history.to_json_lines(),
        }
    }

    /// Names that clients use, for whoever looks at a run from outside.
    pub fn names(&self) -> BTreeMap<usize, String> {
        (0..self.plan.options.workload.names).map(|i| (i, name_of(i).to_string())).collect()
    }
}
