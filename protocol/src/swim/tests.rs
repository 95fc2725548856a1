use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::view::Metadata;
use crate::wire::gossip::{Accusation, MAX_EXCHANGE, key_tag};

const PERIOD: Duration = Duration::from_millis(500);

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::new("10.0.0.1".parse().unwrap(), port)
}

fn constants(cluster: u8) -> Constants {
    Constants { cluster: ClusterId([cluster; 16]), reference_capacity: 1 << 30, replication_factor: 3 }
}

fn config(name: &str, port: u16) -> Config {
    Config {
        id: id(name),
        identity: SigningKey::from_bytes(&[port as u8; 32]),
        metadata: Metadata {
            key: [0; 32],
            addr: addr(port).ip(),
            gossip_port: port,
            transfer_port: 5000,
            http_port: 3000,
            zone: None,
            capacity: 1 << 30,
            version: "1".into(),
        },
        keys: KeyRing::open_to_all(),
        epoch: 1,
        period: PERIOD,
        seeds: Vec::new(),
        peers: Vec::new(),
        constants: Some(constants(1)),
    }
}

fn swim(name: &str, port: u16) -> Swim {
    let mut swim = Swim::new(Instant::ZERO, config(name, port), fastrand::Rng::with_seed(u64::from(port)));
    swim.set_ready(true);
    swim
}

/// `a` that knows `b` as alive, and `b`'s record.
fn pair() -> (Swim, Swim) {
    let (mut a, mut b) = (swim("a", 1), swim("b", 2));
    a.assume([b.me.clone()]);
    b.assume([a.me.clone()]);
    while a.poll_event().is_some() || b.poll_event().is_some() {}
    (a, b)
}

fn accusation(subject: &Swim, incarnation: u64, verdict: State) -> Accusation {
    Accusation {
        subject: subject.id(),
        key: key_tag(&subject.me.statement().metadata.key),
        incarnation,
        verdict,
        accusers: vec![id("c")],
    }
}

/// Carries datagrams between nodes until nothing is on its way.
fn settle(now: Instant, nodes: &mut BTreeMap<u16, Swim>) {
    loop {
        let mut moved = Vec::new();
        for (port, node) in nodes.iter_mut() {
            while let Some(transmit) = node.poll_transmit() {
                moved.push((*port, transmit));
            }
        }
        if moved.is_empty() {
            return;
        }
        for (from, transmit) in moved {
            if let Some(node) = nodes.get_mut(&transmit.to.port()) {
                node.handle_datagram(now, addr(from), &transmit.datagram);
            }
        }
    }
}

#[test]
fn words_of_equal_incarnation_end_alike_in_every_order() {
    let (_, b) = pair();
    let incarnation = b.me.statement().incarnation;
    let suspect = Update::Accusation(accusation(&b, incarnation, State::Suspect));
    let dead = Update::Accusation(accusation(&b, incarnation, State::Dead));
    let alive = Update::Claim(b.me.claim().clone());
    let words = [alive, suspect, dead];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (mut a, _) = pair();
        for at in order {
            a.apply_update(Instant::ZERO, words[at].clone());
        }
        assert_eq!(a.member(&id("b")).unwrap().0, State::Dead, "{order:?}");
        assert_eq!(a.suspicions.next(), None, "{order:?}");
    }
}

#[test]
fn a_refutation_outweighs_old_words_in_every_order() {
    let (_, mut b) = pair();
    let incarnation = b.me.statement().incarnation;
    let suspect = Update::Accusation(accusation(&b, incarnation, State::Suspect));
    let dead = Update::Accusation(accusation(&b, incarnation, State::Dead));
    b.apply_update(Instant::ZERO, dead.clone());
    assert_eq!(b.poll_event(), Some(Event::Refuted { incarnation: incarnation + 1 }));
    let words = [suspect, dead, Update::Claim(b.me.claim().clone())];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (mut a, _) = pair();
        for at in order {
            a.apply_update(Instant::ZERO, words[at].clone());
        }
        assert_eq!(a.member(&id("b")).unwrap().0, State::Alive, "{order:?}");
        assert_eq!(a.suspicions.next(), None, "{order:?}");
    }
}

