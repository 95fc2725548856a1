//! A node is decommissioned.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api;
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::Cluster;

use super::{Load, MIB, exactly_placed, holders, read_all, with, write};

#[tokio::test]
async fn a_leaving_node_ends_only_when_everything_has_its_copies_elsewhere() -> Result<()> {
    let settings = with(&[("REBALANCE_BANDWIDTH_MBPS", "20"), ("REPAIR_DELAY_SECS", "20")]);
    let mut cluster = Cluster::start_with(4, &settings).await?;
    let files = write(&cluster, "leave", 120, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 4, &chunks, Duration::from_secs(60)).await?;
    let held = holders(&cluster).values().filter(|nodes| nodes.contains("node-d")).count();
    let load = Load::start(&cluster, &files, "meanwhile");
    load.leave_out(&cluster.nodes[3]);

    let url = format!("{}/v1/cluster/leave", cluster.nodes[3].url());
    let response = cluster.nodes[3].client().post(url).header("Kepler-Client", "test").send().await?;
    ensure!(response.status() == 202, "{} {}", response.status(), response.text().await?);
    // A crash on the way out only delays it: it goes on to leave after its next start.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let half = holders(&cluster).values().filter(|nodes| nodes.contains("node-d")).count();
    cluster.nodes[3].kill();
    cluster.nodes[3].start()?;
    let started = Instant::now();
    let mut least = usize::MAX;
    loop {
        let holders = holders(&cluster);
        let copies = |chunk: &ChunkId| holders.get(chunk).map_or(0, BTreeSet::len);
        // While its process runs its copies count; from its end on those of the others alone.
        least = chunks.iter().map(copies).min().unwrap_or(0).min(least);
        ensure!(least >= 3, "a chunk had {least} copies, {:?} after the farewell began", started.elapsed());
        if cluster.nodes[3].exited().is_some() {
            break;
        }
        if started.elapsed() > Duration::from_secs(120) {
            cluster.print_logs();
            anyhow::bail!("it has not left within two minutes");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = started.elapsed();
    let code = cluster.nodes[3].exited();
    ensure!(code == Some(0), "it ended with {code:?}: {}", cluster.nodes[3].log());
    cluster.nodes[3].kill();
    let (_, copies) = exactly_placed(&cluster, 3, &chunks, Duration::from_secs(30)).await?;
    let roster: api::Cluster = cluster.nodes[0].json("/v1/cluster").await?;
    let members = roster.roster.map_or(0, |roster| roster.members.len());
    let outcome = load.finish().await?;
    ensure!(outcome.failed.is_empty(), "{} failed, such as {}", outcome.failed.len(), outcome.failed[0]);
    ensure!(outcome.unavailable == 0, "{} answers of 503", outcome.unavailable);
    let read = read_all(&cluster, &files).await? + outcome.read_back(&cluster).await?;
    println!(
        "farewell: {held} of {} chunks drained in {took:?} ({half} still held at a crash in between), never fewer than {least} copies of anything; roster of {members}; {copies} copies hashed; {} reads and {} writes meanwhile, none failed; {read} reads afterwards",
        chunks.len(),
        outcome.reads,
        outcome.writes,
    );
    Ok(())
}
