use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const REFERENCE: u64 = 100 << 30;

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn equal_nodes(prefix: &str, count: usize) -> Vec<Weighted<'static>> {
    (0..count)
        .map(|i| Weighted { id: id(&format!("{prefix}-{i}")), zone: None, capacity: REFERENCE })
        .collect()
}

fn random_keys(seed: u64, count: usize) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.u64(..)).collect()
}

mod golden {
    use serde_json::Value;

    use super::*;

    fn texts(value: &Value) -> Vec<&str> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
    }

    #[test]
    fn the_ring_is_the_one_that_an_independent_script_computed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/ring.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut checked = 0;
        for case in file["cases"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let ring = Ring::build(
                case["reference_capacity"].as_u64().unwrap(),
                case["members"].as_array().unwrap().iter().map(|member| Weighted {
                    id: id(member["id"].as_str().unwrap()),
                    zone: member["zone"].as_str(),
                    capacity: member["capacity"].as_u64().unwrap(),
                }),
            );
            let n = case["replication_factor"].as_u64().unwrap() as usize;
            assert_eq!(ring.tokens().count() as u64, case["token_count"].as_u64().unwrap(), "{name}");
            for (token, expected) in ring.tokens().zip(case["first_tokens"].as_array().unwrap()) {
                assert_eq!(
                    [format!("{:016x}", token.0).as_str(), token.1.as_str()],
                    *texts(expected),
                    "{name}"
                );
            }
            assert_eq!(hex::encode(ring.digest()), case["digest"].as_str().unwrap(), "{name}");
            for (node, keys) in case["first_owner_keys"].as_object().unwrap() {
                let expected = keys.as_str().unwrap().parse::<u128>().unwrap() as f64 / 2f64.powi(64);
                assert!((ring.share(&id(node)) - expected).abs() < 1e-12, "{name}: {node}");
            }
            for key in case["keys"].as_array().unwrap() {
                let at = u64::from_str_radix(key["key"].as_str().unwrap(), 16).unwrap();
                let (owners, fallbacks) = (texts(&key["owners"]), texts(&key["fallbacks"]));
                let ours = ring.preference(at, n);
                let ours: Vec<&str> = ours.iter().map(NodeId::as_str).collect();
                assert_eq!(ours, [owners.clone(), fallbacks].concat(), "{name}: {at:016x}");
                let ours = ring.owners(at, n);
                assert_eq!(ours.iter().map(NodeId::as_str).collect::<Vec<_>>(), owners, "{name}: {at:016x}");
                checked += 1;
            }
        }
        assert!(checked >= 100, "{checked} keys were checked");
    }
}

#[test]
fn nobody_owns_anything_on_an_empty_ring() {
    let ring = Ring::default();
    assert!(ring.is_empty() && ring.owners(7, 3).is_empty() && ring.preference(7, 3).is_empty());
    assert_eq!(ring.tokens().count(), 0);
    assert_eq!(ring.share(&id("a")).to_bits(), 0f64.to_bits());
    assert!(!ring.is_owner(7, 3, &id("a")));
    assert_eq!(ring.digest(), Ring::build(1, []).digest());
}

#[test]
fn a_node_alone_owns_everything() {
    let ring = Ring::build(REFERENCE, equal_nodes("node", 1));
    assert!((ring.share(&id("node-0")) - 1.0).abs() < 1e-12);
    for key in [0, 1, u64::MAX] {
        assert_eq!(ring.owners(key, 3), [id("node-0")]);
    }
}

#[test]
fn more_owners_than_the_inline_room_are_found_too() {
    let ring = Ring::build(REFERENCE, equal_nodes("node", 40));
    for key in random_keys(1, 20) {
        let many = ring.owners(key, 30);
        assert_eq!(many.len(), 30);
        assert_eq!(many, ring.preference(key, 30)[..30]);
        assert_eq!(many[..3], ring.owners(key, 3));
    }
}

#[test]
fn candidates_are_a_prefix_of_the_preference_list() {
    let ring = Ring::build(REFERENCE, equal_nodes("node", 20));
    for key in random_keys(2, 20) {
        let all = ring.preference(key, 3);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 20);
        for limit in [0, 1, 3, 7, 20, 99] {
            assert_eq!(ring.candidates(key, 3, limit), all[..limit.min(20)]);
        }
    }
}

