//! Two sides that cannot hear each other both go on, and merge.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kepler_protocol::api::Status;
use kepler_tests::cluster::{Cluster, eventually, scaled};
use reqwest::StatusCode;

use super::{catalogs_equal, listed, one_cluster, put_gives, stat};

#[tokio::test]
async fn partitions_leave_both_versions_of_a_name_written_on_both_sides() -> Result<()> {
    let cluster = Cluster::start_apart(3, &[]).await?;
    let [a, b, c] = &cluster.nodes[..] else { unreachable!("three were started") };
    let names: Vec<String> = (0..scaled(40)).map(|i| format!("both/{i}")).collect();
    for name in &names {
        a.put(name, "before").await?;
    }
    a.put("known", "before").await?;
    cluster.network().split(&[&[0, 1], &[2]])?;

    // Before anybody has noticed, and once the smaller side has given the larger one up.
    let (mut refused, mut local, mut slowest) = (0, 0, Duration::ZERO);
    for noticed in [false, true] {
        if noticed {
            eventually("each side sees the other dead", Duration::from_secs(30), async || {
                c.sees(&a.id).await == Some(Status::Dead)
                    && c.sees(&b.id).await == Some(Status::Dead)
                    && a.sees(&c.id).await == Some(Status::Dead)
                    && b.sees(&c.id).await == Some(Status::Dead)
            })
            .await
            .inspect_err(|_| cluster.print_logs())?;
        }
        let started = Instant::now();
        put_gives(c, "refused", "", "x", StatusCode::SERVICE_UNAVAILABLE).await?;
        ensure!(started.elapsed() < Duration::from_secs(10), "refused after {:?}", started.elapsed());
        slowest = slowest.max(started.elapsed());
        refused += 1;

        let known = c.try_get("known").await?;
        ensure!(known.status() == StatusCode::OK, "a known name on the smaller side: {}", known.status());
        ensure!(known.headers().get("kepler-consistency").context("no Kepler-Consistency")? == "local");
        ensure!(known.text().await? == "before");
        local += 1;

        for (i, name) in names.iter().enumerate() {
            if (i % 2 == 1) == noticed {
                put_gives(c, name, "?durability=fast", &format!("smaller {i}"), StatusCode::OK).await?;
                let writer = &cluster.nodes[i / 2 % 2];
                put_gives(writer, name, "", &format!("larger {i}"), StatusCode::OK).await?;
            }
            put_gives(a, &format!("larger/{noticed}/{i}"), "", name, StatusCode::OK).await?;
            ensure!(b.get(&format!("larger/{noticed}/{i}")).await? == *name);
            ensure!(
                b.try_get("known").await?.headers().get("kepler-consistency").is_none_or(|v| v != "local")
            );
        }
    }
    for name in &names {
        ensure!(c.get(name).await?.starts_with(b"smaller"), "the smaller side does not serve its own write");
    }

    cluster.network().heal()?;
    let merged = one_cluster(&cluster, Duration::from_secs(10)).await?;
    eventually("every node lists every conflict", Duration::from_secs(30), async || {
        for node in &cluster.nodes {
            let Ok(list) = listed(node).await else { return false };
            if !names.iter().all(|name| list.get(name).is_some_and(|(_, conflicts)| *conflicts == 1)) {
                return false;
            }
        }
        true
    })
    .await
    .inspect_err(|_| cluster.print_logs())?;
    catalogs_equal(&cluster, 3 * names.len() + 1, Duration::from_secs(30)).await?;

    for (i, name) in names.iter().enumerate() {
        let versions = stat(a, name).await?.versions;
        ensure!(versions.len() == 2 && versions[0].head && !versions[1].head, "{name}: {versions:?}");
        for node in &cluster.nodes {
            ensure!(stat(node, name).await?.versions == versions, "{name}: {} tells another tale", node.id);
            let mut bodies = Vec::new();
            for version in &versions {
                let url = format!("{}?version={}", node.file_url(name), version.version);
                let response = node.client().get(url).send().await?;
                ensure!(response.status() == StatusCode::OK, "{name} of {}: {}", node.id, response.status());
                bodies.push(response.text().await?);
            }
            ensure!(node.get(name).await? == bodies[0], "{name}: {} serves another head", node.id);
            bodies.sort();
            ensure!(bodies == [format!("larger {i}"), format!("smaller {i}")], "{name}: {bodies:?}");
        }
        // A move would leave one of them behind.
        let body = serde_json::json!({"from": name, "to": "elsewhere"}).to_string();
        let moving = a.client().post(format!("{}/v1/move", a.url())).header("Kepler-Client", "test");
        ensure!(moving.body(body).send().await?.status() == StatusCode::CONFLICT, "{name} was moved");
        // Half are resolved by deleting one version, half by writing the name again.
        let node = &cluster.nodes[i % 3];
        if i % 2 == 0 {
            let doomed = &versions[i / 2 % 2].version;
            let url = format!("{}?version={doomed}", node.file_url(name));
            let deleted = node.client().delete(url).send().await?;
            ensure!(deleted.status() == StatusCode::NO_CONTENT, "{name}: {}", deleted.text().await?);
        } else {
            put_gives(node, name, "", "resolved", StatusCode::OK).await?;
        }
        for node in &cluster.nodes {
            let left = stat(node, name).await?.versions;
            ensure!(left.len() == 1 && left[0].head, "{name} at {}: {left:?}", node.id);
            if i % 2 == 0 {
                ensure!(left[0].version == versions[1 - i / 2 % 2].version, "the wrong version is left");
            } else {
                ensure!(node.get(name).await? == "resolved");
            }
        }
        ensure!(node.try_get("refused").await?.status() == StatusCode::NOT_FOUND, "a refused write surfaced");
    }
    catalogs_equal(&cluster, 3 * names.len() + 1, Duration::from_secs(30)).await?;
    println!(
        "partition 1|2: {refused} quorum writes refused within {slowest:?}, {local} local reads, {} names written \
         on both sides: both versions and one head on 3 nodes, one cluster {merged:?} after healing, {} resolved \
         by DELETE, {} by PUT",
        names.len(),
        names.len().div_ceil(2),
        names.len() / 2
    );
    Ok(())
}

