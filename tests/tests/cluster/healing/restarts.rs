//! Nodes that go and come back move next to nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, scaled};

use super::{MIB, background_bytes, exactly_placed, read_all, sent_in_background, with, write};

#[tokio::test]
async fn a_node_that_bounces_and_one_that_is_upgraded_move_nothing() -> Result<()> {
    let mut cluster = Cluster::start_with(5, &with(&[("REPAIR_DELAY_SECS", "15")])).await?;
    let files = write(&cluster, "bounce", 60, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 5, &chunks, Duration::from_secs(60)).await?;
    let others = sent_in_background(&cluster).await? - background_bytes(&cluster.nodes[4]).await?;
    let mut moved = 0.0;
    // The full numbers: every 20 s for 3 minutes.
    let (bounces, pause) = (scaled(9).max(4), Duration::from_secs(scaled(10).max(4) as u64));
    for round in 0..bounces {
        if round % 2 == 0 {
            cluster.nodes[4].kill();
        } else {
            cluster.nodes[4].terminate().await?;
        }
        tokio::time::sleep(pause).await;
        cluster.nodes[4].start()?;
        cluster.settle().await?;
        tokio::time::sleep(pause).await;
        moved += background_bytes(&cluster.nodes[4]).await?;
    }
    let now = sent_in_background(&cluster).await? - background_bytes(&cluster.nodes[4]).await?;
    moved += now - others;
    ensure!(moved < 2.0 * MIB as f64, "{moved} bytes were moved by a node that bounced");

    // An upgrade: every node in turn.
    let mut upgraded = 0.0;
    for i in 0..5 {
        let before = sent_in_background(&cluster).await? - background_bytes(&cluster.nodes[i]).await?;
        cluster.nodes[i].terminate().await?;
        cluster.nodes[i].start()?;
        cluster.settle().await?;
        upgraded += sent_in_background(&cluster).await? - before;
    }
    ensure!(upgraded < 2.0 * MIB as f64, "{upgraded} bytes were moved by a rolling restart");
    let (_, copies) = exactly_placed(&cluster, 5, &chunks, Duration::from_secs(30)).await?;
    let read = read_all(&cluster, &files).await?;
    println!(
        "bounces: {bounces} bounces, {pause:?} away and {pause:?} here, moved {moved:.0} bytes, a rolling restart of 5 nodes {upgraded:.0}; {copies} copies hashed, {read} reads"
    );
    Ok(())
}
