//! The replication queue.

use std::time::Duration;

use super::*;

fn row(text: &str, target: &str, sequence: u64) -> QueueRow {
    QueueRow { chunk: chunk(text).id(), target: target.parse().unwrap(), dot: dot(sequence) }
}

fn node(id: &str) -> NodeId {
    id.parse().unwrap()
}

#[tokio::test]
async fn a_row_is_delivered_once_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let rows = vec![row("x", "b", 1), row("x", "c", 1), row("y", "b", 1), row("x", "b", 2), row("x", "b", 1)];
    store.enqueue(rows).await.unwrap();
    let state = store.queue_status().await.unwrap();
    assert_eq!((state.depth, state.targets[&node("b")], state.targets[&node("c")]), (3, 2, 1));
    assert!(state.oldest.is_some());

    let due = store.due(node("b"), 10).await.unwrap();
    assert_eq!(due.len(), 2);
    let x = due.iter().find(|due| due.chunk == chunk("x").id()).unwrap().clone();
    assert_eq!((x.attempts, x.dots.clone()), (0, vec![dot(1), dot(2)]));
    assert!(store.due(node("b"), 10).await.unwrap().is_empty(), "rows in hand are not handed out again");

    // A dot that is added while the copy travels is owed still.
    store.enqueue(vec![row("x", "b", 3)]).await.unwrap();
    assert_eq!(store.delivered(vec![x]).await.unwrap(), [dot(1), dot(2)]);
    let again = store.due(node("b"), 10).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].dots, [dot(3)]);
    store.delivered(again).await.unwrap();
    let state = store.queue_status().await.unwrap();
    assert_eq!(state.targets, [(node("b"), 1), (node("c"), 1)].into());
}

#[tokio::test]
async fn a_failed_row_waits_longer_each_time_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.enqueue(vec![row("x", "b", 1)]).await.unwrap();
    let mut last = Duration::ZERO;
    for attempts in 0..4 {
        let due = store.due(node("b"), 10).await.unwrap();
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].attempts, attempts);
        store.failed(due).await.unwrap();
        assert!(store.due(node("b"), 10).await.unwrap().is_empty());
        store.close().await;
        store = open(dir.path()).0;
        assert!(store.due(node("b"), 10).await.unwrap().is_empty(), "a restart hurries nothing");
        let running = store.inner.clock.running_millis();
        let due: i64 = store
            .query(|db| Ok(db.query_row("SELECT min(due) FROM replication_queue", [], |row| row.get(0))?))
            .await
            .unwrap();
        let wait = Duration::from_millis(u64::try_from(due - running).expect("it is not due"));
        assert!(wait > last, "{wait:?} after {last:?}");
        last = wait;
        store.retry_now(node("c")).await.unwrap();
        assert!(store.due(node("b"), 10).await.unwrap().is_empty());
        store.retry_now(node("b")).await.unwrap();
    }
    assert!(last <= Duration::from_secs(75));
    assert_eq!(store.queue_status().await.unwrap().depth, 1);
}

#[tokio::test]
async fn rows_are_handed_out_in_bounded_numbers_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.enqueue((0..100).map(|n| row(&n.to_string(), "b", 1)).collect()).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let (a, b, c) =
        tokio::join!(store.due(node("b"), 40), store.due(node("b"), 40), store.due(node("b"), 40));
    for due in [a, b, c].into_iter().flat_map(Result::unwrap) {
        assert!(seen.insert(due.chunk), "handed out twice");
    }
    assert_eq!(seen.len(), 100);
}
