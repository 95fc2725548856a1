//! Chunk files rot, are cut, swapped and deleted; databases and whole disks go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api;
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_tests::cluster::{Cluster, Node, eventually};

use crate::operations::kepler;

use super::{MIB, Stored, exactly_placed, hash_disks, read_all, wipe, with, write};

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Cut,
    Swap,
    Delete,
}

const KINDS: [Damage; 4] = [Damage::Flip, Damage::Cut, Damage::Swap, Damage::Delete];

fn path_of(cluster: &Cluster, node: usize, file: &Stored) -> Option<PathBuf> {
    cluster.nodes[node].chunk_files().remove(&file.chunk.to_string())
}

/// Damages the copy of `file` on a node; a swap takes the bytes of `other`. Says whether there was one.
fn damage(cluster: &Cluster, node: usize, file: &Stored, other: &Stored, kind: Damage) -> Result<bool> {
    let Some(path) = path_of(cluster, node, file) else { return Ok(false) };
    let mut bytes = std::fs::read(&path)?;
    match kind {
        Damage::Flip => {
            let at = bytes.len() / 3;
            bytes[at] ^= 4;
            std::fs::write(&path, bytes)?;
        }
        Damage::Cut => std::fs::write(&path, &bytes[..bytes.len() / 2])?,
        Damage::Swap => std::fs::write(&path, other.bytes())?,
        Damage::Delete => std::fs::remove_file(&path)?,
    }
    Ok(true)
}

