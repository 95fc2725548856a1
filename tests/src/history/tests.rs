//! The checker against brute force, and against hand-made histories.

use super::checker::{check, check_operations};
use super::*;

fn base(id: u64, node: &str, start: u64, end: u64) -> Operation {
    Operation {
        id,
        session: (node.into(), 0),
        action: Action::Put,
        name: "x".into(),
        durability: Durability::Quorum,
        if_match: None,
        if_absent: false,
        only: None,
        phase: Phase::Ok,
        version: Some(format!("v{id}")),
        context: None,
        cid: None,
        survivors: None,
        local: false,
        start,
        end,
    }
}

fn put(id: u64, node: &str, context: &[&str], start: u64, end: u64) -> Operation {
    let context = context.iter().map(|t| (*t).to_string()).collect();
    Operation { context: Some(context), ..base(id, node, start, end) }
}

fn delete(id: u64, node: &str, context: &[&str], start: u64, end: u64) -> Operation {
    Operation { action: Action::Delete, ..put(id, node, context, start, end) }
}

fn get(id: u64, node: &str, survivors: &[&str], start: u64, end: u64) -> Operation {
    let survivors: Vec<Token> = survivors.iter().map(|t| (*t).to_string()).collect();
    Operation {
        action: Action::Get,
        version: survivors.last().cloned(),
        survivors: Some(survivors),
        ..base(id, node, start, end)
    }
}

fn broken(operations: &[Operation]) -> Vec<&'static str> {
    check_operations(operations).into_iter().map(|v| v.invariant).collect()
}

#[test]
fn what_a_write_under_way_at_the_same_time_superseded_need_not_be_named() {
    let fast = Operation { durability: Durability::Fast, ..put(1, "a", &[], 0, 1) };
    let fenced = Operation { if_match: Some("v1".into()), ..put(2, "b", &["v1"], 2, 9) };
    let beside = |start| [fast.clone(), fenced.clone(), put(3, "a", &[], start, start + 5)];
    assert_eq!(broken(&beside(3)), [""; 0]);
    assert!(broken(&beside(10)).contains(&"I9"), "what was acknowledged before is to be superseded");
    assert!(broken(&[fast.clone(), put(3, "a", &[], 3, 8)]).contains(&"I9"), "nothing superseded it");
}

#[test]
fn a_history_of_reads_and_writes_in_order_is_right() {
    let history = [
        put(1, "a", &[], 0, 1),
        get(2, "b", &["v1"], 2, 3),
        put(3, "b", &["v1"], 4, 5),
        get(4, "c", &["v3"], 6, 7),
        delete(5, "c", &["v3"], 8, 9),
        get(6, "a", &[], 10, 11),
    ];
    assert_eq!(broken(&history), [""; 0]);
}

#[test]
fn a_lost_write_is_found() {
    assert_eq!(broken(&[put(1, "a", &[], 0, 1), get(2, "b", &[], 2, 3)]), ["I1"]);
    let overwritten = [put(1, "a", &[], 0, 1), put(2, "b", &[], 2, 3)];
    assert_eq!(broken(&overwritten), ["I9"], "the second write did not see the first");
}

#[test]
fn a_deleted_version_that_returns_is_found() {
    let history = [put(1, "a", &[], 0, 1), delete(2, "b", &["v1"], 2, 3), get(3, "c", &["v1"], 4, 5)];
    assert_eq!(broken(&history), ["I6"]);
    let through_another = [
        put(1, "a", &[], 0, 1),
        put(2, "b", &["v1"], 2, 3),
        delete(3, "b", &["v2"], 4, 5),
        get(4, "c", &["v1"], 6, 7),
    ];
    assert!(broken(&through_another).contains(&"I6"), "superseding is transitive");
}

#[test]
fn reads_through_one_node_never_go_back() {
    let mut unsure = put(1, "a", &[], 0, 1);
    (unsure.phase, unsure.end) = (Phase::Unknown, u64::MAX);
    let there = get(2, "b", &["v1"], 2, 3);
    let mut gone = get(3, "b", &[], 4, 5);
    assert!(!broken(&[unsure.clone(), there.clone(), gone.clone()]).is_empty());
    gone.session = ("b".into(), 1);
    assert_eq!(broken(&[unsure, there, gone]), [""; 0], "another run of the node promises nothing");
}

#[test]
fn two_winners_of_one_token_are_found() {
    let conditional = |id, node, start, end| {
        let mut operation = put(id, node, &["v1"], start, end);
        operation.if_match = Some("v1".into());
        operation
    };
    let race = [put(1, "a", &[], 0, 1), conditional(2, "a", 2, 5), conditional(3, "b", 2, 5)];
    assert_eq!(broken(&race), ["I21"]);
    let late = [put(1, "a", &[], 0, 1), put(2, "a", &["v1"], 2, 3), conditional(3, "b", 4, 5)];
    assert!(!broken(&late).is_empty(), "the base was gone before the winner began");
    let absent = |id, node| Operation { if_absent: true, ..put(id, node, &[], 0, 5) };
    assert_eq!(broken(&[absent(1, "a"), absent(2, "b")]), ["I21"]);
}

