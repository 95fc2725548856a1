//! Promises, deletions by rule, and what the replicator is shown.

use std::collections::BTreeSet;
use std::time::Duration;

use kepler_protocol::identity::DatabaseId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::holding::{Note, digest_of};
use kepler_protocol::replicator::message::{Holds, Item};
use kepler_protocol::replicator::rules::{self, Bound, Claim, Kept};

use super::*;

/// A node to which nothing is an obstacle, but what is said.
#[derive(Clone, Copy)]
struct Calm {
    breaker: bool,
    ready: bool,
}

const CALM: Calm = Calm { breaker: false, ready: true };

impl Conditions for Calm {
    fn breaker(&self) -> bool {
        self.breaker
    }

    fn ready(&self) -> bool {
        self.ready
    }
}

/// Large enough for a file, and a small one that is kept in the database.
fn both(seed: u8) -> [Chunk; 2] {
    [100_000, 100].map(|size| Chunk::new(Codec::Raw, vec![seed; size].into()))
}

fn claim(store: &Store, id: ChunkId, dots: &[Dot]) -> Claim {
    let owners: BTreeSet<NodeId> = ["b", "c", "d"].map(|id| id.parse().unwrap()).into();
    Claim {
        chunk: id,
        asked_at: store.now(),
        receipts: owners.clone(),
        owners,
        references: dots.iter().copied().collect(),
    }
}

/// Marks dots as seen, with no version that has them.
async fn end(store: &Store, prefix: u64) {
    let mut set = SeenSet::default();
    (1..=prefix).for_each(|n| assert!(set.insert(n)));
    let record = minicbor::to_vec(&set).unwrap();
    let origin = dot(1).origin;
    store
        .execute(move |tx| {
            tx.connection.execute(
                "INSERT INTO seen (owner_node, generation, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET record = excluded.record",
                rusqlite::params![origin.node.as_str(), format!("{:016x}", origin.generation), record],
            )?;
            Ok(())
        })
        .await
        .unwrap();
}

async fn is_here(store: &Store, id: ChunkId) -> bool {
    store.held(vec![id]).await.unwrap()[0].is_some()
}

fn unreferenced(chunks: Vec<ChunkId>) -> Note {
    Note { unreferenced: chunks, ..Note::default() }
}

#[tokio::test]
async fn a_release_takes_file_row_references_and_marks_along() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for chunk in both(1) {
        let id = chunk.id();
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
        store
            .note(Note { surplus: vec![(id, vec!["b".parse().unwrap()])], ..Note::default() })
            .await
            .unwrap();
        let released = store.release(claim(&store, id, &[dot(1)]), CALM).await.unwrap();
        assert_eq!(released, Ok(chunk.bytes().len() as u64));
        assert!(!is_here(&store, id).await && !file_of(dir.path(), &chunk).exists());
        assert!(store.references(id).await.unwrap().is_empty());
        assert!(matches!(store.read(id).await, Err(ReadError::Missing(_))));
        // It can come back, and is not surplus then by what was noted before.
        store.put(chunk.clone(), &[dot(2)]).await.unwrap();
        let page = store.holdings(None).await.unwrap();
        assert!(page.holdings.iter().all(|holding| holding.surplus.is_none() && holding.file));
        store.release(claim(&store, id, &[dot(2)]), CALM).await.unwrap().unwrap();
    }
    assert_eq!((store.usage().await.unwrap().chunks, store.usage().await.unwrap().bytes), (0, 0));
}

#[tokio::test]
async fn a_release_is_refused_for_want_of_anything() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for chunk in both(2) {
        let id = chunk.id();
        store.put(chunk, &[dot(1), dot(2)]).await.unwrap();
        let good = claim(&store, id, &[dot(1), dot(2)]);
        let mut short = good.clone();
        short.receipts.pop_first();
        assert_eq!(store.release(short, CALM).await.unwrap(), Err(Kept::NoReceipt));
        let untold = claim(&store, id, &[dot(1)]);
        assert_eq!(store.release(untold, CALM).await.unwrap(), Err(Kept::Referenced));
        let breaker = Calm { breaker: true, ..CALM };
        assert_eq!(store.release(good.clone(), breaker).await.unwrap(), Err(Kept::Breaker));
        assert!(store.promise(id, vec![dot(1)]).await.unwrap());
        assert_eq!(store.release(good, CALM).await.unwrap(), Err(Kept::Promised));
        assert!(is_here(&store, id).await);
    }
}

