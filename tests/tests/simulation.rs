//! The real machines under faults, seed by seed. `SEEDS=10000` runs more than CI does.

use std::env;
use std::process::Command;
use std::time::Duration;

use kepler_protocol::time::Instant;
use kepler_tests::sim::network::Link;
use kepler_tests::sim::node::{Node, Setup};
use kepler_tests::sim::run::{Options, Plan, Report, run, shrink};

/// I10: from when all faults end, whatever a node has to do before it is ready.
const EQUAL_WITHIN: Duration = Duration::from_secs(30);

/// How many seeds a test runs, of what `SEEDS` asks for in all.
fn seeds(usual: u64) -> u64 {
    let asked = env::var("SEEDS").ok().and_then(|text| text.parse().ok());
    asked.map_or(usual, |asked: u64| asked.max(1))
}

/// The first seed: `SEED=17` begins with that one.
fn first() -> u64 {
    env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Runs seeds; at the first that breaks something, prints its options, shrinks it, and fails.
fn sweep(title: &str, count: u64, options: impl Fn(u64) -> Options) -> Report {
    sweep_with(title, count, Setup::default(), options)
}

fn sweep_with(title: &str, count: u64, setup: Setup, options: impl Fn(u64) -> Options) -> Report {
    let mut sum = Report::default();
    for seed in first()..first() + count {
        let plan = Plan::new(options(seed));
        let report = run::<Node>(&plan, setup);
        sum.add(&report);
        if !report.violations.is_empty() {
            let found: Vec<String> = report.violations.iter().take(5).map(ToString::to_string).collect();
            let small = shrink::<Node>(&plan, &setup, if env::var("SHRINK").is_ok() { 200 } else { 0 });
            panic!("{title}, seed {seed}:\n{}\nwith {small}", found.join("\n"));
        }
    }
    println!("{title}: {sum}");
    // In none of these is anything lost with members that are given up.
    assert_eq!(sum.excused, 0, "{title}: {sum}");
    assert!(sum.equal_after <= EQUAL_WITHIN, "{title}, I10: {sum}");
    sum
}

#[test]
fn every_promise_holds_under_mixed_faults() {
    let count = seeds(300);
    let sum = sweep("mixed faults", count, |seed| {
        let mut options = Options::new(seed);
        options.workload.moves = Some(Duration::from_secs(5));
        options
    });
    assert!(sum.moved > count * 2, "hardly anything was moved: {sum}");
    assert!(sum.operations[0] > count * 20, "hardly anything was acknowledged: {sum}");
}

#[test]
fn every_promise_holds_with_half_of_all_messages_doubled() {
    sweep("half of all messages doubled", seeds(60), |seed| Options {
        usual: Link { duplication: 500_000, ..Link::default() },
        ..Options::new(seed)
    });
}

/// Where nothing else goes wrong and nobody races, doubled messages lead to the very survivors and heads that single
/// ones lead to. (What clients see of races and faults depends on who comes first, so no two such runs end alike.)
#[test]
fn doubled_messages_change_nothing_in_the_end() {
    for seed in first()..first() + seeds(30) {
        let of = |duplication| {
            let mut options = Options::new(seed);
            options.usual = Link { duplication, ..Link::default() };
            options.budget.every = Duration::from_secs(3600);
            (options.workload.fast, options.workload.conditional) = (0, 0);
            options.workload.moves = Some(Duration::from_secs(9));
            options.workload.every = Duration::from_secs(1);
            let mut plan = Plan::new(options);
            plan.faults.clear();
            // One after the other.
            for (index, question) in plan.questions.iter_mut().enumerate() {
                question.at = Instant::ZERO + Duration::from_millis(700) * index as u32;
            }
            plan.questions.truncate(120);
            let report = run::<Node>(&plan, Setup::default());
            assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
            report
        };
        let (once, twice) = (of(0), of(500_000));
        assert!(twice.disturbed > 1000, "seed {seed}: hardly anything was doubled: {twice}");
        assert_ne!(once.trace, twice.trace, "seed {seed}: nothing was doubled");
        assert_eq!(once.operations, twice.operations, "seed {seed}");
        assert_eq!(once.state, twice.state, "seed {seed}: other survivors or heads than without doubling");
    }
}

#[test]
fn every_promise_holds_where_writers_race() {
    sweep("racing writers", seeds(60), |seed| {
        let mut options = Options::new(seed);
        options.workload.every = Duration::from_millis(150);
        (options.workload.names, options.workload.conditional) = (2, 60);
        options.chaos = Duration::from_secs(40);
        options
    });
}

/// Members are removed while they are away, leave, are forgotten, move to another zone, and return with
/// all they had.
#[test]
fn every_promise_holds_where_members_are_removed_and_return() {
    let setup = Setup { forget_after: Duration::from_secs(6), zones: 2, ..Setup::default() };
    let sum = sweep_with("changing members", seeds(60), setup, |seed| {
        let mut options = Options::new(seed);
        // Who is given up counts as lost: nobody else may lose anything meanwhile.
        (options.budget.losses, options.budget.operators) = (0, true);
        options.nodes = [3, 4, 5][(seed % 3) as usize];
        options
    });
    assert!(sum.rosters > 10 * seeds(60), "hardly any roster was decided: {sum}");
}

#[test]
fn wall_clocks_decide_nothing() {
    for seed in first()..first() + seeds(4) {
        let of = |clocks| {
            let mut options = Options { clocks, ..Options::new(seed) };
            options.chaos = Duration::from_secs(40);
            run::<Node>(&Plan::new(options), Setup::default())
        };
        let one = of(1);
        for clocks in 2..=20 {
            let other = of(clocks);
            assert_eq!((one.state, one.trace), (other.state, other.trace), "seed {seed}, clocks {clocks}");
        }
    }
}

/// Set in the child that only prints its traces.
const CHILD: &str = "KEPLER_TESTS_PRINT_TRACES";

fn traces() -> String {
    (0..3)
        .map(|seed| {
            let report = run::<Node>(&Plan::new(Options::new(seed)), Setup::default());
            format!("trace {seed} {:016x} {:016x} {}\n", report.trace, report.state, report.history.len())
        })
        .collect()
}

#[test]
fn one_seed_gives_one_trace_in_every_process() {
    let here = traces();
    if env::var(CHILD).is_ok() {
        println!("{here}");
        return;
    }
    let child = Command::new(env::current_exe().expect("this test runs from a file"))
        .args(["--exact", "one_seed_gives_one_trace_in_every_process", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("the test can run itself");
    let there = String::from_utf8_lossy(&child.stdout);
    assert!(there.contains(&here), "here:\n{here}\nin another process:\n{there}");
}
