//! Nodes die, freeze and come back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api::Status;
use kepler_tests::cluster::{Cluster, eventually, random_bytes};
use reqwest::StatusCode;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn with_one_of_three_killed_reads_and_writes_go_on() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let body = random_bytes(1, 5 * MIB);
    for i in 0..10 {
        cluster.nodes[i % 3].put(&format!("before/{i}"), body.clone()).await?;
    }
    cluster.nodes[2].kill();
    let mut slowest = Duration::ZERO;
    for i in 0..10 {
        for writer in 0..2 {
            let started = Instant::now();
            let name = format!("after/{writer}/{i}");
            cluster.nodes[writer].put(&name, random_bytes(i, MIB)).await?;
            ensure!(cluster.nodes[1 - writer].get(&name).await?.len() == MIB);
            ensure!(cluster.nodes[writer].get(&format!("before/{i}")).await? == body);
            slowest = slowest.max(started.elapsed());
        }
    }
    ensure!(slowest < Duration::from_secs(10), "the slowest put and two gets took {slowest:?}");
    println!("one of three killed: 20 puts and 40 gets answered, the slowest round took {slowest:?}");
    Ok(())
}

#[tokio::test]
async fn with_two_of_three_killed_quorum_is_refused_and_fast_is_taken() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.nodes[0].put("kept", "before").await?;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let survivor = &cluster.nodes[0];
    let started = Instant::now();
    let refused = survivor.try_put("quorum", "", "x").await?;
    ensure!(refused.status() == StatusCode::SERVICE_UNAVAILABLE);
    ensure!(refused.headers().contains_key("retry-after"));
    let text = refused.text().await?;
    ensure!(text.contains("no-quorum"), "{text}");
    ensure!(started.elapsed() < Duration::from_secs(11), "refused only after {:?}", started.elapsed());
    let fast = survivor.try_put("fast", "?durability=fast", "y").await?;
    ensure!(fast.status() == StatusCode::OK, "{}", fast.text().await?);
    ensure!(survivor.get("fast").await? == "y");
    // A name that this node does not know cannot be said to be absent.
    ensure!(survivor.try_get("unknown").await?.status() == StatusCode::SERVICE_UNAVAILABLE);
    let known = survivor.try_get("kept").await?;
    ensure!(known.status() == StatusCode::OK && known.headers()["kepler-consistency"] == "local");

    // The receiver is killed right after it said yes, and everybody comes back.
    cluster.nodes[0].kill();
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.settle().await?;
    eventually("the fast write reaches the others", Duration::from_secs(60), async || {
        for node in &cluster.nodes {
            if !matches!(node.get("fast").await, Ok(body) if body == "y") {
                return false;
            }
        }
        true
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    for node in &cluster.nodes {
        ensure!(node.try_get("quorum").await?.status() == StatusCode::NOT_FOUND, "a refused write surfaced");
    }
    println!("two of three killed: quorum 503, fast 200, and the fast write reached all after the restart");
    Ok(())
}

#[tokio::test]
async fn a_cluster_restarted_in_reverse_order_has_everything() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for i in 0..20 {
        cluster.nodes[i % 3].put(&format!("kept/{i}"), random_bytes(i as u64, 100_000 * i)).await?;
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in cluster.nodes.iter_mut().rev() {
        node.start()?;
    }
    cluster.settle().await?;
    for i in 0..20 {
        let body = random_bytes(i as u64, 100_000 * i);
        for node in &cluster.nodes {
            ensure!(node.get(&format!("kept/{i}")).await? == body);
        }
    }
    let started = Instant::now();
    eventually("three copies of each chunk", Duration::from_secs(60), async || {
        cluster.copies().values().all(|copies| *copies == 3)
    })
    .await?;
    println!("restart in reverse: 20 files through 3 nodes, three copies after {:?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_frozen_node_is_suspected_then_dead_then_back_without_a_restart() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    cluster.nodes[0].put("before", "1").await?;
    let frozen = &cluster.nodes[2];
    frozen.signal("STOP")?;
    let mut seen = Vec::new();
    eventually("the frozen node is dead", Duration::from_secs(30), async || {
        let status = cluster.nodes[0].sees(&frozen.id).await;
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        status == Some(Status::Dead)
    })
    .await?;
    ensure!(seen.contains(&Some(Status::Suspect)), "it was never suspect: {seen:?}");
    cluster.nodes[0].put("meanwhile", "2").await?;
    frozen.signal("CONT")?;
    cluster.settle().await?;
    for name in ["before", "meanwhile"] {
        ensure!(!frozen.get(name).await?.is_empty());
    }
    println!("frozen: {seen:?}, then alive again and serving what it missed");
    Ok(())
}

#[tokio::test]
async fn a_reader_whose_holders_are_all_frozen_hears_so_in_time() -> Result<()> {
    let cluster = Cluster::start_with(4, &[("REPLICATION_FACTOR", "1")]).await?;
    // With one copy, some files are on one other node alone.
    let mut elsewhere = None;
    for i in 0..40 {
        let chunk =
            cluster.nodes[0].put(&format!("file/{i}"), random_bytes(100 + i, MIB + 1)).await?.cid.to_string();
        if let Some(at) = (1..4).find(|n| cluster.nodes[*n].chunk_files().contains_key(&chunk)) {
            elsewhere = Some((i, at));
            break;
        }
    }
    let (i, at) = elsewhere.ok_or_else(|| anyhow::anyhow!("40 files all stayed here"))?;
    cluster.nodes[at].signal("STOP")?;
    let started = Instant::now();
    let answer = cluster.nodes[0].try_get(&format!("file/{i}")).await?;
    let took = started.elapsed();
    cluster.nodes[at].signal("CONT")?;
    ensure!(answer.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", answer.status());
    ensure!(took < Duration::from_secs(12), "answered only after {took:?}");
    println!("the only holder frozen: 503 after {took:?}");
    Ok(())
}
