//! kill -9 at random moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use kepler_tests::cluster::{Cluster, client, eventually, random_bytes, scaled};
use reqwest::StatusCode;

#[tokio::test]
async fn killing_nodes_at_random_moments_loses_no_acknowledged_write() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let rounds = scaled(200);
    let mut random = fastrand::Rng::with_seed(42);
    let mut acknowledged: Vec<(String, u64, usize)> = Vec::new();
    let (mut refused, mut broken) = (0, 0);
    for round in 0..rounds {
        let victim = round % 3;
        let writer = if round % 2 == 0 { victim } else { (victim + 1) % 3 };
        let url = cluster.nodes[writer].url();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let load = tokio::spawn(async move {
            let client = client();
            let mut results = Vec::new();
            for i in 0..40u64 {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let seed = round as u64 * 1000 + i;
                let size = [0, 900, 70_000, 5 << 20][(i % 4) as usize];
                let name = format!("crash/{round}/{i}");
                let sent =
                    client.put(format!("{url}/v1/files/{name}")).body(random_bytes(seed, size)).send().await;
                match sent {
                    Ok(response) => results.push((name, seed, size, Some(response.status()))),
                    Err(_) => {
                        results.push((name, seed, size, None));
                        break;
                    }
                }
            }
            results
        });
        tokio::time::sleep(Duration::from_millis(random.u64(5..400))).await;
        cluster.nodes[victim].kill();
        if writer != victim {
            tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
        }
        // What is under way is waited for: its answer counts like every other.
        stop.store(true, Ordering::Relaxed);
        for (name, seed, size, status) in load.await? {
            match status {
                Some(StatusCode::OK) => acknowledged.push((name, seed, size)),
                Some(_) => refused += 1,
                None => broken += 1,
            }
        }
        cluster.nodes[victim].start()?;
        cluster.settle().await?;
    }
    ensure!(acknowledged.len() >= rounds, "only {} writes acknowledged", acknowledged.len());
    let mut reads = 0;
    for (name, seed, size) in &acknowledged {
        let body = random_bytes(*seed, *size);
        for node in &cluster.nodes {
            ensure!(node.get(name).await? == body, "{name} through {} differs", node.id);
            reads += 1;
        }
    }
    eventually("no temporary file is left", Duration::from_secs(10), async || {
        cluster.temporary_files().is_empty()
    })
    .await?;
    let mut torn = 0;
    let mut files = 0;
    for node in &cluster.nodes {
        for (name, path) in node.chunk_files() {
            let id: kepler_protocol::chunk::ChunkId = name.parse()?;
            let bytes = std::fs::read(&path)?;
            torn += usize::from(kepler_protocol::chunk::ChunkId::of(id.codec(), &bytes) != id);
            files += 1;
        }
    }
    ensure!(torn == 0, "{torn} torn chunks");
    println!(
        "kill -9: {rounds} kills, {} acknowledged writes all read back through 3 nodes ({reads} reads), {refused} refused, {broken} broken off, \
         {files} chunk files whole, no temporary file",
        acknowledged.len()
    );
    Ok(())
}
