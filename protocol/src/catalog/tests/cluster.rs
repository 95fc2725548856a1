//! Small clusters: what commands are answered, and what holds under faults.

use std::time::Duration;

use super::net::{Net, Workload, content, seeds};
use crate::api::Durability;
use crate::catalog::Faults;
use crate::catalog::command::{Command, Consistency, Outcome, Precondition, Refusal};
use crate::catalog::electorate::Electorate;
use crate::catalog::storage::Storage;
use crate::name::Name;
use crate::time::UnixMillis;
use crate::version::{Dot, Version, head};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn dot_of(outcome: &Outcome) -> Dot {
    match outcome {
        Outcome::Published { version, .. } => version.dot,
        other => panic!("not published: {other:?}"),
    }
}

fn survivors_of(outcome: Outcome) -> Vec<Version> {
    match outcome {
        Outcome::Read { survivors, consistency: Consistency::Majority } => survivors,
        other => panic!("not read: {other:?}"),
    }
}

const NONE: Precondition = Precondition::None;
const QUORUM: Durability = Durability::Quorum;

#[test]
fn what_one_node_wrote_every_node_reads_at_once() {
    let mut net = Net::new(1, 5, 3, Faults::default());
    for number in 0..20 {
        let file = name(&format!("f{number}"));
        let dot = dot_of(&net.put((number % 5) as usize, &file, number, NONE, QUORUM));
        for node in 0..5 {
            let survivors = survivors_of(net.read(node, &file));
            assert_eq!(head(&survivors).map(|v| v.dot), Some(dot));
        }
    }
    net.run_for(Duration::from_secs(5));
    assert_eq!(net.check_equal(), Ok(()));
}

#[test]
fn a_name_that_nobody_wrote_is_read_as_empty() {
    let mut net = Net::new(2, 3, 3, Faults::default());
    assert_eq!(survivors_of(net.read(0, &name("x"))), []);
    assert_eq!(net.delete(0, &name("x"), QUORUM), Outcome::Refused(Refusal::NotFound));
}

#[test]
fn overwrites_and_deletes_supersede_what_they_saw_through_any_node() {
    let mut net = Net::new(3, 5, 3, Faults::default());
    let file = name("x");
    for number in 0..10 {
        dot_of(&net.put((number % 5) as usize, &file, number, NONE, QUORUM));
        let survivors = survivors_of(net.read(((number + 2) % 5) as usize, &file));
        assert_eq!(survivors.len(), 1);
        assert_eq!(survivors[0].count, number + 1);
    }
    dot_of(&net.delete(4, &file, QUORUM));
    assert!(survivors_of(net.read(2, &file)).iter().all(Version::is_tombstone));
    assert_eq!(net.delete(1, &file, QUORUM), Outcome::Refused(Refusal::NotFound));
    net.heal(Duration::from_secs(60));
    assert_eq!(net.check_equal(), Ok(()));
    for node in &net.nodes {
        assert_eq!((node.storage.all_survivors().count(), node.storage.all_stubs().count()), (0, 0));
    }
}

#[test]
fn a_minority_refuses_quorum_writes_within_ten_seconds_and_serves_what_it_has() {
    let mut net = Net::new(4, 3, 3, Faults::default());
    let file = name("x");
    let old = dot_of(&net.put(0, &file, 1, NONE, QUORUM));
    net.run_for(Duration::from_secs(2));
    net.partition(&[0]);
    let before = net.now;
    let refused = net.put(0, &file, 2, NONE, QUORUM);
    assert_eq!(refused, Outcome::Refused(Refusal::NoQuorum { answered: 1, needed: 2 }));
    assert!(net.now.since(before) < Duration::from_secs(10));
    let Outcome::Read { survivors, consistency: Consistency::Local } = net.read(0, &file) else {
        panic!("not served locally");
    };
    assert_eq!(head(&survivors).map(|v| v.dot), Some(old));
    let unknown = net.read(0, &name("y"));
    assert_eq!(unknown, Outcome::Refused(Refusal::NoQuorum { answered: 1, needed: 2 }));
    let new = dot_of(&net.put(1, &file, 3, NONE, QUORUM));
    net.heal(Duration::from_secs(10));
    assert_eq!(net.check_equal(), Ok(()));
    assert_eq!(net.expected().into_iter().collect::<Vec<_>>(), [new]);
}

