//! Tests of the store through its public face.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deleting;
mod owed;
mod unreadable;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kepler_protocol::catalog::seen::SeenSet;
use kepler_protocol::catalog::storage::{StorageError, Table};
use kepler_protocol::chunk::{Chunk, Codec};
use kepler_protocol::time::UnixMillis;
use kepler_protocol::version::{Content, Context, Dot, Origin, Version};

use super::*;

fn config(dir: &Path) -> Config {
    Config { data_dir: dir.join("data"), min_free: 0, node: "node-a".parse().unwrap() }
}

fn open(dir: &Path) -> (Store, Opened) {
    Store::open(config(dir)).unwrap()
}

fn dot(sequence: u64) -> Dot {
    Dot { origin: Origin { node: "node-a".parse().unwrap(), generation: 7 }, sequence }
}

fn chunk(text: &str) -> Chunk {
    Chunk::new(Codec::Raw, Bytes::copy_from_slice(text.as_bytes()))
}

/// A chunk that has a file of its own.
fn large(text: &str) -> Chunk {
    chunk(&text.repeat(contents::PACKED_BYTES / text.len() + 1))
}

fn file_of(dir: &Path, chunk: &Chunk) -> PathBuf {
    dir.join("data").join(Layout::relative(&chunk.id()))
}

fn survivor(name: &str, sequence: u64, count: u64, live: bool) -> Survivor {
    let content = live.then(|| Content {
        root: chunk(name).id(),
        size: name.len() as u64,
        chunks: 1,
        content_type: None,
    });
    let version = Version {
        name: name.parse().unwrap(),
        dot: dot(sequence),
        context: Context::default(),
        count,
        content,
        created_at: UnixMillis(1),
    };
    Survivor { version, published: true }
}

/// Does what it is told and reports what the storage looked like.
#[derive(Default)]
struct Probe {
    out: Vec<String>,
    commits: u64,
    timeout: Option<Instant>,
}

enum Input {
    Put(Box<Survivor>),
    Say(&'static str),
    Wake(std::time::Duration),
    Break,
}

impl Resident for Probe {
    type Input = Input;
    type Output = String;

    fn handle(&mut self, storage: &mut dyn Storage, now: Instant, input: Input) -> storage::Result<()> {
        match input {
            Input::Put(survivor) => {
                storage.put_survivor(&survivor)?;
                self.out.push(format!("put {}", survivor.version.name));
            }
            Input::Say(text) => self.out.push(text.into()),
            Input::Wake(after) => self.timeout = Some(now + after),
            Input::Break => {
                storage.put_seen(&dot(1).origin, &SeenSet::default())?;
                return Err(StorageError("planted".into()));
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, _: &mut dyn Storage, _: Instant) -> storage::Result<()> {
        self.timeout = None;
        self.out.push("timeout".into());
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    fn before_commit(&mut self, storage: &mut dyn Storage) -> storage::Result<()> {
        self.commits += 1;
        storage.put_record(Table::Catalog, b"mark", Some(&self.commits.to_be_bytes()))
    }

    fn drain(&mut self, out: &mut Vec<String>) {
        out.append(&mut self.out);
    }
}

/// Installs a probe; outputs arrive with what a fresh reader of the database saw at that moment.
fn install(store: &Store) -> (Seat<Input>, tokio::sync::mpsc::UnboundedReceiver<(String, i64)>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let reader = schema::open_reader(&store.inner.layout.database()).unwrap();
    let seat = store
        .install(
            |_, _| Ok(Probe::default()),
            move |outputs| {
                let files = reader.query_row("SELECT count(*) FROM files", [], |row| row.get(0)).unwrap();
                outputs.into_iter().for_each(|output| sender.send((output, files)).unwrap());
            },
        )
        .unwrap();
    (seat, receiver)
}

#[tokio::test]
async fn a_stored_chunk_is_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, first) = open(dir.path());
    let (small, empty) = (chunk("kepler"), chunk(""));
    store.put(small.clone(), &[dot(1)]).await.unwrap();
    store.put(small.clone(), &[dot(2)]).await.unwrap();
    store.put(empty.clone(), &[]).await.unwrap();
    assert!(first.fresh);
    assert_eq!(store.usage().await.unwrap().chunks, 2);
    store.close().await;
    let (store, second) = open(dir.path());
    assert!(!second.fresh && second.epoch > first.epoch && second.identity == first.identity);
    assert_eq!(store.read(small.id()).await.unwrap(), small);
    assert_eq!(store.read(empty.id()).await.unwrap(), empty);
    assert_eq!(store.references(small.id()).await.unwrap(), [dot(1), dot(2)]);
    let held = store.held(vec![chunk("other").id(), small.id()]).await.unwrap();
    assert!(held[0].is_none() && held[1].is_some_and(|held| held.size == 6 && held.verified_at.is_some()));
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.chunks, usage.bytes), (2, 6));
    assert!(matches!(store.read(chunk("other").id()).await, Err(ReadError::Missing(_))));
}

