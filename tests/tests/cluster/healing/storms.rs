//! Many things at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api;
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, eventually};

use super::{Load, MIB, Owners, exactly_placed, misplaced, read_all, with, write};

const CAP: u64 = 4_000_000;

#[tokio::test]
async fn three_nodes_that_join_while_one_returns_stay_under_the_cap_and_clients_go_on() -> Result<()> {
    let settings = with(&[("REBALANCE_BANDWIDTH_MBPS", "4"), ("HANDOFF_GRACE_SECS", "60")]);
    let mut cluster = Cluster::start_with(4, &settings).await?;
    let files = write(&cluster, "storm", 60, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 4, &chunks, Duration::from_secs(60)).await?;
    cluster.nodes[3].kill();
    // It is away for long enough that its chunks are copied.
    let seen_by = &cluster.nodes[0];
    eventually("its chunks are copied", Duration::from_secs(90), async || {
        let Ok(owners) = Owners::by(seen_by).await else { return false };
        owners.nodes() == 3 && misplaced(&cluster, &owners, &chunks).0 == 0
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;

    let load = Load::start(&cluster, &files, "meanwhile");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (calm_operations, calm) = (load.operations(), Duration::from_secs(4));
    for _ in 0..3 {
        cluster.add()?;
    }
    cluster.nodes[3].start()?;
    let started = Instant::now();
    let (mut most, mut samples) = (0, 0);
    let seen_by = &cluster.nodes[0];
    loop {
        for node in &cluster.nodes {
            if let Ok(status) = node.json::<api::NodeStatus>("/v1/status").await {
                most = status.bandwidth.used_bytes_per_second.max(most);
                samples += 1;
            }
        }
        let placed = match Owners::by(seen_by).await {
            Ok(owners) => owners.nodes() == 7 && misplaced(&cluster, &owners, &chunks).0 == 0,
            Err(_) => false,
        };
        if placed {
            break;
        }
        if started.elapsed() > Duration::from_secs(180) {
            cluster.print_logs();
            anyhow::bail!("not every owner has its copies within three minutes");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = started.elapsed();
    let stormy_operations = load.operations() - calm_operations;
    let outcome = load.finish().await?;
    ensure!(outcome.failed.is_empty(), "{} failed, such as {}", outcome.failed.len(), outcome.failed[0]);
    let (before, meanwhile) =
        (calm_operations as f64 / calm.as_secs_f64(), stormy_operations as f64 / took.as_secs_f64());
    ensure!(meanwhile * 2.0 >= before, "{before} operations a second became {meanwhile}");
    ensure!(most * 10 <= CAP * 11, "{most} bytes within one second");
    let read = read_all(&cluster, &files).await? + outcome.read_back(&cluster).await?;
    println!(
        "storm: three joined and one returned; every owner had its copies after {took:?}, at most {most} bytes a second of {CAP} \
         ({samples} samples); clients: {before:.0} operations a second before, {meanwhile:.0} meanwhile, none failed, slowest {:?}; {read} reads",
        outcome.slowest,
    );
    Ok(())
}
