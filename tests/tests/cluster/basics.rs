//! A file goes in on one node and comes out on any other, whole, at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use kepler_protocol::api;
use kepler_tests::cluster::{Cluster, Node, random_bytes, scaled};
use reqwest::StatusCode;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn files_of_every_size_are_read_back_through_every_other_node_at_once() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let sizes = [0, 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 37 * MIB];
    let mut reads = 0;
    for (writer, node) in cluster.nodes.iter().enumerate() {
        for size in sizes {
            let body = random_bytes((writer * 100 + size) as u64, size);
            let name = format!("sizes/{writer}/{size}");
            let receipt = node.put(&name, body.clone()).await?;
            ensure!(receipt.size == size as u64, "{receipt:?}");
            ensure!(receipt.replicas.acked >= 2, "{receipt:?}");
            for reader in &cluster.nodes {
                ensure!(reader.get(&name).await? == body, "{name} through {} differs", reader.id);
                reads += 1;
            }
        }
    }
    println!("sizes: {} files through 3 nodes, {reads} reads, all equal", sizes.len() * 3);
    Ok(())
}

#[tokio::test]
async fn a_file_is_readable_through_another_node_as_soon_as_it_is_acknowledged() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let count = scaled(1000);
    let started = Instant::now();
    for i in 0..count {
        let body = random_bytes(i as u64, 100 + i % 3000);
        let name = format!("fresh/{i}");
        cluster.nodes[i % 3].put(&name, body.clone()).await?;
        ensure!(cluster.nodes[(i + 1) % 3].get(&name).await? == body, "{name}");
    }
    println!("read-after-write: {count} of {count} found at once in {:?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn ranges_are_exact_across_chunk_borders() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let body = random_bytes(7, 9 * MIB + 17);
    cluster.nodes[0].put("ranged", body.clone()).await?;
    let size = body.len();
    let ranges = [
        (0, 0),
        (0, size - 1),
        (4 * MIB - 1, 4 * MIB),
        (4 * MIB, 4 * MIB),
        (8 * MIB - 3, 8 * MIB + 3),
        (size - 1, size - 1),
    ];
    for node in &cluster.nodes {
        for (first, last) in ranges {
            let request =
                node.client().get(node.file_url("ranged")).header("Range", format!("bytes={first}-{last}"));
            let response = request.send().await?;
            ensure!(response.status() == StatusCode::PARTIAL_CONTENT);
            ensure!(response.headers()["content-range"] == format!("bytes {first}-{last}/{size}").as_str());
            ensure!(response.bytes().await? == body.slice(first..=last), "{first}-{last}");
        }
        let beyond = node
            .client()
            .get(node.file_url("ranged"))
            .header("Range", format!("bytes={size}-"))
            .send()
            .await?;
        ensure!(beyond.status() == StatusCode::RANGE_NOT_SATISFIABLE);
    }
    println!("ranges: {} ranges through 3 nodes, all exact", ranges.len());
    Ok(())
}

/// One mebibyte of a large file: no two of them are equal.
fn mebibyte(file: u64, i: usize) -> bytes::Bytes {
    let mut piece = random_bytes(99, MIB).to_vec();
    piece[..8].copy_from_slice(&(i as u64).to_le_bytes());
    piece[8..16].copy_from_slice(&file.to_le_bytes());
    bytes::Bytes::from(piece)
}

/// Puts a file of `mib` mebibytes without ever having it in memory.
async fn put_large(node: &Node, name: &str, file: u64, mib: usize) -> Result<Duration> {
    let stream = futures::stream::iter((0..mib).map(move |i| Ok::<_, std::io::Error>(mebibyte(file, i))));
    let client = reqwest::Client::builder().no_proxy().build()?;
    let started = Instant::now();
    let body = reqwest::Body::wrap_stream(stream);
    let response = client.put(node.file_url(name)).body(body).send().await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.text().await?);
    Ok(started.elapsed())
}

/// Reads it back and compares every byte.
async fn get_large(node: &Node, name: &str, file: u64, mib: usize) -> Result<Duration> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let started = Instant::now();
    let mut body = client.get(node.file_url(name)).send().await?.error_for_status()?.bytes_stream();
    let (mut at, mut offset) = (0usize, 0usize);
    let mut expected = mebibyte(file, 0);
    while let Some(bytes) = body.next().await {
        let mut bytes = bytes?;
        while !bytes.is_empty() {
            let take = bytes.len().min(MIB - offset);
            let right = bytes[..take] == expected[offset..offset + take];
            ensure!(right, "{name} through {}: byte {} differs", node.id, at * MIB + offset);
            bytes = bytes.split_off(take);
            offset += take;
            if offset == MIB {
                (at, offset) = (at + 1, 0);
                expected = mebibyte(file, at);
            }
        }
    }
    ensure!(at == mib && offset == 0, "{at} MiB of {mib} came back");
    Ok(started.elapsed())
}

