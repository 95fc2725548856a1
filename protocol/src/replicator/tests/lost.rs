//! What is lost: databases of members, and chunks that nobody has.

use super::SECOND;
use super::world::chunk;
use crate::identity::{ClusterId, DatabaseId};
use crate::replicator::Faults;
use crate::replicator::rounds::Fetches;
use crate::replicator::rules::{self, Bound, Databases, Dropped};
use crate::roster::{Constants, Entry, Roster};
use crate::time::Instant;
use crate::version::Origin;

/// A member keeps its database, loses it, is removed, joins.
#[test]
fn the_logs_of_a_database_that_the_roster_dropped_are_told_from_those_of_its_successor() {
    let (old, new) = (DatabaseId([1; 16]), DatabaseId([2; 16]));
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|node| node.parse().unwrap());
    let before = Databases::from([(a, old), (b, old), (c, old)]);
    let after = Databases::from([(a, old), (b, new), (d, new)]);
    let dropped = rules::dropped(&Dropped::new(), &before, &after);
    assert_eq!(dropped, Dropped::from([(b, Some(new)), (c, None)]));
    // One comes again, and what was dropped stays so.
    let later = Databases::from([(a, old), (b, new), (c, new)]);
    let returned = rules::dropped(&dropped, &after, &later);
    assert_eq!(returned, Dropped::from([(b, Some(new)), (c, Some(new)), (d, None)]));

    for random in [0, 7, u64::MAX] {
        let origin = |node, database: DatabaseId| Origin { node, generation: database.generation(random) };
        assert!(!rules::is_dropped(&origin(a, old), &dropped), "it has what it had");
        assert!(rules::is_dropped(&origin(b, old), &dropped));
        assert!(!rules::is_dropped(&origin(b, new), &dropped));
        assert!(rules::is_dropped(&origin(c, new), &dropped));
        assert!(!rules::is_dropped(&origin(c, new), &returned));
    }
    assert_ne!(old.generation(1), old.generation(2), "each start draws another");
}

/// An owner that lost its copy while nobody else has one says so for as long as that is so.
#[test]
fn a_chunk_that_nobody_has_is_missing_until_it_is_here_or_nothing_refers_to_it() {
    let mut fetches = Fetches::default();
    let (lost, mut now) = (chunk(1), Instant::ZERO);
    fetches.want(now, lost);
    for _ in 0..20 {
        now = fetches.poll_timeout().expect("it is tried on and on");
        assert_eq!(fetches.next(now), Some(lost));
        fetches.fetched(now, lost, false);
        // A pass finds it lacking.
        fetches.want(now, lost);
        fetches.end_of_pass();
    }
    assert_eq!((fetches.which(true), fetches.which(false)), ([lost].into(), [].into()));
    assert!(now.since(Instant::ZERO) < 20 * 64 * SECOND, "and not too seldom");
    fetches.end_of_pass();
    assert_eq!((fetches.which(true), fetches.which(false)), ([lost].into(), [].into()));
    fetches.end_of_pass();
    assert!(fetches.is_empty(), "two passes did not find it lacking");

    fetches.want(now, lost);
    assert_eq!(fetches.next(now), Some(lost));
    fetches.fetched(now, lost, true);
    assert!(fetches.is_empty());
}

#[test]
fn a_roster_is_noted_once_this_node_has_seen_what_ends_with_it() {
    let [a, b] = ["a", "b"].map(|node| node.parse().unwrap());
    let entry = |database| Entry { key: [1; 32], database, zone: None, capacity: 1 };
    let roster = |number, databases: [DatabaseId; 2]| Roster {
        number,
        constants: Constants { cluster: ClusterId([1; 16]), reference_capacity: 1, replication_factor: 3 },
        members: [a, b].into_iter().zip(databases.map(entry)).collect(),
    };
    let [one, two, three] = [1, 2, 3].map(|id| DatabaseId([id; 16]));
    let log = |node, database: DatabaseId| Origin { node, generation: database.generation(5) };
    let fresh = Bound::default();
    assert_eq!(fresh.follow(&roster(1, [one, two]), false), None, "it has not seen the floor");
    let noted = fresh.follow(&roster(1, [one, two]), true).unwrap();
    let ended = |bound: &Bound, origin| bound.is_ended(&origin, Faults::default());
    assert!(!ended(&noted, log(a, one)) && !ended(&noted, log(b, two)));
    assert!(ended(&noted, log(b, three)), "whatever came before the first roster noted is over");
    assert!(!ended(&fresh, log(b, three)), "and nothing is before that");
    assert_eq!(noted.follow(&roster(2, [one, two]), true), None, "nothing new");
    let later = noted.follow(&roster(3, [one, three]), true).unwrap();
    assert!(ended(&later, log(b, two)) && !ended(&later, log(b, three)) && !ended(&later, log(a, one)));
}
