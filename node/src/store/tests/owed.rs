//! What is owed, as the versions that asked for it come and go.

use super::*;

fn row(chunk: &Chunk, target: &str, sequence: u64) -> QueueRow {
    QueueRow { chunk: chunk.id(), target: target.parse().unwrap(), dot: dot(sequence) }
}

#[tokio::test]
async fn a_version_that_waits_for_a_node_that_is_away_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (seat, mut outputs) = install(&store);
    for (sequence, name) in [(1, "stuck"), (2, "ready"), (3, "published")] {
        let survivor = Survivor { published: sequence == 3, ..survivor(name, sequence, 1, true) };
        seat.send(Input::Put(Box::new(survivor))).await.unwrap();
        outputs.recv().await.unwrap();
    }
    let (stuck, ready) = (chunk("stuck"), chunk("ready"));
    let rows = vec![row(&stuck, "node-b", 1), row(&stuck, "node-c", 1), row(&ready, "node-c", 2)];
    store.enqueue(rows).await.unwrap();
    assert_eq!(store.settled(1, 1).await.unwrap(), [dot(2)], "the older one does not use up the page");
    assert_eq!(store.settled(0, 9).await.unwrap(), []);
    assert_eq!(store.settled(2, 9).await.unwrap(), [dot(1), dot(2)]);
}

#[tokio::test]
async fn what_was_owed_to_a_refused_version_is_dropped_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (shared, own) = (chunk("shared"), chunk("own"));
    let rows = [row(&shared, "node-b", 1), row(&shared, "node-b", 2), row(&own, "node-b", 1)];
    store.enqueue(rows.to_vec()).await.unwrap();
    store.forget_owed(dot(1)).await.unwrap();
    let left = store.due("node-b".parse().unwrap(), 9).await.unwrap();
    assert_eq!(
        left.iter().map(|row| (row.chunk, row.dots.clone())).collect::<Vec<_>>(),
        [(shared.id(), vec![dot(2)])]
    );
}
