//! Chunks that nothing refers to any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use kepler_protocol::api;
use kepler_protocol::chunk::ChunkId;
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

#[tokio::test]
async fn what_was_deleted_comes_back_by_its_cid_until_it_is_collected_and_then_stays_whole() -> Result<()> {
    let cluster = Cluster::start_with(3, &with(&[])).await?;
    let copy = async |node: usize, cid: &ChunkId, to: &str| -> Result<(u16, String)> {
        let node = &cluster.nodes[node % 3];
        let body = serde_json::json!({ "cid": cid, "content_type": "text/plain", "to": to });
        let request = node.client().post(format!("{}/v1/copy", node.url())).header("Kepler-Client", "test");
        let response = request.header("If-None-Match", "*").json(&body).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    };
    let delete = async |node: usize, name: &str| -> Result<()> {
        let node = &cluster.nodes[node % 3];
        let response = node.client().delete(node.file_url(name)).send().await?;
        ensure!(response.status() == 204, "delete {name}: {}", response.status());
        Ok(())
    };
    // Around the end of the grace each is brought back, through another node: it is there for good, or not at all.
    const COUNT: usize = 24;
    let size = 2 * super::MIB + 100;
    let mut written = Vec::new();
    for i in 0..COUNT {
        written.push(cluster.nodes[i % 3].put(&format!("old/{i}"), random_bytes(i as u64, size)).await?);
    }
    for i in 0..COUNT {
        delete(i, &format!("old/{i}")).await?;
    }
    let deleted = Instant::now();
    let mut back = Vec::new();
    let mut refused = 0;
    for (i, receipt) in written.iter().enumerate() {
        // Some at once, the others one after another from shortly before the end of the grace on.
        let due = if i < 4 { Duration::ZERO } else { Duration::from_millis(2_000 + 250 * i as u64) };
        tokio::time::sleep(due.saturating_sub(deleted.elapsed())).await;
        let (status, text) = copy(i + 1, &receipt.cid, &format!("new/{i}")).await?;
        match status {
            200 => {
                let copied: api::Receipt = serde_json::from_str(&text)?;
                ensure!((copied.cid, copied.size, copied.chunks) == (receipt.cid, receipt.size, 3), "{text}");
                back.push(i);
            }
            404 => {
                ensure!(text.contains("collected"), "{text}");
                refused += 1;
            }
            _ => anyhow::bail!("new/{i}: {status} {text}"),
        }
    }
    ensure!(back.len() >= 4, "only {back:?} came back");
    // What did not come back goes, what did stays: three leaves and a manifest node each, on each of three nodes.
    let wanted = 4 * back.len();
    let started = Instant::now();
    loop {
        let mut counts = Vec::new();
        for node in &cluster.nodes {
            let status: api::NodeStatus = node.json("/v1/status").await?;
            counts.push(status.storage.chunks as usize);
        }
        if counts.iter().all(|count| *count == wanted) {
            break;
        }
        ensure!(
            started.elapsed() < Duration::from_secs(90),
            "{counts:?} chunks on the nodes, wanted {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for i in 0..COUNT {
        for node in &cluster.nodes {
            let response = node.try_get(&format!("new/{i}")).await?;
            if !back.contains(&i) {
                ensure!(response.status() == 404, "new/{i} was refused, and is there");
                continue;
            }
            ensure!(response.status() == 200, "new/{i}: {}", response.status());
            ensure!(
                response.bytes().await? == random_bytes(i as u64, size),
                "new/{i} is not what was written"
            );
        }
    }
    // Once everything is collected nothing comes back.
    for i in &back {
        delete(*i, &format!("new/{i}")).await?;
    }
    let started = Instant::now();
    loop {
        let mut left = 0;
        for node in &cluster.nodes {
            let status: api::NodeStatus = node.json("/v1/status").await?;
            left += status.storage.chunks;
        }
        if left == 0 {
            break;
        }
        ensure!(started.elapsed() < Duration::from_secs(90), "{left} chunks are not collected");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for (i, receipt) in written.iter().enumerate() {
        let (status, text) = copy(i, &receipt.cid, "late").await?;
        ensure!(status == 404 && text.contains("collected"), "{status} {text}");
    }
    println!(
        "bringing back: {} of {COUNT} by their CID around the end of the grace, all whole; {refused} refused, and all once collected",
        back.len()
    );
    Ok(())
}
