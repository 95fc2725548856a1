//! Moves: the old name ends only once a majority knows the new one, and who asked is told what was done.

use std::time::Duration;

use anyhow::{Result, ensure};
use kepler_protocol::api::{Durability, Receipt};
use kepler_tests::cluster::{Cluster, Node, eventually, random_bytes};
use reqwest::{Response, StatusCode};

async fn shift(node: &Node, from: &str, to: &str, durability: &str) -> Result<Response> {
    let body = serde_json::json!({"from": from, "to": to, "durability": durability});
    let request = node.client().post(format!("{}/v1/move", node.url()));
    Ok(request.header("Kepler-Client", "test").body(body.to_string()).send().await?)
}

async fn status(node: &Node, name: &str) -> Result<StatusCode> {
    Ok(node.try_get(name).await?.status())
}

#[tokio::test]
async fn a_file_that_was_moved_fast_outlives_the_node_that_moved_it() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let body = random_bytes(41, 9 << 20);
    for round in 0..6 {
        let (from, to) = (format!("before/{round}"), format!("after/{round}"));
        cluster.nodes[0].put(&from, body.clone()).await?;
        let moved = shift(&cluster.nodes[0], &from, &to, "fast").await?;
        ensure!(moved.status() == StatusCode::OK, "{moved:?}");
        let receipt: Receipt = serde_json::from_slice(&moved.bytes().await?)?;
        ensure!(receipt.durability == Durability::Quorum, "{receipt:?}");
        for node in &cluster.nodes[1..] {
            let seen = (status(node, &from).await?, status(node, &to).await?);
            ensure!(seen == (StatusCode::NOT_FOUND, StatusCode::OK), "round {round}, {}: {seen:?}", node.id);
        }
    }
    let last = shift(&cluster.nodes[0], "after/0", "at last", "fast").await?;
    ensure!(last.status() == StatusCode::OK, "{last:?}");
    cluster.nodes[0].kill();
    std::fs::remove_dir_all(&cluster.nodes[0].data)?;
    for node in &cluster.nodes[1..] {
        ensure!(node.get("at last").await? == body, "{}: other bytes", node.id);
        ensure!(node.get("after/5").await? == body, "{}: other bytes", node.id);
    }
    println!("7 fast moves seen through the others at once, and read without the node that made them");
    Ok(())
}

#[tokio::test]
async fn a_move_that_fails_says_what_it_has_done() -> Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let names = 12;
    for name in 0..names {
        cluster.nodes[0].put(&format!("from/{name}"), format!("file {name}")).await?;
    }
    cluster.nodes[2].kill();
    cluster.nodes[3].kill();
    let (mut moved, mut refused, mut half) = (0, 0, 0);
    for name in 0..names {
        let (from, to) = (format!("from/{name}"), format!("to/{name}"));
        let answer = shift(&cluster.nodes[0], &from, &to, "quorum").await?;
        let (code, version) = (answer.status(), answer.headers().get("kepler-version").cloned());
        let problem: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
        // What is left of the name's home replicas may be no majority: then what this node knows is shown.
        let (old, new) = (status(&cluster.nodes[0], &from).await?, status(&cluster.nodes[0], &to).await?);
        match code {
            StatusCode::OK => {
                moved += 1;
                ensure!(old != StatusCode::OK && new == StatusCode::OK, "{name} moved: {old}, {new}");
            }
            _ if problem["type"] == "unknown" => {
                half += 1;
                ensure!(version.is_some(), "{name}: {problem} without a version");
                ensure!(old == StatusCode::OK, "{name} is half moved: {old}, {new}");
            }
            _ => {
                refused += 1;
                ensure!(code == StatusCode::SERVICE_UNAVAILABLE, "{name}: {code}, {problem}");
                ensure!(
                    old == StatusCode::OK && new != StatusCode::OK,
                    "{name}: {problem}, but {old}, {new}"
                );
            }
        }
    }
    println!(
        "of {names} moves with two of four dead {moved} were done, {refused} refused without a trace, {half} half done and said so"
    );
    ensure!(moved + half > 0 && refused + half > 0, "the names are all alike");
    for node in [2, 3] {
        cluster.nodes[node].start()?;
    }
    cluster.settle().await?;
    for name in 0..names {
        let (from, to) = (format!("from/{name}"), format!("to/{name}"));
        // A move that was done stays done; any other can be made again.
        if status(&cluster.nodes[1], &from).await? == StatusCode::OK {
            let again = shift(&cluster.nodes[1], &from, &to, "quorum").await?;
            ensure!(again.status() == StatusCode::OK, "{name} again: {again:?}");
        }
        for node in &cluster.nodes {
            ensure!(node.get(&to).await? == format!("file {name}"), "{}: {to}", node.id);
            ensure!(
                status(node, &from).await? == StatusCode::NOT_FOUND,
                "{}: {from} is still there",
                node.id
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_node_alone_lists_what_it_knows() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for name in 0..20 {
        cluster.nodes[0].put(&format!("kept/{name}"), format!("file {name}")).await?;
    }
    eventually("every node lists all", Duration::from_secs(20), async || {
        let lists = cluster.nodes.iter().map(|node| node.list());
        futures::future::join_all(lists).await.into_iter().all(|list| list.is_ok_and(|list| list.len() == 20))
    })
    .await?;
    for node in &mut cluster.nodes {
        node.kill();
    }
    cluster.nodes[1].start()?;
    let node = &cluster.nodes[1];
    eventually("the node alone lists what it knows", Duration::from_secs(20), async || {
        node.list().await.is_ok_and(|listed| listed.len() == 20)
    })
    .await?;
    ensure!(!node.is_ready().await, "one of three has no majority");
    ensure!(node.get("kept/7").await? == "file 7", "it is read where it is");
    Ok(())
}
