//! Bugs planted on purpose: each is found within its budget of seeds. With all switches off, every seed of the
//! greatest budget passes, of each kind of schedule. A harness that finds none of these would prove nothing by
//! passing, and one that complains of sound code nothing by complaining.

use std::time::Duration;

use kepler_protocol::time::Instant;
use kepler_tests::sim::faults::Fault;
use kepler_tests::sim::node::{Node, Setup};
use kepler_tests::sim::run::{Options, Plan, run};

/// The greatest budget: so many seeds of each kind of schedule pass without a bug.
const BUDGET: u64 = 60;

/// How the clusters are set up in which bugs are planted.
fn sound() -> Setup {
    Setup { queue: false, ..Setup::default() }
}

/// Runs up to `budget` seeds with the bug, which must be found by one of `invariants`. That they pass without it is
/// seen by [`holds`].
fn found(name: &str, budget: u64, invariants: &[&str], options: fn(u64) -> Options, plant: fn(&mut Setup)) {
    found_in(name, budget, invariants, |seed| Plan::new(options(seed)), plant);
}

/// The same of plans in which not everything is left to chance.
fn found_in(name: &str, budget: u64, invariants: &[&str], plan: impl Fn(u64) -> Plan, plant: fn(&mut Setup)) {
    assert!(budget <= BUDGET, "{name}: its seeds are not all seen to pass without it");
    let mut setup = sound();
    plant(&mut setup);
    for seed in 0..budget {
        let report = run::<Node>(&plan(seed), setup);
        let hit = report.violations.iter().find(|v| invariants.contains(&v.invariant));
        let Some(violation) = hit else { continue };
        println!("{name}: found at seed {seed} of {budget}: {violation}");
        return;
    }
    panic!("{name} was not found in {budget} seeds");
}

/// Without a bug every seed passes.
fn holds(schedule: &str, plan: impl Fn(u64) -> Plan) {
    for seed in 0..BUDGET {
        let report = run::<Node>(&plan(seed), sound());
        assert!(report.violations.is_empty(), "{schedule}, seed {seed}: {:#?}", report.violations);
    }
}

#[test]
fn without_a_bug_every_seed_of_crowded_names_holds() {
    holds("crowded", |seed| Plan::new(crowded(seed)));
}

#[test]
fn without_a_bug_every_seed_of_lost_state_holds() {
    holds("lossy", |seed| Plan::new(lossy(seed)));
}

#[test]
fn without_a_bug_every_seed_of_late_messages_holds() {
    holds("lagging", |seed| Plan::new(lagging(seed)));
}

#[test]
fn without_a_bug_every_seed_of_doubled_messages_holds() {
    holds("doubled", |seed| Plan::new(doubled(seed)));
}

#[test]
fn without_a_bug_every_seed_of_moves_holds() {
    holds("moving", |seed| Plan::new(moving(seed)));
}

#[test]
fn without_a_bug_every_seed_of_old_databases_holds() {
    holds("amnesia", amnesia);
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
    options.budget.every = Duration::from_secs(3);
    options
}

/// A tenth of all messages come up to ten seconds late, so that replicas lag behind one another.
fn lagging(seed: u64) -> Options {
    let mut options = lossy(seed);
    options.usual.delay = 100_000;
    options.workload.every = Duration::from_millis(150);
    options.chaos = Duration::from_secs(60);
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

/// Three nodes: one is cut off and falls behind; when it is back another one starts on an old copy of
/// its database, and the third, the only one that knows what was written since, is cut off. Without
/// the third nothing may be answered for but what a majority is proved to have seen.
fn amnesia(seed: u64) -> Plan {
    let mut options = crowded(seed);
    options.nodes = 3;
    options.workload.names = 1;
    options.workload.fast = 0;
    options.workload.every = Duration::from_millis(100);
    options.usual.delay = 10_000;
    options.chaos = Duration::from_secs(75);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut places = [0, 1, 2];
    random.shuffle(&mut places);
    let [restored, informed, behind] = places;
    let at = |millis: u64| Instant::ZERO + Duration::from_millis(millis);
    let cut = |place: usize, millis: u64| {
        let links = (0..3).flat_map(|from| (0..3).map(move |to| (from, to)));
        let others = links.filter(|(from, to)| *from != place && *to != place);
        let hears = others.map(|(from, to)| 1 << (from * 3 + to)).sum();
        Fault::Cut { hears, datagrams: true, streams: true, time: Duration::from_millis(millis) }
    };
    // For an instant all is well, as an operator who starts an old copy has to believe.
    let well = 22_000 + random.u64(0..4_000);
    let down = random.u64(1_000..5_000);
    let restore = Fault::RestoreDatabase { place: restored, down: Duration::from_millis(down) };
    let mut plan = Plan::new(options);
    plan.faults = vec![
        (at(5_000), Fault::Backup { place: restored }),
        (at(6_000), cut(behind, well - 6_000)),
        (at(well + 10 - down), restore),
        (at(well + 20 + random.u64(0..500)), cut(informed, 30_000)),
    ];
    plan
}

#[test]
fn a_replica_that_votes_before_it_knows_is_found() {
    let invariants = ["I1", "I6", "I9", "I10", "I14", "I21", "I4"];
    found_in("amnesiac replica", 60, &invariants, amnesia, |setup| {
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

/// Files are moved all the time, while databases and disks are lost.
fn moving(seed: u64) -> Options {
    let mut options = lossy(seed);
    options.workload.names = 4;
    options.workload.moves = Some(Duration::from_millis(500));
    options
}

#[test]
fn a_move_that_ends_the_old_name_before_a_majority_knows_the_new_one_is_found() {
    found("tombstone before the majority", 60, &["I1"], moving, |setup| {
        setup.relocation.tombstone_early = true;
    });
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
    assert!((0..10).all(|seed| ends_alike(seed, false)), "the clocks decide something without it");
}
