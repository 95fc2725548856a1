//! Chunks whose bytes are in the database.

use super::*;

/// Overwrites the packed bytes of a chunk, as a disk that lies would.
async fn rot(store: &Store, chunk: &Chunk, bytes: &'static [u8]) {
    let id = chunk.id().to_string();
    let changed = store
        .execute(move |tx| {
            let sql = "UPDATE packed_chunks SET bytes = ?2 WHERE number = (SELECT packed FROM chunks WHERE id = ?1)";
            Ok(tx.connection.execute(sql, rusqlite::params![id, bytes])?)
        })
        .await;
    assert_eq!(changed.unwrap(), 1);
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    store.query(move |db| Ok(db.query_row(sql, [], |row| row.get(0))?)).await.unwrap()
}

#[tokio::test]
async fn small_chunks_make_no_files_and_large_ones_do() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let edge = chunk(&"e".repeat(contents::PACKED_BYTES));
    let (small, above) = (chunk("kepler"), chunk(&"e".repeat(contents::PACKED_BYTES + 1)));
    for chunk in [&small, &edge, &above] {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
        assert_eq!(store.read(chunk.id()).await.unwrap(), *chunk);
    }
    assert!(!file_of(dir.path(), &small).exists() && !file_of(dir.path(), &edge).exists());
    assert!(file_of(dir.path(), &above).exists());
    assert_eq!(count(&store, "SELECT count(*) FROM packed_chunks").await, 2);
}

#[tokio::test]
async fn a_packed_chunk_that_rots_is_noticed_set_aside_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = chunk("kepler");
    store.put(kept.clone(), &[dot(1)]).await.unwrap();
    assert!(store.adopt(kept.id(), &[dot(2)]).await.unwrap());
    for rotten in [&b"keplEr"[..], b"kepler and more", b""] {
        rot(&store, &kept, rotten).await;
        assert!(matches!(store.read(kept.id()).await, Err(ReadError::Corrupt(_))));
        assert!(matches!(store.adopt(kept.id(), &[dot(3)]).await, Err(ReadError::Corrupt(_))));
        assert_eq!(store.quarantine(kept.id(), Unreadable::Stays).await.unwrap(), Looked::SetAside);
        assert!(matches!(store.read(kept.id()).await, Err(ReadError::Missing(_))));
        assert_eq!(store.usage().await.unwrap().chunks, 0);
        assert_eq!(count(&store, "SELECT count(*) FROM packed_chunks").await, 0);
        store.put(kept.clone(), &[]).await.unwrap();
        assert_eq!(store.quarantine(kept.id(), Unreadable::Stays).await.unwrap(), Looked::Intact);
    }
    // Bytes in hand heal what is rotten.
    rot(&store, &kept, b"keplEr").await;
    store.put(kept.clone(), &[]).await.unwrap();
    assert_eq!(store.read(kept.id()).await.unwrap(), kept);
    assert_eq!(store.references(kept.id()).await.unwrap(), [dot(1), dot(2)]);
    let evidence = std::fs::read_dir(dir.path().join("data/quarantine")).unwrap();
    let mut evidence: Vec<Vec<u8>> = evidence.map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect();
    evidence.sort();
    assert_eq!(evidence, [&b""[..], b"keplEr", b"kepler and more"]);
}

#[tokio::test]
async fn what_a_damaged_database_still_gives_is_taken_over_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (kept, rotten) = (chunk("kepler"), chunk("rotten"));
    store.put(kept.clone(), &[dot(1)]).await.unwrap();
    store.put(rotten.clone(), &[dot(1)]).await.unwrap();
    rot(&store, &rotten, b"rotted").await;
    let damaged = store.execute(|_| Err::<(), _>(catalog::damaged("a record"))).await;
    assert!(matches!(damaged, Err(DatabaseError::Stopped(_))));
    store.close().await;
    let (store, opened) = open(dir.path());
    assert!(opened.fresh);
    assert_eq!(store.read(kept.id()).await.unwrap(), kept);
    assert_eq!(store.held(vec![rotten.id()]).await.unwrap(), [None]);
    assert_eq!(store.usage().await.unwrap().chunks, 1);
}

#[tokio::test]
async fn a_small_chunk_that_has_a_file_from_before_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = chunk("kepler");
    let file = file_of(dir.path(), &kept);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "kepler").unwrap();
    let handle = store.clone();
    tokio::task::spawn_blocking(move || handle.adopt_strays_now()).await.unwrap().unwrap();
    std::fs::write(&file, "rotten").unwrap();
    store.put(kept.clone(), &[dot(1)]).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"kepler");
    assert_eq!(store.read(kept.id()).await.unwrap(), kept);
    assert_eq!(count(&store, "SELECT count(*) FROM packed_chunks").await, 0);
}
