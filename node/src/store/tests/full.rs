//! A disk that is full: writes are refused, nothing is lost, and no restart is needed.

use std::time::Duration;

use super::*;

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_machine_did_in_a_transaction_that_did_not_fit_is_written_again_before_it_is_said() {
    for failures in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let ballast = dir.path().join("data/ballast");
        assert!(ballast.exists());
        let (seat, mut outputs) = install(&store);
        seat.send(Input::Put(Box::new(survivor("a", 1, 1, true)))).await.unwrap();
        assert_eq!(outputs.recv().await.unwrap(), ("put a".into(), 1));
        store.plant_full(failures);
        seat.send(Input::Put(Box::new(survivor("b", 2, 1, true)))).await.unwrap();
        if failures > 1 {
            seat.stuck().await;
            assert_eq!(seat.room(), Room::Nothing);
            let refused = store.put(chunk("meanwhile"), &[]).await;
            assert!(matches!(refused, Err(WriteError::Database(DatabaseError::Full))), "{refused:?}");
        }
        // What comes meanwhile waits.
        seat.send(Input::Put(Box::new(survivor("c", 3, 1, true)))).await.unwrap();
        // The two may share a transaction.
        let (said, files) = outputs.recv().await.unwrap();
        assert!(said == "put b" && files >= 2, "{said} was said before it was durable: {files}");
        assert_eq!(outputs.recv().await.unwrap(), ("put c".into(), 3));
        assert!(store.failure().is_none());
        eventually("room is found again", async || seat.room() == Room::Enough).await;
        assert!(ballast.exists());
        store.put(chunk("afterwards"), &[dot(4)]).await.unwrap();
        store.close().await;
        let (store, opened) = open(dir.path());
        assert!(!opened.fresh);
        let names: i64 = store
            .query(|db| Ok(db.query_row("SELECT count(*) FROM files", [], |row| row.get(0))?))
            .await
            .unwrap();
        assert_eq!(names, 3);
        assert!(store.read(chunk("afterwards").id()).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_did_not_fit_are_refused_and_can_be_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.plant_full(1);
    let refused = store.put(chunk("kepler"), &[dot(1)]).await;
    assert!(matches!(refused, Err(WriteError::Database(DatabaseError::Full))), "{refused:?}");
    assert_eq!(store.held(vec![chunk("kepler").id()]).await.unwrap(), [None]);
    store.put(chunk("kepler"), &[dot(1)]).await.unwrap();
    assert_eq!(store.usage().await.unwrap().chunks, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_nothing_can_be_written_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (seat, mut outputs) = install(&store);
    store.plant_full(u64::MAX);
    seat.send(Input::Put(Box::new(survivor("a", 1, 1, true)))).await.unwrap();
    seat.stuck().await;
    store.close().await;
    assert!(outputs.recv().await.is_none(), "what was not written is not said");
    let (store, _) = open(dir.path());
    assert!(store.survivors(&"a".parse().unwrap()).await.unwrap().is_empty());
}
