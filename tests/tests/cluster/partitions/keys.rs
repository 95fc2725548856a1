//! Who has not the key sees nothing; keys are replaced without a pause.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api::{self, Status};
use kepler_tests::cluster::{Cluster, eventually};
use reqwest::StatusCode;

use super::{Witness, listed};

const OLD: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NEW: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

#[tokio::test]
async fn partitions_from_nodes_without_the_key_are_complete_and_unnoticed() -> Result<()> {
    let mut cluster = Cluster::start_with(3, &[("CLUSTER_KEY", OLD)]).await?;
    cluster.nodes[0].put("secret", "inside").await?;
    let witness = Witness::follow(&cluster).await?;
    let before: api::Cluster = cluster.nodes[0].json("/v1/cluster").await?;
    // Both begin with a datagram to a member; the second is a fresh identity with no key at all.
    for key in [Some(NEW), None] {
        let node = cluster.prepare()?;
        match key {
            Some(key) => node.set("CLUSTER_KEY", key),
            None => node.unset("CLUSTER_KEY"),
        }
        node.start()?;
    }
    let (members, strangers) = cluster.nodes.split_at(3);
    for stranger in strangers {
        eventually("the stranger answers", Duration::from_secs(20), async || {
            stranger.json::<api::NodeStatus>("/v1/status").await.is_ok()
        })
        .await
        .inspect_err(|_| cluster.print_logs())?;
    }
    let mut polls = 0;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        for (i, member) in members.iter().enumerate() {
            let seen: api::Cluster = member.json("/v1/cluster").await?;
            ensure!(seen.members.len() == 3, "{} sees {:?}", member.id, seen.members);
            ensure!(seen.members.iter().all(|m| m.status == Status::Alive), "{:?}", seen.members);
            ensure!(seen.roster == before.roster, "the roster has changed: {:?}", seen.roster);
            member.put(&format!("during/{i}"), "x").await?;
        }
        for stranger in strangers {
            ensure!(!stranger.is_ready().await, "{} was admitted", stranger.id);
            let seen: api::Cluster = stranger.json("/v1/cluster").await?;
            let others = seen.members.iter().filter(|m| m.id.as_str() != stranger.id).count();
            ensure!(others == 0 && seen.roster.is_none(), "{} sees {:?}", stranger.id, seen.members);
            ensure!(listed(stranger).await.map_or(true, |l| l.is_empty()), "it lists names");
            let read = stranger.try_get("secret").await?.status();
            ensure!(read == StatusCode::SERVICE_UNAVAILABLE, "it answers {read} for a name of the cluster");
            ensure!(stranger.chunk_files().is_empty(), "it holds chunks");
        }
        polls += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let said: Vec<_> = [Status::Joining, Status::Suspect, Status::Dead]
        .into_iter()
        .flat_map(|status| witness.said(status))
        .collect();
    ensure!(said.is_empty(), "the cluster noticed: {said:?}");
    println!(
        "strangers with another key and with none: {polls} polls over 10 s, none admitted, 0 events of members"
    );
    Ok(())
}