#[tokio::test]
async fn partitions_of_twenty_seconds_heal_within_ten_and_catalogs_are_equal_within_thirty() -> Result<()> {
    let cluster = Cluster::start_apart(5, &[]).await?;
    for i in 0..20 {
        cluster.nodes[i % 5].put(&format!("shared/{i}"), format!("before {i}")).await?;
    }
    cluster.network().split(&[&[0, 1, 2], &[3, 4]])?;
    let started = Instant::now();
    let writers = cluster.nodes.iter().map(|node| async {
        let (mut fast, mut quorum, mut refused) = (0, 0, 0);
        while started.elapsed() < Duration::from_secs(20) {
            // A name of its own, and one that others write too.
            let own = format!("own/{}/{fast}", node.id);
            put_gives(node, &own, "?durability=fast", &own, StatusCode::OK).await?;
            let shared = format!("shared/{}", fast % 20);
            put_gives(node, &shared, "?durability=fast", &own, StatusCode::OK).await?;
            // Each refusal takes its time: most rounds go without.
            if fast % 4 == 0 {
                let response = node.try_put(&format!("agreed/{}/{fast}", node.id), "", own).await?;
                match response.status() {
                    StatusCode::OK => quorum += 1,
                    StatusCode::SERVICE_UNAVAILABLE => refused += 1,
                    status => anyhow::bail!("a quorum write: {status} {}", response.text().await?),
                }
            }
            fast += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok((fast, quorum, refused))
    });
    let (mut fast, mut quorum, mut refused) = (0, 0, 0);
    for counts in futures::future::try_join_all(writers).await? {
        (fast, quorum, refused) = (fast + counts.0, quorum + counts.1, refused + counts.2);
    }
    let parted = cluster.nodes[0].sees(&cluster.nodes[4].id).await;
    ensure!(parted == Some(Status::Dead), "after 20 s the other side is {parted:?}");
    cluster.network().heal()?;
    let merged = one_cluster(&cluster, Duration::from_secs(10)).await?;
    let equal = catalogs_equal(&cluster, 20 + fast + quorum, Duration::from_secs(30)).await?;
    let list = listed(&cluster.nodes[0]).await?;
    let conflicts = list.values().filter(|(_, conflicts)| *conflicts > 0).count();
    for (i, (name, (etag, _))) in list.iter().enumerate() {
        let answer = cluster.nodes[i % 5].try_get(name).await?;
        ensure!(answer.status() == StatusCode::OK, "{name}: {}", answer.status());
        ensure!(answer.headers()["etag"] == etag.as_str(), "{name} is served with another ETag than listed");
    }
    println!(
        "partition 2|3 of 20 s: {fast} fast writes of own and {fast} of shared names, {quorum} quorum writes taken, \
         {refused} refused; one cluster after {merged:?}, {} names equal on 5 nodes after {equal:?} more, {conflicts} \
         with conflicts",
        list.len()
    );
    Ok(())
}
