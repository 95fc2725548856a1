//! Databases that are lost, damaged or restored from an older copy.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kepler_tests::cluster::{Cluster, eventually, random_bytes, scaled};

const FILES: [&str; 3] = ["kepler.db", "kepler.db-wal", "kepler.db-shm"];

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for name in FILES {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        } else {
            let _ = std::fs::remove_file(to);
        }
    }
    Ok(())
}

/// Writes through every node in turn; returns names, contents and version tokens.
async fn write(cluster: &Cluster, round: &str, count: usize) -> Result<Vec<(String, u64, String)>> {
    let mut written = Vec::new();
    for i in 0..count {
        let seed = (round.len() * 10_000 + i) as u64;
        let name = format!("{round}/{i}");
        let receipt = cluster.nodes[i % cluster.nodes.len()].put(&name, random_bytes(seed, 1000)).await?;
        written.push((name, seed, receipt.version));
    }
    Ok(written)
}

async fn check(cluster: &Cluster, written: &[(String, u64, String)]) -> Result<()> {
    for (name, seed, version) in written {
        for node in &cluster.nodes {
            let response = node.try_get(name).await?;
            let etag = response.headers().get("etag").map(|v| v.to_str().unwrap_or_default().to_owned());
            ensure!(response.status() == 200, "{name} through {}: {}", node.id, response.status());
            ensure!(
                etag.as_deref() == Some(&format!("\"{version}\"")),
                "{name} through {}: {etag:?}",
                node.id
            );
            ensure!(response.bytes().await? == random_bytes(*seed, 1000), "{name} through {}", node.id);
        }
    }
    let tokens: BTreeSet<&String> = written.iter().map(|(_, _, version)| version).collect();
    ensure!(tokens.len() == written.len(), "a version token was used twice");
    Ok(())
}

#[tokio::test]
async fn a_lost_a_damaged_and_an_old_database_lose_no_acknowledged_version() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let count = scaled(300);
    let mut written = write(&cluster, "first", count).await?;

    // One database is deleted.
    cluster.nodes[0].kill();
    for name in FILES {
        let _ = std::fs::remove_file(cluster.nodes[0].data.join(name));
    }
    cluster.nodes[0].start()?;
    cluster.settle().await?;
    check(&cluster, &written).await.inspect_err(|_| cluster.print_logs())?;
    written.extend(write(&cluster, "second!", count).await?);

    // One is overwritten with noise.
    cluster.nodes[1].kill();
    let path = cluster.nodes[1].data.join("kepler.db");
    std::fs::write(&path, random_bytes(1, 100_000))?;
    cluster.nodes[1].start()?;
    cluster.settle().await?;
    check(&cluster, &written).await.inspect_err(|_| cluster.print_logs())?;

    // One is restored from a copy that is older than what the node has promised since.
    cluster.nodes[2].terminate().await?;
    let backup = cluster.nodes[2].data.with_extension("backup");
    copy(&cluster.nodes[2].data, &backup)?;
    cluster.nodes[2].start()?;
    cluster.settle().await?;
    written.extend(write(&cluster, "third!!!", count).await?);
    cluster.nodes[2].kill();
    copy(&backup, &cluster.nodes[2].data)?;
    cluster.nodes[2].start()?;
    cluster.settle().await?;
    check(&cluster, &written).await.inspect_err(|_| cluster.print_logs())?;
    written.extend(write(&cluster, "fourth!!!!", count).await?);
    check(&cluster, &written).await?;

    eventually("all nodes list the same names", Duration::from_secs(30), async || {
        let mut listings = Vec::new();
        for node in &cluster.nodes {
            listings.push(node.list().await.unwrap_or_default());
        }
        listings[0].len() == written.len() && listings.iter().all(|l| *l == listings[0])
    })
    .await?;
    println!(
        "databases: one lost, one damaged, one restored from an older copy; {} versions all there through 3 nodes, no token twice",
        written.len()
    );
    Ok(())
}
