//! Membership under simulation: how soon the dead are found, and that nobody else is.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::time::Duration;

use kepler_protocol::view::State;
use kepler_protocol::wire::seal::KeyRing;
use kepler_tests::membership::{Net, constants, node_id, percentile};

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
    let (times, net) = detection(1, 1_000, 10);
    report(1_000, &times, &net);
    assert!(percentile(&times, 99.0) <= secs(8), "{:?}", percentile(&times, 99.0));
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn at_10000_nodes_a_killed_one_leaves_every_ring_within_9_seconds() {
    let (times, net) = detection(1, 10_000, 3);
    report(10_000, &times, &net);
    assert!(percentile(&times, 99.0) <= secs(9), "{:?}", percentile(&times, 99.0));
}

/// (verdicts on healthy nodes, verdicts on starved ones), counted once an observer.
fn false_deaths(net: &Net) -> (usize, usize) {
    let wrong = |starved: bool| {
        net.seen.iter().filter(|s| s.state == State::Dead && s.alive && s.starved == starved).count()
    };
    (wrong(false), wrong(true))
}

fn starved(seed: u64, n: usize, rate: f64, kills: bool) -> (usize, usize) {
    let mut net = Net::formed(seed, n);
    net.run(secs(5));
    for host in 0..n / 4 {
        net.hosts[host].budget = Some(rate);
    }
    if kills {
        net.run(secs(20));
        net.kill(n - 1);
        net.run(secs(20));
        net.kill(n - 2);
        net.run(secs(20));
        assert!(
            !kills || (n / 4..n - 2).all(|h| net.state(h, n - 1) == Some(State::Dead)),
            "seed {seed}: missed"
        );
    } else {
        net.run(secs(60));
    }
    false_deaths(&net)
}

/// Events a second that a starved node handles.
const RATES: [f64; 3] = [20.0, 10.0, 7.0];

fn starvation(seeds: std::ops::Range<u64>, sizes: &[usize], rates: &[f64]) {
    for &n in sizes {
        for &rate in rates {
            let (mut healthy, mut themselves) = (0, 0);
            for seed in seeds.clone() {
                let (wrong, starved) = starved(seed, n, rate, seed % 2 == 1);
                assert_eq!(wrong, 0, "seed {seed}: healthy nodes declared dead, {n} nodes, {rate} events/s");
                healthy += wrong;
                themselves += starved;
            }
            println!(
                "G10 a quarter of {n} nodes at {rate} events/s, {} runs of 60 s: {healthy} verdicts on healthy, {themselves} on starved nodes",
                seeds.end - seeds.start
            );
        }
    }
}

#[test]
fn no_healthy_node_dies_while_a_quarter_of_the_cluster_is_starved() {
    starvation(0..4, &[16, 50], &RATES);
    starvation(0..2, &[128], &RATES);
}

#[test]
fn at_1000_nodes_no_healthy_one_dies_while_a_quarter_is_starved() {
    // With two kills among the healthy; the other rates on demand.
    starvation(1..2, &[1_000], &[10.0]);
}

#[test]
#[ignore = "takes minutes"]
fn no_healthy_node_dies_while_a_quarter_of_the_cluster_is_starved_in_20_seeds() {
    starvation(0..20, &[16, 50, 128], &RATES);
    starvation(0..2, &[1_000], &RATES);
}

fn lossy(seed: u64, n: usize, loss: f64, time: Duration) {
    let mut net = Net::formed(seed, n);
    net.link.loss = loss;
    net.link.duplication = 0.02;
    net.run(time);
    let (wrong, _) = false_deaths(&net);
    let suspected = net.seen.iter().filter(|s| s.state == State::Suspect).count();
    println!(
        "G10 {n} nodes, {time:?} at {:.0} % loss: {wrong} wrong verdicts, {suspected} suspicions",
        loss * 100.0
    );
    assert_eq!(wrong, 0, "seed {seed}");
}

#[test]
fn nobody_dies_of_lost_datagrams() {
    lossy(1, 50, 0.05, secs(300));
    lossy(2, 20, 0.30, secs(300));
    lossy(3, 5, 0.05, secs(1_800));
}

#[test]
fn at_1000_nodes_nobody_dies_of_lost_datagrams() {
    lossy(4, 1_000, 0.05, secs(60));
}

#[test]
#[ignore = "takes an hour"]
fn nobody_dies_of_lost_datagrams_in_24_hours() {
    lossy(1, 50, 0.05, secs(24 * 3_600));
}

