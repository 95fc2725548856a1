//! Chunks that nothing refers to any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use kepler_protocol::api;
use kepler_tests::cluster::{Cluster, random_bytes, scaled};

use super::with;

const BYTES: usize = 3_000;

#[tokio::test]
async fn deleted_files_leave_no_chunk_behind_but_those_that_new_files_share() -> Result<()> {
    let cluster = Cluster::start_with(3, &with(&[])).await?;
    let count = scaled(10_000);
    let put = |name: String, seed: usize, node: usize| {
        let node = &cluster.nodes[node % 3];
        async move { node.put(&name, random_bytes(seed as u64, BYTES)).await }
    };
    let writing = futures::stream::iter(0..count).map(|i| put(format!("old/{i}"), i, i));
    let written: Vec<_> = writing.buffer_unordered(16).collect().await;
    written.into_iter().collect::<Result<Vec<_>>>()?;

    // Every old file is deleted; every third content is written again under another name, some before
    // and some after the delete, through another node.
    let started = Instant::now();
    let changing = futures::stream::iter(0..count).map(|i| {
        let cluster = &cluster;
        async move {
            let node = &cluster.nodes[(i + 1) % 3];
            let shared = i % 3 == 0;
            if shared && i % 2 == 0 {
                put(format!("new/{i}"), i, i + 2).await?;
            }
            let response = node.client().delete(node.file_url(&format!("old/{i}"))).send().await?;
            ensure!(response.status() == 204, "delete old/{i}: {}", response.status());
            if shared && i % 2 == 1 {
                put(format!("new/{i}"), i, i + 2).await?;
            }
            anyhow::Ok(usize::from(shared))
        }
    });
    let changed: Vec<Result<usize>> = changing.buffer_unordered(16).collect().await;
    let live: usize = changed.into_iter().sum::<Result<usize>>()?;
    let deleting = started.elapsed();

    let started = Instant::now();
    let counts = loop {
        let mut counts = Vec::new();
        for node in &cluster.nodes {
            let status: api::NodeStatus = node.json("/v1/status").await?;
            counts.push(status.storage.chunks as usize);
        }
        ensure!(counts.iter().all(|count| *count >= live), "{counts:?} chunks, and {live} are live");
        if counts.iter().all(|count| *count == live) {
            break counts;
        }
        if started.elapsed() > Duration::from_secs(90) {
            cluster.print_logs();
            anyhow::bail!("{counts:?} chunks on the nodes, and {live} are live");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    let collected = started.elapsed();
    let mut read = 0;
    let statuses: BTreeSet<u16> = BTreeSet::from([200]);
    for i in (0..count).step_by(3) {
        let response = cluster.nodes[i % 3].try_get(&format!("new/{i}")).await?;
        ensure!(statuses.contains(&response.status().as_u16()), "new/{i}: {}", response.status());
        ensure!(response.bytes().await? == random_bytes(i as u64, BYTES), "new/{i} is not what was written");
        read += 1;
    }
    println!(
        "deletion: {count} files deleted while {live} new ones shared their chunks, in {deleting:?}; {counts:?} chunks left {collected:?} later; {read} live files read back"
    );
    Ok(())
}