#[test]
fn a_refutation_that_nobody_heard_is_told_again_to_who_still_accuses() {
    let (_, mut b) = pair();
    let incarnation = b.me.statement().incarnation;
    let dead = Update::Accusation(accusation(&b, incarnation, State::Dead));
    b.apply_update(Instant::ZERO, dead.clone());
    let answer = b.me.claim().clone();
    b.broadcasts.remove(broadcast::Subject::Me);
    b.apply_update(Instant::ZERO, dead);
    assert!(b.broadcasts.contains(broadcast::Subject::Me), "it keeps silent towards who has not heard it");
    assert_eq!(b.me.claim(), &answer, "an old accusation needs no new incarnation");
}

#[test]
fn accusations_far_ahead_or_of_another_key_are_not_believed() {
    let (mut a, mut b) = pair();
    let incarnation = b.me.statement().incarnation;
    for claimed in [incarnation + config::MAX_JUMP + 1, MAX_INCARNATION, MAX_INCARNATION - 1] {
        a.apply_accusation(Instant::ZERO, accusation(&b, claimed, State::Dead));
        b.apply_accusation(Instant::ZERO, accusation(&b, claimed, State::Dead));
    }
    let other = Accusation { key: 1, ..accusation(&b, incarnation, State::Dead) };
    a.apply_accusation(Instant::ZERO, other.clone());
    b.apply_accusation(Instant::ZERO, other);
    assert_eq!(a.member(&id("b")).unwrap().0, State::Alive);
    assert_eq!(b.me.statement().incarnation, incarnation);
    // One that is ahead within bounds is answered by one more.
    b.apply_accusation(Instant::ZERO, accusation(&b, incarnation + 9, State::Suspect));
    assert_eq!(b.me.statement().incarnation, incarnation + 10);
}

#[test]
fn only_the_member_itself_says_that_it_left_and_nobody_then_calls_it_dead() {
    let (mut a, mut b) = pair();
    b.leave();
    b.left();
    a.apply_claim(b.me.claim().clone(), true);
    assert_eq!(a.member(&id("b")).unwrap().0, State::Left);
    let incarnation = b.me.statement().incarnation;
    a.apply_accusation(Instant::ZERO, accusation(&b, incarnation, State::Dead));
    assert_eq!(a.member(&id("b")).unwrap().0, State::Left);
    assert!(a.members().next().is_none(), "who left is not persisted");
}

#[test]
fn a_leave_that_is_called_off_is_believed_by_those_who_heard_of_it() {
    let (mut a, mut b) = pair();
    b.set_ready(true);
    b.leave();
    a.apply_claim(b.me.claim().clone(), true);
    assert_eq!(a.member(&id("b")).unwrap().0, State::Leaving);
    b.stay();
    a.apply_claim(b.me.claim().clone(), true);
    assert_eq!(a.member(&id("b")).unwrap().0, State::Alive);
    let incarnation = b.me.statement().incarnation;
    b.stay();
    assert_eq!(b.me.statement().incarnation, incarnation, "who stays says nothing new");
}

#[test]
fn a_suspected_joiner_does_not_become_an_owner() {
    let (mut a, mut b) = pair();
    b.set_ready(false);
    a.apply_claim(b.me.claim().clone(), true);
    a.apply_accusation(Instant::ZERO, accusation(&b, b.me.statement().incarnation, State::Suspect));
    assert_eq!(a.member(&id("b")).unwrap().0, State::Joining);
    assert!(a.suspicions.next().is_some());
}