#[test]
fn a_fast_write_is_shown_by_its_receiver_alone_until_it_is_settled() {
    let mut net = Net::new(5, 3, 3, Faults::default());
    let file = name("x");
    let old = dot_of(&net.put(1, &file, 1, NONE, QUORUM));
    net.partition(&[0]);
    let fast = dot_of(&net.put(0, &file, 2, NONE, Durability::Fast));
    net.heal_network();
    net.run_for(Duration::from_secs(10));
    let heads = |net: &mut Net| -> Vec<Option<Dot>> {
        (0..3).map(|node| head(&survivors_of(net.read(node, &file))).map(|v| v.dot)).collect()
    };
    assert_eq!(heads(&mut net), [Some(fast), Some(old), Some(old)]);
    net.crash(0);
    net.start(0);
    assert_eq!(heads(&mut net), [Some(fast), Some(old), Some(old)]);
    assert_eq!(net.ask(0, Command::Settle { dot: fast }), Outcome::Done);
    net.run_for(Duration::from_secs(1));
    assert_eq!(heads(&mut net), [Some(fast); 3]);
}

/// The copy is from before the version was published: what others have seen of it shows that it was.
#[test]
fn a_fast_version_that_was_superseded_is_not_shown_by_an_older_copy_of_its_database() {
    let mut net = Net::new(12, 3, 3, Faults::default());
    let file = name("x");
    let fast = dot_of(&net.put(0, &file, 1, NONE, Durability::Fast));
    let copy = net.nodes[0].storage.clone();
    assert_eq!(net.ask(0, Command::Settle { dot: fast }), Outcome::Done);
    net.run_for(Duration::from_secs(1));
    let new = dot_of(&net.put(1, &file, 2, NONE, QUORUM));
    net.crash(0);
    net.nodes[0].storage = copy;
    net.start(0);
    let survivors = survivors_of(net.read(0, &file));
    assert_eq!(survivors.iter().map(|v| v.dot).collect::<Vec<_>>(), [new]);
}

/// What it took before goes on, and is waited for.
#[test]
fn who_is_about_to_leave_takes_no_more_writes_and_reads_all_the_same() {
    let mut net = Net::new(13, 3, 3, Faults::default());
    let file = name("x");
    let first = dot_of(&net.put(0, &file, 1, NONE, QUORUM));
    let fast = dot_of(&net.put(0, &name("y"), 2, NONE, Durability::Fast));
    net.nodes[0].catalog.as_mut().unwrap().close();
    for durability in [Durability::Fast, QUORUM] {
        let refused = net.put(0, &file, 3, NONE, durability);
        assert!(matches!(refused, Outcome::Refused(Refusal::NotReady(_))), "{refused:?}");
    }
    let heads: Vec<Dot> = survivors_of(net.read(0, &file)).iter().map(|v| v.dot).collect();
    assert_eq!(heads, [first]);
    let unfinished = |net: &Net| {
        let node = &net.nodes[0];
        node.catalog.as_ref().unwrap().unfinished(&node.storage).unwrap()
    };
    assert!(unfinished(&net).is_some(), "the fast version is nowhere else");
    assert_eq!(net.ask(0, Command::Settle { dot: fast }), Outcome::Done);
    net.run_for(Duration::from_secs(2));
    assert_eq!(unfinished(&net), None);
    for node in 0..3 {
        let versions = survivors_of(net.read(node, &name("y")));
        assert_eq!(versions.iter().map(|v| v.dot).collect::<Vec<_>>(), [fast]);
    }
}

