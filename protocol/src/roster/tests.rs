//! Councils from one to seven, in a small world of their own.
#![allow(clippy::unwrap_used)]

mod duel;
mod lost;
mod model;
mod wire;
mod world;

use std::time::Duration;

use world::{World, id};

use crate::identity::{ClusterId, DatabaseId};
use crate::roster::Entry;
use crate::roster::council::{Faults, ForgetRefused, Founding, Peer};
use crate::roster::message::{Question, RING_VERSION, Request};

const MINUTE: Duration = Duration::from_secs(60);

fn all(count: usize) -> Vec<usize> {
    (0..count).collect()
}

/// A cluster of `count` that has formed and is quiet.
fn cluster(seed: u64, count: usize) -> World {
    let mut world = World::of(seed, count);
    world.start_all();
    world.run_until("all are admitted", MINUTE, |w| w.settled(&all(count)));
    world
}

#[test]
fn a_founder_alone_is_ready_at_once() {
    let mut world = World::of(1, 1);
    world.start(0);
    let roster = world.council(0).roster().unwrap();
    assert_eq!((roster.number, roster.members.len()), (1, 1));
    assert_eq!(world.council(0).standing(), Ok(()));
    assert_eq!(world.council(0).number(), Some(3));
    world.crash(0);
    world.start(0);
    assert_eq!(world.council(0).standing(), Ok(()));
    assert_eq!(world.council(0).roster().unwrap().number, 1);
}

#[test]
fn five_nodes_join_one_after_another() {
    let mut world = World::of(2, 5);
    for index in 0..5 {
        world.start(index);
        world.run_until("the newcomer is ready", MINUTE, |w| w.settled(&all(index + 1)));
    }
    assert_eq!(world.council(4).roster().unwrap().number, 5);
    let homes = world.council(4).homes(&"a".parse().unwrap());
    assert_eq!(homes.len(), 1);
    assert_eq!((homes[0].nodes.len(), homes[0].majority), (3, 2));
}

