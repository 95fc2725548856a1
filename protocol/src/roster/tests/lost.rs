//! Majorities that are lost for good, and what an operator can do about it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{Disk, World, id};
use super::{MINUTE, all, cluster};
use crate::roster::change::LOST_STEP;
use crate::roster::council::{ForgetRefused, Founding};

fn set(members: &[usize]) -> BTreeSet<crate::node_id::NodeId> {
    members.iter().map(|index| id(*index)).collect()
}

fn forget_lost(world: &mut World, at: usize, lost: &[usize]) -> Result<(), ForgetRefused> {
    let lost = set(lost);
    world.step(at, |c, disk, now| c.forget_lost(disk, now, &lost).unwrap()).unwrap()
}

fn lost_at(world: &World, index: usize) -> BTreeSet<crate::node_id::NodeId> {
    world.council(index).lost_majority()
}

/// Its disk is gone: it is another node under the same id.
fn replace(world: &mut World, index: usize) {
    world.crash(index);
    world.nodes[index].disk = Disk::default();
    world.nodes[index].key = [100 + index as u8; 32];
    world.nodes[index].founding = Founding::Join;
    world.start(index);
}

#[test]
fn of_two_members_the_one_whose_disk_is_not_gone_goes_on_by_an_operators_word() {
    let mut world = cluster(20, 2);
    let dot = world.write_to("a", &[0, 1]);
    assert_eq!(lost_at(&world, 0), set(&[]));
    replace(&mut world, 1);
    world.run_until("health says so", MINUTE, |w| lost_at(w, 0) == set(&[1]));
    // By themselves they never find a way out.
    world.run(MINUTE);
    assert!(!world.is_ready(1));
    assert_eq!(forget_lost(&mut world, 0, &[1]), Ok(()));
    let roster = world.council(0).roster().unwrap();
    assert_eq!((roster.number, roster.members.len()), (LOST_STEP + 2, 1));
    assert_eq!(world.council(0).standing(), Ok(()));
    world.run_until("the blank one is let in", MINUTE, |w| w.settled(&[0, 1]));
    assert_eq!(lost_at(&world, 0), set(&[]));
    assert!(world.nodes[0].disk.has(&dot));
    assert!(world.read_name(1, "a"));
    world.check();
}

#[test]
fn two_survivors_of_five_are_the_roster_and_whoever_returns_is_a_newcomer() {
    for seed in 0..10 {
        let mut world = cluster(seed, 5);
        world.writing = true;
        world.run(Duration::from_secs(2));
        world.writing = false;
        world.run(Duration::from_secs(1));
        [2, 3, 4].into_iter().for_each(|index| world.crash(index));
        world.run_until("health says so", MINUTE, |w| {
            lost_at(w, 0) == set(&[2, 3, 4]) && lost_at(w, 1) == set(&[2, 3, 4])
        });
        let number = world.council(0).roster().unwrap().number;
        assert_eq!(forget_lost(&mut world, 0, &[2, 3, 4]), Ok(()));
        world.run_until("both go on", MINUTE, |w| w.settled(&[0, 1]));
        assert_eq!(world.council(1).roster().unwrap().number, number + LOST_STEP);
        world.writing = true;
        world.run(Duration::from_secs(2));
        [2, 3, 4].into_iter().for_each(|index| world.start(index));
        world.run_until("all are one cluster again", MINUTE * 2, |w| w.settled(&all(5)));
        world.run(Duration::from_secs(5));
        (0..20).for_each(|turn| {
            world.read(turn % 5);
        });
        world.check();
    }
}

/// Three come back as one part, a majority of the roster they hold, before they hear of the new one.
#[test]
fn a_lost_majority_that_lived_on_elsewhere_gives_way_to_the_operators_roster() {
    let mut world = cluster(21, 5);
    world.group = vec![0, 0, 1, 1, 1];
    world.run_until("health says so", MINUTE, |w| lost_at(w, 0) == set(&[2, 3, 4]));
    assert_eq!(forget_lost(&mut world, 0, &[2, 3, 4]), Ok(()));
    world.run_until("two go on", MINUTE, |w| w.settled(&[0, 1]));
    world.run_until("so do three", MINUTE * 2, |w| w.settled(&[2, 3, 4]));
    assert!(world.council(2).roster().unwrap().number < LOST_STEP);
    world.group = vec![0; 5];
    world.run_until("the three join the two", MINUTE * 2, |w| w.settled(&all(5)));
    assert!(world.council(4).roster().unwrap().number > LOST_STEP);
}

#[test]
fn an_operator_cannot_give_up_members_where_a_majority_is_left_or_one_is_seen() {
    let mut world = cluster(22, 5);
    world.crash(4);
    world.crash(3);
    world.run(Duration::from_secs(3));
    let refused = forget_lost(&mut world, 0, &[3, 4]);
    assert_eq!(refused, Err(ForgetRefused::MajorityLeft { survivors: 3, members: 5 }));
    assert!(matches!(forget_lost(&mut world, 0, &[2, 3, 4]), Err(ForgetRefused::Alive(_))));
    assert!(matches!(forget_lost(&mut world, 0, &[0, 3, 4]), Err(ForgetRefused::Alive(_))));
    assert!(matches!(forget_lost(&mut world, 0, &[3, 4, 9]), Err(ForgetRefused::NotAMember(_))));
    assert!(matches!(forget_lost(&mut world, 0, &[]), Err(ForgetRefused::MajorityLeft { .. })));
    assert_eq!(lost_at(&world, 0), set(&[]));
    world.run(Duration::from_secs(5));
    assert_eq!(world.council(0).roster().unwrap().number, 5);
}

/// The whole cluster was down, and only a minority starts again: nobody can prove its database.
#[test]
fn survivors_that_were_restarted_go_on_too() {
    let mut world = cluster(23, 3);
    all(3).into_iter().for_each(|index| world.crash(index));
    world.start(0);
    world.run(Duration::from_secs(5));
    assert!(!world.is_ready(0));
    world.run_until("health says so", MINUTE, |w| lost_at(w, 0) == set(&[1, 2]));
    assert_eq!(forget_lost(&mut world, 0, &[1, 2]), Ok(()));
    world.run_until("it goes on", MINUTE, |w| w.settled(&[0]));
}
