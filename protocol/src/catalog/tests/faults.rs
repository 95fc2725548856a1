//! Each planted bug is found within a budget of seeds that passes without it.

use std::time::Duration;

use super::net::{Net, Workload, content};
use crate::api::Durability;
use crate::catalog::Faults;
use crate::catalog::command::{Command, Outcome, Precondition};
use crate::catalog::electorate::Electorate;
use crate::name::Name;
use crate::time::UnixMillis;
use crate::version::head;

/// Runs the harness over its budget with the fault and without.
fn finds(budget: u64, fault: fn(&mut Faults), harness: fn(u64, Faults) -> Result<(), String>) {
    let mut faults = Faults::default();
    for seed in 0..budget {
        harness(seed, faults).unwrap();
    }
    fault(&mut faults);
    assert!((0..budget).any(|seed| harness(seed, faults).is_err()), "not found in {budget} seeds");
}

fn split(seed: u64, faults: Faults) -> Result<(), String> {
    let mut net = Net::new(seed, 3, 3, faults);
    let mut workload = Workload::new(3, 1, [0.3, 0.1, 0.3, 0.0]);
    workload.run(&mut net, Duration::from_secs(1));
    net.partition(&[seed as usize % 3]);
    workload.run(&mut net, Duration::from_secs(3));
    net.heal_network();
    workload.run(&mut net, Duration::from_secs(1));
    net.heal(Duration::from_secs(30));
    workload.verdict(&mut net)
}

#[test]
fn majorities_over_the_view_are_found() {
    finds(20, |faults| faults.majority_over_view = true, split);
}

fn lose_databases(seed: u64, faults: Faults) -> Result<(), String> {
    let mut net = Net::new(seed, 3, 3, faults);
    let mut workload = Workload::new(3, 1, [0.0, 0.1, 0.4, 0.0]);
    net.slow = 0.1;
    for _ in 0..3 {
        workload.run(&mut net, Duration::from_secs(1));
        let victim = net.rng.usize(..3);
        net.wipe(victim);
        net.start(victim);
        workload.run(&mut net, Duration::from_secs(2));
    }
    net.heal(Duration::from_secs(30));
    workload.verdict(&mut net)
}

#[test]
fn reused_dots_are_found() {
    finds(20, |faults| faults.reuse_dots = true, lose_databases);
}

/// A write reaches two of three; one of these loses its database, the other is cut off.
fn forget_and_split(seed: u64, faults: Faults) -> Result<(), String> {
    let mut net = Net::new(seed, 3, 3, faults);
    let mut workload = Workload::new(3, 1, [0.0, 0.1, 0.4, 0.0]);
    let (missed, forgot, left) = (seed as usize % 3, (seed as usize + 1) % 3, (seed as usize + 2) % 3);
    net.partition(&[missed]);
    workload.run(&mut net, Duration::from_secs(1));
    // What is on its way to the other arrives: nobody promises what one disk alone had.
    net.run_for(Duration::from_secs(1));
    net.wipe(forgot);
    net.partition(&[left]);
    net.start(forgot);
    workload.run(&mut net, Duration::from_secs(2));
    net.heal(Duration::from_secs(30));
    workload.verdict(&mut net)
}

#[test]
fn an_amnesiac_replica_that_votes_is_found() {
    finds(10, |faults| faults.answer_before_ready = true, forget_and_split);
}

/// One writer after another: each supersedes the one before, so nothing is ever in conflict.
fn take_turns(seed: u64, faults: Faults) -> Result<(), String> {
    let mut net = Net::new(seed, 5, 3, faults);
    let file: Name = "x".parse().unwrap();
    net.slow = 0.05;
    for number in 0..8 {
        let node = net.rng.usize(..5);
        net.put(node, &file, number, Precondition::None, Durability::Quorum);
        let Outcome::Read { survivors, .. } = net.read(node, &file) else { continue };
        if survivors.len() > 1 {
            return Err(format!("seed {seed}: {survivors:?} although nobody wrote at once"));
        }
    }
    Ok(())
}

#[test]
fn contexts_from_the_local_state_are_found() {
    finds(20, |faults| faults.local_context_only = true, take_turns);
}

