//! Measures a cluster of three on this machine, beside what the machine itself can do, and prints
//! rows of a Markdown table. It reports; it asserts no times.
//!
//! Clients and nodes share the machine's processors, so CPU seconds are the honest figure.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use kepler_tests::cluster::{Cluster, random_bytes};

const MIB: usize = 1 << 20;
const LARGE: usize = 1024;

#[tokio::main]
async fn main() -> Result<()> {
    println!("| what | figure | CPU s, all nodes | peak memory of a node |");
    println!("| --- | --- | --- | --- |");
    machine()?;
    for round in 1..=3 {
        let cluster = Cluster::start(3).await?;
        large(&cluster, round).await?;
        small(&cluster, round, 4096).await?;
        small(&cluster, round, 65_536).await?;
    }
    Ok(())
}

/// What the disk and the loopback give without us.
fn machine() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let started = Instant::now();
    let output = Command::new("dd")
        .args(["if=/dev/zero", "bs=4M", &format!("count={}", LARGE / 4), "conv=fsync"])
        .arg(format!("of={}", directory.path().join("dd").display()))
        .output()
        .context("run dd")?;
    ensure!(output.status.success(), "dd failed");
    println!("| dd conv=fsync, 1 GiB | {} | | |", rate(LARGE * MIB, started.elapsed()));

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = std::thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept()?;
        let (mut buffer, mut total) = (vec![0; MIB], 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total),
                n => total += n,
            }
        }
    });
    let started = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let piece = vec![0; MIB];
    for _ in 0..LARGE {
        stream.write_all(&piece)?;
    }
    drop(stream);
    let total = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    println!("| loopback TCP, one stream, 1 GiB | {} | | |", rate(total, started.elapsed()));
    Ok(())
}

async fn large(cluster: &Cluster, round: u64) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = cluster.nodes[0].file_url("large");
    let base = random_bytes(round, MIB);
    let piece = move |i: usize| {
        let mut piece = base.to_vec();
        piece[..8].copy_from_slice(&(i as u64).to_le_bytes());
        Bytes::from(piece)
    };
    let body = futures::stream::iter((0..LARGE).map(move |i| Ok::<_, std::io::Error>(piece(i))));
    let (cpu, started) = (processor_seconds(cluster)?, Instant::now());
    let put = client.put(&url).body(reqwest::Body::wrap_stream(body)).send().await?;
    ensure!(put.status() == 200, "{}", put.text().await?);
    row(cluster, &format!("put 1 GiB, quorum, run {round}"), &rate(LARGE * MIB, started.elapsed()), cpu)?;

    for (node, label) in [(0, "the receiver"), (1, "another node")] {
        let (cpu, started) = (processor_seconds(cluster)?, Instant::now());
        let mut stream = client.get(cluster.nodes[node].file_url("large")).send().await?.bytes_stream();
        let mut total = 0;
        while let Some(bytes) = stream.next().await {
            total += bytes?.len();
        }
        ensure!(total == LARGE * MIB);
        row(
            cluster,
            &format!("get 1 GiB, warm, through {label}, run {round}"),
            &rate(total, started.elapsed()),
            cpu,
        )?;
    }

    let mut firsts = Vec::new();
    for i in 0..50 {
        let at = (LARGE / 2 + i) * MIB + 12_345;
        let started = Instant::now();
        let request = client.get(&url).header("Range", format!("bytes={at}-{}", at + 65_535));
        let mut stream = request.send().await?.bytes_stream();
        let first = stream.next().await.context("a range has bytes")??;
        ensure!(!first.is_empty());
        firsts.push(started.elapsed());
        while let Some(rest) = stream.next().await {
            rest?;
        }
    }
    let cpu = processor_seconds(cluster)?;
    row(
        cluster,
        &format!("first byte of a range in the middle of 1 GiB, run {round}"),
        &quantiles(&mut firsts),
        cpu,
    )
}

async fn small(cluster: &Cluster, round: u64, size: usize) -> Result<()> {
    let count = if size > 10_000 { 2_000 } else { 5_000 };
    for verb in ["put", "get"] {
        let next = Arc::new(AtomicUsize::new(0));
        let (cpu, started) = (processor_seconds(cluster)?, Instant::now());
        let workers = (0..16).map(|_| {
            let (next, urls) =
                (next.clone(), cluster.nodes.iter().map(|n| n.file_url("")).collect::<Vec<_>>());
            let client = cluster.nodes[0].client().clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return anyhow::Ok(times);
                    }
                    let url = format!("{}small/{size}/{i}", urls[i % urls.len()]);
                    let body = random_bytes(round << 32 | (size + i) as u64, size);
                    let started = Instant::now();
                    if verb == "put" {
                        let answer = client.put(url).body(body).send().await?;
                        ensure!(answer.status() == 200, "{}", answer.text().await?);
                    } else {
                        let answer = client.get(url).send().await?;
                        ensure!(
                            answer.status() == 200 && answer.bytes().await? == body,
                            "a small file differs"
                        );
                    }
                    times.push(started.elapsed());
                }
            })
        });
        let mut times = Vec::new();
        for worker in futures::future::join_all(workers).await {
            times.extend(worker??);
        }
        let per_second = count as f64 / started.elapsed().as_secs_f64();
        let what = format!("{verb} {} KiB, 16 clients, run {round}", size / 1024);
        row(cluster, &what, &format!("{per_second:.0}/s, {}", quantiles(&mut times)), cpu)?;
    }
    Ok(())
}

fn row(cluster: &Cluster, what: &str, figure: &str, cpu_before: f64) -> Result<()> {
    let cpu = processor_seconds(cluster)? - cpu_before;
    let mut peak = 0;
    for node in &cluster.nodes {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().context("runs")?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        peak = peak.max(line.trim().trim_end_matches(" kB").parse::<u64>()?);
    }
    println!("| {what} | {figure} | {cpu:.2} | {} MiB |", peak / 1024);
    Ok(())
}

/// User and system time of all nodes so far.
fn processor_seconds(cluster: &Cluster) -> Result<f64> {
    let mut ticks = 0;
    for node in &cluster.nodes {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid().context("runs")?))?;
        let rest = stat.rsplit(')').next().context("the name ends in a parenthesis")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    }
    // USER_HZ is 100 on every Linux this runs on.
    Ok(ticks as f64 / 100.0)
}

fn rate(bytes: usize, elapsed: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / elapsed.as_secs_f64())
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99))
}
