//! What every [`Storage`] must do, checked against plain ordered maps with random programs.
//!
//! Not part of the protocol: the tests of each implementation call it.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::seen::{Seen, SeenSet};
use super::storage::{Storage, Stub, Survivor, Table};
use crate::chunk::{ChunkId, Codec};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::UnixMillis;
use crate::version::{Content, Context, Dot, Origin, Version};

const TABLES: [Table; 8] = [
    Table::Catalog,
    Table::Council,
    Table::Open,
    Table::Reservation,
    Table::Vote,
    Table::Mark,
    Table::Announced,
    Table::Confirmation,
];

/// A storage of ordered maps whose every answer is found by looking at everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    survivors: BTreeMap<Dot, Survivor>,
    stubs: BTreeMap<Dot, Stub>,
    seen: Seen,
    records: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Model {
    fn names(&self, theirs: Option<&Seen>, after: Option<&Name>, limit: usize) -> Vec<Name> {
        let survivors = self.survivors.iter().map(|(dot, s)| (dot, Some(&s.version.name)));
        let stubs = self.stubs.iter().map(|(dot, s)| (dot, s.name.as_ref()));
        let names: BTreeSet<&Name> = survivors
            .chain(stubs)
            .filter(|(dot, _)| theirs.is_none_or(|theirs| !theirs.contains(dot)))
            .filter_map(|(_, name)| name)
            .filter(|name| after.is_none_or(|after| *name > after))
            .collect();
        names.into_iter().take(limit).cloned().collect()
    }
}

/// Runs `steps` random steps on an empty storage and on a [`Model`], comparing what they answer.
///
/// # Panics
/// If they differ, or the storage fails.
pub fn check(storage: &mut dyn Storage, rng: &mut Rng, steps: usize) -> Model {
    let mut model = Model::default();
    for step in 0..steps {
        change(storage, &mut model, rng);
        if rng.u8(..8) == 0 || step + 1 == steps {
            compare(storage, &model, rng);
        }
    }
    compare(storage, &model, rng);
    model
}

fn change(storage: &mut dyn Storage, model: &mut Model, rng: &mut Rng) {
    match rng.u8(..10) {
        0..4 => {
            let survivor = survivor(rng);
            storage.put_survivor(&survivor).expect("put_survivor");
            model.survivors.insert(survivor.version.dot, survivor);
        }
        4 => {
            let dot = present(&model.survivors, rng);
            storage.remove_survivor(&dot).expect("remove_survivor");
            model.survivors.remove(&dot);
        }
        5 | 6 => {
            let stub = stub(rng);
            storage.put_stub(&stub).expect("put_stub");
            model.stubs.insert(stub.dot, stub);
        }
        7 => {
            let dot = present(&model.stubs, rng);
            storage.remove_stub(&dot).expect("remove_stub");
            model.stubs.remove(&dot);
        }
        8 => {
            let (origin, set) = (origin(rng), seen_set(rng));
            storage.put_seen(&origin, &set).expect("put_seen");
            model.seen.set_origin(origin, set);
        }
        _ => {
            let (table, key) = (TABLES[rng.usize(..TABLES.len())], bytes(rng, 3));
            let value = rng.bool().then(|| bytes(rng, 40));
            storage.put_record(table, &key, value.as_deref()).expect("put_record");
            match value {
                Some(value) => model.records.insert((table, key), value),
                None => model.records.remove(&(table, key)),
            };
        }
    }
}

/// Compares every answer of the two.
///
/// # Panics
/// If they differ, or the storage fails.
pub fn compare(storage: &dyn Storage, model: &Model, rng: &mut Rng) {
    let name = name(rng);
    let of_name: Vec<Survivor> =
        model.survivors.values().filter(|s| s.version.name == name).cloned().collect();
    assert_eq!(storage.survivors(&name).expect("survivors"), of_name, "survivors of {name}");
    let of_name: Vec<Stub> =
        model.stubs.values().filter(|s| s.name.as_ref() == Some(&name)).cloned().collect();
    assert_eq!(storage.stubs(&name).expect("stubs"), of_name, "stubs of {name}");
    for dot in [present(&model.survivors, rng), present(&model.stubs, rng), dot(rng)] {
        assert_eq!(
            storage.survivor(&dot).expect("survivor"),
            model.survivors.get(&dot).cloned(),
            "survivor {dot}"
        );
        assert_eq!(storage.stub(&dot).expect("stub"), model.stubs.get(&dot).cloned(), "stub {dot}");
    }

    let after = rng.bool().then(|| dot(rng));
    let limit = rng.usize(..12);
    let later = |dot: &Dot| after.is_none_or(|after| *dot > after);
    let unpublished: Vec<Survivor> = model
        .survivors
        .values()
        .filter(|s| !s.published && later(&s.version.dot))
        .take(limit)
        .cloned()
        .collect();
    assert_eq!(storage.unpublished(after.as_ref(), limit).expect("unpublished"), unpublished);
    let stubs: Vec<Stub> = model.stubs.values().filter(|s| later(&s.dot)).take(limit).cloned().collect();
    assert_eq!(storage.stubs_after(after.as_ref(), limit).expect("stubs_after"), stubs);

    let theirs = seen(model, rng);
    let closed: Vec<Dot> = model
        .stubs
        .values()
        .filter(|s| s.name.is_none() && later(&s.dot) && !theirs.contains(&s.dot))
        .map(|s| s.dot)
        .take(limit)
        .collect();
    assert_eq!(storage.closed_unseen_by(&theirs, after.as_ref(), limit).expect("closed_unseen_by"), closed);

    let first = rng.bool().then(|| self::name(rng));
    assert_eq!(
        storage.names(first.as_ref(), limit).expect("names"),
        model.names(None, first.as_ref(), limit),
        "names after {first:?}, at most {limit}"
    );
    assert_eq!(
        storage.names_unseen_by(&theirs, first.as_ref(), limit).expect("names_unseen_by"),
        model.names(Some(&theirs), first.as_ref(), limit),
        "names unseen by {theirs:?} after {first:?}, at most {limit}"
    );
    let pages = pages(limit.max(1), |after| storage.names(after, limit.max(1)).expect("names"));
    assert_eq!(pages, model.names(None, None, usize::MAX), "all pages of names");
    let pages = self::pages(limit.max(1), |after| {
        storage.names_unseen_by(&theirs, after, limit.max(1)).expect("names_unseen_by")
    });
    assert_eq!(pages, model.names(Some(&theirs), None, usize::MAX), "all pages of unseen names");

    assert_eq!(storage.seen().expect("seen"), model.seen);
    for table in TABLES {
        let records: Vec<(Vec<u8>, Vec<u8>)> = model
            .records
            .iter()
            .filter(|((of, _), _)| *of == table)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        for (key, value) in &records {
            assert_eq!(storage.record(table, key).expect("record").as_ref(), Some(value));
        }
        assert_eq!(storage.records(table).expect("records"), records);
    }
    assert_eq!(storage.record(Table::Vote, b"never written").expect("record"), None);
}