#[tokio::test]
async fn an_incoming_chunk_is_kept_only_if_it_is_what_was_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let whole = Chunk::new(Codec::Raw, bytes.into());
    let size = whole.bytes().len() as u64;
    for piece in [1_000, 70_000, 1 << 20] {
        let mut incoming = store.receive(whole.id(), size).await.unwrap();
        for at in (0..whole.bytes().len()).step_by(piece) {
            let end = (at + piece).min(whole.bytes().len());
            incoming.write(whole.bytes().slice(at..end)).await.unwrap();
        }
        incoming.finish(&[dot(1)]).await.unwrap();
        assert_eq!(store.read(whole.id()).await.unwrap(), whole);
    }

    let wrong = chunk("wrong");
    let mut incoming = store.receive(wrong.id(), 5).await.unwrap();
    incoming.write(Bytes::from_static(b"right")).await.unwrap();
    assert!(matches!(incoming.finish(&[]).await, Err(WriteError::Corrupt(_))));
    let mut short = store.receive(wrong.id(), 5).await.unwrap();
    short.write(Bytes::from_static(b"wron")).await.unwrap();
    assert!(matches!(short.finish(&[]).await, Err(WriteError::Size { .. })));
    let mut long = store.receive(wrong.id(), 5).await.unwrap();
    assert!(matches!(long.write(Bytes::from_static(b"wrong!")).await, Err(WriteError::Size { .. })));
    drop(long);
    drop(store.receive(wrong.id(), 5).await.unwrap());
    assert!(matches!(store.receive(wrong.id(), u64::MAX).await, Err(WriteError::Size { .. })));
    assert!(matches!(store.read(wrong.id()).await, Err(ReadError::Missing(_))));
    assert_eq!(temporary_files(dir.path()), 0);
}

fn temporary_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir.join("data/chunks")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some()).count()
}

