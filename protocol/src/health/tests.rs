use super::*;
use crate::identity::{ClusterId, DatabaseId};
use crate::roster::{Constants, Entry};

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn roster(members: usize, factor: u8) -> Roster {
    let entry = |n: usize| Entry {
        key: [n as u8; 32],
        database: DatabaseId([n as u8; 16]),
        zone: None,
        capacity: 1 << 30,
    };
    Roster {
        number: 1,
        constants: Constants {
            cluster: ClusterId([1; 16]),
            reference_capacity: 1 << 30,
            replication_factor: factor,
        },
        members: (0..members).map(|n| (id(&format!("n{n}")), entry(n))).collect(),
    }
}

/// A cluster of `members` of which `down` are dead and silent; `change` alters what the others say.
fn health(members: usize, down: &[usize], change: impl Fn(usize, &mut NodeHealth)) -> Health {
    let roster = roster(members, 3);
    let nodes: Vec<NodeHealth> = roster
        .members
        .keys()
        .enumerate()
        .map(|(n, node)| {
            if down.contains(&n) {
                return NodeHealth::silent(*node);
            }
            let mut health = NodeHealth::idle(*node);
            change(n, &mut health);
            health
        })
        .collect();
    let states = roster
        .members
        .keys()
        .enumerate()
        .map(|(n, node)| (*node, if down.contains(&n) { State::Dead } else { State::Alive }))
        .collect();
    judge(Facts { roster: Some(&roster), states: &states, standing: Ok(()) }, nodes)
}

fn reasons(health: &Health) -> String {
    health.reasons.join("\n")
}

#[test]
fn a_whole_cluster_is_ok_and_has_nothing_to_say() {
    let health = health(3, &[], |_, _| ());
    assert_eq!((health.status, health.reasons.len()), (HealthStatus::Ok, 0), "{health:?}");
}

#[test]
fn chunks_that_move_are_told_and_no_fault() {
    let health = health(3, &[], |_, node| (node.moving, node.moving_bytes) = (1, 10));
    assert_eq!(health.status, HealthStatus::Ok);
    assert_eq!(reasons(&health), "3 chunks (30 bytes) are on the way to new owners");
}

#[test]
fn one_dead_of_three_degrades_and_is_named() {
    let health = health(3, &[1], |_, _| ());
    assert_eq!((health.status, reasons(&health).as_str()), (HealthStatus::Degraded, "n1 is dead"));
}

#[test]
fn a_chunk_without_a_copy_is_worse_than_one_with_one_which_is_worse_than_one_that_lacks_one() {
    let status = |missing, single, under| {
        let change = move |n: usize, node: &mut NodeHealth| {
            if n == 0 {
                (node.missing, node.single_copy, node.under_replicated) = (missing, single, under);
            }
        };
        let health = health(4, &[], change);
        (health.status, reasons(&health))
    };
    assert_eq!(
        status(0, 0, 1),
        (HealthStatus::Degraded, "1 chunk is not on every node that should have a copy".into())
    );
    assert_eq!(
        status(0, 1, 1),
        (HealthStatus::AtRisk, "1 chunk has one copy left that can be reached".into())
    );
    let (worst, why) = status(2, 1, 3);
    assert_eq!(worst, HealthStatus::Unavailable);
    let order: Vec<&str> = why.lines().map(|line| &line[..10]).collect();
    assert_eq!(order, ["2 chunks h", "1 chunk ha", "2 chunks a"], "the worst first");
}

/// Each owner looks for what it lacks; one that took over from a dead one may not know of it.
#[test]
fn a_chunk_that_several_owners_lack_counts_once_whoever_knows_of_it() {
    let [a, b, c] = [1, 2, 3].map(|n| ChunkId::of(crate::chunk::Codec::Raw, &[n]));
    let lacking = move |n: usize, node: &mut NodeHealth| {
        let (lost, fetching) = match n {
            0 => (vec![], vec![]),
            1 => (vec![a, b], vec![c]),
            2 => (vec![a], vec![b, c]),
            _ => (vec![b], vec![]),
        };
        (node.missing, node.under_replicated) = (lost.len() as u64, fetching.len() as u64);
        (node.lost, node.fetching) = (lost, fetching);
    };
    let all_up = health(4, &[], lacking);
    assert_eq!((all_up.missing, all_up.under_replicated), (2, 1), "{all_up:?}");
    assert!(all_up.reasons[0].starts_with("2 chunks have no intact copy left on any node"), "{all_up:?}");
    assert!(!reasons(&all_up).contains("start"), "{all_up:?}");
    let one_down = health(4, &[0], lacking);
    assert_eq!(one_down.missing, 2);
    assert!(one_down.reasons[0].contains("start the nodes that are down"), "{one_down:?}");

    // More than the lists hold: not fewer than any node says, and nothing twice.
    let many = health(3, &[], move |_, node| (node.missing, node.lost) = (10, vec![a, b]));
    assert_eq!(many.missing, 10);
}