#[test]
fn a_dot_that_names_two_versions_is_found() {
    let mut again = put(2, "a", &["v1"], 2, 3);
    again.version = Some("v1".into());
    assert!(broken(&[put(1, "a", &[], 0, 1), again]).contains(&"I22"));
    let mut value = put(1, "a", &[], 0, 1);
    value.cid = Some("one".into());
    let mut other = get(2, "a", &["v1"], 2, 3);
    other.cid = Some("two".into());
    assert!(broken(&[value, other]).contains(&"I22"));
}

#[test]
fn what_failed_never_shows() {
    let mut failed = put(1, "a", &[], 0, 1);
    failed.phase = Phase::Fail;
    assert!(!broken(&[failed, get(2, "b", &["v1"], 2, 3)]).is_empty());
    assert!(!broken(&[get(2, "b", &["v7"], 2, 3)]).is_empty(), "never written");
}

#[test]
fn clients_that_see_no_contexts_are_judged_too() {
    let write = |id, start, end| Operation { cid: Some(format!("c{id}")), ..base(id, "a", start, end) };
    let read = |id, head: Option<&str>, start, end| Operation {
        action: Action::Get,
        version: head.map(Into::into),
        ..base(id, "b", start, end)
    };
    assert_eq!(broken(&[write(1, 0, 1), write(2, 2, 3), read(3, Some("v2"), 4, 5)]), [""; 0]);
    assert!(!broken(&[write(1, 0, 1), write(2, 2, 3), read(3, Some("v1"), 4, 5)]).is_empty(), "stale");
    assert!(!broken(&[write(1, 0, 1), read(3, None, 4, 5)]).is_empty(), "lost");
    let erased = Operation { action: Action::Delete, version: None, ..base(2, "a", 2, 3) };
    assert!(!broken(&[write(1, 0, 1), erased.clone(), read(3, Some("v1"), 4, 5)]).is_empty(), "back");
    assert_eq!(broken(&[write(1, 0, 1), erased, read(3, None, 4, 5)]), [""; 0]);
}

#[test]
fn lines_of_json_come_back_as_they_were() {
    let mut history = History::default();
    let mut line = Line::new(Phase::Invoke, 1);
    (line.node, line.name, line.action) = ("a".into(), "x".into(), Action::Put);
    history.push(line);
    let mut line = Line::new(Phase::Ok, 1);
    (line.version, line.end) = (Some("v1".into()), 5);
    history.push(line);
    let text = history.to_json_lines();
    assert_eq!(text.lines().count(), 2);
    let again = History::from_json_lines(&text).unwrap();
    assert_eq!(again.lines(), history.lines());
    assert_eq!(check(&again), Ok(vec![]));
    assert!(History::from_json_lines("{\"type\":\"ok\"}").is_err());
    assert!(check(&History { lines: vec![Line::new(Phase::Ok, 9)] }).is_err());
}

/// A random history of up to six operations, mostly sensible.
fn random_history(random: &mut fastrand::Rng) -> Vec<Operation> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut operations = Vec::new();
    for id in 0..random.u64(1..=6) {
        let start = random.u64(0..10) + id * 3;
        let mut operation = base(id, ["a", "b"][random.usize(0..2)], start, start + random.u64(0..9));
        let mut some: Vec<Token> = tokens.iter().filter(|_| random.u8(0..3) == 0).cloned().collect();
        if random.bool() {
            some = tokens.last().cloned().into_iter().collect();
        }
        match random.u8(0..10) {
            0..4 => {
                operation.action = Action::Get;
                operation.local = random.u8(0..5) == 0;
                operation.version = some.last().cloned();
                operation.survivors = (random.u8(0..4) > 0).then_some(some);
            }
            kind => {
                operation.phase =
                    [Phase::Ok, Phase::Ok, Phase::Ok, Phase::Unknown, Phase::Fail][random.usize(0..5)];
                operation.action = if kind < 6 { Action::Delete } else { Action::Put };
                operation.if_absent = kind == 9;
                operation.if_match = some.first().cloned().filter(|_| kind == 8);
                if random.u8(0..6) == 0 {
                    operation.durability = Durability::Fast;
                }
                operation.context = match &operation.if_match {
                    Some(base) => Some(vec![base.clone()]),
                    None if operation.if_absent => Some(vec![]),
                    None => (random.u8(0..5) > 0).then_some(some),
                };
                if operation.phase == Phase::Unknown {
                    operation.end = u64::MAX;
                }
                tokens.extend(operation.version.clone());
            }
        }
        operations.push(operation);
    }
    operations
}

#[test]
fn the_checker_agrees_with_brute_force_on_random_short_histories() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..20_000 {
        let history = random_history(&mut fastrand::Rng::with_seed(seed));
        let violations = check_operations(&history);
        let explicable = brute::is_explicable(&history);
        assert_eq!(violations.is_empty(), explicable, "seed {seed}: {violations:#?}\n{history:#?}");
        if explicable {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    assert!(right > 2_000 && wrong > 2_000, "the generator is lopsided: {right} right, {wrong} wrong");
}
