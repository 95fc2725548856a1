//! Runs one seed and prints what came of it: `cargo run -p kepler-tests --example one_seed 17`.

use kepler_tests::sim::node::{Node, Setup};
use kepler_tests::sim::run::{Options, Plan, run, shrink};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let last: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(first + 1);
    let wants_shrinking = arguments.next().is_some();
    for seed in first..last {
        let mut options = Options::new(seed);
        options.workload.moves = Some(std::time::Duration::from_secs(5));
        let plan = Plan::new(options);
        let begun = std::time::Instant::now();
        let report = run::<Node>(&plan, Setup::default());
        println!("seed {seed}: {report}, {:?}, trace {:016x}", begun.elapsed(), report.trace);
        if std::env::var("HISTORY").is_ok() {
            println!("{}", report.history);
        }
        for violation in report.violations.iter().take(3) {
            println!("  {violation}");
        }
        if wants_shrinking && !report.violations.is_empty() {
            let small = shrink::<Node>(&plan, &Setup::default(), 300);
            println!("{small}");
            let report = run::<Node>(&small, Setup::default());
            println!("{:#?}\n{}", report.violations, report.history);
            return;
        }
    }
}