#[tokio::test]
async fn a_gibibyte_through_each_node_is_read_back_through_every_other_at_once() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let mib = scaled(1024);
    let mut reads = 0;
    for (file, writer) in cluster.nodes.iter().enumerate() {
        let name = format!("gibibyte/{file}");
        put_large(writer, &name, file as u64, mib).await?;
        for reader in cluster.nodes.iter().filter(|reader| reader.id != writer.id) {
            get_large(reader, &name, file as u64, mib).await?;
            reads += 1;
        }
    }
    println!("sizes: {mib} MiB through each of 3 nodes, {reads} reads through the others, all equal");
    Ok(())
}

#[tokio::test]
async fn a_large_file_passes_through_bounded_memory() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let mib = if scaled(10) == 10 { 10 * 1024 } else { 1024 };
    let put = put_large(&cluster.nodes[0], "large", 0, mib).await?;
    let get = get_large(&cluster.nodes[1], "large", 0, mib).await?;
    for node in &cluster.nodes {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap_or(0)))?;
        let peak: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or(u64::MAX);
        println!("large: {mib} MiB, put {put:?}, get {get:?}, {} peaked at {} MiB", node.id, peak / 1024);
        ensure!(peak < 200 * 1024, "{} used {peak} KiB", node.id);
    }
    Ok(())
}

#[tokio::test]
async fn names_can_be_listed_copied_moved_and_deleted_through_any_node() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let [a, b, c] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    let body = random_bytes(3, 5 * MIB);
    a.put("dir/one", body.clone()).await?;
    a.put("dir/sub/two", random_bytes(4, 10)).await?;
    let post = async |node: &kepler_tests::cluster::Node,
                      verb: &str,
                      from: &str,
                      to: &str|
           -> Result<api::Receipt> {
        let response = node
            .client()
            .post(format!("{}/v1/{verb}", node.url()))
            .header("Kepler-Client", "test")
            .json(&serde_json::json!({"from": from, "to": to}))
            .send()
            .await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status == StatusCode::OK, "{verb}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    };
    let copied = post(b, "copy", "dir/one", "dir/copy").await?;
    ensure!(copied.size == body.len() as u64);
    post(c, "move", "dir/one", "moved").await?;
    ensure!(a.try_get("dir/one").await?.status() == StatusCode::NOT_FOUND);
    ensure!(a.get("moved").await? == body && a.get("dir/copy").await? == body);
    let listing: api::Listing = a.json("/v1/files?prefix=dir/&delimiter=/").await?;
    let names: Vec<&str> = listing.files.iter().map(|f| f.name.as_str()).collect();
    ensure!(names == ["dir/copy"] && listing.prefixes == ["dir/sub/"], "{listing:?}");
    let stat: api::Stat = c.json("/v1/stat/moved").await?;
    ensure!(stat.chunks.len() == 3, "two leaves and a manifest node: {stat:?}");
    ensure!(stat.chunks.iter().all(|chunk| chunk.owners.len() == 3 && chunk.holders.len() == 3), "{stat:?}");
    let deleted = b.client().delete(b.file_url("moved")).send().await?;
    ensure!(deleted.status() == StatusCode::NO_CONTENT);
    ensure!(c.try_get("moved").await?.status() == StatusCode::NOT_FOUND);
    ensure!(b.client().delete(b.file_url("moved")).send().await?.status() == StatusCode::NOT_FOUND);
    println!("names: list, copy, move, stat and delete through three nodes");
    Ok(())
}

#[tokio::test]
async fn a_chunk_that_is_there_already_is_not_stored_twice() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let body = random_bytes(5, 8 * MIB);
    cluster.nodes[0].put("first", body.clone()).await?;
    let before = cluster.copies();
    cluster.nodes[1].put("second", body).await?;
    ensure!(cluster.copies() == before, "the second upload left other files on the disks");
    ensure!(before.values().all(|copies| *copies == 3), "{before:?}");
    println!("deduplication: {} chunks, three files each, after two uploads", before.len());
    Ok(())
}