#[test]
fn a_wildcard_datagram_changes_nothing_until_its_sender_answered() {
    let mut seed = swim("seed", 1);
    let mut joiner = Swim::new(
        Instant::ZERO,
        Config { seeds: vec![addr(1)], constants: None, ..config("joiner", 2) },
        fastrand::Rng::with_seed(9),
    );
    joiner.contact_absent(Instant::ZERO);
    let ping = joiner.poll_transmit().unwrap();
    assert_eq!(ping.to, addr(1));
    seed.handle_datagram(Instant::ZERO, addr(2), &ping.datagram);
    assert_eq!(seed.member(&id("joiner")), None);
    // The same bytes sent back to their sender, or again, are nothing.
    joiner.handle_datagram(Instant::ZERO, addr(1), &ping.datagram);
    assert_eq!(joiner.counters().misaddressed, 1);
    let mut nodes = BTreeMap::from([(1, seed), (2, joiner)]);
    settle(Instant::ZERO, &mut nodes);
    assert_eq!(nodes[&1].member(&id("joiner")).unwrap().0, State::Joining);
    assert_eq!(nodes[&2].member(&id("seed")).unwrap().0, State::Alive);
    let events: Vec<_> = std::iter::from_fn(|| nodes.get_mut(&2).unwrap().poll_event()).collect();
    assert!(events.contains(&Event::PushPull { to: id("seed") }), "{events:?}");
}

#[test]
fn another_cluster_is_ignored_once_the_own_is_known() {
    let mut a = swim("a", 1);
    let mut b = swim("b", 2);
    b.set_constants(constants(2));
    b.assume([a.me.clone()]);
    b.probe_next(Instant::ZERO);
    let ping = b.poll_transmit().unwrap();
    while a.poll_event().is_some() {}
    a.handle_datagram(Instant::ZERO, addr(2), &ping.datagram);
    assert_eq!(a.counters().foreign, 1);
    assert_eq!(a.poll_transmit(), None);
    assert!(matches!(a.poll_event(), Some(Event::ForeignCluster { .. })));
    assert!(a.handle_exchange_request(Instant::ZERO, &b.exchange_payload()).is_err());
    assert_eq!(a.member(&id("b")), None);
}

#[test]
fn announcements_arrive_without_an_incarnation_and_once_each() {
    let (a, b) = pair();
    let mut nodes = BTreeMap::from([(1, a), (2, b)]);
    let announcement = Announcement {
        seen_digest: [3; 16],
        database: crate::identity::DatabaseId([4; 16]),
        mark: 5,
        roster: 6,
    };
    let before = nodes[&2].me.statement().incarnation;
    nodes.get_mut(&2).unwrap().set_announcement(announcement);
    for _ in 0..3 {
        nodes.get_mut(&1).unwrap().probe_next(Instant::ZERO);
        settle(Instant::ZERO, &mut nodes);
    }
    let events: Vec<_> = std::iter::from_fn(|| nodes.get_mut(&1).unwrap().poll_event()).collect();
    assert_eq!(events, [Event::Announced { node: id("b"), announcement }]);
    assert_eq!(nodes[&1].announcement_of(&id("b")), Some(announcement));
    assert_eq!(nodes[&2].me.statement().incarnation, before);
}

#[test]
fn an_older_life_on_an_old_disk_speaks_louder_than_what_it_forgot() {
    let (mut a, mut b) = pair();
    for _ in 0..5 {
        b.set_ready(false);
        b.set_ready(true);
    }
    a.apply_claim(b.me.claim().clone(), true);
    let last = b.me.statement().incarnation;
    let mut restored = swim("b", 2);
    assert!(restored.me.statement().incarnation < last);
    restored.apply_claim(b.me.claim().clone(), true);
    assert_eq!(restored.me.statement().incarnation, last + 1);
}

#[test]
fn late_timers_give_time_instead_of_taking_it() {
    let (mut a, b) = pair();
    a.apply_accusation(Instant::ZERO, accusation(&b, b.me.statement().incarnation, State::Suspect));
    let deadline = a.suspicions.next().unwrap();
    let late = Instant::ZERO + Duration::from_secs(60);
    a.handle_timeout(late);
    assert_eq!(a.member(&id("b")).unwrap().0, State::Suspect);
    assert!(a.suspicions.next().unwrap() > late && a.suspicions.next().unwrap() > deadline);
    assert_eq!(a.counters().stalls, 1);
    assert!(a.health() > 0);
}