fn create_after_delete(seed: u64, faults: Faults) -> Result<(), String> {
    let mut net = Net::new(seed, 3, 3, faults);
    let file: Name = "x".parse().unwrap();
    net.put(0, &file, 1, Precondition::None, Durability::Quorum);
    net.delete(1, &file, Durability::Quorum);
    match net.put(2, &file, 2, Precondition::Absent, Durability::Quorum) {
        Outcome::Published { .. } => Ok(()),
        other => Err(format!("seed {seed}: a deleted name was not free: {other:?}")),
    }
}

#[test]
fn a_tombstone_as_head_is_found() {
    finds(3, |faults| faults.tombstone_as_head = true, create_after_delete);
}

/// Two writers that are no replicas, and a split while the first one's votes come in.
fn race(seed: u64, faults: Faults) -> Result<(), String> {
    let mut net = Net::new(seed, 5, 3, faults);
    let file: Name = "x".parse().unwrap();
    let durability = Durability::Quorum;
    let Outcome::Published { version, .. } = net.put(0, &file, 1, Precondition::None, durability) else {
        return Err(format!("seed {seed}: not written"));
    };
    let homes = net.nodes[0].electorate.homes(&file)[0].nodes.clone();
    let (home, away): (Vec<usize>, Vec<usize>) = (0..5).partition(|n| homes.contains(&net.nodes[*n].id));
    let begin = Command::Begin { name: file, precondition: Precondition::Head(version.dot), durability };
    let mut begun = Vec::new();
    for node in &away {
        let Outcome::Begun { dot } = net.ask(*node, begin.clone()) else {
            return Err(format!("seed {seed}: not begun"));
        };
        begun.push((
            *node,
            Command::Publish {
                dot,
                content: Some(content(2)),
                created_at: UnixMillis(0),
                within: Duration::from_secs(9),
            },
        ));
    }
    net.run_for(Duration::from_millis(100));
    let mut ids = Vec::new();
    for (node, publish) in begun {
        ids.push(net.command(node, publish));
        let pause = net.rng.u64(10..60);
        net.run_for(Duration::from_millis(pause));
        // The first writer is left with one replica, and a slow one, until its reservations ran out.
        net.partition(&[away[0], home[0]]);
        net.slow = if ids.len() == 1 { 0.7 } else { 0.0 };
        net.run_for(Duration::from_millis(5000));
    }
    let outcomes: Vec<_> = ids.into_iter().filter_map(|id| net.wait(id)).collect();
    let winners = outcomes.iter().filter(|o| matches!(o, Outcome::Published { .. })).count();
    if winners > 1 { Err(format!("seed {seed}: {outcomes:?}")) } else { Ok(()) }
}

#[test]
fn repeated_votes_that_count_are_found() {
    finds(200, |faults| faults.count_repeated_votes = true, race);
}

/// One seed under several clock assignments ends with one head.
fn clocks(seed: u64, faults: Faults) -> Result<(), String> {
    let heads: Vec<Option<String>> = (0..4)
        .map(|assignment| {
            let mut net = Net::new(seed, 3, 3, faults);
            let mut clocks = fastrand::Rng::with_seed(assignment);
            net.clocks = (0..3).map(|_| clocks.u64(..1_000_000_000)).collect();
            let file: Name = "x".parse().unwrap();
            net.put(0, &file, 1, Precondition::None, Durability::Quorum);
            net.run_for(Duration::from_secs(2));
            net.partition(&[2]);
            net.put(2, &file, 2, Precondition::None, Durability::Fast);
            net.put(0, &file, 3, Precondition::None, Durability::Quorum);
            net.heal(Duration::from_secs(10));
            let Outcome::Read { survivors, .. } = net.read(1, &file) else { return None };
            head(&survivors).map(|v| v.dot.to_string())
        })
        .collect();
    if heads.iter().all(|head| *head == heads[0]) { Ok(()) } else { Err(format!("seed {seed}: {heads:?}")) }
}

#[test]
fn stamps_from_the_wall_clock_are_found() {
    finds(5, |faults| faults.wall_clock_stamp = true, clocks);
}
