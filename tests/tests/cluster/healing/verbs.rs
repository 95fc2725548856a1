//! What operators say about members, by `kepler`, and what people are told while it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kepler_protocol::api::{Cluster as Members, Event, Status};
use kepler_protocol::chunk::ChunkId;
use kepler_tests::cluster::{Cluster, Node, eventually};

use super::{MIB, exactly_placed, read_all, with, write};
use crate::operations::{kepler, stdout};

/// Everything that a node tells, until it ends.
struct Told(Arc<Mutex<Vec<Event>>>);

impl Told {
    async fn by(node: &Node) -> Result<Self> {
        let request = node.client().get(format!("{}/v1/events", node.url()));
        let mut response = request.timeout(Duration::from_secs(600)).send().await?.error_for_status()?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&told);
        tokio::spawn(async move {
            let mut text = String::new();
            while let Ok(Some(piece)) = response.chunk().await {
                text.push_str(&String::from_utf8_lossy(&piece));
                while let Some(end) = text.find('\n') {
                    let line: String = text.drain(..=end).collect();
                    let event = line.strip_prefix("data:").and_then(|data| serde_json::from_str(data).ok());
                    events.lock().expect("no holder panics").extend(event);
                }
            }
        });
        Ok(Self(told))
    }

    /// How many events of each kind there were.
    fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for event in self.0.lock().expect("no holder panics").iter() {
            *kinds.entry(event.kind()).or_default() += 1;
        }
        kinds
    }

    async fn wait(&self, what: &str, of: impl Fn(&Event) -> bool) -> Result<()> {
        eventually(what, Duration::from_secs(30), async || {
            self.0.lock().expect("no holder panics").iter().any(&of)
        })
        .await
        .with_context(|| format!("{:?}", self.kinds()))
    }
}