#[test]
fn seven_nodes_join_all_at_once_under_loss() {
    for seed in 0..20 {
        let mut world = World::of(seed, 7);
        (world.loss, world.doubled) = (20, 20);
        world.writing = true;
        world.start_all();
        world.run_until("all are admitted", MINUTE * 5, |w| w.settled(&all(7)));
        assert_eq!(world.council(0).roster().unwrap().number, 7, "seed {seed}");
        assert!(!world.acknowledged.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_cluster_that_was_down_as_a_whole_comes_back_in_any_order() {
    for seed in 0..30 {
        let mut world = cluster(seed, 5);
        all(5).into_iter().for_each(|index| world.crash(index));
        world.run(MINUTE);
        let mut order = all(5);
        world.rng.shuffle(&mut order);
        for (count, index) in order.iter().enumerate() {
            world.start(*index);
            world.run(Duration::from_secs(1));
            let ready = order.iter().filter(|index| world.is_ready(**index)).count();
            // No majority, no answer: with three of five the three are ready.
            assert_eq!(ready, if count < 2 { 0 } else { count + 1 }, "seed {seed}\n{}", world.describe());
        }
        world.run_until("all are ready", MINUTE, |w| w.settled(&all(5)));
        assert_eq!(world.council(0).roster().unwrap().number, 5, "seed {seed}");
    }
}

#[test]
fn a_member_that_is_dead_for_long_enough_is_removed_and_rejoins_as_a_newcomer() {
    for seed in 0..10 {
        let mut world = cluster(seed, 4);
        let database = world.council(3).database();
        world.crash(3);
        world.run(world.forget_after - Duration::from_secs(1));
        assert_eq!(world.council(0).members().len(), 4, "seed {seed}: removed too early");
        world.run_until("the dead member is removed", MINUTE, |w| w.settled(&[0, 1, 2]));
        world.start(3);
        world.run_until("it is a member again", MINUTE, |w| w.settled(&all(4)));
        assert_ne!(world.council(3).database(), database, "seed {seed}");
    }
}

#[test]
fn two_dead_members_of_five_are_removed_one_after_the_other() {
    let mut world = cluster(3, 5);
    world.crash(3);
    world.crash(4);
    world.run_until("both are removed", MINUTE * 3, |w| w.settled(&[0, 1, 2]));
}

#[test]
fn two_halves_never_forget_each_other() {
    for seed in 0..10 {
        let mut world = cluster(seed, 4);
        world.writing = true;
        world.group = vec![0, 0, 1, 1];
        world.run(world.forget_after * 3);
        for index in 0..4 {
            assert_eq!(world.council(index).members().len(), 4, "seed {seed}");
            let why = world.council(index).standing().unwrap_err();
            assert!(why.contains("majority"), "seed {seed}: {why}");
        }
        world.group = vec![0; 4];
        world.run_until("all are ready", MINUTE, |w| w.settled(&all(4)));
        assert_eq!(world.council(0).roster().unwrap().number, 4, "seed {seed}");
    }
}

#[test]
fn the_larger_part_goes_on_without_the_smaller() {
    let mut world = cluster(5, 5);
    world.writing = true;
    world.group = vec![0, 0, 0, 1, 1];
    world.run_until("the smaller part is removed", MINUTE * 3, |w| w.settled(&[0, 1, 2]));
    assert!(!world.is_ready(3) && !world.is_ready(4));
    world.group = vec![0; 5];
    world.run_until("all are members again", MINUTE * 2, |w| w.settled(&all(5)));
}

#[test]
fn a_blank_node_takes_over_the_id_of_a_dead_one_but_not_of_a_live_one() {
    for seed in 0..10 {
        let mut world = cluster(seed, 4);
        let number = world.council(0).roster().unwrap().number;
        // Another node under the id of node 3, which is up: a stranger's key.
        world.crash(3);
        let (disk, key) = (std::mem::take(&mut world.nodes[3].disk), world.nodes[3].key);
        world.nodes[3].key = [99; 32];
        world.start(3);
        world.run(Duration::from_millis(300));
        assert!(!world.is_ready(3), "seed {seed}");
        assert!(
            world.refusals.iter().any(|(i, why)| *i == 3 && why.contains("in use")),
            "seed {seed} {:?} {}",
            world.refusals,
            world.describe()
        );
        world.run_until("it has the id of the dead one", MINUTE, |w| w.settled(&all(4)));
        let roster = world.council(0).roster().unwrap();
        assert_eq!((roster.number, roster.members[&id(3)].key), (number + 1, [99; 32]), "seed {seed}");
        // The old one returns: its id belongs to another now.
        world.crash(3);
        (world.nodes[3].disk, world.nodes[3].key) = (disk, key);
        world.refusals.clear();
        world.start(3);
        world.run(Duration::from_millis(300));
        assert!(!world.is_ready(3), "seed {seed}\n{}", world.describe());
    }
}

#[test]
fn a_lost_database_gets_a_new_id_and_is_ready_only_when_it_has_seen_the_floor() {
    for seed in 0..10 {
        let mut world = cluster(seed, 4);
        world.writing = true;
        world.run(Duration::from_secs(5));
        world.writing = false;
        world.run(Duration::from_secs(2));
        let database = world.council(2).database();
        world.crash(2);
        world.nodes[2].disk = Default::default();
        world.exchange = false;
        world.start(2);
        world.run_until("it is admitted anew", MINUTE, |w| {
            w.council(0).members().iter().any(|(n, d)| *n == id(2) && *d != database)
        });
        world.run(Duration::from_secs(3));
        let why = world.council(2).standing().unwrap_err();
        assert!(why.contains("catching up"), "seed {seed}: {why}");
        assert!(world.is_ready(0) && world.is_ready(1) && world.is_ready(3), "seed {seed}");
        world.exchange = true;
        world.run_until("it is ready", MINUTE, |w| w.settled(&all(4)));
    }
}

#[test]
fn a_restored_older_database_is_caught_by_a_mark() {
    for seed in 0..20 {
        let mut world = cluster(seed, 3);
        world.writing = true;
        world.run(Duration::from_secs(2));
        let (backup, database) = (world.nodes[1].disk.clone(), world.council(1).database());
        world.run(Duration::from_secs(3));
        world.writing = false;
        world.run(Duration::from_secs(1));
        world.crash(1);
        world.nodes[1].disk = backup;
        world.start(1);
        assert!(!world.is_ready(1), "seed {seed}");
        world.run_until("it is ready again", MINUTE, |w| w.settled(&all(3)));
        assert_ne!(world.council(1).database(), database, "seed {seed}");
        assert!(world.acknowledged.iter().all(|(_, dot)| world.nodes[1].disk.has(dot)), "seed {seed}");
    }
}

#[test]
fn a_member_that_left_is_removed_and_stays_out() {
    let mut world = cluster(6, 3);
    world.nodes[2].left = true;
    world.run_until("it is removed", MINUTE, |w| w.settled(&[0, 1]));
    world.run(MINUTE);
    assert_eq!(world.council(0).members().len(), 2);
    assert!(!world.is_ready(2));
}

#[test]
fn an_operator_forgets_a_member_that_is_gone_and_none_that_is_up() {
    let mut world = cluster(7, 4);
    let forget = |world: &mut World, index: usize| {
        world.step(0, |c, disk, now| c.forget(disk, now, id(index)).unwrap()).unwrap()
    };
    assert!(matches!(forget(&mut world, 3), Err(ForgetRefused::Alive(_))));
    assert!(matches!(forget(&mut world, 0), Err(ForgetRefused::Alive(_))));
    assert!(matches!(forget(&mut world, 9), Err(ForgetRefused::NotAMember(_))));
    world.crash(3);
    world.run(Duration::from_secs(3));
    assert_eq!(forget(&mut world, 3), Ok(()));
    world.run_until("it is forgotten", Duration::from_secs(10), |w| w.settled(&[0, 1, 2]));
}

#[test]
fn a_node_with_another_replication_factor_is_told_why_it_is_not_admitted() {
    let mut world = World::of(8, 2);
    world.nodes[1].replication_factor = 5;
    world.start_all();
    world.run(Duration::from_secs(5));
    assert_eq!(world.council(0).members().len(), 1);
    assert!(world.refusals.iter().any(|(i, why)| *i == 1 && why.contains("REPLICATION_FACTOR")));
    assert!(world.council(1).standing().unwrap_err().contains("REPLICATION_FACTOR"));
}

#[test]
fn a_founder_alone_joins_the_larger_cluster_of_the_same_key() {
    let mut world = cluster(9, 3);
    let lone = world.add(Founding::Found { cluster: ClusterId([1; 16]) });
    world.start(lone);
    assert!(world.is_ready(lone));
    world.run_until("there is one cluster", MINUTE, |w| w.settled(&all(4)));
    assert_eq!(world.council(lone).constants().unwrap().cluster, ClusterId([7; 16]));
    // Two founders: the one with the greater id joins the other.
    let mut world = World::new(10);
    world.add(Founding::Found { cluster: ClusterId([2; 16]) });
    world.add(Founding::Found { cluster: ClusterId([1; 16]) });
    world.start_all();
    world.run_until("there is one cluster", MINUTE, |w| w.settled(&all(2)));
    assert_eq!(world.council(0).constants().unwrap().cluster, ClusterId([1; 16]));
}

#[test]
fn who_was_stopped_for_long_does_not_answer_on_silence_it_has_not_noticed() {
    let mut world = cluster(11, 3);
    world.crash(1);
    world.crash(2);
    let later = world.now + world.forget_after;
    let council = world.nodes[0].council.as_mut().unwrap();
    assert_eq!(council.standing(), Ok(()));
    council.advance(later);
    assert!(council.standing().unwrap_err().contains("majority"));
}

/// Chaos within what must be survived: loss, doubles, reordering, crashes at any step, partitions,
/// late joiners, and one lost or restored database at a time; then peace, and all is well.
fn chaos(seed: u64, faults: Faults) -> World {
    let mut world = World::of(seed, 5);
    world.nodes.iter_mut().for_each(|node| node.faults = faults);
    // Nobody is given up: that would be a loss for good.
    world.forget_after = MINUTE;
    (world.loss, world.doubled) = (world.rng.u8(..30), world.rng.u8(..30));
    world.exchange_rate = [2, 10, 100][world.rng.usize(..3)];
    world.delay = Duration::from_millis(world.rng.u64(1..60));
    world.crashes = world.rng.u32(..60);
    world.writing = true;
    world.start(0);
    let mut backups: Vec<Option<_>> = vec![None; 5];
    let mut damaged = None;
    for _ in 0..40 {
        let pause = world.rng.u64(20..900);
        world.run(Duration::from_millis(pause));
        let index = world.rng.usize(..5);
        let up = world.nodes[index].council.is_some();
        // A database may be lost once what another lost is made up for.
        if damaged.is_some_and(|d: usize| {
            world.is_ready(d) && world.council(d).number().is_some_and(|n| n % 2 == 1)
        }) {
            damaged = None;
        }
        match world.rng.u8(..10) {
            0..4 if !up => world.start(index),
            4 if up && damaged.is_none() => world.crash(index),
            5 if up => backups[index] = Some(world.nodes[index].disk.clone()),
            6 if up && damaged.is_none() && world.acknowledged.len() > 3 && world.quiet() => {
                world.crash(index);
                world.nodes[index].disk = backups[index].take().unwrap_or_default();
                world.nodes[index].founding = Founding::Join;
                backups = vec![None; 5];
                damaged = Some(index);
                world.start(index);
            }
            7 => world.group = (0..5).map(|_| world.rng.usize(..2)).collect(),
            8 | 9 => world.group = vec![0; 5],
            _ => {}
        }
    }
    (world.loss, world.doubled, world.crashes) = (0, 0, 0);
    (world.group, world.exchange_rate) = (vec![0; 5], 100);
    world
}

fn heal(world: &mut World) {
    for index in 0..world.nodes.len() {
        if world.nodes[index].council.is_none() {
            world.start(index);
        }
    }
    world.run_until("peace", MINUTE * 5, |w| w.settled(&all(5)));
    world.run(Duration::from_secs(3));
    (0..50).for_each(|turn| {
        world.read(turn % 5);
    });
    world.check();
}

#[test]
fn rosters_and_acknowledged_writes_survive_chaos() {
    let (mut acknowledged, mut reads) = (0, 0);
    for seed in 0..25 {
        let mut world = chaos(seed, Faults::default());
        world.check();
        heal(&mut world);
        acknowledged += world.acknowledged.len();
        reads += world.reads;
    }
    assert!(acknowledged > 300 && reads > 1_000, "{acknowledged} writes, {reads} reads");
}

/// A database restored from before an acknowledged write, which only it and one other had.
fn restored(seed: u64, faults: Faults) -> World {
    let mut world = cluster(seed, 3);
    world.exchange = false;
    let backup = world.nodes[1].disk.clone();
    world.write_to("n0", &[0, 1]);
    world.run(Duration::from_secs(1));
    world.crash(1);
    world.nodes[1].disk = backup;
    world.nodes[1].faults = faults;
    world.start(1);
    for _ in 0..400 {
        (0..3).for_each(|reader| {
            world.read_name(reader, "n0");
        });
        world.turn();
    }
    world
}

/// A name acknowledged by two replicas of which one dies and is removed while the other is cut
/// off; then a newcomer asks to be let in.
fn removed_unconfirmed(seed: u64, faults: Faults) -> World {
    let mut world = World::of(seed, 6);
    world.nodes.iter_mut().for_each(|node| node.faults = faults);
    all(5).into_iter().for_each(|index| world.start(index));
    world.run_until("five are admitted", MINUTE, |w| w.settled(&all(5)));
    world.exchange = false;
    let homes = world.council(0).homes(&"n0".parse().unwrap()).remove(0).nodes;
    let at = |node| all(5).into_iter().find(|index| id(*index) == node).unwrap();
    let (dies, away) = (at(homes[0]), at(homes[1]));
    world.write_to("n0", &[dies, away]);
    world.crash(dies);
    let number = world.council(at(homes[2])).roster().unwrap().number;
    let rest: Vec<usize> = all(5).into_iter().filter(|i| *i != dies && *i != away).collect();
    // The one that is cut off was heard from late enough not to be given up with the dead one.
    world.run(world.forget_after - Duration::from_secs(4));
    world.group[away] = 1;
    let removed = |w: &World| rest.iter().all(|i| w.council(*i).roster().unwrap().number > number);
    let end = world.now + Duration::from_secs(14);
    while world.now < end {
        rest.iter().for_each(|reader| {
            world.read_name(*reader, "n0");
        });
        world.turn();
        if world.nodes[5].council.is_none() && removed(&world) {
            world.start(5);
        }
    }
    assert!(removed(&world), "seed {seed}\n{}", world.describe());
    world
}

/// Members that restart all the time let in newcomers that ask all of them at once.
fn duel(seed: u64, faults: Faults) -> World {
    let mut world = World::of(seed, 7);
    world.nodes.iter_mut().for_each(|node| node.faults = faults);
    (0..3).for_each(|index| world.start(index));
    world.run_until("three are admitted", MINUTE, |w| w.settled(&all(3)));
    (3..7).for_each(|index| world.start(index));
    (world.loss, world.doubled, world.crashes) = (10, 20, 100);
    world.delay = Duration::from_millis(30);
    let end = world.now + Duration::from_secs(12);
    while world.now < end && world.violations.is_empty() {
        let pause = world.rng.u64(5..150);
        world.run(Duration::from_millis(pause));
        if world.rng.u8(..3) == 0 {
            world.group = (0..7).map(|_| world.rng.usize(..2)).collect();
        }
        let crashed = world.rng.usize(..7);
        world.crash(crashed);
        for index in 0..7 {
            if world.nodes[index].council.is_none() {
                world.start(index);
            }
        }
    }
    world
}

/// One member decides and is cut off before it can tell; the other that accepted restarts, and
/// the third proposes something else.
fn decided_unheard(seed: u64, faults: Faults) -> World {
    let mut world = World::of(seed, 3);
    world.nodes.iter_mut().for_each(|node| node.faults = faults);
    world.start_all();
    world.run_until("three are admitted", MINUTE, |w| w.settled(&all(3)));
    world.add(Founding::Join);
    world.add(Founding::Join);
    let ask = |world: &mut World, member: usize, newcomer: usize| {
        let key = [newcomer as u8 + 1; 32];
        let entry =
            Entry { key, database: DatabaseId(key[..16].try_into().unwrap()), zone: None, capacity: 1 };
        let (database, ring_version) = (entry.database, RING_VERSION);
        let question = Question::Join { entry, replication_factor: 3, ring_version };
        let request = Request { number: 0, cluster: None, database, mark: 0, question };
        let peer = Peer { node: id(newcomer), key };
        world.step(member, |c, disk, now| c.handle_request(disk, now, peer, request).unwrap());
    };
    world.group = vec![0, 0, 1, 1, 0];
    ask(&mut world, 0, 3);
    world.run_until("it is decided", MINUTE, |w| w.decided.len() == 4);
    world.group = vec![0, 1, 1, 1, 1];
    world.crash(1);
    world.start(1);
    let end = world.now + Duration::from_secs(10);
    while world.now < end && world.council(2).roster().unwrap().number == 3 {
        ask(&mut world, 2, 4);
        world.run(Duration::from_millis(100));
    }
    assert_eq!(world.council(2).roster().unwrap().number, 4, "seed {seed}\n{}", world.describe());
    world
}

#[test]
fn what_one_member_has_decided_is_decided_for_all() {
    for seed in 0..20 {
        let world = decided_unheard(seed, Faults::default());
        world.check();
        assert!(world.council(2).roster().unwrap().members.contains_key(&id(3)), "seed {seed}");
    }
}

#[test]
fn a_name_is_not_read_from_who_lost_it_or_never_had_it() {
    for seed in 0..20 {
        restored(seed, Faults::default()).check();
        removed_unconfirmed(seed, Faults::default()).check();
    }
}

#[test]
fn duelling_proposers_that_crash_decide_one_roster_for_each_number() {
    let mut greatest = 0;
    for seed in 0..8 {
        let world = duel(seed, Faults::default());
        world.check();
        greatest = greatest.max(world.decided.len());
    }
    assert!(greatest > 4, "hardly anything was decided");
}

/// Names a planted mistake and runs what finds it, from a seed.
type Plant = (&'static str, fn(u64) -> World);

#[test]
fn planted_mistakes_are_found() {
    let plants: [Plant; 5] = [
        ("ready without nonces", |seed| {
            restored(seed, Faults { ready_without_nonces: true, ..Faults::default() })
        }),
        ("database id kept", |seed| {
            restored(seed, Faults { keep_database_id_when_behind: true, ..Faults::default() })
        }),
        ("proposed before the floor", |seed| {
            removed_unconfirmed(seed, Faults { propose_before_floor: true, ..Faults::default() })
        }),
        ("one list before the floor", |seed| {
            removed_unconfirmed(seed, Faults { single_list_before_floor: true, ..Faults::default() })
        }),
        ("promises forgotten", |seed| {
            decided_unheard(seed, Faults { forget_promises: true, ..Faults::default() })
        }),
    ];
    for (name, run) in plants {
        let found = (0..5).find(|seed| !run(*seed).violations.is_empty());
        eprintln!("{name}: found at seed {found:?}");
        assert!(found.is_some(), "{name} was not found");
    }
}