#[test]
fn a_pause_of_2_seconds_never_kills() {
    let mut pauses = 0;
    for (seed, n, rounds) in [(1, 3, 60), (2, 5, 60), (3, 16, 40), (4, 50, 25), (5, 1_000, 5)] {
        let mut net = Net::formed(seed, n);
        let mut rng = fastrand::Rng::with_seed(seed);
        net.run(secs(5));
        for _ in 0..rounds {
            let victim = rng.usize(..n);
            net.run(Duration::from_millis(rng.u64(0..1_000)));
            net.pause(victim, secs(2));
            net.run(secs(7));
            pauses += 1;
        }
        let dead = net.seen.iter().filter(|s| s.state == State::Dead).count();
        assert_eq!(dead, 0, "seed {seed}, {n} nodes");
        assert!(net.seen.iter().any(|s| s.state == State::Suspect), "the pauses were noticed");
    }
    println!("G10 {pauses} pauses of 2 s: 0 verdicts");
}

#[test]
fn a_node_paused_for_a_minute_accuses_nobody_and_is_back_within_2_seconds() {
    let mut times = Vec::new();
    for seed in 0..8 {
        let mut net = Net::formed(seed, 20);
        net.run(secs(5));
        net.pause(3, secs(60));
        net.run(secs(59));
        assert!(net.everybody_sees(3, State::Dead), "seed {seed}");
        net.run(secs(1));
        let before = net.seen.len();
        let took = net.run_until(secs(10), |net| net.all_see(State::Alive));
        times.push(took.unwrap_or_else(|| panic!("seed {seed}: never back")));
        assert!(net.seen[before..].iter().all(|s| s.observer != 3 || s.state == State::Alive), "seed {seed}");
    }
    println!(
        "paused for 60 s, back everywhere: p50 {:?} max {:?}",
        percentile(&times, 50.0),
        percentile(&times, 100.0)
    );
    assert!(percentile(&times, 100.0) <= secs(2));
}

#[test]
fn a_partition_of_ten_minutes_heals_within_10_seconds() {
    let mut times = Vec::new();
    for (seed, n, parts) in [(1, 50, 2), (2, 50, 3), (3, 5, 2), (4, 3, 3), (5, 20, 2)] {
        let mut net = Net::formed(seed, n);
        net.keep_seen = false;
        net.run(secs(5));
        for host in 0..n {
            net.side[host] = (host % parts) as u8;
        }
        net.run(secs(600));
        assert!(
            (1..n).all(|h| net.side[h] == net.side[0] || net.state(0, h) == Some(State::Dead)),
            "seed {seed}"
        );
        net.side.fill(0);
        let took = net.run_until(secs(60), |net| net.all_see(State::Alive));
        times.push(took.unwrap_or_else(|| panic!("seed {seed}: not healed")));
    }
    println!("G18 ten minutes apart, one cluster again after {times:?}");
    assert!(times.iter().all(|t| *t <= secs(10)));
}

#[test]
fn one_node_against_all_the_others_finds_back() {
    let mut net = Net::formed(9, 30);
    net.run(secs(5));
    net.side[7] = 1;
    net.run(secs(120));
    net.side[7] = 0;
    let took = net.run_until(secs(20), |net| net.all_see(State::Alive)).expect("heals");
    println!("one against 29: healed after {took:?}");
    assert!(took <= secs(10));
}

#[test]
fn news_reaches_everybody_by_gossip_alone() {
    for (n, rounds, loss) in [(10, 60, 0.05), (50, 40, 0.05), (200, 10, 0.05), (1_000, 2, 0.0)] {
        let mut net = Net::formed(n as u64, n);
        net.keep_seen = false;
        net.streams = false;
        net.link.loss = loss;
        net.run(secs(2));
        let (mut times, mut missed) = (Vec::new(), 0);
        for round in 0..rounds {
            let speaker = round * 7 % n;
            net.with(speaker, |swim, _| {
                let mut metadata = swim.own_record().statement().metadata.clone();
                metadata.http_port += 1;
                swim.set_metadata(metadata);
            });
            let incarnation = net.hosts[speaker].swim.as_ref().unwrap().own_record().statement().incarnation;
            let took = net.run_until(secs(12), |net| {
                (0..n).filter(|h| *h != speaker).all(|h| {
                    let swim = net.hosts[h].swim.as_ref().unwrap();
                    swim.member(&node_id(speaker)).is_some_and(|(_, s)| s.incarnation >= incarnation)
                })
            });
            match took {
                Some(took) => times.push(took),
                None => missed += 1,
            }
        }
        println!(
            "news to all of {n} at {:.0} % loss: p50 {:?} max {:?}, {missed} of {rounds} incomplete",
            loss * 100.0,
            percentile(&times, 50.0),
            percentile(&times, 100.0)
        );
        assert_eq!(missed, 0, "{n} nodes");
    }
}

