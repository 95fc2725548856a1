//! The bound on background traffic, as the wire sees it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, Node};

use super::{MIB, Owners, misplaced, with, write};

/// Bytes that went in or out of a node's host, by the kernel.
fn wire_bytes(node: &Node) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/net/dev", node.pid().context("not running")?))?;
    let mut sum = 0;
    for line in text.lines().skip(2) {
        let (name, counters) = line.split_once(':').context("a line of /proc/net/dev")?;
        if name.trim() != "lo" {
            let numbers: Vec<u64> = counters.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            sum += numbers[0] + numbers[8];
        }
    }
    Ok(sum)
}

#[tokio::test]
async fn a_newcomer_is_filled_at_the_cap_and_no_second_is_above_it() -> Result<()> {
    let settings = with(&[
        ("REBALANCE_BANDWIDTH_MBPS", "2"),
        ("REPLICATION_FACTOR", "2"),
        ("INVENTORY_INTERVAL_SECS", "60"),
    ]);
    let mut cluster = Cluster::start_apart(1, &settings).await?;
    let files = write(&cluster, "pace", 19, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    cluster.add()?;
    let started = Instant::now();
    let (mut samples, mut first) = (Vec::new(), None);
    loop {
        let now = Instant::now();
        samples.push((now, wire_bytes(&cluster.nodes[1])?));
        let held = cluster.nodes[1].chunk_files();
        if first.is_none() && !held.is_empty() {
            first = Some(now);
        }
        let whole = held.keys().filter(|name| name.parse().is_ok_and(|id| chunks.contains(&id))).count();
        if whole == chunks.len() {
            break;
        }
        if started.elapsed() > Duration::from_secs(60) {
            cluster.print_logs();
            anyhow::bail!("{whole} of {} chunks arrived within a minute", chunks.len());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = first.context("nothing came")?.elapsed();
    let second = Duration::from_secs(1);
    // The process moves to its own host after its start: what was read before is of another wire.
    let busiest = samples.iter().map(|(at, bytes)| {
        let later = samples.iter().take_while(|(then, _)| *then <= *at + second).last();
        later.map_or(0, |(_, then)| then.saturating_sub(*bytes))
    });
    let busiest = busiest.max().context("no samples")?;
    let owners = Owners::by(&cluster.nodes[0]).await?;
    ensure!(misplaced(&cluster, &owners, &chunks).0 == 0, "not every owner has its copy");
    let bytes = chunks.len() * MIB;
    println!(
        "cap 2 MB/s: {} bytes in {took:?}, busiest second {busiest} bytes on the wire in both directions",
        bytes
    );
    ensure!(busiest <= 2_200_000, "{busiest} bytes within one second");
    ensure!((9.0..12.0).contains(&took.as_secs_f64()), "{bytes} bytes took {took:?}");
    Ok(())
}
