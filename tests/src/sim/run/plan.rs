//! Everything that is decided before a run, so that it can be printed, run again, and shrunk by leaving
//! parts out.

use std::fmt;
use std::time::Duration;

use kepler_protocol::time::Instant;

use crate::sim::client::{self, Planned, Workload};
use crate::sim::faults::{self, Budget, Fault};
use crate::sim::network::Link;
use crate::sim::rng;

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
        let mut questions = client::plan(&options.workload, options.nodes, Instant::ZERO, end, &mut random);
        let mut random = rng::stream(options.seed, "moves", 0);
        questions.extend(client::plan_moves(
            &options.workload,
            options.nodes,
            Instant::ZERO,
            end,
            &mut random,
        ));
        questions.sort_by_key(|question| question.at);
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