#[test]
fn a_cluster_forms_from_one_seed_and_comes_back_from_its_disks() {
    for (seed, n, streams) in [(1, 3, true), (2, 30, true), (3, 12, false)] {
        let mut net = Net::new(seed);
        net.streams = streams;
        net.set_seeds(&[0]);
        net.add(Some(constants()));
        for _ in 1..n {
            net.add(None);
            net.run(Duration::from_millis(50));
        }
        let took = net.run_until(secs(30), |net| net.all_see(State::Alive));
        println!("{n} nodes join through one, streams {streams}: {:?}", took.expect("all join"));
        // A whole power cut, and nobody has a seed: addresses come from the tables.
        net.set_seeds(&[]);
        (0..n).for_each(|h| net.kill(h));
        net.run(secs(5));
        for host in (0..n).rev() {
            net.restart(host);
            net.run(Duration::from_millis(300));
        }
        let took = net.run_until(secs(30), |net| net.all_see(State::Alive));
        println!("{n} nodes come back without a seed: {:?}", took.expect("all come back"));
    }
}

#[test]
fn a_restarted_node_shows_nobody_as_alive_before_they_answered() {
    let mut net = Net::formed(4, 5);
    net.run(secs(5));
    (0..5).for_each(|h| net.kill(h));
    net.restart(0);
    net.run(secs(5));
    assert!((1..5).all(|h| net.state(0, h) == Some(State::Dead)));
    let restored = net.run_until(secs(1), |net| net.hosts[0].swim.is_some()).is_some();
    assert!(restored);
    net.restart(1);
    assert!(net.run_until(secs(10), |net| net.state(0, 1) == Some(State::Alive)).is_some());
    assert_eq!(net.state(1, 2), Some(State::Dead));
}

#[test]
fn goodbyes_and_leaves_are_known_without_a_suspicion_and_ids_return() {
    for seed in 0..6 {
        let mut net = Net::formed(seed, 12);
        net.run(secs(5));
        net.with(3, |swim, _| swim.announce_dead());
        let took = net.run_until(secs(10), |net| net.everybody_sees(3, State::Dead)).expect("told");
        assert!(took < secs(2), "seed {seed}: {took:?}");
        assert!(net.seen.iter().all(|s| s.state != State::Suspect), "seed {seed}");
        net.kill(3);
        net.restart(3);
        let took = net.run_until(secs(10), |net| net.all_see(State::Alive));
        assert!(took.is_some_and(|t| t <= secs(3)), "seed {seed}: {took:?}");

        net.with(4, |swim, _| swim.leave());
        assert!(
            net.run_until(secs(10), |net| net.everybody_sees(4, State::Leaving)).is_some(),
            "seed {seed}"
        );
        net.with(4, |swim, _| swim.left());
        assert!(net.run_until(secs(10), |net| net.everybody_sees(4, State::Left)).is_some(), "seed {seed}");
        net.kill(4);
        net.run(secs(20));
        assert!(net.everybody_sees(4, State::Left), "seed {seed}: who left does not become dead");
        net.restart(4);
        assert!(net.run_until(secs(40), |net| net.all_see(State::Alive)).is_some(), "seed {seed}: rejoins");
    }
}

#[test]
fn a_blank_node_takes_the_id_of_a_dead_one_and_never_of_a_live_one() {
    for seed in 0..6 {
        let mut net = Net::formed(seed, 8);
        net.set_seeds(&[0, 1]);
        net.run(secs(5));
        let key = |net: &Net, at: usize, of: usize| {
            net.hosts[at].swim.as_ref().unwrap().member(&node_id(of)).unwrap().1.metadata.key
        };
        let held = key(&net, 0, 5);
        let thief = net.impersonate(5);
        net.run(secs(20));
        assert!((0..8).filter(|h| *h != 5).all(|h| key(&net, h, 5) == held), "seed {seed}: stolen");
        assert!(
            (0..8).filter(|h| *h != 5).all(|h| net.state(h, 5) == Some(State::Alive)),
            "seed {seed}: harmed"
        );
        net.kill(thief);
        net.kill(5);
        net.restart_blank(5);
        let taken =
            net.run_until(secs(40), |net| net.everybody_sees(5, State::Alive) && key(net, 0, 5) != held);
        assert!(taken.is_some(), "seed {seed}: a dead node's id is free");
    }
}

#[test]
fn half_connected_nodes_do_not_take_others_down() {
    for seed in 0..4 {
        let n = 12;
        // One that hears nobody, one whom nobody hears, one whose UDP is blocked, one broken pair.
        for case in 0..4 {
            let mut net = Net::formed(seed, n);
            net.run(secs(5));
            for other in 1..n {
                match case {
                    0 => drop(net.cuts.insert((other, 0))),
                    1 => drop(net.cuts.insert((0, other))),
                    _ => {}
                }
            }
            match case {
                2 => drop(net.udp_blocked.insert(0)),
                3 => drop([net.cuts.insert((0, 1)), net.cuts.insert((1, 0))]),
                _ => {}
            }
            net.run(secs(60));
            let harmed = net
                .seen
                .iter()
                .filter(|s| s.state == State::Dead && s.subject != 0 && s.observer != 0)
                .count();
            assert_eq!(harmed, 0, "seed {seed}, case {case}");
            match case {
                0 | 1 => assert_eq!(net.state(1, 0), Some(State::Dead), "seed {seed}, case {case}"),
                _ => assert!(net.seen.iter().all(|s| s.state != State::Dead), "seed {seed}, case {case}"),
            }
        }
    }
}

