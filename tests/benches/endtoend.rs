//! Measures a cluster of three on this machine, beside what the machine itself can do, and prints
//! sections in Markdown. It reports; it asserts no times.
//!
//! Clients and nodes share the machine's processors, so CPU seconds are the honest figure.
//! `BENCH_ROUNDS` says how often the cluster is measured (3), `BENCH_LARGE_MIB` how large the large file is (1,024).

#[path = "endtoend/meter.rs"]
mod meter;

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
use meter::{Meter, Spent, peak_mib};

const MIB: usize = 1 << 20;

/// Clients of small files.
const CLIENTS: usize = 16;

#[tokio::main]
async fn main() -> Result<()> {
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (rounds, large_mib) = (number("BENCH_ROUNDS", 3), number("BENCH_LARGE_MIB", 1024));
    println!("## The cluster\n");
    println!("| what | figure | CPU s, nodes | CPU s, client | peak memory of a node |");
    println!("| --- | --- | --- | --- | --- |");
    machine(large_mib)?;
    let mut sections = Vec::new();
    let mut cipher = None;
    for round in 1..=rounds as u64 {
        let cluster = Cluster::start(3).await?;
        sections = large(&cluster, round, large_mib).await?;
        sections.extend(small(&cluster, round, 4096).await?);
        sections.extend(small(&cluster, round, 65_536).await?);
        cipher = meter::cipher(&cluster).await?;
    }
    println!("\nThe connections between the nodes negotiated {}.", cipher.as_deref().unwrap_or("nothing"));
    println!("\n## Where the time goes\n");
    println!(
        "Of the last round: processor time by threads of the three nodes, and what the nodes and the kernel counted.\n"
    );
    println!("| what | of | user | system | switches | commits | durable | a commit or file made durable |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    sections.iter().for_each(Section::print);
    println!();
    for section in &sections {
        println!("- {}: {}", section.what, section.spent.threads(section.count));
    }
    gossip(large_mib).await
}

/// What an operation cost.
struct Section {
    what: String,
    unit: &'static str,
    count: f64,
    spent: Spent,
}

impl Section {
    fn print(&self) {
        let Self { what, unit, count, spent } = self;
        let durable = spent.durable_ms().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"));
        println!(
            "| {what} | {unit} | {:.2} ms | {:.2} ms | {:.0} | {:.2} | {:.2} | {durable} |",
            spent.user * 1e3 / count,
            spent.system * 1e3 / count,
            spent.switches / count,
            spent.commits / count,
            spent.syncs / count,
        );
    }
}

/// What the disk and the loopback give without us.
fn machine(large_mib: usize) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let started = Instant::now();
    let output = Command::new("dd")
        .args(["if=/dev/zero", "bs=4M", &format!("count={}", large_mib / 4), "conv=fsync"])
        .arg(format!("of={}", directory.path().join("dd").display()))
        .output()
        .context("run dd")?;
    ensure!(output.status.success(), "dd failed");
    println!("| dd conv=fsync, {large_mib} MiB | {} | | | |", rate(large_mib * MIB, started.elapsed()));

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
    for _ in 0..large_mib {
        stream.write_all(&piece)?;
    }
    drop(stream);
    let total = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    println!("| loopback TCP, one stream, {large_mib} MiB | {} | | | |", rate(total, started.elapsed()));
    Ok(())
}

/// Puts a large file; its pieces differ from each other and from those of other seeds.
async fn put_large(cluster: &Cluster, name: &str, seed: u64, mib: usize) -> Result<()> {
    let base = random_bytes(seed, MIB);
    let piece = move |i: usize| {
        let mut piece = base.to_vec();
        piece[..8].copy_from_slice(&(i as u64).to_le_bytes());
        Bytes::from(piece)
    };
    let body = futures::stream::iter((0..mib).map(move |i| Ok::<_, std::io::Error>(piece(i))));
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = cluster.nodes[0].file_url(name);
    let put = client.put(&url).body(reqwest::Body::wrap_stream(body)).send().await?;
    ensure!(put.status() == 200, "{}", put.text().await?);
    Ok(())
}

async fn get_large(cluster: &Cluster, node: usize, name: &str, mib: usize) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut stream = client.get(cluster.nodes[node].file_url(name)).send().await?.bytes_stream();
    let mut total = 0;
    while let Some(bytes) = stream.next().await {
        total += bytes?.len();
    }
    ensure!(total == mib * MIB, "{total} bytes of {mib} MiB came");
    Ok(())
}