#[tokio::test]
async fn a_promise_is_given_after_hashing_and_begins_anew_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let [chunk, _] = both(3);
    let id = chunk.id();
    assert!(!store.promise(id, vec![dot(1)]).await.unwrap(), "it is not here");
    store.put(chunk.clone(), &[]).await.unwrap();
    assert!(store.promise(id, vec![dot(1)]).await.unwrap());
    assert_eq!(store.references(id).await.unwrap(), [dot(1)], "the references are adopted");
    store.execute(|tx| Ok(tx.connection.execute("UPDATE promises SET until = 1", [])?)).await.unwrap();
    store.close().await;
    drop(store);
    let (store, _) = open(dir.path());
    store.forget_promises().await.unwrap();
    let claimed = claim(&store, id, &[dot(1)]);
    assert_eq!(store.release(claimed, CALM).await.unwrap(), Err(Kept::Promised));
    std::fs::write(file_of(dir.path(), &chunk), b"rot").unwrap();
    assert!(matches!(store.promise(id, vec![]).await, Err(ReadError::Corrupt(_))));
}

#[tokio::test]
async fn what_nothing_refers_to_is_collected_after_its_grace_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let [large, small] = both(4);
    let [unseen, recovered] = both(5);
    for chunk in [&large, &small] {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
    }
    store.put(unseen.clone(), &[dot(1), dot(9)]).await.unwrap();
    store.put(recovered.clone(), &[dot(1)]).await.unwrap();
    store.mark_recovered(recovered.id()).await.unwrap();
    let all = vec![large.id(), small.id(), unseen.id(), recovered.id()];
    let collect = async |grace: u64, conditions: Calm| {
        store.collect(all.clone(), Duration::from_millis(grace), conditions).await.unwrap()
    };
    assert_eq!(collect(0, CALM).await, (0, 0), "no dot is seen");
    end(&store, 3).await;
    assert_eq!(collect(0, CALM).await, (0, 0), "no grace was begun");
    store.note(unreferenced(all.clone())).await.unwrap();
    assert_eq!(collect(3_600_000, CALM).await, (0, 0), "the grace is not over");
    assert_eq!(collect(0, Calm { ready: false, ..CALM }).await, (0, 0));
    assert_eq!(collect(0, Calm { breaker: true, ..CALM }).await, (0, 0));
    // A reference that comes again takes the mark away.
    store.put(small.clone(), &[dot(2)]).await.unwrap();
    assert_eq!(collect(0, CALM).await, (1, large.bytes().len() as u64));
    store.note(unreferenced(all.clone())).await.unwrap();
    assert_eq!(collect(0, CALM).await, (1, small.bytes().len() as u64));
    assert!(is_here(&store, unseen.id()).await && is_here(&store, recovered.id()).await);
    // Lost references are not found again by fetching the bytes anew.
    store.execute({
        let id = recovered.id().to_string();
        move |tx| Ok(tx.connection.execute("UPDATE packed_chunks SET bytes = x'00' WHERE number = (SELECT packed FROM chunks WHERE id = ?1)", [id])?)
    }).await.unwrap();
    assert_eq!(store.quarantine(recovered.id(), Unreadable::Stays).await.unwrap(), Looked::SetAside);
    store.put(recovered.clone(), &[]).await.unwrap();
    store.note(unreferenced(all.clone())).await.unwrap();
    assert_eq!(collect(0, CALM).await, (0, 0), "a recovered chunk stays recovered");
}

#[tokio::test]
async fn a_deletion_that_a_crash_cut_short_is_finished_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let chunks = both(6);
    for chunk in &chunks {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
    }
    store.execute(|tx| Ok(tx.connection.execute("UPDATE chunks SET gone = 1", [])?)).await.unwrap();
    for chunk in &chunks {
        assert!(!is_here(&store, chunk.id()).await, "what is gone is not here");
        assert!(matches!(store.read(chunk.id()).await, Err(ReadError::Missing(_))));
        assert!(!store.adopt(chunk.id(), &[dot(2)]).await.unwrap(), "and counts as no hit");
        assert!(!store.promise(chunk.id(), vec![]).await.unwrap(), "and is not vouched for");
    }
    store.close().await;
    drop(store);
    let (store, _) = open(dir.path());
    for chunk in &chunks {
        assert!(!is_here(&store, chunk.id()).await && !file_of(dir.path(), chunk).exists());
        assert!(store.references(chunk.id()).await.unwrap().is_empty());
    }
    assert_eq!(store.usage().await.unwrap().bytes, 0);
}

