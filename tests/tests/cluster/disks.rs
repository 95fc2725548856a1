//! Disks that are full: at their reserve, or to the last byte.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kepler_tests::cluster::{Cluster, Node, eventually, random_bytes};
use reqwest::StatusCode;

const MIB: usize = 1 << 20;

/// A small disk of its own; taken down when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, mib: usize) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status()?;
        ensure!(mounted.success(), "mount a tmpfs at {}", path.display());
        Ok(Self(path.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("somebody-elses")
    }

    /// Leaves not one byte; says how many there were.
    fn fill(&self) -> Result<u64> {
        let mut file = std::fs::File::options().create(true).append(true).open(self.filler())?;
        for piece in [MIB, 4096, 1] {
            let piece = vec![1; piece];
            while std::io::Write::write(&mut file, &piece).is_ok_and(|written| written > 0) {}
        }
        Ok(file.metadata()?.len())
    }

    fn free(&self) -> Result<()> {
        std::fs::remove_file(self.filler()).context("remove what filled the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_node_at_its_reserve_is_replaced_by_the_next_and_refuses_where_there_is_none() -> Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let full = cluster.nodes[3].id.clone();
    cluster.nodes[3].terminate().await?;
    cluster.nodes[3].set("MIN_FREE_MB", "1000000000");
    cluster.nodes[3].start()?;
    cluster.settle().await?;
    let mut handed_over = 0;
    for i in 0..24 {
        // Files of their own and chunks in the database alike.
        let body = random_bytes(i, if i % 2 == 0 { 2 * MIB } else { 4096 });
        let receipt = cluster.nodes[usize::try_from(i)? % 3].put(&format!("file/{i}"), body.clone()).await?;
        ensure!(receipt.replicas.acked >= 2, "{receipt:?}");
        let queued = receipt.replicas.queued.iter().any(|queued| queued.node.as_str() == full);
        handed_over += usize::from(queued);
        ensure!(cluster.nodes[(usize::try_from(i)? + 1) % 3].get(&format!("file/{i}")).await? == body);
    }
    ensure!(handed_over > 0, "the full node owned nothing of 24 files");
    // It takes uploads all the same, and the bytes go elsewhere.
    let body = random_bytes(99, 2 * MIB);
    let cid = cluster.nodes[3].put("here", body.clone()).await?.cid.to_string();
    ensure!(cluster.nodes[0].get("here").await? == body);
    ensure!(cluster.nodes[3].get("file/0").await?.len() == 2 * MIB);
    ensure!(!cluster.nodes[3].chunk_files().contains_key(&cid), "it went below its reserve");

    // Where nobody else is, there is nothing to hand over to.
    let alone = Cluster::start_with(1, &[("MIN_FREE_MB", "1000000000")]).await?;
    for size in [2 * MIB, 4096] {
        let refused = alone.nodes[0].try_put("alone", "", random_bytes(7, size)).await?;
        ensure!(refused.status() == StatusCode::INSUFFICIENT_STORAGE, "{}", refused.status());
        let text = refused.text().await?;
        ensure!(text.contains("reserve"), "{text}");
    }
    println!(
        "24 files put around a full peer, {handed_over} of them with a copy owed to it; alone it answers 507"
    );
    Ok(())
}

/// The right bytes, or that the catalog of this node waits for room: then they come once there is some.
async fn reads(node: &Node, name: &str, body: &[u8]) -> Result<()> {
    let answer = node.try_get(name).await?;
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        let text = answer.text().await?;
        ensure!(text.contains("the disk is full"), "{name} through {}: {text}", node.id);
        return Ok(());
    }
    ensure!(answer.status() == StatusCode::OK, "{name} through {}: {}", node.id, answer.status());
    ensure!(answer.bytes().await? == body, "{name} through {} differs", node.id);
    Ok(())
}

#[tokio::test]
async fn disks_without_a_byte_left_refuse_writes_and_take_them_again_without_a_restart() -> Result<()> {
    const DISK: usize = 96;
    let mut cluster = Cluster::start_with(0, &[("MIN_FREE_MB", "0")]).await?;
    let mut disks = Vec::new();
    for _ in 0..3 {
        let node = cluster.prepare()?;
        disks.push(Disk::mount(&node.data, DISK)?);
        node.start()?;
    }
    cluster.settle().await?;
    let body = random_bytes(1, 2 * MIB);
    cluster.nodes[0].put("kept", body.clone()).await?;
    let pids: Vec<_> = cluster.nodes.iter().map(|node| node.pid()).collect();

    let mut acknowledged = vec![("kept".to_owned(), body.clone())];
    for full in [1, 2, 3] {
        for disk in &disks[..full] {
            disk.fill()?;
        }
        if full == disks.len() {
            // What each keeps in reserve makes room for a write or two, until it is given up.
            for node in &cluster.nodes {
                eventually("a full disk is noticed", Duration::from_secs(30), async || {
                    let name = format!("noticed/{}", node.id);
                    node.try_put(&name, "", "x").await.is_ok_and(|answer| answer.status() != StatusCode::OK)
                })
                .await?;
            }
        }
        let (started, mut refused, mut taken) = (Instant::now(), 0, 0);
        for i in 0..30 {
            let size = if i % 2 == 0 { 2 * MIB } else { 4096 };
            let name = format!("full/{full}/{i}");
            let body = random_bytes(1_000 * full as u64 + i, size);
            let answer = cluster.nodes[usize::try_from(i)? % 3].try_put(&name, "", body.clone()).await?;
            match answer.status() {
                StatusCode::OK => {
                    taken += 1;
                    // A small one may fit into what the database has already.
                    ensure!(full < 3 || size == 4096, "{name} was taken without a byte left for it");
                    reads(&cluster.nodes[0], &name, &body).await?;
                    acknowledged.push((name, body));
                }
                StatusCode::INSUFFICIENT_STORAGE => refused += 1,
                StatusCode::SERVICE_UNAVAILABLE => refused += 1,
                other => anyhow::bail!("{name}: {other} {}", answer.text().await?),
            }
        }
        for node in &cluster.nodes {
            reads(node, "kept", &body).await?;
        }
        let took = started.elapsed();
        for disk in &disks[..full] {
            disk.free()?;
        }
        let started = Instant::now();
        for (at, node) in cluster.nodes.iter().enumerate() {
            eventually("writes are taken again", Duration::from_secs(30), async || {
                let name = format!("again/{full}/{at}");
                node.try_put(&name, "", "x").await.is_ok_and(|answer| answer.status() == StatusCode::OK)
            })
            .await?;
        }
        println!(
            "{full} of 3 disks full: {taken} of 30 writes taken and readable, {refused} refused in {took:?}; \
             all taken {:?} after there was room",
            started.elapsed()
        );
    }
    ensure!(acknowledged.len() > 1);
    for node in &cluster.nodes {
        for (name, body) in &acknowledged {
            ensure!(node.get(name).await? == *body, "{name} through {} differs", node.id);
        }
    }
    println!("{} writes acknowledged meanwhile, all read back through 3 nodes", acknowledged.len());
    for (node, pid) in cluster.nodes.iter_mut().zip(pids) {
        ensure!(node.exited().is_none() && node.pid() == pid, "{} was restarted or ended", node.id);
    }
    cluster.nodes.clear(); // before their disks go
    Ok(())
}
