//! Networks that split, lose, and hear one way only; strangers without the key.
//!
//! Each node has a network namespace of its own, so these need root (see `kepler_tests::network`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api::{Event, Stat, Status};
use kepler_tests::cluster::{Cluster, Node, eventually};
use reqwest::StatusCode;
use tokio::task::JoinHandle;

mod conflicts;
mod histories;
mod keys;
mod links;
mod races;

/// What the nodes said of members while it looked: from `/v1/events` of each, which misses
/// nothing that lasted shorter than a poll.
struct Witness {
    said: Arc<Mutex<Vec<Said>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Who said what of whom, and when.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "printed where a test fails")]
struct Said {
    by: String,
    of: String,
    status: Status,
    after: Duration,
}

impl Witness {
    async fn follow(cluster: &Cluster) -> Result<Self> {
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        let started = Instant::now();
        for node in &cluster.nodes {
            let request = node.client().get(format!("{}/v1/events", node.url()));
            let mut response = request.timeout(Duration::from_secs(600)).send().await?.error_for_status()?;
            let (by, said) = (node.id.clone(), Arc::clone(&said));
            tasks.push(tokio::spawn(async move {
                let mut text = String::new();
                while let Ok(Some(piece)) = response.chunk().await {
                    text.push_str(&String::from_utf8_lossy(&piece));
                    while let Some(end) = text.find('\n') {
                        let line: String = text.drain(..=end).collect();
                        let event = line.strip_prefix("data:").and_then(|d| serde_json::from_str(d).ok());
                        if let Some(Event::Member { node, status }) = event {
                            said.lock().expect("no holder panics").push(Said {
                                by: by.clone(),
                                of: node.to_string(),
                                status,
                                after: started.elapsed(),
                            });
                        }
                    }
                }
            }));
        }
        Ok(Self { said, tasks })
    }

    /// All that was said of the members' states so far.
    fn said(&self, status: Status) -> Vec<Said> {
        let said = self.said.lock().expect("no holder panics");
        said.iter().filter(|s| s.status == status).cloned().collect()
    }

    /// Fails if anybody was declared dead by anybody, or a follower lost its node.
    fn nobody_died(&self) -> Result<()> {
        ensure!(self.tasks.iter().all(|t| !t.is_finished()), "an event stream ended early");
        let dead = self.said(Status::Dead);
        ensure!(dead.is_empty(), "declared dead: {dead:?}");
        Ok(())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Fails if any node sees any other than alive or suspect.
async fn all_up(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        for other in &cluster.nodes {
            let seen = node.sees(&other.id).await;
            ensure!(
                matches!(seen, Some(Status::Alive | Status::Suspect)),
                "{} sees {} as {seen:?}",
                node.id,
                other.id
            );
        }
    }
    Ok(())
}

/// Waits until every node sees all alive; how long it took.
async fn one_cluster(cluster: &Cluster, deadline: Duration) -> Result<Duration> {
    let started = Instant::now();
    eventually("all nodes see all alive", deadline, async || {
        for node in &cluster.nodes {
            for other in &cluster.nodes {
                if node.sees(&other.id).await != Some(Status::Alive) {
                    return false;
                }
            }
        }
        true
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    Ok(started.elapsed())
}

/// What a node lists: head and number of conflicts, by name.
async fn listed(node: &Node) -> Result<BTreeMap<String, (String, usize)>> {
    let files = node.list().await?;
    Ok(files.into_iter().map(|file| (file.name.to_string(), (file.etag, file.conflicts))).collect())
}

/// Waits until all nodes list the same, and that with at least this many names; how long it took.
async fn catalogs_equal(cluster: &Cluster, names: usize, deadline: Duration) -> Result<Duration> {
    let started = Instant::now();
    let mut lists = Vec::new();
    let equal = eventually("all nodes list the same", deadline, async || {
        lists.clear();
        for node in &cluster.nodes {
            match listed(node).await {
                Ok(list) => lists.push(list),
                Err(_) => return false,
            }
        }
        lists[0].len() >= names && lists.iter().all(|list| *list == lists[0])
    })
    .await;
    if equal.is_err() {
        for (node, list) in cluster.nodes.iter().zip(&lists) {
            let other: Vec<_> = list.iter().filter(|(k, v)| lists[0].get(*k) != Some(v)).collect();
            println!(
                "{} lists {} names (at least {names}), unlike the first: {other:?}",
                node.id,
                list.len()
            );
        }
        cluster.print_logs();
    }
    equal?;
    Ok(started.elapsed())
}

/// The surviving versions of a name as a node sees them.
async fn stat(node: &Node, name: &str) -> Result<Stat> {
    node.json(&format!("/v1/stat/{name}")).await
}

/// PUT that is to be answered with this status.
async fn put_gives(node: &Node, name: &str, query: &str, body: &str, expected: StatusCode) -> Result<()> {
    let response = node.try_put(name, query, body.to_owned()).await?;
    let status = response.status();
    if status != expected {
        anyhow::bail!("put {name}{query} at {}: {status} {}", node.id, response.text().await?);
    }
    Ok(())
}