#[test]
fn hostile_datagrams_change_nothing() {
    let mut net = Net::formed(11, 8);
    net.captured = Some(Vec::new());
    net.run(secs(10));
    net.kill(7);
    net.run(secs(10));
    net.restart(7);
    net.run(secs(20));
    assert!(net.all_see(State::Alive));
    let captured = net.captured.take().unwrap();
    let views = |net: &Net| -> Vec<_> {
        let all = net.hosts.iter().filter_map(|h| h.swim.as_ref());
        all.map(|s| s.view(0).members().map(|m| (m.id, m.state, m.incarnation)).collect::<Vec<_>>()).collect()
    };
    let before = views(&net);
    let mut rng = fastrand::Rng::with_seed(5);
    let foreign = KeyRing::new(&[[3; 32]]).unwrap();
    let mut stranger = kepler_protocol::wire::seal::Sealer::new(node_id(1), foreign, 99, [1; 8]);
    let mut injected = 0_u64;
    for (from, to, bytes) in &captured {
        // Replayed to whom it was for, reflected to its sender, sent on to a third, altered, cut, of a foreign key.
        net.inject(*from, *to, bytes.clone());
        net.inject(*to, *from, bytes.clone());
        net.inject(*from, (*to + 1) % 8, bytes.clone());
        let mut altered = bytes.clone();
        let at = rng.usize(..altered.len());
        altered[at] ^= 1 << rng.u8(..8);
        net.inject(*from, *to, altered);
        net.inject(*from, *to, bytes[..rng.usize(..bytes.len())].to_vec());
        let forged = stranger.seal(Some(&node_id(*to)), &bytes[..bytes.len().min(200)]);
        net.inject(*from, *to, forged);
        injected += 6;
        if injected.is_multiple_of(600) {
            net.run(Duration::from_millis(100));
            assert_eq!(views(&net), before, "after {injected}");
        }
    }
    net.run(secs(5));
    assert_eq!(views(&net), before);
    // Replays of an earlier process do not bring a dead node back.
    net.kill(7);
    assert!(net.run_until(secs(20), |net| net.everybody_sees(7, State::Dead)).is_some());
    let from_7: Vec<_> = captured.iter().filter(|(from, _, _)| *from == 7).cloned().collect();
    for (from, to, bytes) in from_7 {
        net.inject(from, to, bytes);
    }
    net.run(secs(5));
    assert!(net.everybody_sees(7, State::Dead));
    // A receiver that restarted has empty windows and still believes nothing old.
    net.kill(0);
    net.restart(0);
    for (from, to, bytes) in captured.iter().filter(|(_, to, _)| *to == 0) {
        net.inject(*from, *to, bytes.clone());
    }
    net.run(secs(5));
    assert_eq!(net.state(0, 7), Some(State::Dead));
    assert!((1..7).all(|h| net.state(0, h) == Some(State::Alive)));
    let (replayed, unopened) = net
        .hosts
        .iter()
        .filter_map(|h| h.swim.as_ref())
        .map(|s| (s.counters().replayed, s.counters().unopened))
        .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    println!("I19 {injected} hostile datagrams: {unopened} did not open, {replayed} were replays, 0 changes");
}

#[test]
fn datagrams_stay_under_1400_bytes_and_idle_traffic_is_small() {
    for n in [3, 50, 500] {
        let mut net = Net::formed(1, n);
        net.keep_seen = false;
        net.run(secs(20));
        let before = net.sent;
        net.run(secs(20));
        let rate = (net.sent.1 - before.1) as f64 / n as f64 / 20.0;
        println!(
            "idle, {n} nodes: {rate:.0} B/s sent a node, headers included; longest {} bytes",
            net.longest
        );
        assert!(net.longest <= 1_400);
        assert!(rate < 3_000.0);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let run = |seed| {
        let mut net = Net::formed(seed, 20);
        net.link.loss = 0.1;
        net.link.duplication = 0.1;
        net.run(secs(10));
        net.kill(3);
        net.hosts[4].budget = Some(10.0);
        net.run(secs(20));
        net.restart(3);
        net.run(secs(10));
        (net.trace(), net.events())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).0, run(6).0);
}
