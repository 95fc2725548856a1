//! Bugs planted on purpose: each is found within its budget of seeds, and the same budget passes
//! with its switch off. A harness that finds none of these would prove nothing by passing.

use kepler_tests::sim::node::{Node, Setup};
use kepler_tests::sim::run::{Options, Plan, run};

/// Runs up to `budget` seeds with the bug, which must be found by one of `invariants`, and the
/// seeds up to that one without it, which must pass.
fn found(name: &str, budget: u64, invariants: &[&str], options: fn(u64) -> Options, plant: fn(&mut Setup)) {
    let sound = Setup { queue: false, ..Setup::default() };
    let mut setup = sound;
    plant(&mut setup);
    for seed in 0..budget {
        let plan = Plan::new(options(seed));
        let report = run::<Node>(&plan, setup);
        let hit = report.violations.iter().find(|v| invariants.contains(&v.invariant));
        let Some(violation) = hit else { continue };
        println!("{name}: found at seed {seed} of {budget}: {violation}");
        for seed in 0..=seed {
            let sound = run::<Node>(&Plan::new(options(seed)), sound);
            assert!(sound.violations.is_empty(), "{name} off, seed {seed}: {:#?}", sound.violations);
        }
        return;
    }
    panic!("{name} was not found in {budget} seeds");
}

/// More conflicts and deletes on fewer names.
fn crowded(seed: u64) -> Options {
    let mut options = Options::new(seed);
    options.workload.names = 2;
    options
}

/// Databases are lost in every run.
fn lossy(seed: u64) -> Options {
    let mut options = crowded(seed);
    options.budget.every = std::time::Duration::from_secs(3);
    options
}

/// A tenth of all messages come up to ten seconds late, so that replicas lag behind one another.
fn lagging(seed: u64) -> Options {
    let mut options = lossy(seed);
    options.usual.delay = 100_000;
    options.workload.every = std::time::Duration::from_millis(150);
    options.chaos = std::time::Duration::from_secs(60);
    options
}

/// What searching for bugs among lagging replicas rests on: without any, every seed of it holds.
#[test]
fn every_promise_holds_where_replicas_lag() {
    let asked = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..asked.unwrap_or(100) {
        let report = run::<Node>(&Plan::new(lagging(seed)), Setup::default());
        assert!(report.violations.is_empty(), "lagging, seed {seed}: {:#?}", report.violations);
    }
}

#[test]
fn majorities_counted_over_the_view_are_found() {
    found("majority over the view", 60, &["I1", "I4", "I6", "I9", "I14", "I21"], crowded, |setup| {
        setup.catalog.majority_over_view = true;
    });
}

#[test]
fn dots_reused_after_a_lost_database_are_found() {
    found("dot reuse", 60, &["I22", "I9", "I1"], lossy, |setup| setup.catalog.reuse_dots = true);
}

#[test]
fn a_context_of_the_local_state_alone_is_found() {
    found("local context", 40, &["I9", "I6"], lagging, |setup| setup.catalog.local_context_only = true);
}

#[test]
fn a_tombstone_chosen_as_head_is_found() {
    found("tombstone as head", 40, &["I9", "I6", "I14", "I1", "I17"], crowded, |setup| {
        setup.catalog.tombstone_as_head = true;
    });
}

#[test]
fn a_replica_that_votes_before_it_knows_is_found() {
    found("amnesiac replica", 448, &["I1", "I6", "I9", "I10", "I14", "I21", "I4"], lagging, |setup| {
        setup.catalog.answer_before_ready = true;
        setup.council.ready_without_nonces = true;
        setup.council.keep_database_id_when_behind = true;
    });
}

#[test]
fn a_folder_that_is_not_synced_is_found() {
    found("no folder sync", 5, &["I4"], crowded, |setup| setup.no_folder_sync = true);
}

/// Half of all messages come twice. (A repeated *vote* does not reach the catalog through the replica,
/// which knows each question once; the catalog's own tests plant that one.)
fn doubled(seed: u64) -> Options {
    let mut options = crowded(seed);
    options.usual.duplication = 500_000;
    options
}

#[test]
fn a_repeated_acknowledgement_of_a_chunk_that_counts_again_is_found() {
    found("repeated acknowledgements", 60, &["I4"], doubled, |setup| setup.quorum.count_repeats = true);
}

#[test]
fn a_chunk_acknowledged_one_short_is_found() {
    found("acknowledge one short", 20, &["I4"], crowded, |setup| setup.quorum.ack_one_short = true);
}

#[test]
fn a_stamp_from_the_wall_clock_is_found() {
    let ends_alike = |seed, planted| {
        let mut setup = Setup::default();
        setup.catalog.wall_clock_stamp = planted;
        let of = |clocks| {
            let report = run::<Node>(&Plan::new(Options { clocks, ..crowded(seed) }), setup);
            (report.state, report.trace)
        };
        of(1) == of(2)
    };
    let found = (0..10).find(|seed| !ends_alike(*seed, true));
    let found = found.expect("a stamp from the wall clock was not found in 10 seeds");
    println!("wall clock stamp: found at seed {found} of 10 (I12)");
    assert!((0..=found).all(|seed| ends_alike(seed, false)), "the clocks decide something without it");
}
