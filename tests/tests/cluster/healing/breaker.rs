//! A network that splits in the middle: nothing is deleted, and last copies are made first.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api::{Health, Status};
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, eventually};

use super::{MIB, background_bytes, hash_disks, holders, read_all, with, write};

/// How many of the nodes of one side hold a chunk.
fn held_by(cluster: &Cluster, side: &[usize], chunk: &ChunkId) -> usize {
    let holders = holders(cluster);
    let holds = |at: &&usize| holders.get(chunk).is_some_and(|nodes| nodes.contains(&cluster.nodes[**at].id));
    side.iter().filter(holds).count()
}

/// How many chunk files each node has.
fn files_of(cluster: &Cluster) -> Vec<usize> {
    cluster.nodes.iter().map(|node| node.chunk_files().len()).collect()
}

#[tokio::test]
async fn a_split_deletes_nothing_and_makes_last_copies_first_and_the_rest_slowly() -> Result<()> {
    const CAP: f64 = 20e6;
    let cluster = Cluster::start_apart(5, &with(&[("REBALANCE_BANDWIDTH_MBPS", "20")])).await?;
    let files = write(&cluster, "split", 60, MIB).await?;
    let doomed = write(&cluster, "doomed", 10, MIB).await?;
    let side = [2, 3, 4];
    let copies = |file: &super::Stored| held_by(&cluster, &side, &file.chunk);
    let single: Vec<_> = files.iter().filter(|file| copies(file) == 1).collect();
    let double: Vec<_> = files.iter().filter(|file| copies(file) == 2).collect();
    ensure!(single.len() > 4 && double.len() > 10, "{} and {}", single.len(), double.len());

    cluster.network().split(&[&[0, 1], &side])?;
    eventually("both sides see the other dead", Duration::from_secs(30), async || {
        cluster.nodes[4].sees("node-a").await == Some(Status::Dead)
            && cluster.nodes[4].sees("node-b").await == Some(Status::Dead)
            && cluster.nodes[0].sees("node-d").await == Some(Status::Dead)
            && cluster.nodes[0].sees("node-e").await == Some(Status::Dead)
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    let split = Instant::now();
    let before = files_of(&cluster);
    // Deleted by the side that has a majority: the tombstones are taken, and the chunks stay.
    let mut deleted = BTreeSet::new();
    for file in &doomed {
        let request = cluster.nodes[2].client().delete(cluster.nodes[2].file_url(&file.name));
        // Names with two homes on the other side have no majority here.
        if request.send().await.is_ok_and(|response| response.status() == 204) {
            deleted.insert(file.chunk);
        }
    }
    ensure!(!deleted.is_empty(), "nothing could be deleted");
    let mut done_first = None;
    let mut last_second = (Instant::now(), background_bytes(&cluster.nodes[2]).await?);
    let mut fastest_slow = 0.0_f64;
    loop {
        for (at, (now, before)) in files_of(&cluster).iter().zip(&before).enumerate() {
            ensure!(now >= before, "{} deleted something", cluster.nodes[at].id);
        }
        if done_first.is_none() && single.iter().all(|file| copies(file) >= 2) {
            let third = double.iter().filter(|file| copies(file) == 3).count();
            done_first = Some((split.elapsed(), third));
        }
        let (now, bytes) = (Instant::now(), background_bytes(&cluster.nodes[2]).await?);
        let passed = now.duration_since(last_second.0).as_secs_f64();
        if passed >= 2.0 {
            if done_first.is_some() {
                fastest_slow = fastest_slow.max((bytes - last_second.1) / passed);
            }
            last_second = (now, bytes);
        }
        if files.iter().all(|file| copies(file) == 3) {
            break;
        }
        if split.elapsed() > Duration::from_secs(60) {
            cluster.print_logs();
            anyhow::bail!("the majority is not healed");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = split.elapsed();
    let (first, third) = done_first.unwrap_or((took, double.len()));
    ensure!(
        third * 2 < double.len(),
        "{third} of {} third copies came before the last second one",
        double.len()
    );
    let health: Health = cluster.nodes[2].json("/v1/health").await?;
    ensure!(health.nodes.iter().any(|node| node.breaker), "{health:?}");

    cluster.network().heal()?;
    cluster.settle().await?;
    eventually("deleted files are collected once all are back", Duration::from_secs(60), async || {
        holders(&cluster).keys().all(|chunk| !deleted.contains(chunk))
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    let read = read_all(&cluster, &files).await?;
    println!(
        "split 2 to 3: {} last copies doubled after {first:?}, by when {third} of {} third copies were made; all after {took:?}, at {:.1} MB/s a node at most after the first (cap {:.0}); {} deletes meanwhile, no file gone before all were back; {} copies hashed, {read} reads",
        single.len(),
        double.len(),
        fastest_slow / 1e6,
        CAP / 1e6,
        deleted.len(),
        hash_disks(&cluster)?,
    );
    Ok(())
}
