//! Nodes join a cluster that is used.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, Node, eventually, scaled};

use super::{Load, MIB, Owners, exactly_placed, misplaced, read_all, with, write};

const GRACE: Duration = Duration::from_secs(12);

/// Who vouched for a copy keeps its own for so long.
const PROMISE: Duration = Duration::from_secs(120);

/// Looks at the disks again and again until a copy that was there in the beginning is gone.
struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<(usize, Option<Instant>)>,
}

impl Watch {
    fn begin(cluster: &Cluster, chunks: &BTreeSet<ChunkId>) -> Self {
        let chunks: BTreeSet<String> = chunks.iter().map(ToString::to_string).collect();
        let of = |node: &Node| {
            let files = node.chunk_files().into_iter().filter(|(name, _)| chunks.contains(name));
            files.map(|(_, path)| path).collect::<Vec<PathBuf>>()
        };
        let paths: Vec<PathBuf> = cluster.nodes.iter().flat_map(of).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looking = std::thread::spawn(move || {
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                if paths.iter().any(|path| !path.exists()) {
                    return (looks, Some(Instant::now()));
                }
                looks += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            (looks, None)
        });
        Self { stop, looking }
    }

    /// How often all were there, and when the first was not.
    fn end(self) -> (usize, Option<Instant>) {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().expect("it only looks")
    }
}

#[tokio::test]
async fn three_nodes_become_four_and_six_under_load_and_old_copies_go_after_grace_and_not_before()
-> Result<()> {
    let settings = with(&[("REBALANCE_BANDWIDTH_MBPS", "100"), ("HANDOFF_GRACE_SECS", "12")]);
    let mut cluster = Cluster::start_with(3, &settings).await?;
    let files = write(&cluster, "growth", scaled(600), MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 3, &chunks, Duration::from_secs(60)).await?;
    let load = Load::start(&cluster, &files, "meanwhile");
    let mut lines = Vec::new();
    for target in [4, 6] {
        let first = cluster.nodes.len();
        let held = Watch::begin(&cluster, &chunks);
        // No grace can have begun before this.
        let changed = Instant::now();
        while cluster.nodes.len() < target {
            cluster.add()?;
        }
        for newcomer in first..target {
            let node = &cluster.nodes[newcomer];
            eventually("the newcomer is ready", Duration::from_secs(60), async || node.is_ready().await)
                .await
                .inspect_err(|_| cluster.print_logs())?;
            let joined = Instant::now();
            let mut slowest = Duration::ZERO;
            for file in &files {
                let asked = Instant::now();
                ensure!(node.get(&file.name).await? == file.bytes(), "{} through {}", file.name, node.id);
                slowest = slowest.max(asked.elapsed());
            }
            let served = joined.elapsed();
            ensure!(slowest < Duration::from_secs(2), "a file was served after {slowest:?} only");
            lines.push(format!(
                "{} served all {} files one after another within {served:?} of joining, the slowest in {slowest:?}",
                node.id,
                files.len()
            ));
            load.include(node);
        }
        // Owners have their copies soon; what they replace stays for the grace.
        let node = &cluster.nodes[0];
        let mut seen_surplus = 0;
        eventually("every owner has its copy", Duration::from_secs(60), async || {
            let Ok(owners) = Owners::by(node).await else { return false };
            let (lacking, surplus) = misplaced(&cluster, &owners, &chunks);
            seen_surplus = seen_surplus.max(surplus);
            owners.nodes() == target && lacking == 0
        })
        .await
        .inspect_err(|_| cluster.print_logs())?;
        let filled = changed.elapsed();
        let (took, copies) =
            exactly_placed(&cluster, target, &chunks, PROMISE + Duration::from_secs(60)).await?;
        let gone = changed.elapsed();
        let (looks, first) = held.end();
        let first = first.map(|at| at.duration_since(changed));
        ensure!(first.is_some_and(|first| first >= GRACE), "the first old copy was gone after {first:?}");
        ensure!(looks > 10, "the disks were looked at {looks} times before");
        lines.push(format!(
            "{target} nodes: owners had all after {filled:?}, {seen_surplus} old copies, of which the first was gone after {first:?}, by {looks} looks at the disks, and the last after {gone:?} (grace {GRACE:?}, {took:?} of waiting), {copies} hashed"
        ));
    }
    let outcome = load.finish().await?;
    ensure!(outcome.failed.is_empty(), "{} failed, such as {}", outcome.failed.len(), outcome.failed[0]);
    ensure!(outcome.unavailable == 0, "{} answers of 503", outcome.unavailable);
    let read = read_all(&cluster, &files).await? + outcome.read_back(&cluster).await?;
    println!(
        "growth: {}; {} reads and {} writes meanwhile, none failed, slowest {:?}; {read} reads afterwards",
        lines.join("; "),
        outcome.reads,
        outcome.writes,
        outcome.slowest
    );
    Ok(())
}