#[tokio::test]
async fn a_page_tells_of_files_references_and_graces() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let chunks: Vec<Chunk> = (10..40).flat_map(both).collect();
    for chunk in &chunks {
        store.put(chunk.clone(), &[dot(1), dot(7)]).await.unwrap();
    }
    end(&store, 3).await;
    let lost = &chunks[0];
    std::fs::remove_file(file_of(dir.path(), lost)).unwrap();
    let owners: Vec<NodeId> = vec!["b".parse().unwrap(), "c".parse().unwrap()];
    let note = Note {
        surplus: vec![(chunks[1].id(), owners.clone())],
        unreferenced: vec![chunks[2].id()],
        ..Note::default()
    };
    store.note(note).await.unwrap();
    let page = store.holdings(None).await.unwrap();
    assert_eq!((page.holdings.len(), page.more), (chunks.len(), false));
    assert!(page.holdings.is_sorted_by_key(|holding| holding.chunk.to_string()));
    for holding in &page.holdings {
        assert_eq!(holding.file, holding.chunk != lost.id(), "{}", holding.chunk);
        assert!(holding.kept, "dot 7 was never seen");
        assert_eq!(holding.references, digest_of(&[dot(7)]), "dot 1 has ended");
        let surplus = holding.surplus.as_ref().map(|surplus| surplus.owners.clone());
        assert_eq!(surplus, (holding.chunk == chunks[1].id()).then(|| owners.clone()));
        assert_eq!(holding.unreferenced_for.is_some(), holding.chunk == chunks[2].id());
    }
    let after = page.holdings[9].chunk;
    assert_eq!(store.holdings(Some(after)).await.unwrap().holdings[0].chunk, page.holdings[10].chunk);

    let item = |chunk: &Chunk, dots: &[Dot]| Item { chunk: chunk.id(), references: digest_of(dots) };
    let asked = vec![
        item(lost, &[dot(7)]),
        item(&chunks[1], &[dot(7)]),
        item(&chunks[2], &[dot(8)]),
        item(&chunk("nowhere"), &[]),
    ];
    let looked = store.look(asked).await.unwrap();
    assert_eq!(looked, [Holds::Lacks, Holds::Same, Holds::Other, Holds::Lacks]);
}

#[tokio::test]
async fn the_scrub_goes_on_where_it_was_and_finds_what_is_rotten_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let chunks: Vec<Chunk> = (50..60).flat_map(both).collect();
    for chunk in &chunks {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
    }
    std::fs::write(file_of(dir.path(), &chunks[0]), b"rot").unwrap();
    std::fs::remove_file(file_of(dir.path(), &chunks[2])).unwrap();
    let first = store.scrub(false, 7).await.unwrap();
    assert_eq!((first.checked, first.finished), (7, false));
    store.close().await;
    drop(store);
    let (store, _) = open(dir.path());
    let mut bad: BTreeSet<ChunkId> = first.bad.into_iter().collect();
    let mut checked = first.checked;
    loop {
        let step = store.scrub(false, 7).await.unwrap();
        checked += step.checked;
        bad.extend(step.bad);
        if step.finished {
            break;
        }
    }
    assert_eq!(bad, BTreeSet::from([chunks[0].id(), chunks[2].id()]));
    assert_eq!(checked, chunks.len() as u64, "each once");
    assert!(store.scrubbed_at().await.unwrap().is_some());
    assert!(!is_here(&store, chunks[0].id()).await);
    assert_eq!(store.references(chunks[0].id()).await.unwrap(), [dot(1)], "they hold again once it is back");
    let page = store.holdings(None).await.unwrap();
    let lost: BTreeSet<_> = page.holdings.iter().filter(|h| !h.file && h.kept).map(|h| h.chunk).collect();
    assert_eq!(lost, bad, "each pass finds them lacking until they are back");
    let listed: Vec<String> = page.holdings.iter().map(|h| h.chunk.to_string()).collect();
    assert!(listed.is_sorted() && listed.len() == chunks.len(), "{listed:?}");
    store.put(chunks[0].clone(), &[]).await.unwrap();
    let back = store.holdings(None).await.unwrap().holdings;
    assert!(back.iter().any(|h| h.chunk == chunks[0].id() && h.file && h.kept));
}

#[tokio::test]
async fn logs_of_a_lost_database_end_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let of = |node: &str, generation| Dot {
        origin: Origin { node: node.parse().unwrap(), generation },
        sequence: 5,
    };
    let (gone, other, longer) = (of("node-x", 3), of("node-y", 3), of("node-x.1", 3));
    let [a, b] = both(7);
    let successor = DatabaseId([9; 16]);
    let new = of("node-x", successor.generation(3));
    store.put(a.clone(), &[gone]).await.unwrap();
    store.put(b.clone(), &[other, longer, new]).await.unwrap();
    let dropped = |now| [("node-x".parse().unwrap(), now)].into();
    let databases = [("node-x".parse().unwrap(), successor)].into();
    store.note_databases(Bound { databases, dropped: dropped(Some(successor)) }).await.unwrap();
    let kept = |id| {
        let store = store.clone();
        async move { store.kept_references(id).await.unwrap().unwrap().dots }
    };
    assert!(kept(a.id()).await.is_empty());
    assert_eq!(kept(b.id()).await.len(), 3, "the log of the new database goes on");
    let later = Bound { databases: [].into(), dropped: dropped(None) };
    store.note_databases(later.clone()).await.unwrap();
    assert_eq!(store.noted_databases().await.unwrap(), later);
    assert_eq!(kept(b.id()).await.len(), 2, "the member is gone");
    assert!(rules::PROMISE > rules::RECEIPT_VALID);
}