#[test]
fn a_suspicion_that_is_put_off_ends_in_a_cluster_of_any_size() {
    // Above 316 members the window in which an answer is trusted is no whole number of microseconds.
    for members in [2, 100, 317, 400, 1_000] {
        let (mut a, b) = pair();
        let others = (2..members).map(|n| swim(&format!("n{n}"), n as u16 + 10).me);
        a.assume(others);
        let slot = a.members.find(&b.id()).unwrap();
        let mut nodes = BTreeMap::from([(1, a), (2, b)]);
        nodes.get_mut(&1).unwrap().start_probe(Instant::ZERO, slot);
        settle(Instant::ZERO, &mut nodes);
        let mut a = nodes.remove(&1).unwrap();
        a.suspect(Instant::ZERO, slot);
        let mut decisions = 0;
        while let Some(due) = a.suspicions.next() {
            let due = due.min(Instant::ZERO + a.trust_window());
            a.suspicions.postpone(slot, due);
            a.decide(due, slot);
            decisions += 1;
            assert!(decisions < 10, "{members} members: due again at {due:?} for ever");
        }
        assert_eq!(a.member(&id("b")).unwrap().0, State::Dead, "{members} members");
    }
}

#[test]
fn the_view_has_no_ring_before_the_constants_are_known() {
    let mut config = config("a", 1);
    config.constants = None;
    let mut a = Swim::new(Instant::ZERO, config, fastrand::Rng::with_seed(1));
    a.set_ready(true);
    let view = a.view(3);
    assert_eq!((view.epoch(), view.members().count()), (3, 1));
    assert_eq!(view.member(&id("a")).unwrap().state, State::Alive);
    assert!(view.ring().is_empty());
}

#[test]
fn a_damaged_exchange_changes_nothing() {
    let (mut a, mut b) = pair();
    let payload = b.exchange_payload();
    for cut in 1..payload.len() {
        let _ = a.handle_exchange_request(Instant::ZERO, &payload[..cut]);
    }
    assert!(a.handle_exchange_request(Instant::ZERO, &vec![0; MAX_EXCHANGE + 1]).is_err());
    assert_eq!(a.poll_event(), None);
    assert!(a.handle_exchange_request(Instant::ZERO, &payload).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A member's key holder sends what it likes: nothing panics, and queues stay bounded.
    #[test]
    fn sealed_nonsense_never_panics(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20)) {
        let (mut a, b) = pair();
        let mut sealer = Sealer::new(b.id(), KeyRing::open_to_all(), 1, [5; 8]);
        let plain = crate::wire::gossip::Packet {
            message: crate::wire::gossip::Message::Gossip, cluster: None, announcement: None,
            health: 255, challenge: Some(1), newcomer: true, unknown: true, latest: 9,
        };
        for body in bodies {
            let datagram = sealer.seal(Some(&a.id()), &body);
            a.handle_datagram(Instant::ZERO, addr(2), &datagram);
            let mixed = [plain.to_bytes(), body].concat();
            let datagram = sealer.seal(Some(&a.id()), &mixed);
            a.handle_datagram(Instant::ZERO, addr(2), &datagram);
        }
        prop_assert!(a.urgent.len() + a.relaxed.len() <= 40);
        prop_assert_eq!(a.members.len(), 1);
    }
}

#[test]
fn who_missed_a_rumour_learns_of_it_from_the_next_packets() {
    let (a, b) = pair();
    let mut nodes = BTreeMap::from([(1, a), (2, b)]);
    let mut now = Instant::ZERO;
    let mut run = |nodes: &mut BTreeMap<u16, Swim>, periods: u32| {
        for _ in 0..periods * 5 {
            now += PERIOD / 5;
            nodes.values_mut().for_each(|node| node.handle_timeout(now));
            settle(now, nodes);
        }
    };
    run(&mut nodes, 10);
    let b = nodes.get_mut(&2).unwrap();
    b.set_ready(false);
    b.broadcasts = Broadcasts::default(); // Every copy of it is lost.
    run(&mut nodes, 3);
    assert_eq!(nodes[&1].member(&id("b")).unwrap().0, State::Joining);
    let (sent, member) = (nodes[&1].counters().accepted, nodes[&1].members.find(&id("b")).unwrap());
    assert!(!nodes[&1].members.get(member).unwrap().session.as_ref().unwrap().missed, "after {sent}");
}
