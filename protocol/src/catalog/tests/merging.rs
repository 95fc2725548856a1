//! Merging and exchange of random histories.

use std::collections::BTreeSet;
use std::time::Duration;

use super::net::{Net, content};
use crate::catalog::Faults;
use crate::catalog::census::Census;
use crate::catalog::memory::MemoryStorage;
use crate::catalog::merge::{Knowledge, Learned};
use crate::catalog::storage::Storage;
use crate::name::Name;
use crate::time::UnixMillis;
use crate::version::{Context, Dot, Origin, Version};

/// A random history: writers that each saw a random part of what was there.
fn history(rng: &mut fastrand::Rng, length: usize, names: usize) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    let mut sequences = [0u64; 3];
    for number in 0..length {
        let name: Name = format!("h-{}", rng.usize(..names)).parse().unwrap();
        let writer = rng.usize(..3);
        sequences[writer] += 1;
        let origin = Origin { node: format!("w{writer}").parse().unwrap(), generation: 7 };
        let context: BTreeSet<Dot> =
            versions.iter().filter(|v| v.name == name && rng.bool()).map(|v| v.dot).collect();
        let count = versions.iter().filter(|v| context.contains(&v.dot)).map(|v| v.count).max();
        versions.push(Version {
            name,
            dot: Dot { origin, sequence: sequences[writer] },
            context: Context::new(context).unwrap(),
            count: count.unwrap_or(0) + 1,
            content: (rng.f64() < 0.8).then(|| content(number as u64)),
            created_at: UnixMillis(number as u64),
        });
    }
    versions
}

fn survivors_of(versions: &[Version]) -> BTreeSet<Dot> {
    let superseded: BTreeSet<&Dot> = versions.iter().flat_map(|v| v.context.iter()).collect();
    versions.iter().map(|v| v.dot).filter(|dot| !superseded.contains(dot)).collect()
}

fn held(storage: &MemoryStorage) -> BTreeSet<Dot> {
    storage.all_survivors().map(|s| s.version.dot).collect()
}

#[test]
fn survivors_depend_on_what_was_merged_and_on_nothing_else() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let versions = history(&mut rng, 25, 3);
        for _ in 0..3 {
            let mut order = versions.clone();
            rng.shuffle(&mut order);
            let known = rng.usize(1..=order.len());
            let mut storage = MemoryStorage::new();
            let mut knowledge = Knowledge::open(&storage).unwrap();
            for version in &order[..known] {
                assert_ne!(knowledge.learn(&mut storage, version).unwrap(), Learned::Refused, "seed {seed}");
                let again = &order[rng.usize(..known)];
                if knowledge.contains(&again.dot) {
                    let learned = knowledge.learn(&mut storage, again).unwrap();
                    assert_eq!(learned, Learned::Known, "seed {seed}");
                }
            }
            assert_eq!(held(&storage), survivors_of(&order[..known]), "seed {seed}");
            assert_eq!(**knowledge.seen(), storage.seen().unwrap(), "seed {seed}");
        }
    }
}

#[test]
fn a_known_dot_with_other_content_is_refused() {
    let mut rng = fastrand::Rng::with_seed(1);
    let versions = history(&mut rng, 12, 1);
    let mut storage = MemoryStorage::new();
    let mut knowledge = Knowledge::open(&storage).unwrap();
    for version in &versions {
        knowledge.learn(&mut storage, version).unwrap();
    }
    let before = held(&storage);
    for version in storage.clone().all_survivors() {
        let mut forged = version.version.clone();
        forged.content = Some(content(999));
        assert_eq!(knowledge.learn(&mut storage, &forged).unwrap(), Learned::Refused);
    }
    let closed = Dot { origin: versions[0].dot.origin, sequence: 1000 };
    assert!(knowledge.close(&mut storage, closed).unwrap());
    let forged = Version { dot: closed, context: Context::default(), ..versions[0].clone() };
    assert_eq!(knowledge.learn(&mut storage, &forged).unwrap(), Learned::Refused);
    assert_eq!(held(&storage), before);
}

/// Gives each node a random part of a history, in a random order, and lets them talk.
fn converge(seed: u64, nodes: usize, length: usize, names: usize) {
    let mut net = Net::new(seed, nodes, nodes, Faults::default());
    let mut rng = fastrand::Rng::with_seed(!seed);
    let versions = history(&mut rng, length, names);
    let mut known = vec![false; versions.len()];
    for node in 0..nodes {
        let mut order: Vec<usize> = (0..versions.len()).filter(|_| rng.bool()).collect();
        rng.shuffle(&mut order);
        for index in order {
            known[index] = true;
            let version = &versions[index];
            net.step(node, |catalog, storage, _, _| catalog.merge(storage, version).map(drop));
        }
    }
    net.run_for(Duration::from_secs(20));
    let merged: Vec<Version> =
        versions.iter().zip(&known).filter(|(_, known)| **known).map(|(v, _)| v.clone()).collect();
    let expected: BTreeSet<Dot> = survivors_of(&merged);
    let live = |dots: &BTreeSet<Dot>| -> BTreeSet<Dot> {
        merged.iter().filter(|v| !v.is_tombstone() && dots.contains(&v.dot)).map(|v| v.dot).collect()
    };
    let digest = Census::of(&net.nodes[0].storage.seen().unwrap()).digest();
    for node in &net.nodes {
        assert_eq!(live(&held(&node.storage)), live(&expected), "seed {seed}, {}", node.id);
        assert!(held(&node.storage).is_subset(&expected), "seed {seed}, {}", node.id);
        assert_eq!(Census::of(&node.storage.seen().unwrap()).digest(), digest, "seed {seed}, {}", node.id);
    }
    // Late copies of what is superseded stay away, also once the stubs are collected.
    net.run_for(Duration::from_secs(25));
    for version in &merged {
        net.step(0, |catalog, storage, _, _| catalog.merge(storage, version).map(drop));
    }
    assert_eq!(live(&held(&net.nodes[0].storage)), live(&expected), "seed {seed}");
    // Only of what nobody ever met are stubs left: it might still come.
    let seen = net.nodes[0].storage.seen().unwrap();
    let left = net.nodes[0].storage.all_stubs().find(|stub| seen.contains(&stub.dot));
    assert_eq!(left, None, "seed {seed}");
}

#[test]
fn two_catalogs_exchange_to_equal_survivors() {
    (0..150).for_each(|seed| converge(seed, 2, 30, 4));
}

#[test]
fn three_catalogs_exchange_to_equal_survivors() {
    (0..100).for_each(|seed| converge(seed, 3, 30, 4));
}

#[test]
fn an_exchange_of_many_pages_converges() {
    converge(7, 2, 120, 1);
    let mut net = Net::new(3, 2, 2, Faults::default());
    let mut rng = fastrand::Rng::with_seed(3);
    for version in history(&mut rng, 6000, 3000) {
        net.step(0, |catalog, storage, _, _| catalog.merge(storage, &version).map(drop));
    }
    net.run_for(Duration::from_secs(10));
    let live = |node: usize| -> BTreeSet<Dot> {
        let survivors = net.nodes[node].storage.all_survivors().map(|s| &s.version);
        survivors.filter(|v| !v.is_tombstone()).map(|v| v.dot).collect()
    };
    assert!(live(0) == live(1), "they differ in {:?}", live(0).symmetric_difference(&live(1)).count());
    assert!(live(1).len() > 1000);
}
