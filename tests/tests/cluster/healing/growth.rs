//! Nodes join a cluster that is used.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, eventually, scaled};

use super::{Load, MIB, Owners, exactly_placed, misplaced, read_all, with, write};

const GRACE: Duration = Duration::from_secs(12);

/// Who vouched for a copy keeps its own for so long.
const PROMISE: Duration = Duration::from_secs(120);

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
        let owners = Owners::by(node).await?;
        let (_, surplus) = misplaced(&cluster, &owners, &chunks);
        if filled < GRACE / 2 {
            ensure!(
                surplus == seen_surplus && surplus > 0,
                "{surplus} of {seen_surplus} old copies are left before the grace is over"
            );
        }
        let (took, copies) =
            exactly_placed(&cluster, target, &chunks, PROMISE + Duration::from_secs(60)).await?;
        let gone = changed.elapsed();
        ensure!(gone >= GRACE, "old copies were gone after {gone:?}, before the grace");
        lines.push(format!(
            "{target} nodes: owners had all after {filled:?}, {seen_surplus} old copies gone after {gone:?} (grace {GRACE:?}, {took:?} of waiting), {copies} hashed"
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
