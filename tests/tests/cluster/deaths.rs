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
    let before = rounds(&cluster, "with-three", &body).await?;
    cluster.nodes[2].kill();
    let after = rounds(&cluster, "with-two", &body).await?;
    let slowest = after.iter().copied().max().unwrap_or_default();
    ensure!(slowest < Duration::from_secs(10), "the slowest put and two gets took {slowest:?}");
    let (before, after) = (median(before), median(after));
    ensure!(after < 3 * before + Duration::from_millis(100), "{before:?} became {after:?}");
    println!(
        "one of three killed: 20 puts and 40 gets answered, the slowest round took {slowest:?}, half of them \
         less than {after:?} ({before:?} before)"
    );
    Ok(())
}

/// How long a put through one of two nodes, a get of it through the other, and one of an older file take.
async fn rounds(cluster: &Cluster, prefix: &str, body: &[u8]) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for i in 0..10 {
        for writer in 0..2 {
            let started = Instant::now();
            let name = format!("{prefix}/{writer}/{i}");
            cluster.nodes[writer].put(&name, random_bytes(i, MIB)).await?;
            ensure!(cluster.nodes[1 - writer].get(&name).await?.len() == MIB);
            ensure!(cluster.nodes[writer].get(&format!("before/{i}")).await? == body);
            took.push(started.elapsed());
        }
    }
    Ok(took)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
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
    let last = survivor.try_put("last", "?durability=fast", "z").await?;
    cluster.nodes[0].kill();
    ensure!(last.status() == StatusCode::OK, "{}", last.text().await?);
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.settle().await?;
    eventually("the fast write reaches the others", Duration::from_secs(60), async || {
        for node in &cluster.nodes {
            for (name, text) in [("fast", "y"), ("last", "z")] {
                if !matches!(node.get(name).await, Ok(body) if body == text) {
                    return false;
                }
            }
        }
        true
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    for node in &cluster.nodes {
        ensure!(node.try_get("quorum").await?.status() == StatusCode::NOT_FOUND, "a refused write surfaced");
    }
    println!("two of three killed: quorum 503, fast 200, and both fast writes reached all after the restart");
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

#[tokio::test]
async fn a_reader_does_not_wait_for_a_frozen_holder_where_others_have_the_chunk() -> Result<()> {
    let cluster = Cluster::start(4).await?;
    let mut files = Vec::new();
    for i in 0..40 {
        let name = format!("file/{i}");
        let chunk = cluster.nodes[1].put(&name, random_bytes(200 + i, MIB)).await?.cid.to_string();
        let held = |n: usize| cluster.nodes[n].chunk_files().contains_key(&chunk);
        if !held(0) && held(3) {
            files.push((i, name));
        }
    }
    ensure!(files.len() >= 3, "only {} files are on the last node and not on the first", files.len());
    cluster.nodes[3].signal("STOP")?;
    let mut slowest = Duration::ZERO;
    for (i, name) in &files {
        let started = Instant::now();
        ensure!(cluster.nodes[0].get(name).await? == random_bytes(200 + i, MIB), "{name}");
        slowest = slowest.max(started.elapsed());
    }
    let status = cluster.nodes[0].sees(&cluster.nodes[3].id).await;
    cluster.nodes[3].signal("CONT")?;
    ensure!(slowest < Duration::from_secs(2), "the slowest read took {slowest:?}");
    println!(
        "a holder frozen: {} reads through a node without the chunks, the slowest in {slowest:?}; then it was \
         {status:?}",
        files.len()
    );
    Ok(())
}
