//! Health, verification, placement and the operator's verbs, by `kepler` and over HTTP.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kepler_protocol::api::{self, Health, HealthStatus, Located, LocatedChunk, NodeStatus, Status};
use kepler_protocol::time::UnixMillis;
use kepler_tests::cluster::{Cluster, Node, binary, eventually, random_bytes, scaled};
use reqwest::StatusCode;

use super::healing::{FAST, MIB, verify, with};

/// Runs `kepler` against a node.
pub async fn kepler(node: &Node, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("kepler"));
    command.env("KEPLER_URL", node.url()).env_remove("KEPLER_TOKEN").args(args);
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

pub fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

async fn health(node: &Node) -> Result<Health> {
    node.json("/v1/health").await
}

async fn becomes(node: &Node, status: HealthStatus, within: Duration) -> Result<Health> {
    let mut last = None;
    let what = format!("health is {status:?}");
    let became = eventually(&what, within, async || {
        last = health(node).await.ok();
        last.as_ref().is_some_and(|h| h.status == status)
    });
    became.await.with_context(|| format!("{last:#?}"))?;
    last.context("it was just asked")
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_one_word_that_verification_confirms() -> Result<()> {
    let mut cluster = Cluster::start_with(4, &with(&[("FORGET_AFTER_SECS", "3600")])).await?;
    let files = scaled(200).max(20);
    for i in 0..files {
        cluster.nodes[i % 4].put(&format!("f/{i}"), random_bytes(i as u64, MIB)).await?;
    }
    let ok = becomes(&cluster.nodes[1], HealthStatus::Ok, Duration::from_secs(60)).await?;
    ensure!(ok.nodes.len() == 4 && ok.nodes.iter().all(|n| n.answered), "{ok:?}");
    let out = kepler(&cluster.nodes[0], &["health"]).await?;
    ensure!(out.status.code() == Some(0) && stdout(&out).starts_with("ok\n"), "{}", stdout(&out));
    let (lines, total) = verify(&cluster.nodes[2]).await?;
    ensure!(total.ok && lines.is_empty(), "{total:?} {lines:?}");
    ensure!(total.files == files as u64 && total.copies >= 3 * total.chunks, "{total:?}");
    ensure!(total.nodes.len() == 4, "{total:?}");

    // A copy rots: verification finds it, and it is mended.
    let (chunk, path) =
        cluster.nodes[1].chunk_files().into_iter().next().context("node-b holds something")?;
    let mut bytes = std::fs::read(&path)?;
    bytes[7] ^= 1;
    std::fs::write(&path, bytes)?;
    let out = kepler(&cluster.nodes[0], &["verify", "--all"]).await?;
    let told = stdout(&out);
    ensure!(out.status.code() == Some(1), "{:?} {told}", out.status);
    ensure!(told.contains(&chunk) && told.contains("node-b") && told.contains("not all is well"), "{told}");
    eventually("verification finds nothing wrong", Duration::from_secs(60), async || {
        verify(&cluster.nodes[3]).await.is_ok_and(|(_, total)| total.ok)
    })
    .await?;

    // One node dies: degraded, and named. Healed, only its absence is left to tell.
    cluster.nodes[3].kill();
    let died = Instant::now();
    let degraded = becomes(&cluster.nodes[0], HealthStatus::Degraded, Duration::from_secs(30)).await?;
    ensure!(degraded.reasons.iter().any(|r| r.contains("node-d")), "{:?}", degraded.reasons);
    let out = kepler(&cluster.nodes[0], &["health"]).await?;
    ensure!(out.status.code() == Some(1) && stdout(&out).starts_with("degraded\n"), "{}", stdout(&out));
    eventually("everything has three copies again", Duration::from_secs(120), async || {
        health(&cluster.nodes[0]).await.is_ok_and(|h| h.under_replicated == 0 && h.moving == 0)
            && verify(&cluster.nodes[0]).await.is_ok_and(|(_, t)| t.under_replicated == 0 && t.missing == 0)
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    let healed = died.elapsed();
    let (lines, total) = verify(&cluster.nodes[0]).await?;
    let agreed = health(&cluster.nodes[0]).await?;
    ensure!(
        (agreed.under_replicated, agreed.single_copy, agreed.missing)
            == (total.under_replicated, total.single_copy, total.missing),
        "{agreed:?} {total:?} {lines:?}"
    );

    // A second one: no majority of the old roster's home lists for some names, and it is said.
    cluster.nodes[2].kill();
    let worst = becomes(&cluster.nodes[0], HealthStatus::Unavailable, Duration::from_secs(30)).await?;
    let out = kepler(&cluster.nodes[0], &["health"]).await?;
    ensure!(out.status.code() == Some(5), "{:?}", out.status);
    ensure!(stdout(&out).starts_with("data unavailable\n"), "{}", stdout(&out));
    println!(
        "health: ok, degraded, unavailable as nodes die; {} chunks verified on 4 nodes; healed {healed:?} after a \
         death, health and verification agree; at worst: {}",
        total.chunks, worst.reasons[0]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_lost_everywhere_is_told_with_its_file_and_exit_code_5() -> Result<()> {
    let cluster = Cluster::start_with(3, &FAST).await?;
    cluster.nodes[0].put("whole", random_bytes(1, MIB)).await?;
    let doomed = cluster.nodes[0].put("doomed", random_bytes(2, MIB)).await?.cid.to_string();
    becomes(&cluster.nodes[0], HealthStatus::Ok, Duration::from_secs(60)).await?;
    for node in &cluster.nodes {
        let path = node.chunk_files().remove(&doomed).context("three copies of it")?;
        let mut bytes = std::fs::read(&path)?;
        bytes[0] ^= 0xff;
        std::fs::write(&path, bytes)?;
    }
    let out = kepler(&cluster.nodes[1], &["verify", "--all"]).await?;
    let told = stdout(&out);
    ensure!(out.status.code() == Some(5), "{:?} {told}", out.status);
    ensure!(told.contains("damaged: file doomed") && !told.contains("file whole"), "{told}");
    ensure!(told.contains(&format!("missing: chunk {doomed}")), "{told}");
    // Where the head of the answer is already gone, the connection breaks off.
    let answer = cluster.nodes[2].try_get("doomed").await?;
    let refused = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
    ensure!(refused || answer.bytes().await.is_err(), "a chunk that is rotten everywhere was served");
    let unavailable = becomes(&cluster.nodes[0], HealthStatus::Unavailable, Duration::from_secs(30)).await?;
    ensure!(unavailable.reasons[0].contains("no intact copy left on any node"), "{:?}", unavailable.reasons);
    ensure!(!unavailable.reasons[0].contains("start"), "all are up: {:?}", unavailable.reasons);
    // Every owner looks for it, and once all have looked in vain it still is one chunk.
    let mut agreed = None;
    eventually("all owners looked for it in vain", Duration::from_secs(60), async || {
        agreed = health(&cluster.nodes[0]).await.ok();
        agreed.as_ref().is_some_and(|h| h.nodes.iter().all(|n| n.missing == 1))
    })
    .await?;
    let agreed = agreed.context("it was just asked")?;
    let (_, total) = verify(&cluster.nodes[2]).await?;
    let by_health = (agreed.missing, agreed.under_replicated, agreed.single_copy);
    let by_verification = (total.missing, total.under_replicated, total.single_copy);
    ensure!(by_health == (1, 0, 0) && by_verification == by_health, "{agreed:?} {total:?}");
    println!(
        "a chunk rotten on 3 of 3 nodes: exit code 5, file named; health and verification count (missing, lacking, \
         one copy) {by_health:?} = {by_verification:?}; health {:?}",
        unavailable.reasons
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn placement_is_explained_and_agrees_with_what_a_death_does() -> Result<()> {
    let mut cluster = Cluster::start_with(4, &with(&[("REPAIR_DELAY_SECS", "1")])).await?;
    let mut files = Vec::new();
    for i in 0..12 {
        let name = format!("f{i}");
        cluster.nodes[0].put(&name, random_bytes(i, MIB)).await?;
        files.push(name);
    }
    let locate = async |node: &Node, name: &str, query: &str| -> Result<LocatedChunk> {
        let located: Located = node.json(&format!("/v1/locate/{name}{query}")).await?;
        ensure!(located.chunks.len() == 1 && located.replication_factor == 3, "{located:?}");
        Ok(located.chunks.into_iter().next().expect("just counted"))
    };
    let mut foretold = Vec::new();
    for name in &files {
        let chunk = locate(&cluster.nodes[1], name, "?if_down=node-d").await?;
        let mut walked: Vec<_> = chunk.walk.iter().filter(|s| s.owner).map(|s| s.node).collect();
        let mut owners = chunk.owners.clone();
        walked.sort();
        owners.sort();
        ensure!(walked == owners && owners.len() == 3, "{chunk:?}");
        ensure!(chunk.tokens_walked >= 3 && chunk.walk.iter().all(|s| !s.why.is_empty()), "{chunk:?}");
        ensure!(chunk.holders.iter().all(|h| h.verified_at.is_some()), "{chunk:?}");
        foretold.push(chunk.owners_if_down.context("it was asked")?);
    }
    let out = kepler(&cluster.nodes[0], &["locate", "f0", "--if-down", "node-d"]).await?;
    let told = stdout(&out);
    ensure!(
        out.status.success() && told.contains("owners") && told.contains("if node-d were down"),
        "{told}"
    );
    let unknown = kepler(&cluster.nodes[0], &["locate", "f0", "--if-down", "node-z"]).await?;
    ensure!(unknown.status.code() == Some(1), "{:?}", unknown.status);

    cluster.nodes[3].kill();
    eventually("node-d is dead", Duration::from_secs(20), async || {
        cluster.nodes[0].sees("node-d").await == Some(Status::Dead)
    })
    .await?;
    let mut passed = 0;
    for (name, foretold) in files.iter().zip(&foretold) {
        let chunk = locate(&cluster.nodes[0], name, "").await?;
        ensure!(chunk.owners == *foretold, "{name}: foretold {foretold:?}, came {:?}", chunk.owners);
        passed += chunk.walk.iter().filter(|s| s.why.contains("dead")).count();
    }
    ensure!(passed > 0, "nobody was passed over as dead");
    println!("placement of {} chunks as foretold; node-d passed over {passed} times as dead", files.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_reach_all_members_and_the_cap_changes_on_running_nodes() -> Result<()> {
    let cluster = Cluster::start_with(3, &FAST).await?;
    let caps = async || -> Result<Vec<u64>> {
        let mut caps = Vec::new();
        for node in &cluster.nodes {
            caps.push(node.json::<NodeStatus>("/v1/status").await?.bandwidth.cap_bytes_per_second);
        }
        Ok(caps)
    };
    ensure!(caps().await? == [50_000_000; 3], "{:?}", caps().await?);
    let out = kepler(&cluster.nodes[0], &["repair", "--all", "--bandwidth", "2.5"]).await?;
    ensure!(out.status.success(), "{out:?}");
    ensure!(caps().await? == [2_500_000; 3], "{:?}", caps().await?);
    let out = kepler(&cluster.nodes[1], &["repair", "--bandwidth", "7"]).await?;
    ensure!(
        out.status.success() && caps().await? == [2_500_000, 7_000_000, 2_500_000],
        "{:?}",
        caps().await?
    );

    for verb in ["repair", "scrub"] {
        let out = kepler(&cluster.nodes[0], &[verb, "--pause", "--all"]).await?;
        ensure!(out.status.success(), "{out:?}");
        let paused = becomes(&cluster.nodes[2], HealthStatus::Degraded, Duration::from_secs(10)).await?;
        let told = paused.reasons.join("\n");
        ensure!(told.contains("paused") && told.contains("node-a, node-b, node-c"), "{told}");
        let out = kepler(&cluster.nodes[2], &[verb, "--resume", "--all"]).await?;
        ensure!(out.status.success(), "{out:?}");
        becomes(&cluster.nodes[1], HealthStatus::Ok, Duration::from_secs(20)).await?;
    }
    cluster.nodes[0].put("f", random_bytes(1, MIB)).await?;
    let out = kepler(&cluster.nodes[0], &["scrub", "--all"]).await?;
    ensure!(out.status.success(), "{out:?}");
    eventually("all nodes have scrubbed", Duration::from_secs(30), async || {
        health(&cluster.nodes[0]).await.is_ok_and(|h| h.nodes.iter().all(|n| n.scrub.at.is_some()))
    })
    .await?;
    println!("cap changed on 3 running nodes, repair and scrub paused and resumed on all, all scrubbed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_forgotten_only_when_it_is_gone_and_a_lost_majority_on_a_word() -> Result<()> {
    let mut cluster = Cluster::start_with(3, &FAST).await?;
    cluster.nodes[0].put("kept", random_bytes(1, MIB)).await?;
    let alive = kepler(&cluster.nodes[0], &["cluster", "forget", "node-c"]).await?;
    ensure!(alive.status.code() == Some(1), "{alive:?}");
    let unknown = kepler(&cluster.nodes[0], &["cluster", "forget", "node-z"]).await?;
    ensure!(unknown.status.code() == Some(3), "{unknown:?}");
    let itself = kepler(&cluster.nodes[0], &["cluster", "forget", "node-a"]).await?;
    ensure!(itself.status.code() == Some(1), "{itself:?}");

    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let survivor = &cluster.nodes[0];
    eventually("both are dead", Duration::from_secs(30), async || {
        survivor.sees("node-b").await == Some(Status::Dead)
            && survivor.sees("node-c").await == Some(Status::Dead)
    })
    .await?;
    let unavailable = becomes(survivor, HealthStatus::Unavailable, Duration::from_secs(20)).await?;
    let way_out =
        unavailable.reasons.iter().any(|r| r.contains("kepler cluster forget --lost node-b node-c"));
    ensure!(way_out, "{:?}", unavailable.reasons);
    ensure!(survivor.try_put("refused", "", "x").await?.status() == StatusCode::SERVICE_UNAVAILABLE);
    let mut forgotten = None;
    eventually("the survivor is the cluster", Duration::from_secs(60), async || {
        let out = kepler(survivor, &["cluster", "forget", "--lost", "node-b", "node-c"]).await;
        forgotten = out.ok();
        forgotten.as_ref().is_some_and(|out| out.status.success())
    })
    .await
    .with_context(|| format!("{forgotten:?}"))?;
    eventually("it takes writes again", Duration::from_secs(20), async || {
        survivor.try_put("taken", "", "y").await.is_ok_and(|r| r.status() == StatusCode::OK)
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    ensure!(survivor.get("kept").await? == random_bytes(1, MIB));
    let roster = survivor.json::<api::Cluster>("/v1/cluster").await?.roster.context("it has one")?;
    ensure!(roster.members.len() == 1, "{roster:?}");
    println!("forget: alive 409, unknown 404, itself 409; --lost made one survivor roster {}", roster.number);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_soon_once_the_majority_is_known_to_be_dead() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.nodes[0].put("kept", "x").await?;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let survivor = &cluster.nodes[0];
    eventually("both are dead", Duration::from_secs(30), async || {
        survivor.sees("node-b").await == Some(Status::Dead)
            && survivor.sees("node-c").await == Some(Status::Dead)
    })
    .await?;
    let mut slowest = Duration::ZERO;
    for i in 0..5 {
        let started = Instant::now();
        let put = survivor.try_put(&format!("new/{i}"), "", "x").await?;
        ensure!(put.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", put.status());
        let delete = survivor.client().delete(survivor.file_url("kept")).send().await?;
        ensure!(delete.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", delete.status());
        ensure!(delete.text().await?.contains("no-quorum"));
        slowest = slowest.max(started.elapsed());
    }
    ensure!(slowest < Duration::from_secs(4), "a put and a delete were refused only after {slowest:?}");
    println!("two of three known dead: 5 puts and 5 deletes refused, the slowest pair within {slowest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_says_nothing_new_is_still_seen() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    // Nothing is written, so nobody announces anything.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for node in &cluster.nodes {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        // RFC 3339 in one zone: the order of the texts is the order of the times.
        let lately = UnixMillis(u64::try_from(now.as_millis())? - 3_000).to_string();
        for member in node.json::<api::Cluster>("/v1/cluster").await?.members {
            let seen = member.last_seen.context("it was heard from")?;
            ensure!(seen > lately, "{} saw {} at {seen}", node.id, member.id);
        }
    }
    println!("3 idle nodes: each was seen by each within 3 s");
    Ok(())
}
