//! Nodes die for good, with their disks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api;
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, eventually, scaled};

use super::{
    Load, MIB, Owners, background_bytes, exactly_placed, holders, misplaced, read_all, sent_in_background,
    verify, wipe, with, write,
};

/// The full number is 500.
fn chunks() -> usize {
    scaled(500).max(150)
}

#[tokio::test]
async fn chunks_of_a_node_that_died_with_its_disk_regain_three_copies_on_exactly_their_owners() -> Result<()>
{
    let mut cluster = Cluster::start_with(5, &with(&[("REBALANCE_BANDWIDTH_MBPS", "100")])).await?;
    let files = write(&cluster, "death", chunks(), MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 5, &chunks, Duration::from_secs(60)).await?;
    let lost = holders(&cluster).values().filter(|nodes| nodes.contains("node-e")).count();
    let before = sent_in_background(&cluster).await? - background_bytes(&cluster.nodes[4]).await?;

    let load = Load::start(&cluster, &files, "meanwhile");
    load.leave_out(&cluster.nodes[4]);
    cluster.nodes[4].kill();
    wipe(&cluster.nodes[4].data)?;
    let (took, copies) = exactly_placed(&cluster, 4, &chunks, Duration::from_secs(120)).await?;
    // Client's chunks are of other sizes, and the dead node's share of them is not owed by anybody.
    let moved = (sent_in_background(&cluster).await? - before) / MIB as f64;
    let outcome = load.finish().await?;
    ensure!(outcome.failed.is_empty(), "{} failed, such as {}", outcome.failed.len(), outcome.failed[0]);
    ensure!(outcome.unavailable == 0, "{} answers of 503 with one of five dead", outcome.unavailable);
    ensure!(moved <= 1.2 * lost as f64 + 5.0, "{moved} MiB were sent for {lost} chunks lost");
    let read = read_all(&cluster, &files).await? + outcome.read_back(&cluster).await?;
    let health: api::Health = cluster.nodes[0].json("/v1/health").await?;
    let (_, verified) = verify(&cluster.nodes[1]).await?;
    ensure!(verified.bad_copies == 0 && verified.missing == 0 && verified.damaged == 0, "{verified:?}");
    ensure!(
        health.under_replicated == 0 && health.missing == 0 && verified.under_replicated == 0,
        "{health:?} {verified:?}"
    );
    println!(
        "verify --all: {} copies of {} chunks hashed, {} bad, {} under-replicated; health: {:?}, {} under-replicated",
        verified.copies,
        verified.chunks,
        verified.bad_copies,
        verified.under_replicated,
        health.status,
        health.under_replicated
    );
    println!(
        "one of five died with its disk: {lost} of {} chunks lost a copy; all {} on exactly their three owners {took:?} later, \
         {copies} copies hashed, {moved:.0} MiB sent; {} reads and {} writes meanwhile, {} cut off with the dead node, slowest {:?}; \
         {read} reads afterwards",
        chunks.len(),
        chunks.len(),
        outcome.reads,
        outcome.writes,
        outcome.cut_off,
        outcome.slowest,
    );
    Ok(())
}

#[tokio::test]
async fn a_second_death_during_the_healing_loses_nothing_and_the_healer_is_replaced() -> Result<()> {
    let settings = with(&[("REBALANCE_BANDWIDTH_MBPS", "4"), ("FORGET_AFTER_SECS", "8")]);
    let mut cluster = Cluster::start_with(5, &settings).await?;
    let files = write(&cluster, "twice", chunks(), MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 5, &chunks, Duration::from_secs(60)).await?;
    let load = Load::start(&cluster, &files, "meanwhile");

    load.leave_out(&cluster.nodes[4]);
    cluster.nodes[4].kill();
    wipe(&cluster.nodes[4].data)?;
    let mut sent = Vec::new();
    eventually("repair is under way", Duration::from_secs(30), async || {
        sent.clear();
        for node in &cluster.nodes[..4] {
            sent.push(background_bytes(node).await.unwrap_or(0.0));
        }
        sent.iter().sum::<f64>() > 10.0 * MIB as f64
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    // Not the first: others ask it what is where.
    let healer = (1..4).max_by(|a, b| sent[*a].total_cmp(&sent[*b])).expect("three of them");
    let owners = Owners::by(&cluster.nodes[0]).await?;
    let (lacking, _) = misplaced(&cluster, &owners, &chunks);
    ensure!(lacking > 0, "everything is healed already: the second death would prove nothing");
    load.leave_out(&cluster.nodes[healer]);
    let killed = Instant::now();
    cluster.nodes[healer].kill();
    wipe(&cluster.nodes[healer].data)?;
    let (took, copies) = exactly_placed(&cluster, 3, &chunks, Duration::from_secs(240)).await?;
    let operations = load.operations();
    let outcome = load.finish().await?;
    ensure!(outcome.failed.is_empty(), "{} failed, such as {}", outcome.failed.len(), outcome.failed[0]);
    // Names with two dead homes cannot be written until the roster has dropped the first of them.
    eventually("both are off the roster", Duration::from_secs(60), async || {
        let status = cluster.nodes[0].json::<api::Cluster>("/v1/cluster").await;
        status.is_ok_and(|status| status.roster.is_some_and(|roster| roster.members.len() == 3))
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    let load = Load::start(&cluster, &files, "afterwards");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = load.finish().await?;
    ensure!(after.failed.is_empty() && after.unavailable == 0, "after both were dropped: {after:?}");
    let read = read_all(&cluster, &files).await? + outcome.read_back(&cluster).await?;
    println!(
        "two of five died, the second as the busiest healer with {lacking} chunks still lacking: all {} chunks on their three owners {took:?} after ({:?} in all), \
         {copies} copies hashed; of {operations} operations meanwhile {} were 503, {} cut off, none failed; {read} reads afterwards",
        chunks.len(),
        killed.elapsed(),
        outcome.unavailable,
        outcome.cut_off,
    );
    Ok(())
}