/// What the design says, over the plain list of tokens.
fn owners_by_the_book(ring: &Ring, zones: &BTreeMap<NodeId, String>, key: u64, n: usize) -> Vec<NodeId> {
    let tokens: Vec<_> = ring.tokens().collect();
    let after = tokens.iter().filter(|(position, _)| *position >= key);
    let before = tokens.iter().filter(|(position, _)| *position < key);
    let mut walk: Vec<NodeId> = Vec::new();
    for (_, node) in after.chain(before) {
        if !walk.contains(node) {
            walk.push(*node);
        }
    }
    let mut owners: Vec<NodeId> = Vec::new();
    for node in &walk {
        if owners.len() < n && owners.iter().all(|owner| zones[owner] != zones[node]) {
            owners.push(*node);
        }
    }
    for node in &walk {
        if owners.len() < n && !owners.contains(node) {
            owners.push(*node);
        }
    }
    owners
}

/// Nodes with few tokens, to keep these tests quick, in up to four zones or none.
fn members() -> impl Strategy<Value = BTreeMap<NodeId, (Option<String>, u64)>> {
    let zone = prop_oneof![Just(None), (0..4u8).prop_map(|z| Some(format!("zone-{z}")))];
    let node = ("[a-h][0-9]?", (zone, 1..REFERENCE / 4));
    prop::collection::vec(node, 1..10)
        .prop_map(|nodes| nodes.into_iter().map(|(name, rest)| (id(&name), rest)).collect())
}

fn ring_of(members: &BTreeMap<NodeId, (Option<String>, u64)>) -> Ring {
    Ring::build(REFERENCE, weigh(members))
}

fn weigh(members: &BTreeMap<NodeId, (Option<String>, u64)>) -> Vec<Weighted<'_>> {
    members
        .iter()
        .map(|(id, (zone, capacity))| Weighted { id: *id, zone: zone.as_deref(), capacity: *capacity })
        .collect()
}