#[test]
fn both_sides_of_a_split_survive_as_head_and_conflict() {
    let mut net = Net::new(6, 3, 3, Faults::default());
    let file = name("x");
    dot_of(&net.put(0, &file, 1, NONE, QUORUM));
    net.run_for(Duration::from_secs(2));
    net.partition(&[2]);
    let here = dot_of(&net.put(2, &file, 2, NONE, Durability::Fast));
    let there = dot_of(&net.put(0, &file, 3, NONE, QUORUM));
    net.heal(Duration::from_secs(10));
    assert_eq!(net.expected().into_iter().collect::<Vec<_>>(), {
        let mut both = vec![here, there];
        both.sort();
        both
    });
    assert_eq!(net.check_equal(), Ok(()));
    net.conflicts.sort_unstable();
    assert_eq!(net.conflicts, [0, 1, 2], "every node says once that there is a conflict");
    let created_at = UnixMillis(0);
    let survivors = survivors_of(net.read(1, &file));
    let shown = head(&survivors).unwrap().dot;
    let conflict = if shown == here { there } else { here };
    let delete = Command::Delete {
        name: file.clone(),
        version: Some(conflict),
        precondition: NONE,
        durability: QUORUM,
        created_at,
    };
    dot_of(&net.ask(1, delete));
    let survivors = survivors_of(net.read(0, &file));
    assert_eq!(survivors.iter().filter(|v| !v.is_tombstone()).map(|v| v.dot).collect::<Vec<_>>(), [shown]);
}

#[test]
fn conditional_writes_succeed_on_the_head_and_on_nothing_else() {
    let mut net = Net::new(7, 5, 3, Faults::default());
    let file = name("x");
    let first = dot_of(&net.put(0, &file, 1, Precondition::Absent, QUORUM));
    let again = net.put(1, &file, 2, Precondition::Absent, QUORUM);
    assert_eq!(again, Outcome::Refused(Refusal::PreconditionFailed { head: Some(first) }));
    let second = dot_of(&net.put(2, &file, 3, Precondition::Head(first), QUORUM));
    let stale = net.put(3, &file, 4, Precondition::Head(first), QUORUM);
    assert_eq!(stale, Outcome::Refused(Refusal::PreconditionFailed { head: Some(second) }));
    dot_of(&net.delete(4, &file, QUORUM));
    let third = dot_of(&net.put(0, &file, 5, Precondition::Absent, QUORUM));
    assert_eq!(head(&survivors_of(net.read(3, &file))).map(|v| v.dot), Some(third));
    net.partition(&[0, 1]);
    let home = net.nodes[0].electorate.homes(&file)[0].nodes.clone();
    let alone = (0..2).filter(|n| home.contains(&net.nodes[*n].id)).count();
    let cut_off = if alone >= 2 { 2 } else { 0 };
    let refused = net.put(cut_off, &file, 6, Precondition::Head(third), QUORUM);
    assert!(matches!(refused, Outcome::Refused(Refusal::NoQuorum { .. })), "{refused:?}");
}

#[test]
fn writes_to_all_need_every_replica() {
    let mut net = Net::new(8, 3, 3, Faults::default());
    let file = name("x");
    let Outcome::Published { acked, wanted, .. } = net.put(0, &file, 1, NONE, Durability::All) else {
        panic!("not published");
    };
    assert_eq!((acked.len(), wanted), (3, 3));
    net.crash(2);
    net.look_around();
    let refused = net.put(0, &file, 2, NONE, Durability::All);
    assert_eq!(refused, Outcome::Refused(Refusal::NoQuorum { answered: 2, needed: 3 }));
}