async fn roster(node: &Node) -> Result<BTreeSet<String>> {
    let members: Members = node.json("/v1/cluster").await?;
    let roster = members.roster.context("it knows a roster")?;
    Ok(roster.members.iter().map(ToString::to_string).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_forgotten_by_name_and_each_step_of_healing_is_told() -> Result<()> {
    // Only that it is forgotten has its chunks copied so soon.
    const DELAY: Duration = Duration::from_secs(40);
    let settings = with(&[("REBALANCE_BANDWIDTH_MBPS", "100"), ("REPAIR_DELAY_SECS", "40")]);
    let mut cluster = Cluster::start_with(4, &settings).await?;
    let files = write(&cluster, "forget", 40, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 4, &chunks, Duration::from_secs(60)).await?;
    let told = [Told::by(&cluster.nodes[0]).await?, Told::by(&cluster.nodes[1]).await?];
    let gone: kepler_protocol::node_id::NodeId = "node-d".parse()?;

    // A copy rots, and everything is hashed again.
    let (chunk, path) = cluster.nodes[0].chunk_files().into_iter().next().context("it holds something")?;
    std::fs::write(path, b"rot")?;
    ensure!(kepler(&cluster.nodes[0], &["scrub"]).await?.status.success());
    let bad = chunk.parse()?;
    told[0].wait("the rotten chunk is told", |event| *event == Event::Quarantined { cid: bad }).await?;
    told[0].wait("and the pass", |event| matches!(event, Event::Scrubbed { bad: 1, .. })).await?;

    cluster.nodes[3].kill();
    let dead = Event::Member { node: gone, status: Status::Dead };
    told[0]
        .wait("node-d is suspected", |event| *event == Event::Member { node: gone, status: Status::Suspect })
        .await?;
    told[0].wait("node-d is dead", |event| *event == dead).await?;
    let started = Instant::now();
    let out = kepler(&cluster.nodes[0], &["cluster", "forget", "node-d"]).await?;
    ensure!(out.status.success(), "{} {}", stdout(&out), String::from_utf8_lossy(&out.stderr));
    eventually("the roster lacks it", Duration::from_secs(20), async || {
        roster(&cluster.nodes[1]).await.is_ok_and(|members| members.len() == 3)
    })
    .await?;
    let forgotten = started.elapsed();
    for one in &told {
        one.wait(
            "the roster is told",
            |event| matches!(event, Event::Roster { members, .. } if members.len() == 3),
        )
        .await?;
        one.wait(
            "repair begins",
            |event| matches!(event, Event::RepairStarted { node, .. } if *node == gone),
        )
        .await?;
        one.wait("chunks are moved", |event| matches!(event, Event::Moved { .. })).await?;
        one.wait("repair is done", |event| matches!(event, Event::Repaired { .. })).await?;
    }
    let (healed, copies) = exactly_placed(&cluster, 3, &chunks, Duration::from_secs(60)).await?;
    ensure!(started.elapsed() < DELAY, "in place after {:?}: the delay may have ended", started.elapsed());
    // Nothing brings it back but itself.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        ensure!(!roster(&cluster.nodes[2]).await?.contains("node-d"), "it is back, and does not run");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.nodes[3].start()?;
    eventually("it is a newcomer", Duration::from_secs(60), async || {
        roster(&cluster.nodes[1]).await.is_ok_and(|members| members.contains("node-d"))
            && cluster.nodes[3].is_ready().await
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    // What the others replaced it by goes after the grace, and what they promised to keep two minutes later at most.
    exactly_placed(&cluster, 4, &chunks, Duration::from_secs(200)).await?;
    for one in &told {
        one.wait("copies are released", |event| matches!(event, Event::Released { .. })).await?;
    }
    let read = read_all(&cluster, &files).await?;
    println!(
        "forgotten by name after {forgotten:?}, in place after {healed:?}, {copies} copies hashed, {read} reads after it joined again; told: {:?}",
        told[0].kinds()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leave_can_be_called_off_and_somebody_stays_where_all_are_told_to_leave() -> Result<()> {
    let settings = with(&[("REBALANCE_BANDWIDTH_MBPS", "2"), ("REPAIR_DELAY_SECS", "4")]);
    let mut cluster = Cluster::start_with(3, &settings).await?;
    let files = write(&cluster, "leave", 24, MIB).await?;
    let chunks: BTreeSet<ChunkId> = files.iter().map(|file| file.chunk).collect();
    exactly_placed(&cluster, 3, &chunks, Duration::from_secs(60)).await?;
    let told = Told::by(&cluster.nodes[0]).await?;
    let node: kepler_protocol::node_id::NodeId = "node-c".parse()?;

    let early = kepler(&cluster.nodes[2], &["cluster", "leave", "--cancel"]).await?;
    ensure!(!early.status.success(), "there is nothing to call off: {}", stdout(&early));
    let out = kepler(&cluster.nodes[2], &["cluster", "leave", "--no-wait"]).await?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let leaving = Event::Member { node, status: Status::Leaving };
    told.wait("node-c leaves", |event| *event == leaving).await?;
    let out = kepler(&cluster.nodes[2], &["cluster", "leave", "--cancel"]).await?;
    // With two others that have everything it may be gone by now; then this shows nothing.
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    eventually("node-c is alive", Duration::from_secs(20), async || {
        cluster.nodes[0].sees("node-c").await == Some(Status::Alive)
    })
    .await?;
    exactly_placed(&cluster, 3, &chunks, Duration::from_secs(60)).await?;
    cluster.nodes[2].put("after", kepler_tests::cluster::random_bytes(5, MIB)).await?;

    // All at once: each sees another that stays.
    let [a, b, c] = &cluster.nodes[..] else { anyhow::bail!("three nodes") };
    let leave = ["cluster", "leave", "--no-wait"];
    let (a, b, c) = tokio::join!(kepler(a, &leave), kepler(b, &leave), kepler(c, &leave));
    let told_to = [a?, b?, c?].iter().filter(|out| out.status.success()).count();
    let started = Instant::now();
    let deadline = started + Duration::from_secs(90);
    let stays = loop {
        let nodes = cluster.nodes.iter_mut();
        let running: Vec<String> =
            nodes.filter_map(|node| node.exited().is_none().then(|| node.id.clone())).collect();
        if running.len() <= 3 - told_to.min(2) {
            break running;
        }
        if Instant::now() > deadline {
            cluster.print_logs();
            anyhow::bail!("{running:?} still run, of which {told_to} were told to leave");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let took = started.elapsed();
    ensure!(!stays.is_empty(), "nobody stayed");
    for at in 0..3 {
        if !stays.contains(&cluster.nodes[at].id) {
            cluster.nodes[at].kill();
        }
    }
    let read = read_all(&cluster, &files).await?;
    println!(
        "a leave called off; then {told_to} of three were told to leave at once, {stays:?} stayed, the others left within {took:?}; {read} reads"
    );
    Ok(())
}
