//! Rot in the tables of a node, which no exchange notices.

use std::collections::BTreeSet;
use std::time::Duration;

use super::exchange::{alone, cost, merge};
use super::net::{Net, seeds};
use crate::catalog::Faults;
use crate::catalog::storage::{Storage, Survivor};
use crate::version::{Context, Dot, Version};

fn held(net: &Net, node: usize) -> BTreeSet<Dot> {
    net.nodes[node].storage.all_survivors().map(|s| s.version.dot).collect()
}

/// The disk loses a row.
fn lose(net: &mut Net, node: usize, dot: &Dot) {
    let storage = &mut net.nodes[node].storage;
    storage.begin();
    storage.remove_survivor(dot).unwrap();
    storage.commit();
}

/// Three nodes that know the same names and are quiet.
fn trio(seed: u64, names: u64) -> Net {
    let mut net = Net::new(seed, 3, 3, Faults::default());
    merge(&mut net, 0, (0..names).map(|number| alone(number % 7, 1 + number / 7)));
    net.run_for(Duration::from_secs(60));
    assert_eq!(held(&net, 0), held(&net, 2));
    net
}

#[test]
fn rows_that_a_disk_lost_are_put_back() {
    for seed in seeds(5) {
        let mut net = trio(seed, 1500);
        let all = held(&net, 1);
        let lost: Vec<Dot> = all.iter().copied().filter(|_| net.rng.u8(..40) == 0).collect();
        assert!(lost.len() > 5);
        lost.iter().for_each(|dot| lose(&mut net, 1, dot));
        let before = net.bytes;
        net.run_for(Duration::from_secs(30));
        assert_eq!(held(&net, 1), all, "seed {seed}");
        assert_eq!((held(&net, 0), held(&net, 2)), (all.clone(), all), "seed {seed}");
        println!("{} of 1500 rows put back for {} bytes", lost.len(), net.bytes - before);
    }
}

#[test]
fn a_superseded_row_that_a_disk_brought_back_is_dropped() {
    let mut net = trio(1, 600);
    let old: Version = alone(3, 4);
    let gone = Version {
        dot: Dot { sequence: 1000, ..old.dot },
        context: Context::new([old.dot]).unwrap(),
        count: 2,
        content: None,
        ..old.clone()
    };
    merge(&mut net, 0, [gone]);
    net.run_for(Duration::from_secs(60));
    let all = held(&net, 0);
    assert!(!all.contains(&old.dot));
    assert_eq!(net.nodes[2].storage.all_stubs().count(), 0, "nothing says any more why it is gone");
    let storage = &mut net.nodes[2].storage;
    storage.begin();
    storage.put_survivor(&Survivor { version: old, published: true }).unwrap();
    storage.commit();
    net.run_for(Duration::from_secs(30));
    assert_eq!((held(&net, 2), held(&net, 0)), (all.clone(), all));
}

#[test]
fn of_two_nodes_the_one_that_lost_a_row_gets_it_back() {
    let mut net = Net::new(4, 2, 2, Faults::default());
    merge(&mut net, 0, (0..700).map(|number| alone(number % 5, 1 + number / 5)));
    net.run_for(Duration::from_secs(30));
    let all = held(&net, 0);
    let dot = *all.iter().nth(300).unwrap();
    lose(&mut net, 0, &dot);
    net.run_for(Duration::from_secs(30));
    assert_eq!((held(&net, 0), held(&net, 1)), (all.clone(), all));
}

/// A newcomer whose every name is gone, though it has seen all: the most that can differ.
fn figures(names: u64) {
    let mut net = Net::new(9, 2, 2, Faults::default());
    let versions = || (0..names).map(|number| alone(number % 7, 1 + number / 7));
    (0..2).for_each(|node| merge(&mut net, node, versions()));
    net.run_for(Duration::from_secs(30));
    let all = held(&net, 0);
    let one_pass = |net: &mut Net| {
        let passes =
            |net: &Net| (0..2).map(|n| net.nodes[n].catalog.as_ref().unwrap().audits()).min().unwrap();
        let (bytes, until, start) = (net.bytes, passes(net) + 2, net.now);
        while passes(net) < until {
            net.run_for(Duration::from_secs(10));
        }
        (net.bytes - bytes, net.now.since(start))
    };
    let (bytes, time) = one_pass(&mut net);
    println!("{names} names, none differs: two passes of two nodes {bytes} bytes in {time:?}");
    let dot = *all.iter().nth(all.len() / 2).unwrap();
    lose(&mut net, 1, &dot);
    let (more, _) = one_pass(&mut net);
    println!("{names} names, one differs: {} bytes more", more.saturating_sub(bytes));
    assert_eq!(held(&net, 1), all);
    all.iter().for_each(|dot| lose(&mut net, 1, dot));
    let (most, _) = one_pass(&mut net);
    println!("{names} names, all differ: {most} bytes, {} a name", most as u64 / names);
    assert_eq!(held(&net, 1).len(), all.len());
    let mut blank = Net::new(10, 2, 2, Faults::default());
    merge(&mut blank, 0, versions());
    let (bytes, requests) = cost(&mut blank);
    println!("{names} names exchanged to a blank node: {bytes} bytes in {requests} requests");
}

#[test]
fn fingerprints_cost_little_where_little_differs() {
    figures(5_000);
}

#[test]
#[ignore = "takes minutes"]
fn fingerprints_of_a_million_names() {
    figures(1_000_000);
}