/// Every token, its neighbours and some keys between: wherever an answer can change.
fn telling_keys(rings: &[&Ring], seed: u64) -> Vec<u64> {
    let mut keys = random_keys(seed, 50);
    for ring in rings {
        keys.extend(ring.tokens().step_by(7).flat_map(|(t, _)| [t, t.wrapping_add(1), t.wrapping_sub(1)]));
    }
    keys
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_same_members_make_the_same_ring_in_any_order(members in members(), seed: u64) {
        let mut nodes = weigh(&members);
        fastrand::Rng::with_seed(seed).shuffle(&mut nodes);
        let (ordered, shuffled) = (ring_of(&members), Ring::build(REFERENCE, nodes));
        prop_assert_eq!(ordered.digest(), shuffled.digest());
        prop_assert!(ordered == shuffled);
    }

    #[test]
    fn owners_are_those_of_the_plain_algorithm(members in members(), n in 1usize..6, seed: u64) {
        let ring = ring_of(&members);
        let zones = members.iter().map(|(id, (zone, _))| {
            (*id, zone.clone().unwrap_or_else(|| format!("alone: {id}")))
        }).collect();
        for key in telling_keys(&[&ring], seed).into_iter().take(80) {
            let owners = ring.owners(key, n);
            prop_assert_eq!(&owners, &owners_by_the_book(&ring, &zones, key, n));
            prop_assert_eq!(owners.len(), n.min(members.len()));
            for node in members.keys() {
                prop_assert_eq!(ring.is_owner(key, n, node), owners.contains(node));
            }
        }
    }

    #[test]
    fn a_join_or_a_leave_moves_only_its_own_share(members in members(), pick: prop::sample::Index, seed: u64) {
        let changed = *pick.get(&members.keys().copied().collect::<Vec<_>>());
        let mut fewer = members.clone();
        fewer.remove(&changed);
        let (with, without) = (ring_of(&members), ring_of(&fewer));
        for key in telling_keys(&[&with, &without], seed) {
            let (before, after) = (without.owners(key, 3), with.owners(key, 3));
            if after.contains(&changed) {
                let kept = after.iter().filter(|node| before.contains(node)).count();
                prop_assert_eq!(kept, after.len() - 1, "all others owned it before");
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn a_change_of_capacity_moves_only_the_share_of_that_node(
        members in members(), pick: prop::sample::Index, capacity in 1..REFERENCE, seed: u64,
    ) {
        let changed = *pick.get(&members.keys().copied().collect::<Vec<_>>());
        let mut other = members.clone();
        other.get_mut(&changed).unwrap().1 = capacity;
        let (old, new) = (ring_of(&members), ring_of(&other));
        for key in telling_keys(&[&old, &new], seed) {
            let before: BTreeSet<_> = old.owners(key, 3).into_iter().collect();
            let after: BTreeSet<_> = new.owners(key, 3).into_iter().collect();
            if before.contains(&changed) == after.contains(&changed) {
                prop_assert_eq!(before, after);
            } else {
                prop_assert!(before.symmetric_difference(&after).count() <= 2, "one node for the other");
            }
        }
    }

    #[test]
    fn a_rebuilt_ring_is_the_one_built_anew(old in members(), new in members()) {
        let (rebuilt, built) = (ring_of(&old).rebuild(REFERENCE, weigh(&new)), ring_of(&new));
        prop_assert!(rebuilt == built);
        prop_assert_eq!(rebuilt.digest(), built.digest());
        for key in random_keys(3, 30) {
            prop_assert_eq!(rebuilt.preference(key, 3), built.preference(key, 3));
        }
        for node in new.keys() {
            prop_assert!((rebuilt.share(node) - built.share(node)).abs() < 1e-12);
        }
    }

    #[test]
    fn shares_sum_up_to_everything(members in members()) {
        let ring = ring_of(&members);
        let sum: f64 = ring.nodes().map(|node| ring.share(&node)).sum();
        prop_assert!((sum - 1.0).abs() < 1e-9, "{}", sum);
    }
}

#[test]
fn an_unchanged_ring_is_not_made_again() {
    let nodes = equal_nodes("node", 5);
    let ring = Ring::build(REFERENCE, nodes.clone());
    assert!(Arc::ptr_eq(&ring.inner, &ring.rebuild(REFERENCE, nodes).inner));
}

#[test]
fn of_a_node_given_twice_the_greater_capacity_counts_in_either_order() {
    let small = Weighted { id: id("a"), zone: None, capacity: 1 };
    let large = Weighted { capacity: REFERENCE, ..small };
    assert!(Ring::build(REFERENCE, [small, large]) == Ring::build(REFERENCE, [large, small]));
    assert_eq!(Ring::build(REFERENCE, [small, large]).tokens().count(), 512);
}

#[test]
fn a_zone_changes_the_digest_though_it_moves_no_token() {
    let node = Weighted { id: id("a"), zone: None, capacity: REFERENCE };
    let zoned = Weighted { zone: Some("eu"), ..node };
    assert_ne!(Ring::build(REFERENCE, [node]).digest(), Ring::build(REFERENCE, [zoned]).digest());
}

/// The greatest replica load over the mean one, by the exact lengths of the arcs between tokens.
fn imbalance(ring: &Ring, n: usize) -> f64 {
    let mut load: BTreeMap<NodeId, f64> = BTreeMap::new();
    let tokens: Vec<u64> = ring.tokens().map(|(position, _)| position).collect();
    let mut previous = *tokens.last().unwrap();
    let mut owners = Vec::new();
    for token in tokens {
        let arc = token.wrapping_sub(previous) as f64;
        previous = token;
        ring.owners_into(token, n, &mut owners);
        owners.iter().for_each(|owner| *load.entry(*owner).or_default() += arc);
    }
    let mean = load.values().sum::<f64>() / ring.len() as f64;
    load.values().fold(0f64, |greatest, l| greatest.max(*l)) / mean
}

#[test]
fn equal_nodes_bear_equal_loads_within_a_tenth() {
    for (nodes, sets) in [(3, 2), (4, 8), (10, 8), (30, 4), (100, 3), (300, 1), (1000, 1)] {
        let measured: Vec<f64> = (0..sets)
            .map(|set| imbalance(&Ring::build(REFERENCE, equal_nodes(&format!("set{set}"), nodes)), 3))
            .collect();
        let mean = measured.iter().sum::<f64>() / f64::from(sets);
        println!("{nodes} nodes: max/mean {mean:.3} over {sets} sets of ids");
        assert!(mean <= 1.10, "{nodes} nodes: {measured:?}");
    }
}

#[test]
fn tokens_at_one_position_are_ordered_by_node_id_and_the_walk_wraps() {
    let token = |position, node| Token { position, node, zone: node };
    let far = u64::MAX - 3;
    let kept = [token(5, 1), token(9, 0), token(far, 2)];
    let tokens = merge(kept.into_iter(), vec![token(5, 0), token(5, 2), token(far, 1)], 6);
    let order: Vec<_> = tokens.iter().map(Token::order).collect();
    assert_eq!(order, [(5, 0), (5, 1), (5, 2), (9, 0), (far, 1), (far, 2)]);
    let (buckets, shift) = index(&tokens);
    let nodes = ["a", "b", "c"].map(|name| Weighted { id: id(name), zone: None, capacity: 0 });
    let (nodes, zones) = number_zones(1, nodes);
    let inner = Inner { nodes, zones, tokens, buckets, shift, digest: OnceLock::new() };
    for (key, first) in [(0, 0), (5, 0), (6, 3), (9, 3), (10, 4), (far, 4), (far + 1, 0), (u64::MAX, 0)] {
        assert_eq!(inner.first_at(key), first, "{key}");
    }
    let mut picks = [9; 3];
    inner.pick_owners(10, &mut picks);
    assert_eq!(picks, [1, 2, 0]);
}