#[test]
fn two_silent_of_three_leave_no_majority_and_the_way_out_is_named() {
    let health = health(3, &[0, 2], |_, _| ());
    assert_eq!(health.status, HealthStatus::Unavailable);
    assert!(health.reasons[0].contains("kepler cluster forget --lost n0 n2"), "{health:?}");
    assert!(reasons(&health).contains("for all names"), "{health:?}");
}

#[test]
fn two_silent_of_five_leave_some_names_without_a_majority_and_the_roster_with_one() {
    let health = health(5, &[0, 1], |_, _| ());
    assert_eq!(health.status, HealthStatus::Unavailable);
    assert!(!reasons(&health).contains("forget --lost"), "{health:?}");
    let share = names_without_majority(&roster(5, 3), &[id("n0"), id("n1")].into());
    // Three of ten pairs of owners are these two in expectation.
    assert!((0.2..0.4).contains(&share), "{share}");
    assert_eq!(names_without_majority(&roster(5, 3), &[id("n4")].into()), 0.0);
    let all = names_without_majority(&roster(5, 3), &roster(5, 3).members.keys().copied().collect());
    assert!((all - 1.0).abs() < 1e-9, "{all}");
}

#[test]
fn too_few_members_for_the_copies_asked_for_is_said() {
    assert_eq!(health(1, &[], |_, _| ()).status, HealthStatus::AtRisk);
    assert_eq!(health(2, &[], |_, _| ()).status, HealthStatus::Degraded);
    let one = roster(1, 1);
    let (states, nodes) = ([(id("n0"), State::Alive)].into(), vec![NodeHealth::idle(id("n0"))]);
    let facts = Facts { roster: Some(&one), states: &states, standing: Ok(()) };
    assert_eq!(judge(facts, nodes).status, HealthStatus::Ok, "one copy was asked for");
}

#[test]
fn a_member_that_is_alive_and_silent_counts_as_down() {
    let roster = roster(3, 3);
    let states = roster.members.keys().map(|node| (*node, State::Alive)).collect();
    let nodes = vec![NodeHealth::idle(id("n0")), NodeHealth::silent(id("n1")), NodeHealth::silent(id("n2"))];
    let facts = Facts { roster: Some(&roster), states: &states, standing: Ok(()) };
    let health = judge(facts, nodes);
    assert_eq!(health.status, HealthStatus::Unavailable, "{health:?}");
}

#[test]
fn who_is_not_admitted_cannot_say_more_than_that() {
    let states = [(id("a"), State::Joining)].into();
    let facts = Facts { roster: None, states: &states, standing: Err("no seed answers") };
    let health = judge(facts, vec![NodeHealth::idle(id("a"))]);
    assert_eq!(health.status, HealthStatus::Unavailable);
    assert!(health.reasons[0].contains("no seed answers"), "{health:?}");
}

#[test]
fn pauses_old_debts_and_the_breaker_degrade() {
    let status = |change: fn(&mut NodeHealth)| {
        let health = health(3, &[], move |_, node| change(node));
        (health.status, reasons(&health))
    };
    assert_eq!(status(|n| n.paused = true).0, HealthStatus::Degraded);
    assert_eq!(status(|n| n.scrub.paused = true).0, HealthStatus::Degraded);
    assert_eq!(status(|n| n.breaker = true).0, HealthStatus::Degraded);
    assert_eq!(status(|n| (n.queue_depth, n.queue_oldest_secs) = (1, Some(5))).0, HealthStatus::Ok);
    let (status, why) = status(|n| (n.queue_depth, n.queue_oldest_secs) = (1, Some(61)));
    assert_eq!(
        (status, why.as_str()),
        (HealthStatus::Degraded, "3 copies are owed to nodes that should have them, the oldest for 61 s")
    );
}

#[test]
fn whom_to_ask_is_the_roster_and_whoever_is_here() {
    let roster = roster(2, 3);
    let states = [
        (id("n0"), State::Dead),
        (id("new"), State::Joining),
        (id("old"), State::Left),
        (id("gone"), State::Dead),
    ];
    let asked: Vec<NodeId> = members(Some(&roster), &states.into()).into_iter().collect();
    assert_eq!(asked, [id("n0"), id("n1"), id("new")]);
}
