//! Disks that fail to give or to delete a file: a folder stands where the file was.

use std::path::Path;

use kepler_protocol::identity::DatabaseId;

use super::*;

/// As if the sectors of a chunk's file were bad.
fn spoil(dir: &Path, chunk: &Chunk) {
    let path = file_of(dir, chunk);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("inside"), b"x").unwrap();
}

#[tokio::test]
async fn what_the_disk_fails_to_give_stays_until_it_is_given_up_and_is_then_fetched_like_rot() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let [bad, good] = ["bad", "good"].map(large);
    for chunk in [&bad, &good] {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
    }
    spoil(dir.path(), &bad);
    assert!(matches!(store.read(bad.id()).await, Err(ReadError::Io { .. })));
    assert!(
        matches!(store.promise(bad.id(), vec![]).await, Err(ReadError::Io { .. })),
        "nobody is promised it"
    );
    let step = store.scrub(true, 16).await.unwrap();
    assert_eq!((step.checked, step.bad, step.unreadable), (2, vec![], vec![bad.id()]));
    assert_eq!(store.quarantine(bad.id(), Unreadable::Stays).await.unwrap(), Looked::Unreadable);
    assert!(store.held(vec![bad.id()]).await.unwrap()[0].is_some(), "it stays");

    assert_eq!(store.quarantine(good.id(), Unreadable::SetAside).await.unwrap(), Looked::Intact);
    assert_eq!(store.quarantine(bad.id(), Unreadable::SetAside).await.unwrap(), Looked::SetAside);
    assert!(store.held(vec![bad.id()]).await.unwrap()[0].is_none());
    let lost = store.holdings(None).await.unwrap().holdings;
    let lost = lost.iter().find(|holding| holding.chunk == bad.id()).unwrap();
    assert!(lost.kept && !lost.file, "each pass finds it lacking until it is back");
    store.put(bad.clone(), &[]).await.unwrap();
    assert_eq!(store.read(bad.id()).await.unwrap(), bad);
    assert_eq!(store.references(bad.id()).await.unwrap(), [dot(1)]);
}

/// Else a file whose every copy is rotten would be one that was collected.
#[tokio::test]
async fn a_chunk_set_aside_is_lost_until_it_is_back_and_one_that_never_was_here_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let [rotten, gone, free, never] = ["rotten", "gone", "free", "never"].map(large);
    for chunk in [&rotten, &gone] {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
    }
    store.put(free.clone(), &[]).await.unwrap();
    std::fs::write(file_of(dir.path(), &rotten), "other").unwrap();
    assert_eq!(store.quarantine(rotten.id(), Unreadable::Stays).await.unwrap(), Looked::SetAside);
    for chunk in [&gone, &free] {
        std::fs::remove_file(file_of(dir.path(), chunk)).unwrap();
    }
    for (chunk, lost) in [(&rotten, true), (&gone, true), (&free, false), (&never, false)] {
        assert!(matches!(store.read(chunk.id()).await, Err(ReadError::Missing(_))));
        assert_eq!(store.is_lost(chunk.id()).await.unwrap(), lost, "{}", chunk.id());
    }
    store.put(rotten.clone(), &[]).await.unwrap();
    assert_eq!(store.read(rotten.id()).await.unwrap(), rotten);

    // One that is being deleted is let go of, whatever refers to it.
    store.execute(|tx| Ok(tx.connection.execute("UPDATE chunks SET gone = 1", [])?)).await.unwrap();
    assert!(!store.is_lost(gone.id()).await.unwrap());
    // What was set aside when its references were in doubt may be referred to.
    store.put(never.clone(), &[]).await.unwrap();
    store.mark_recovered(never.id()).await.unwrap();
    std::fs::write(file_of(dir.path(), &never), "other").unwrap();
    assert_eq!(store.quarantine(never.id(), Unreadable::Stays).await.unwrap(), Looked::SetAside);
    assert!(store.is_lost(never.id()).await.unwrap());
}

#[tokio::test]
async fn files_that_cannot_be_deleted_keep_no_others_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut chunks: Vec<Chunk> = (0..70).map(|i| large(&format!("gone {i}"))).collect();
    for chunk in &chunks {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
    }
    chunks.sort_by_key(|chunk| chunk.id().to_string());
    let (stuck, free) = chunks.split_at(65);
    stuck.iter().for_each(|chunk| spoil(dir.path(), chunk));
    store.execute(|tx| Ok(tx.connection.execute("UPDATE chunks SET gone = 1", [])?)).await.unwrap();
    let next = store.retry_deletions(None).await.unwrap();
    assert!(next.is_some() && file_of(dir.path(), &free[0]).exists());
    assert_eq!(store.retry_deletions(next).await.unwrap(), None, "from the first again");
    assert!(free.iter().all(|chunk| !file_of(dir.path(), chunk).exists()));
    assert!(stuck.iter().all(|chunk| file_of(dir.path(), chunk).exists()));
}

#[tokio::test]
async fn a_database_from_the_past_doubts_its_references() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = large("kept");
    store.put(kept.clone(), &[dot(1)]).await.unwrap();
    let recovered = async || store.kept_references(kept.id()).await.unwrap().unwrap().recovered;
    for _ in 0..2 {
        store.doubt_if_other(DatabaseId([1; 16])).await.unwrap();
        assert!(!recovered().await, "it is bound as it was");
    }
    store.doubt_if_other(DatabaseId([2; 16])).await.unwrap();
    assert!(recovered().await, "it was found to be behind");
}
