//! A process that stores chunks is killed again and again: what it acknowledged is whole, for ever.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use kepler_node::store::{Config, QueueRow, Store};
use kepler_protocol::chunk::{Chunk, ChunkId, Codec};
use kepler_protocol::version::{Dot, Origin};

const DIR: &str = "STORE_CRASH_DIR";
const SEED: &str = "STORE_CRASH_SEED";
const ROUNDS: u64 = 36;

fn config(dir: &Path) -> Config {
    Config { data_dir: dir.to_owned(), min_free: 0, node: "node-a".parse().unwrap() }
}

fn dot(sequence: u64) -> Dot {
    Dot { origin: Origin { node: "node-a".parse().unwrap(), generation: 1 }, sequence }
}

/// What one task of one round stores as its n-th chunk.
fn chunk(seed: u64, task: u64, number: u64) -> Chunk {
    let mut rng = fastrand::Rng::with_seed((seed << 32) | (task << 16) | number);
    let size = [0, 100, 4 << 10, 70 << 10, 600 << 10][rng.usize(..5)];
    let mut bytes = vec![0_u8; size];
    bytes.iter_mut().step_by(97).for_each(|byte| *byte = rng.u8(..));
    bytes.extend(format!("{seed} {task} {number}").bytes());
    Chunk::new(Codec::Raw, bytes.into())
}

/// The child: stores until it is killed, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let (store, opened) = Store::open(config(Path::new(&dir))).unwrap();
    say(&format!("epoch {}", opened.epoch));
    let tasks: Vec<_> = (0..4).map(|task| tokio::spawn(store_for_ever(store.clone(), seed, task))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn store_for_ever(store: Store, seed: u64, task: u64) {
    for number in 0.. {
        // Some chunks are the same in every round, so that hits are killed too.
        let chunk = chunk(if number % 4 == 0 { 0 } else { seed }, task, number);
        let id = chunk.id();
        let dots = [dot(seed * 1_000 + number + 1)];
        if number % 2 == 0 {
            store.put(chunk, &dots).await.unwrap();
        } else {
            let size = chunk.bytes().len();
            let mut incoming = store.receive(id, size as u64).await.unwrap();
            for at in (0..size).step_by(100_000) {
                let piece: Bytes = chunk.bytes().slice(at..size.min(at + 100_000));
                incoming.write(piece).await.unwrap();
            }
            incoming.finish(&dots).await.unwrap();
        }
        say(&format!("stored {id} {}", dots[0]));
        let row = QueueRow { chunk: id, target: "node-b".parse().unwrap(), dot: dots[0] };
        store.enqueue(vec![row]).await.unwrap();
        say(&format!("queued {id} {}", dots[0]));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut stored, mut queued, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for line in kill_after(&data, round, rng.usize(0..40)) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["epoch", number] => epochs.push(number.parse::<u64>().unwrap()),
                ["stored", id, dot] => stored.push((id.parse().unwrap(), dot.parse().unwrap())),
                ["queued", id, dot] => queued.push((id.parse().unwrap(), dot.parse().unwrap())),
                _ => panic!("round {round}: {line}"),
            }
        }
        if round % 6 == 5 {
            epochs.push(runtime.block_on(verify(&data, round, &stored, &queued)));
        }
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "an epoch was used twice: {epochs:?}");
    assert!(stored.len() > 100, "too little was stored to show anything: {}", stored.len());
    println!("{ROUNDS} kills, {} chunks and {} rows acknowledged, none lost", stored.len(), queued.len());
}

/// Runs the child until it has said more than `lines` lines, kills it, and returns all that it said.
fn kill_after(data: &Path, seed: u64, lines: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIR, data)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        // The test harness prints too, perhaps before the child on the same line.
        let Some(at) = line.find('@') else { continue };
        said.push(line[at + 1..].to_owned());
        if said.len() > lines && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
    said
}

/// Opens the store as the killed process left it and checks everything; returns the epoch.
async fn verify(data: &Path, round: u64, stored: &[(ChunkId, Dot)], queued: &[(ChunkId, Dot)]) -> u64 {
    let (store, opened) = Store::open(config(data)).unwrap();
    assert!(!opened.fresh, "round {round}: the database was lost");
    for (id, dot) in stored {
        store.read(*id).await.unwrap_or_else(|error| panic!("round {round}: {id}: {error}"));
        assert!(store.references(*id).await.unwrap().contains(dot), "round {round}: {id} {dot}");
    }
    let due = store.due("node-b".parse().unwrap(), usize::MAX).await.unwrap();
    for (id, dot) in queued {
        assert!(due.iter().any(|row| row.chunk == *id && row.dots.contains(dot)), "round {round}: {id}");
    }
    store.close().await;
    visit(&data.join("chunks"), &mut |path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let id: ChunkId = name.parse().unwrap_or_else(|_| panic!("round {round}: {name} is no chunk"));
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(ChunkId::of(Codec::Raw, &bytes), id, "round {round}: a torn chunk");
    });
    opened.epoch
}

fn visit(folder: &Path, check: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { visit(&path, check) } else { check(&path) }
    }
}