#[test]
fn what_was_left_open_is_closed_at_the_next_start() {
    let mut net = Net::new(9, 3, 3, Faults::default());
    let begin = Command::Begin { name: name("x"), precondition: NONE, durability: QUORUM };
    let Outcome::Begun { dot } = net.ask(0, begin.clone()) else { panic!("not begun") };
    assert!(!net.nodes[0].catalog.as_ref().unwrap().seen().contains(&dot));
    net.crash(0);
    net.start(0);
    assert!(net.nodes[0].catalog.as_ref().unwrap().seen().contains(&dot));
    let publish = Command::Publish {
        dot,
        content: Some(content(1)),
        created_at: UnixMillis(0),
        within: Duration::from_secs(9),
    };
    assert_eq!(net.ask(0, publish), Outcome::Refused(Refusal::NotBegun));
    let Outcome::Begun { dot: next } = net.ask(0, begin) else { panic!("not begun") };
    assert_ne!(next.origin, dot.origin);
    assert_eq!(net.ask(0, Command::Abort { dot: next }), Outcome::Done);
    net.run_for(Duration::from_secs(10));
    for node in &net.nodes {
        let seen = node.storage.seen().unwrap();
        assert!(seen.contains(&dot) && seen.contains(&next));
    }
}

#[test]
fn a_node_that_is_not_ready_takes_writes_and_counts_for_no_majority() {
    let mut net = Net::new(10, 3, 3, Faults::default());
    let file = name("x");
    net.nodes[0].electorate.not_ready = Some("catching up".into());
    net.roster_changed(0);
    let Outcome::Published { acked, .. } = net.put(0, &file, 1, NONE, QUORUM) else {
        panic!("not published");
    };
    assert!(!acked.contains(&net.nodes[0].id), "it voted: {acked:?}");
    let Outcome::Published { acked, .. } = net.put(1, &file, 2, NONE, QUORUM) else {
        panic!("not published");
    };
    assert!(!acked.contains(&net.nodes[0].id));
    net.crash(2);
    net.look_around();
    let refused = net.put(1, &file, 3, NONE, QUORUM);
    assert_eq!(refused, Outcome::Refused(Refusal::NoQuorum { answered: 1, needed: 2 }));
}

#[test]
fn a_failing_disk_fails_the_step_and_a_new_machine_goes_on() {
    let mut net = Net::new(11, 3, 3, Faults::default());
    net.nodes[0].storage.set_failing(true);
    let mut catalog = net.nodes[0].catalog.take().unwrap();
    let begin = Command::Begin { name: name("x"), precondition: NONE, durability: QUORUM };
    let electorate = net.nodes[0].electorate.clone();
    let id = crate::catalog::command::CommandId(u64::MAX);
    let failed = catalog.handle_command(&mut net.nodes[0].storage, net.now, &electorate, id, begin);
    assert!(failed.is_err());
    net.nodes[0].storage.set_failing(false);
    net.crash(0);
    net.start(0);
    dot_of(&net.put(0, &name("x"), 1, NONE, QUORUM));
}

#[test]
fn operations_go_on_under_a_new_roster() {
    for seed in seeds(30) {
        let mut net = Net::new(seed, 4, 3, Faults::default());
        let file = name("x");
        let base = dot_of(&net.put(0, &file, 1, NONE, QUORUM));
        let begin =
            Command::Begin { name: file.clone(), precondition: Precondition::Head(base), durability: QUORUM };
        let Outcome::Begun { dot } = net.ask(1, begin) else { panic!("not begun") };
        let publish = Command::Publish {
            dot,
            content: Some(content(2)),
            created_at: UnixMillis(1),
            within: Duration::from_secs(9),
        };
        let id = net.command(1, publish);
        for node in 0..4 {
            let pause = net.rng.u64(..30);
            net.run_for(Duration::from_millis(pause));
            net.nodes[node].electorate.number = 2;
            net.roster_changed(node);
        }
        let outcome = net.wait(id).unwrap();
        let fine = matches!(outcome, Outcome::Published { .. } | Outcome::Refused(Refusal::Unknown { .. }));
        assert!(fine, "seed {seed}: {outcome:?}");
        assert_eq!(head(&survivors_of(net.read(3, &file))).map(|v| v.dot), Some(dot), "seed {seed}");
    }
}