async fn large(cluster: &Cluster, round: u64, mib: usize) -> Result<Vec<Section>> {
    let gigabytes = (mib * MIB) as f64 / 1e9;
    let mut sections = Vec::new();
    let meter = Meter::start(cluster).await?;
    put_large(cluster, "large", round, mib).await?;
    let spent = meter.stop(cluster).await?;
    row(cluster, &format!("put {mib} MiB, quorum, run {round}"), &rate(mib * MIB, spent.elapsed), &spent)?;
    sections.push(Section { what: format!("put {mib} MiB"), unit: "a GB", count: gigabytes, spent });

    for (node, label) in [
        (0, "through the receiver"),
        (1, "through another node, first time"),
        (1, "through another node, again"),
    ] {
        let meter = Meter::start(cluster).await?;
        get_large(cluster, node, "large", mib).await?;
        let spent = meter.stop(cluster).await?;
        let what = format!("get {mib} MiB {label}");
        row(cluster, &format!("{what}, run {round}"), &rate(mib * MIB, spent.elapsed), &spent)?;
        sections.push(Section { what, unit: "a GB", count: gigabytes, spent });
    }

    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut firsts = Vec::new();
    let meter = Meter::start(cluster).await?;
    for i in 0..50 {
        let at = (mib / 2 + i * mib / 200) * MIB + 12_345;
        let started = Instant::now();
        let request = client.get(cluster.nodes[0].file_url("large"));
        let request = request.header("Range", format!("bytes={at}-{}", at + 65_535));
        let mut stream = request.send().await?.bytes_stream();
        let first = stream.next().await.context("a range has bytes")??;
        ensure!(!first.is_empty());
        firsts.push(started.elapsed());
        while let Some(rest) = stream.next().await {
            rest?;
        }
    }
    let spent = meter.stop(cluster).await?;
    let what = format!("first byte of a range in the middle of {mib} MiB, run {round}");
    row(cluster, &what, &quantiles(&mut firsts), &spent)?;
    Ok(sections)
}

async fn small(cluster: &Cluster, round: u64, size: usize) -> Result<Vec<Section>> {
    let count = if size > 10_000 { 3_000 } else { 8_000 };
    let bodies: Arc<Vec<Bytes>> = {
        // Made before the clock runs: the client's work is not what is measured.
        let mut base = random_bytes(round << 32 | size as u64, size).to_vec();
        Arc::new(
            (0..count as u64)
                .map(|i| {
                    base[..8].copy_from_slice(&i.to_le_bytes());
                    Bytes::copy_from_slice(&base)
                })
                .collect(),
        )
    };
    let mut sections = Vec::new();
    for verb in ["put", "get"] {
        let next = Arc::new(AtomicUsize::new(0));
        let meter = Meter::start(cluster).await?;
        let workers = (0..CLIENTS).map(|_| {
            let (next, bodies) = (next.clone(), bodies.clone());
            let urls: Vec<String> = cluster.nodes.iter().map(|n| n.file_url("")).collect();
            let client = cluster.nodes[0].client().clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(body) = bodies.get(i) else { return anyhow::Ok(times) };
                    let url = format!("{}small/{size}/{i}", urls[i % urls.len()]);
                    let started = Instant::now();
                    if verb == "put" {
                        let answer = client.put(url).body(body.clone()).send().await?;
                        ensure!(answer.status() == 200, "{}", answer.text().await?);
                        answer.bytes().await?;
                    } else {
                        let answer = client.get(url).send().await?;
                        ensure!(
                            answer.status() == 200 && answer.bytes().await? == *body,
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
        let spent = meter.stop(cluster).await?;
        let per_second = count as f64 / spent.elapsed.as_secs_f64();
        let what = format!("{verb} {} KiB, {CLIENTS} clients", size / 1024);
        let figure = format!("{per_second:.0}/s, {}", quantiles(&mut times));
        row(cluster, &format!("{what}, run {round}"), &figure, &spent)?;
        sections.push(Section {
            what,
            unit: if verb == "put" { "a put" } else { "a get" },
            count: count as f64,
            spent,
        });
    }
    Ok(sections)
}

/// How long probes take, idle and while a large file goes over the same nodes.
async fn gossip(large_mib: usize) -> Result<()> {
    const PERIOD: &str = "20";
    let cluster = Cluster::start_with(3, &[("SWIM_PERIOD_MS", PERIOD)]).await?;
    println!("\n## Probes\n");
    println!(
        "From a probe to its answer over UDP, by the nodes' own histograms (buckets a quarter apart, upper ends), one"
    );
    println!("probe in {PERIOD} ms a node.\n");
    println!("| while | probes | p50 | p99 |");
    println!("| --- | --- | --- | --- |");
    let before = meter::round_trips(&cluster).await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let idle = meter::round_trips(&cluster).await?;
    println!("| idle | {} |", idle.since(&before));
    for run in 0..2 {
        put_large(&cluster, &format!("bulk{run}"), 100 + run, large_mib).await?;
    }
    let bulk = meter::round_trips(&cluster).await?;
    println!("| putting 2 x {large_mib} MiB | {} |", bulk.since(&idle));
    Ok(())
}

fn row(cluster: &Cluster, what: &str, figure: &str, spent: &Spent) -> Result<()> {
    let (nodes, client) = (spent.user + spent.system, spent.client);
    println!("| {what} | {figure} | {nodes:.2} | {client:.2} | {} MiB |", peak_mib(cluster)?);
    Ok(())
}

fn rate(bytes: usize, elapsed: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / elapsed.as_secs_f64())
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99))
}