#[tokio::test]
async fn a_hit_is_hashed_again_before_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = large("kepler");
    assert!(!store.adopt(kept.id(), &[dot(1)]).await.unwrap());
    store.put(kept.clone(), &[dot(1)]).await.unwrap();
    assert!(store.adopt(kept.id(), &[dot(2)]).await.unwrap());
    assert_eq!(store.references(kept.id()).await.unwrap(), [dot(1), dot(2)]);
    for rotten in ["keplEr", "kepler and more", "kep", ""] {
        std::fs::write(file_of(dir.path(), &kept), rotten).unwrap();
        assert!(matches!(store.adopt(kept.id(), &[dot(3)]).await, Err(ReadError::Corrupt(_))), "{rotten:?}");
        assert!(matches!(store.read(kept.id()).await, Err(ReadError::Corrupt(_))));
    }
    // Bytes in hand heal what is rotten.
    store.put(kept.clone(), &[]).await.unwrap();
    assert_eq!(store.read(kept.id()).await.unwrap(), kept);
    assert_eq!(store.references(kept.id()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_rotten_chunk_is_set_aside_and_keeps_its_references() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = large("kepler");
    store.put(kept.clone(), &[dot(1)]).await.unwrap();
    assert_eq!(store.quarantine(kept.id(), Unreadable::Stays).await.unwrap(), Looked::Intact);
    for _ in 0..2 {
        std::fs::write(file_of(dir.path(), &kept), "keplEr").unwrap();
        assert_eq!(store.quarantine(kept.id(), Unreadable::Stays).await.unwrap(), Looked::SetAside);
        assert!(matches!(store.read(kept.id()).await, Err(ReadError::Missing(_))));
        assert_eq!(store.usage().await.unwrap().chunks, 0);
        store.put(kept.clone(), &[]).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path().join("data/quarantine")).unwrap().count(), 2);
    assert_eq!(store.references(kept.id()).await.unwrap(), [dot(1)]);
    // A file that somebody removed is no chunk either.
    std::fs::remove_file(file_of(dir.path(), &kept)).unwrap();
    assert!(matches!(store.read(kept.id()).await, Err(ReadError::Missing(_))));
}

#[tokio::test]
async fn a_write_that_would_go_below_the_reserve_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(Config { min_free: u64::MAX / 2, ..config(dir.path()) }).unwrap();
    let refused = store.put(chunk("kepler"), &[]).await;
    assert!(matches!(refused, Err(WriteError::DiskFull { reserve, .. }) if reserve == u64::MAX / 2));
    assert!(matches!(store.receive(chunk("large").id(), 1 << 20).await, Err(WriteError::DiskFull { .. })));
    let mut small = store.receive(chunk("kepler").id(), 6).await.unwrap();
    small.write(Bytes::from_static(b"kepler")).await.unwrap();
    assert!(matches!(small.finish(&[]).await, Err(WriteError::DiskFull { .. })));
}

#[tokio::test]
async fn a_failing_disk_is_an_error_and_nothing_is_vouched_for() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = large("kepler");
    // A file where the folder should be fails for every user, root too.
    let outer = file_of(dir.path(), &kept).parent().unwrap().parent().unwrap().to_owned();
    std::fs::write(&outer, "").unwrap();
    assert!(matches!(store.put(kept.clone(), &[]).await, Err(WriteError::Io { .. })));
    assert_eq!(store.held(vec![kept.id()]).await.unwrap(), [None]);
    assert_eq!(temporary_files(dir.path()), 0);
    std::fs::remove_file(&outer).unwrap();
    store.put(kept.clone(), &[]).await.unwrap();
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let refused = Store::open(config(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    store.close().await;
    let other = Config { node: "node-b".parse().unwrap(), ..config(dir.path()) };
    let refused = Store::open(other).err().unwrap();
    assert!(matches!(refused, OpenError::OtherNode { .. }), "{refused}");
    open(dir.path()).0.close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.close().await;
    let path = dir.path().join("data/kepler.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = Store::open(config(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::NewerSchema { found: 99, known: schema::NEWEST, .. }), "{refused}");
    assert!(!dir.path().join("data/kepler.db.damaged-1").exists());
}

#[tokio::test]
async fn an_identity_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.close().await;
    let key = dir.path().join("data/identity.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Store::open(config(dir.path())), Err(OpenError::IdentityMode { mode: 0o640, .. })));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, "not a key").unwrap();
    assert!(matches!(Store::open(config(dir.path())), Err(OpenError::Identity(_))));
}

#[tokio::test]
async fn a_lost_or_damaged_database_is_set_aside_and_chunks_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let kept: Vec<Chunk> = (0..20).map(|n| large(&format!("chunk {n}"))).collect();
    let (store, first) = open(dir.path());
    for chunk in &kept {
        store.put(chunk.clone(), &[dot(1)]).await.unwrap();
    }
    store.close().await;
    let path = dir.path().join("data/kepler.db");
    let good = std::fs::read(&path).unwrap();
    let mut torn = good.clone();
    torn[4096..].iter_mut().for_each(|byte| *byte = !*byte);
    let damages: [Option<&[u8]>; 5] =
        [None, Some(b"no database"), Some(b""), Some(&good[..5_000]), Some(&torn)];
    let mut epoch = first.epoch;
    for (number, damage) in damages.into_iter().enumerate() {
        match damage {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        std::fs::write(dir.path().join("data/chunks/7.tmp"), "half").unwrap();
        let (store, opened) = open(dir.path());
        assert!(opened.fresh, "damage {number}");
        assert!(opened.epoch > epoch, "damage {number}");
        epoch = opened.epoch;
        assert_eq!(temporary_files(dir.path()), 0);
        assert_eq!(store.usage().await.unwrap().chunks, 20, "damage {number}");
        for chunk in &kept {
            assert_eq!(store.read(chunk.id()).await.unwrap(), *chunk);
        }
        store.close().await;
        let (store, opened) = open(dir.path());
        assert!(!opened.fresh);
        store.close().await;
    }
    let aside = std::fs::read_dir(dir.path().join("data")).unwrap();
    let names = aside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let numbers = names.filter_map(|name| name.strip_prefix("kepler.db.damaged-")?.parse::<u32>().ok());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4], "what was damaged is kept as evidence");
}