fn pages(limit: usize, mut page: impl FnMut(Option<&Name>) -> Vec<Name>) -> Vec<Name> {
    let mut found: Vec<Name> = Vec::new();
    loop {
        let next = page(found.last());
        let last = next.len() < limit;
        found.extend(next);
        if last {
            return found;
        }
    }
}

fn present<T>(map: &BTreeMap<Dot, T>, rng: &mut Rng) -> Dot {
    match map.len() {
        0 => dot(rng),
        len => *map.keys().nth(rng.usize(..len)).expect("within the map"),
    }
}

/// Few names and dots, so that steps meet; the ones that sort oddly among them.
fn name(rng: &mut Rng) -> Name {
    let stems = ["a", "a/b", "a-", "a.b", "b", "é", "z\u{10ffff}", "日本", "A"];
    let stem = stems[rng.usize(..stems.len())];
    format!("{stem}{}", rng.u8(..4)).parse().expect("a valid name")
}

fn origin(rng: &mut Rng) -> Origin {
    let nodes = ["a", "a-1", "a.1", "aa", "b"];
    let node: NodeId = nodes[rng.usize(..nodes.len())].parse().expect("a valid id");
    Origin { node, generation: [0, 1, 9, 10, u64::MAX / 2, u64::MAX][rng.usize(..6)] }
}

fn dot(rng: &mut Rng) -> Dot {
    let sequence = match rng.u8(..8) {
        0 => u64::MAX - rng.u64(..3),
        1 => i64::MAX as u64 + rng.u64(..3),
        _ => rng.u64(1..30),
    };
    Dot { origin: origin(rng), sequence }
}

fn survivor(rng: &mut Rng) -> Survivor {
    let content = (rng.u8(..4) > 0).then(|| Content {
        root: ChunkId::of(Codec::Raw, &bytes(rng, 4)),
        size: rng.u64(..),
        chunks: rng.u64(..3),
        content_type: rng.bool().then(|| "text/plain".into()),
    });
    let context = Context::new((0..rng.usize(..3)).map(|_| dot(rng))).expect("few dots");
    let version = Version {
        name: name(rng),
        dot: dot(rng),
        context,
        count: rng.u64(1..5),
        content,
        created_at: UnixMillis(rng.u64(..)),
    };
    Survivor { version, published: rng.bool() }
}

fn stub(rng: &mut Rng) -> Stub {
    match rng.bool() {
        true => Stub { dot: dot(rng), name: None, by: None },
        false => Stub { dot: dot(rng), name: Some(name(rng)), by: Some(dot(rng)) },
    }
}

fn seen_set(rng: &mut Rng) -> SeenSet {
    let mut set = SeenSet::default();
    (1..rng.u64(1..12)).for_each(|sequence| {
        set.insert(sequence);
    });
    (0..rng.u8(..4)).for_each(|_| {
        set.insert(dot(rng).sequence);
    });
    set
}

/// Something between nothing and all that the model has.
fn seen(model: &Model, rng: &mut Rng) -> Seen {
    let mut seen = Seen::default();
    let share = rng.u8(..=4);
    for dot in model.survivors.keys().chain(model.stubs.keys()) {
        if rng.u8(..4) < share {
            seen.insert(*dot);
        }
    }
    for _ in 0..rng.u8(..4) {
        let (origin, set) = (origin(rng), seen_set(rng));
        let mut more = Seen::default();
        more.set_origin(origin, set);
        seen.union(&more);
    }
    seen
}

fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    (0..rng.usize(..most)).map(|_| rng.u8(..)).collect()
}
