//! Nodes join while clients read and write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use kepler_tests::cluster::{Cluster, client, random_bytes, scaled};
use reqwest::StatusCode;

#[tokio::test]
async fn five_nodes_join_one_after_another_under_reads_and_writes() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let target = scaled(1000);
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let urls = Arc::new(std::sync::Mutex::new(vec![cluster.nodes[0].url()]));
    let worker = {
        let (stop, done, urls) = (stop.clone(), done.clone(), urls.clone());
        tokio::spawn(async move {
            let client = client();
            let mut failed_writes = Vec::new();
            let mut i = 0;
            while !stop.load(Ordering::Relaxed) || i < target {
                let urls = urls.lock().expect("no panic").clone();
                let name = format!("joining/{i}");
                let body = random_bytes(i as u64, 2000);
                let put = client.put(format!("{}/v1/files/{name}", urls[i % urls.len()])).body(body.clone());
                let response = put.send().await?;
                if response.status() == StatusCode::OK {
                    let reader = &urls[(i + 1) % urls.len()];
                    let read = client.get(format!("{reader}/v1/files/{name}")).send().await?;
                    ensure!(
                        read.status() == StatusCode::OK,
                        "{name} through {reader}: {} {}",
                        read.status(),
                        read.text().await?
                    );
                    ensure!(read.bytes().await? == body, "{name} differs");
                } else {
                    failed_writes.push(format!("{name}: {} {}", response.status(), response.text().await?));
                }
                i += 1;
                done.store(i, Ordering::Relaxed);
            }
            anyhow::Ok((i, failed_writes))
        })
    };
    for _ in 0..5 {
        cluster.add()?;
        cluster.settle().await?;
        let url = cluster.nodes.last().expect("just added").url();
        urls.lock().expect("no panic").push(url);
    }
    stop.store(true, Ordering::Relaxed);
    let (writes, failed) = worker.await?.inspect_err(|_| cluster.print_logs())?;
    ensure!(failed.is_empty(), "{} failed writes, such as {}", failed.len(), failed[0]);
    for i in 0..writes {
        for node in &cluster.nodes {
            let body = node.get(&format!("joining/{i}")).await?;
            ensure!(body == random_bytes(i as u64, 2000), "joining/{i} through {}", node.id);
        }
    }
    println!(
        "joins: one node became six under {writes} writes and as many reads through all of them; none failed; \
         {} reads afterwards",
        writes * cluster.nodes.len()
    );
    Ok(())
}
