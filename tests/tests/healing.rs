//! The cluster heals itself: copies of what is lost, moves after joins, receipts, collection. The same
//! machines as in `simulation.rs`, with longer absences, late joiners, and a look at the disks at the end:
//! every chunk on its owners and nowhere else, nothing kept that nothing refers to, and then quiet.

use std::env;
use std::time::Duration;

use kepler_tests::sim::node::{Node, Setup};
use kepler_tests::sim::run::{Options, Plan, Report, run, shrink};

fn number(name: &str, usual: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Four to six nodes, of which some join late; absences up to a minute and a half.
fn healing(seed: u64) -> Options {
    let mut options = Options::new(seed);
    options.nodes = [4, 5, 5, 6][(seed % 4) as usize];
    options.late = (seed / 4 % 3) as usize;
    options.heal = true;
    options.chaos = Duration::from_secs(180);
    options.budget.long = true;
    options.budget.every = Duration::from_secs(9);
    options.workload.every = Duration::from_millis(900);
    options.workload.names = 10;
    options
}

/// Runs seeds; at the first that breaks something, prints its options, shrinks it, and fails.
fn sweep(title: &str, count: u64, options: impl Fn(u64) -> Options) -> Report {
    let setup = Setup::default();
    let mut sum = Report::default();
    let first = number("SEED", 0);
    for seed in first..first + number("SEEDS", count) {
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
    sum
}

#[test]
fn copies_end_where_they_belong_after_whatever_went_wrong() {
    let sum = sweep("healing", 40, healing);
    assert!(sum.copies.iter().all(|count| *count > 100), "hardly anything was healed: {sum}");
}