#[tokio::test]
async fn files_that_a_crash_left_without_a_row_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (kept, rotten) = (large("kepler"), large("rotten"));
    store.put(kept.clone(), &[]).await.unwrap();
    store.put(rotten.clone(), &[]).await.unwrap();
    store.execute(|tx| Ok(tx.connection.execute("DELETE FROM chunks", [])?)).await.unwrap();
    std::fs::write(file_of(dir.path(), &rotten), "rotted").unwrap();
    let handle = store.clone();
    tokio::task::spawn_blocking(move || handle.adopt_strays_now()).await.unwrap().unwrap();
    assert_eq!(store.read(kept.id()).await.unwrap(), kept);
    assert_eq!(store.held(vec![rotten.id()]).await.unwrap(), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_leave_only_after_their_commit_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (seat, mut outputs) = install(&store);
    for number in 1..=500 {
        let survivor = survivor(&format!("n{number:03}"), number, 1, true);
        seat.send(Input::Put(Box::new(survivor))).await.unwrap();
    }
    for number in 1..=500 {
        let (output, files) = outputs.recv().await.unwrap();
        assert_eq!(output, format!("put n{number:03}"));
        assert!(files >= number, "{output} left before it was committed: {files}");
    }
    let marks = Arc::new(Mutex::new(0));
    let seen = marks.clone();
    store
        .install::<Probe>(
            move |storage, _| {
                let mark = storage.record(Table::Catalog, b"mark")?.unwrap();
                *seen.lock().unwrap() = u64::from_be_bytes(mark.try_into().unwrap());
                Ok(Probe::default())
            },
            |_| {},
        )
        .unwrap();
    let commits = *marks.lock().unwrap();
    assert!((1..=500).contains(&commits), "one mark a batch that changed something: {commits}");
}

#[tokio::test]
async fn a_residents_timeout_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (seat, mut outputs) = install(&store);
    let begun = store.now();
    seat.send(Input::Wake(std::time::Duration::from_millis(20))).await.unwrap();
    assert_eq!(outputs.recv().await.unwrap().0, "timeout");
    assert!(store.now() - begun >= std::time::Duration::from_millis(20));
}

