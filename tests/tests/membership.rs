//! Membership under simulation: how soon the dead are found, and that nobody else is.

use std::time::Duration;

use kepler_protocol::view::State;
use kepler_tests::membership::{Net, percentile};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Kills one host after the other; for each the time until everybody's ring is without it.
fn detection(seed: u64, n: usize, kills: usize) -> (Vec<Duration>, Net) {
    let mut net = Net::formed(seed, n);
    net.keep_seen = false;
    net.run(secs(3));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut times = Vec::new();
    for _ in 0..kills {
        net.run(Duration::from_millis(rng.u64(0..500)));
        let victim = loop {
            let at = rng.usize(..n);
            if net.is_alive(at) {
                break at;
            }
        };
        net.kill(victim);
        let took = net.run_until(secs(30), |net| net.everybody_sees(victim, State::Dead));
        times.push(took.unwrap_or_else(|| panic!("seed {seed}: {victim} was not found dead in 30 s")));
        if n <= 100 {
            net.restart(victim);
            let back = net.run_until(secs(30), |net| net.everybody_sees(victim, State::Alive));
            assert!(back.is_some(), "seed {seed}: {victim} did not come back");
        }
    }
    (times, net)
}

fn report(n: usize, times: &[Duration], net: &Net) {
    println!(
        "G9 kill to everybody's ring, {n} nodes, {} kills: p50 {:?} p99 {:?} max {:?}; {} events, {:.0} B/s a node",
        times.len(),
        percentile(times, 50.0),
        percentile(times, 99.0),
        percentile(times, 100.0),
        net.events(),
        net.sent.1 as f64 / n as f64 / net.now.as_micros() as f64 * 1e6,
    );
}

#[test]
fn at_50_nodes_a_killed_one_leaves_every_ring_within_6_seconds() {
    let mut times = Vec::new();
    for seed in 0..4 {
        let (more, net) = detection(seed, 50, 25);
        times.extend(more);
        report(50, &times, &net);
    }
    assert!(percentile(&times, 99.0) <= secs(6), "{:?}", percentile(&times, 99.0));
}

#[test]
fn at_1000_nodes_a_killed_one_leaves_every_ring_within_8_seconds() {
    let (times, net) = detection(1, 1_000, 5);
    report(1_000, &times, &net);
    assert!(percentile(&times, 99.0) <= secs(8), "{:?}", percentile(&times, 99.0));
}