/// A run under mixed faults; what it found wrong.
fn storm(seed: u64) -> Result<usize, String> {
    let mut net = Net::new(seed, 3 + (seed % 3) as usize, 3, Faults::default());
    let mut workload = Workload::new(4, 2, [0.2, 0.1, 0.25, 0.1]);
    for _ in 0..4 {
        net.loss = if net.rng.bool() { 0.05 } else { 0.0 };
        net.duplicates = if net.rng.bool() { 0.5 } else { 0.0 };
        net.slow = if net.rng.bool() { 0.02 } else { 0.0 };
        net.crashes = if net.rng.bool() { 0.003 } else { 0.0 };
        if net.rng.bool() {
            let lonely = net.rng.usize(..net.nodes.len());
            net.partition(&[lonely]);
        }
        workload.run(&mut net, Duration::from_secs(3));
        net.heal_network();
        workload.run(&mut net, Duration::from_secs(1));
    }
    net.heal(Duration::from_secs(45));
    workload.verdict(&mut net)?;
    Ok(workload.history.acked.values().map(Vec::len).sum())
}

#[test]
fn acknowledged_writes_survive_storms_and_catalogs_end_equal() {
    let mut acked = 0;
    for seed in seeds(16) {
        acked += storm(seed).unwrap();
    }
    assert!(acked > 500, "only {acked} writes were acknowledged");
}

#[test]
fn no_acknowledged_write_is_lost_with_the_databases_of_a_minority() {
    for seed in seeds(8) {
        let mut net = Net::new(seed, 3, 3, Faults::default());
        let mut workload = Workload::new(3, 2, [0.1, 0.1, 0.2, 0.0]);
        for _ in 0..3 {
            workload.run(&mut net, Duration::from_secs(1));
            let victim = net.rng.usize(..3);
            net.wipe(victim);
            workload.run(&mut net, Duration::from_millis(300));
            net.start(victim);
            workload.run(&mut net, Duration::from_secs(4));
        }
        net.heal(Duration::from_secs(45));
        workload.verdict(&mut net).unwrap();
    }
}

#[test]
fn two_conditional_writers_on_one_base_never_both_succeed() {
    let (mut one, mut none) = (0, 0);
    for seed in seeds(1000) {
        let mut net = Net::new(seed, 3 + (seed % 3) as usize, 3, Faults::default());
        let file = name("x");
        let base = dot_of(&net.put(0, &file, 1, NONE, QUORUM));
        net.loss = [0.0, 0.1, 0.3][net.rng.usize(..3)];
        net.slow = [0.0, 0.2][net.rng.usize(..2)];
        net.duplicates = 0.3;
        let count = net.nodes.len();
        let mut dots = Vec::new();
        for node in [0, 1, count - 1] {
            let begin = Command::Begin {
                name: file.clone(),
                precondition: Precondition::Head(base),
                durability: QUORUM,
            };
            if let Outcome::Begun { dot } = net.ask(node, begin) {
                dots.push((node, dot));
            }
        }
        let ids: Vec<_> = dots
            .iter()
            .map(|(node, dot)| {
                let publish = Command::Publish {
                    dot: *dot,
                    content: Some(content(dot.sequence)),
                    created_at: UnixMillis(0),
                    within: Duration::from_secs(9),
                };
                net.command(*node, publish)
            })
            .collect();
        net.crashes = [0.0, 0.01][net.rng.usize(..2)];
        let outcomes: Vec<_> = ids.into_iter().filter_map(|id| net.wait(id)).collect();
        let winners = outcomes.iter().filter(|o| matches!(o, Outcome::Published { .. })).count();
        assert!(winners <= 1, "seed {seed}: {outcomes:?}");
        if winners == 1 {
            one += 1;
        } else {
            none += 1;
        }
    }
    assert!(one > none, "{one} races had a winner, {none} had none");
}