#[tokio::test]
async fn one_failing_job_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let insert = |key: &'static str| {
        store.execute(move |tx| meta::set_meta(tx.connection, key, 1).map_err(DatabaseError::from))
    };
    let failing = store.execute(|tx| -> Result<(), DatabaseError> {
        meta::set_meta(tx.connection, "half", 1)?;
        tx.connection.execute("INSERT INTO no_such_table VALUES (1)", [])?;
        Ok(())
    });
    let (before, failed, after) = tokio::join!(insert("before"), failing, insert("after"));
    assert!(before.is_ok() && after.is_ok());
    assert!(matches!(failed, Err(DatabaseError::Sql(_))));
    let kept = |key: &'static str| store.query(move |db| Ok(meta::meta::<i64>(db, key)?));
    assert_eq!(kept("before").await.unwrap(), Some(1));
    assert_eq!(kept("half").await.unwrap(), None);
    assert_eq!(kept("after").await.unwrap(), Some(1));
    assert!(store.failure().is_none());
}

#[tokio::test]
async fn a_storage_error_of_the_resident_stops_all_writes_aloud() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = chunk("kepler");
    store.put(kept.clone(), &[]).await.unwrap();
    let (seat, mut outputs) = install(&store);
    seat.send(Input::Say("before")).await.unwrap();
    assert_eq!(outputs.recv().await.unwrap().0, "before");
    seat.send(Input::Break).await.unwrap();
    assert!(store.stopped().await.contains("planted"));
    assert!(outputs.recv().await.is_none(), "the machine is gone, with what it had to say");
    assert!(matches!(seat.send(Input::Say("after")).await, Err(DatabaseError::Stopped(_))));
    let refused = store.put(chunk("after"), &[]).await;
    assert!(matches!(refused, Err(WriteError::Database(DatabaseError::Stopped(_)))));
    assert!(matches!(store.save_peers(vec![]).await, Err(DatabaseError::Stopped(_))));
    assert_eq!(store.read(kept.id()).await.unwrap(), kept);
    store.close().await;
    let (store, opened) = open(dir.path());
    assert!(!opened.fresh);
    assert!(store.failure().is_none());
    let seen: i64 =
        store.query(|db| Ok(db.query_row("SELECT count(*) FROM seen", [], |row| row.get(0))?)).await.unwrap();
    assert_eq!(seen, 0, "nothing of the failed transaction is kept");
}

#[tokio::test]
async fn damage_found_in_use_leads_to_a_rebuild_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.put(chunk("kepler"), &[]).await.unwrap();
    let damaged = store.execute(|_| Err::<(), _>(catalog::damaged("a record"))).await;
    assert!(matches!(damaged, Err(DatabaseError::Stopped(_))));
    store.close().await;
    let (store, opened) = open(dir.path());
    assert!(opened.fresh);
    assert_eq!(store.usage().await.unwrap().chunks, 1);
    store.close().await;
    assert!(!open(dir.path()).1.fresh);
}

#[tokio::test]
async fn a_panic_on_the_writers_thread_is_told_to_all() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let panicked = store.execute(|_| -> Result<(), DatabaseError> { panic!("planted") }).await;
    assert!(matches!(panicked, Err(DatabaseError::Stopped(_))));
    assert!(matches!(store.save_peers(vec![]).await, Err(DatabaseError::Stopped(_))));
}

#[tokio::test]
async fn peers_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let peer = |id: &str| PeerRow {
        id: id.parse().unwrap(),
        addr: "::1".parse().unwrap(),
        gossip_port: 4000,
        transfer_port: 5000,
        last_seen: Some(UnixMillis(5)),
        status: "alive".into(),
        record: vec![1, 2],
    };
    store.save_peers(vec![peer("b"), peer("c")]).await.unwrap();
    store.save_peers(vec![peer("d"), peer("b")]).await.unwrap();
    store.close().await;
    let (store, _) = open(dir.path());
    assert_eq!(store.load_peers().await.unwrap(), [peer("b"), peer("d")]);
}

mod full;
mod listing;
mod packed;
mod queueing;