/// Waits until every disk holds only whole chunks and every owner has its copy.
async fn mended(cluster: &Cluster, chunks: &BTreeSet<ChunkId>) -> Result<Duration> {
    let started = Instant::now();
    loop {
        let (whole, _) = (hash_disks(cluster).is_ok(), ());
        let all = chunks.iter().all(|chunk| {
            cluster.nodes.iter().all(|node| {
                let path = node.chunk_files().remove(&chunk.to_string());
                path.and_then(|path| std::fs::read(path).ok())
                    .is_some_and(|bytes| Chunk::verify(*chunk, bytes.into()).is_ok())
            })
        });
        if whole && all {
            return Ok(started.elapsed());
        }
        if started.elapsed() > Duration::from_secs(60) {
            cluster.print_logs();
            anyhow::bail!("not mended within 60 s: {:?}", hash_disks(cluster).err());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn damage_on_one_node_and_on_all_is_never_served_and_mended_within_a_minute() -> Result<()> {
    let settings = with(&[("SCRUB_INTERVAL_SECS", "10"), ("REBALANCE_BANDWIDTH_MBPS", "100")]);
    let cluster = Cluster::start_with(3, &settings).await?;
    let files = write(&cluster, "rot", 60, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 3, &chunks, Duration::from_secs(60)).await?;

    // On one node, every second chunk; readers find some of it, the scrub and the inventory the rest.
    let mut damaged = 0;
    for (i, file) in files.iter().enumerate().step_by(2) {
        let other = &files[(i + 1) % files.len()];
        damaged += usize::from(damage(&cluster, 0, file, other, KINDS[i / 2 % 4])?);
    }
    let mut read = read_all(&cluster, &files[..20]).await?;
    let one = mended(&cluster, &chunks).await?;

    // On all nodes, each chunk on two of the three.
    for (i, file) in files.iter().enumerate() {
        let other = &files[(i + 1) % files.len()];
        for node in [i % 3, (i + 1) % 3] {
            damaged += usize::from(damage(&cluster, node, file, other, KINDS[(i + node) % 4])?);
        }
    }
    ensure!(damaged == 30 + 2 * 60, "{damaged} damages");
    read += read_all(&cluster, &files[..20]).await?;
    let all = mended(&cluster, &chunks).await?;
    read += read_all(&cluster, &files).await?;
    println!(
        "rot: {damaged} damages; {read} reads, none of them bad; mended after {one:?} on one node and {all:?} on all"
    );
    Ok(())
}

/// By comparison with peers alone: nothing is hashed again, nobody reads.
#[tokio::test]
async fn a_chunk_file_removed_by_hand_is_back_within_one_inventory_interval() -> Result<()> {
    const INTERVAL: Duration = Duration::from_secs(6);
    /// A pass, questions and answers, and the chunk itself.
    const WORK: Duration = Duration::from_secs(2);
    let settings = with(&[("INVENTORY_INTERVAL_SECS", "6"), ("REBALANCE_BANDWIDTH_MBPS", "100")]);
    let cluster = Cluster::start_with(3, &settings).await?;
    let files = write(&cluster, "removed", 30, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 3, &chunks, Duration::from_secs(60)).await?;
    for node in &cluster.nodes {
        let pause = node.client().post(format!("{}/v1/scrub", node.url())).header("Kepler-Client", "test");
        let paused = pause.json(&serde_json::json!({"action": "pause"})).send().await?;
        ensure!(paused.status() == 202, "{}", paused.status());
    }
    let mut slowest = Duration::ZERO;
    for (round, file) in files.iter().take(6).enumerate() {
        let node = round % 3;
        ensure!(damage(&cluster, node, file, file, Damage::Delete)?);
        let removed = Instant::now();
        while path_of(&cluster, node, file).is_none() {
            let waited = removed.elapsed();
            if waited > INTERVAL + WORK {
                cluster.print_logs();
                anyhow::bail!("{} is not back on node {node} after {waited:?}", file.chunk);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slowest = slowest.max(removed.elapsed());
    }
    let hashed = hash_disks(&cluster)?;
    println!(
        "6 files removed by hand, scrub paused: back after {slowest:?} at most (interval {INTERVAL:?}), {hashed} copies hashed"
    );
    Ok(())
}

/// A copy or a move over HTTP.
async fn write_from(node: &Node, verb: &str, from: &str, to: &str) -> Result<reqwest::Response> {
    let post = node.client().post(format!("{}/v1/{verb}", node.url())).header("Kepler-Client", "test");
    Ok(post.json(&serde_json::json!({"from": from, "to": to})).send().await?)
}

#[tokio::test]
async fn a_file_whose_every_copy_is_rotten_is_an_error_and_never_wrong_bytes() -> Result<()> {
    let cluster = Cluster::start_with(3, &with(&[])).await?;
    let files = write(&cluster, "hopeless", 2, MIB).await?;
    for node in 0..3 {
        ensure!(damage(&cluster, node, &files[0], &files[1], Damage::Flip)?);
    }
    let mut answers = BTreeSet::new();
    for node in &cluster.nodes {
        let response = node.try_get(&files[0].name).await?;
        let status = response.status();
        // Bytes may break off, where the head was sent before the first of them was found rotten.
        if let Ok(body) = response.bytes().await {
            ensure!(!(status == 200 && body != files[0].bytes()), "{} served other bytes", node.id);
            if status != 200 {
                ensure!(status.is_server_error(), "{} answered {status}", node.id);
            }
        }
        answers.insert(status.as_u16());
    }
    // Once every copy is set aside, and however often it was looked for.
    let (name, copy) = (files[0].name.as_str(), "hopeless/copy");
    let mut told = 0;
    for node in &cluster.nodes {
        let answers = [
            ("GET", node.try_get(name).await?),
            ("copy", write_from(node, "copy", name, copy).await?),
            ("move", write_from(node, "move", name, copy).await?),
        ];
        for (what, answer) in answers {
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status == 503 && text.contains("chunk-unavailable"), "{what}: {status} {text}");
            ensure!(text.contains(name), "{what} does not name the file: {text}");
            told += 1;
        }
        let out = node.data.with_extension("out").display().to_string();
        for verb in
            [&["get", name, out.as_str()][..], &["cat", name], &["cp", name, copy], &["mv", name, copy]]
        {
            let done = kepler(node, verb).await?;
            let error = String::from_utf8_lossy(&done.stderr);
            ensure!(done.status.code() == Some(5), "kepler {verb:?}: {:?} {error}", done.status);
            ensure!(error.contains(name) && done.stdout.is_empty(), "kepler {verb:?}: {error}");
            told += 1;
        }
        ensure!(!std::path::Path::new(&out).exists(), "a file of which not one byte is known was made");
    }
    ensure!(read_all(&cluster, &files[1..]).await? == 3);
    println!(
        "every copy rotten: answers {answers:?}, no wrong byte; then {told} of 21 answers are unavailable and name \
         the file; other files are not touched"
    );
    Ok(())
}

/// The chunks that a node says it has: files which it knows, not files which are there.
async fn chunks_of(node: &Node) -> Result<u64> {
    Ok(node.json::<api::NodeStatus>("/v1/status").await?.storage.chunks)
}

async fn has_again(node: &Node, before: u64) -> Result<()> {
    let what = format!("{} says again that it has {before} chunks", node.id);
    eventually(&what, Duration::from_secs(30), async || chunks_of(node).await.is_ok_and(|now| now == before))
        .await
}

#[tokio::test]
async fn a_lost_database_and_a_lost_disk_come_back_by_themselves() -> Result<()> {
    let mut cluster = Cluster::start_with(4, &with(&[("REBALANCE_BANDWIDTH_MBPS", "100")])).await?;
    let files = write(&cluster, "lost", 80, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 4, &chunks, Duration::from_secs(60)).await?;

    let database_before = chunks_of(&cluster.nodes[1]).await?;
    ensure!(database_before > 0);
    cluster.nodes[1].kill();
    for name in ["kepler.db", "kepler.db-wal", "kepler.db-shm"] {
        let _ = std::fs::remove_file(cluster.nodes[1].data.join(name));
    }
    cluster.nodes[1].start()?;
    cluster.settle().await?;
    let (database, _) = exactly_placed(&cluster, 4, &chunks, Duration::from_secs(120)).await?;
    has_again(&cluster.nodes[1], database_before).await?;
    let mut read = read_all(&cluster, &files).await?;

    let disk_before = chunks_of(&cluster.nodes[2]).await?;
    cluster.nodes[2].kill();
    wipe(&cluster.nodes[2].data)?;
    cluster.nodes[2].start()?;
    cluster.settle().await?;
    let (disk, copies) = exactly_placed(&cluster, 4, &chunks, Duration::from_secs(120)).await?;
    has_again(&cluster.nodes[2], disk_before).await?;
    read += read_all(&cluster, &files).await?;
    println!(
        "a database lost: {database_before} chunks known again, in place after {database:?}; a disk lost: {disk_before} after {disk:?}; {copies} copies hashed, {read} reads"
    );
    Ok(())
}