#[tokio::test]
async fn partitions_do_not_come_of_replacing_the_key_by_rolling_restarts() -> Result<()> {
    let mut cluster = Cluster::start_with(3, &[("CLUSTER_KEY", OLD)]).await?;
    cluster.nodes[0].put("read", "again and again").await?;
    let bases: Vec<String> = cluster.nodes.iter().map(|n| n.file_url("")).collect();
    let client = kepler_tests::cluster::client();
    let done = Cell::new(false);
    let (reads, writes, retries) = (Cell::new(0), Cell::new(0), Cell::new(0));

    // One attempt at a node, then one at the next.
    let twice = async |first: usize, name: &str, body: Option<String>| -> Result<String> {
        let mut problems = Vec::new();
        for attempt in 0..2 {
            let url = format!("{}{name}", bases[(first + attempt) % 3]);
            let request = match &body {
                Some(body) => client.put(url).body(body.clone()),
                None => client.get(url),
            };
            match request.send().await {
                Ok(response) if response.status() == StatusCode::OK => return Ok(response.text().await?),
                Ok(response) => problems.push(format!("{} {}", response.status(), response.text().await?)),
                Err(error) => problems.push(format!("{error:?}")),
            }
            retries.set(retries.get() + usize::from(attempt == 0));
        }
        anyhow::bail!("{name} failed at two nodes from {}: {problems:?}", first % 3)
    };
    let load = async {
        for n in 0.. {
            if done.get() {
                break;
            }
            let name = format!("rotation/{n}");
            twice(n, &name, Some(name.clone())).await?;
            writes.set(writes.get() + 1);
            ensure!(twice(n + 1, &name, None).await? == name, "{name} is not what was written");
            ensure!(twice(n + 2, "read", None).await? == "again and again");
            reads.set(reads.get() + 2);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    let rotation = async {
        let outcome = async {
            let (mut restarts, mut ending, mut coming) = (0, Duration::ZERO, Duration::ZERO);
            for keys in [format!("{OLD},{NEW}"), format!("{NEW},{OLD}"), NEW.to_owned()] {
                for node in 0..3 {
                    let started = Instant::now();
                    cluster.nodes[node].terminate().await?;
                    let ended = Instant::now();
                    cluster.nodes[node].set("CLUSTER_KEY", &keys);
                    cluster.nodes[node].start()?;
                    cluster.settle().await?;
                    restarts += 1;
                    ending = ending.max(ended - started);
                    coming = coming.max(ended.elapsed());
                }
            }
            Ok::<_, anyhow::Error>((restarts, ending, coming))
        }
        .await;
        done.set(true);
        outcome
    };
    let (restarts, load) = futures::join!(rotation, load);
    let (restarts, ending, coming) = restarts?;
    load.inspect_err(|_| cluster.print_logs())?;
    // Nothing of the old key is left: a node that has only that is a stranger now.
    let stranger = cluster.prepare()?;
    stranger.set("CLUSTER_KEY", OLD);
    stranger.start()?;
    eventually("the stranger answers", Duration::from_secs(20), async || {
        cluster.nodes[3].json::<api::NodeStatus>("/v1/status").await.is_ok()
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(!cluster.nodes[3].is_ready().await, "the old key still opens");
    println!(
        "key replaced: {restarts} restarts, ended within {ending:?} and back within {coming:?}, {} writes and {} reads, 0 failed, {} tried at a second node",
        writes.get(),
        reads.get(),
        retries.get()
    );
    Ok(())
}

#[tokio::test]
async fn partitions_do_not_come_of_replacing_the_key_of_running_nodes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        // In its place at once, and private, as a careful operator does it.
        let (path, fresh) = (folder.path().join(name), folder.path().join(format!("{name}.new")));
        std::fs::write(&fresh, text)?;
        std::fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        std::fs::rename(&fresh, &path)?;
        Ok(path.display().to_string())
    };
    let first = write("first.key", OLD)?;
    let mut cluster = Cluster::start_with(1, &[("CLUSTER_KEY_FILE", &first)]).await?;
    let mut files = vec!["first.key".to_owned()];
    for node in 1..3 {
        let name = format!("{node}.key");
        let path = write(&name, OLD)?;
        let node = cluster.prepare()?;
        node.set("CLUSTER_KEY_FILE", &path);
        node.start()?;
        files.push(name);
    }
    cluster.settle().await?;
    let witness = Witness::follow(&cluster).await?;
    let taken_over =
        |node: &kepler_tests::cluster::Node| node.log().matches("read keys and tokens again").count();
    let (mut writes, mut slowest) = (0, Duration::ZERO);
    for (round, keys) in
        [format!("{OLD},{NEW}"), format!("{NEW},{OLD}"), NEW.to_owned()].into_iter().enumerate()
    {
        for (node, file) in files.iter().enumerate() {
            write(file, &keys)?;
            let started = Instant::now();
            // By signal, or by looking at the file.
            if round == 1 {
                cluster.nodes[node].signal("HUP")?;
            }
            eventually("the node has read its keys again", Duration::from_secs(10), async || {
                taken_over(&cluster.nodes[node]) > round
            })
            .await
            .inspect_err(|_| cluster.print_logs())?;
            slowest = slowest.max(started.elapsed());
            for (i, member) in cluster.nodes.iter().enumerate() {
                let name = format!("rotation/{round}/{node}/{i}");
                member.put(&name, name.clone()).await?;
                ensure!(cluster.nodes[(i + 1) % 3].get(&name).await? == name);
                writes += 1;
            }
        }
    }
    // What cannot be used changes nothing.
    write(&files[0], "not a key")?;
    cluster.nodes[0].signal("HUP")?;
    eventually("the fault is told", Duration::from_secs(10), async || {
        cluster.nodes[0].log().contains("keys and tokens stay as they are")
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.nodes[0].put("after", "x").await?;
    ensure!(cluster.nodes[2].get("after").await? == "x");
    witness.nobody_died()?;
    // Nothing of the old key is left: a node that has only that is a stranger now.
    let old = write("old.key", OLD)?;
    let stranger = cluster.prepare()?;
    stranger.set("CLUSTER_KEY_FILE", &old);
    stranger.start()?;
    eventually("the stranger answers", Duration::from_secs(20), async || {
        cluster.nodes[3].json::<api::NodeStatus>("/v1/status").await.is_ok()
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(!cluster.nodes[3].is_ready().await, "the old key still opens");
    println!(
        "key replaced on 3 running nodes in 3 rounds, each taken over within {slowest:?}: {writes} writes and reads, \
         0 failed, nobody died; a malformed file changed nothing"
    );
    Ok(())
}
