//! Conditional writers race while links are cut and healed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_tests::cluster::{Cluster, eventually, scaled};
use kepler_tests::network::Traffic;
use reqwest::StatusCode;

use super::{catalogs_equal, one_cluster};

/// Who succeeded, by name and by the token that was written upon.
type Winners = BTreeMap<(String, Option<String>), Vec<String>>;

#[tokio::test]
async fn partitions_never_let_two_conditional_writers_with_one_token_succeed() -> Result<()> {
    const NAMES: usize = 20;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let cluster = Cluster::start_apart(3, &[]).await?;
    let end = Instant::now() + Duration::from_secs(scaled(250) as u64);
    let running = Cell::new(NAMES);
    let (cuts, heals) = (Cell::new(0), Cell::new(0));
    // Who succeeded from which token of which name.
    let won: RefCell<Winners> = RefCell::default();
    let statuses: RefCell<BTreeMap<u16, usize>> = RefCell::default();
    let raced = Cell::new(0);

    let faults = async {
        let mut random = fastrand::Rng::with_seed(seed);
        let network = cluster.network();
        while running.get() > 0 {
            if random.u8(..4) == 0 {
                network.heal()?;
                heals.set(heals.get() + 1);
            } else {
                let (from, step) = (random.usize(..3), random.usize(1..3));
                let what = [Traffic::All, Traffic::All, Traffic::Udp, Traffic::Tcp][random.usize(..4)];
                match random.u8(..3) {
                    0 => network.cut_both(from, (from + step) % 3, what)?,
                    1 => network.cut(from, (from + step) % 3, what)?,
                    _ => network.graph(|a, b| a != from && b != from)?,
                }
                cuts.set(cuts.get() + 1);
            }
            tokio::time::sleep(Duration::from_millis(random.u64(20..600))).await;
        }
        network.heal()
    };
    let race = async |number: usize| -> Result<()> {
        let name = format!("raced/{number}");
        let mut random = fastrand::Rng::with_seed(seed ^ (number as u64 + 1));
        for round in 0.. {
            if Instant::now() > end {
                break;
            }
            let response = cluster.nodes[random.usize(..3)].try_get(&name).await?;
            let base = match response.status() {
                StatusCode::OK => Some(response.headers()["etag"].to_str()?.to_owned()),
                StatusCode::NOT_FOUND => None,
                StatusCode::SERVICE_UNAVAILABLE => continue,
                status => anyhow::bail!("seed {seed}: a read: {status}"),
            };
            let write = async |writer: usize| -> Result<()> {
                let node = &cluster.nodes[writer];
                let body = format!("{number}.{round} by {}", node.id);
                let request = node.client().put(node.file_url(&name)).body(body.clone());
                let request = match &base {
                    Some(token) => request.header("If-Match", token),
                    None => request.header("If-None-Match", "*"),
                };
                let response = request.send().await?;
                let status = response.status();
                *statuses.borrow_mut().entry(status.as_u16()).or_default() += 1;
                match status {
                    StatusCode::OK => {
                        let mut won = won.borrow_mut();
                        let winners = won.entry((name.clone(), base.clone())).or_default();
                        winners.push(body);
                        ensure!(winners.len() < 2, "seed {seed}: two from {base:?} of {name}: {winners:?}");
                    }
                    StatusCode::PRECONDITION_FAILED | StatusCode::SERVICE_UNAVAILABLE => {}
                    status => anyhow::bail!("seed {seed}: {status} {}", response.text().await?),
                }
                Ok(())
            };
            let (one, two, three) = futures::join!(write(0), write(1), write(2));
            one.and(two).and(three)?;
            raced.set(raced.get() + 1);
        }
        Ok(())
    };
    let races = futures::future::join_all((0..NAMES).map(|number| {
        let race = &race;
        let running = &running;
        async move {
            let outcome = race(number).await;
            running.set(running.get() - 1);
            outcome
        }
    }));
    let (faults, races) = futures::join!(faults, races);
    faults?;
    for outcome in races {
        outcome.inspect_err(|_| cluster.print_logs())?;
    }
    let merged = one_cluster(&cluster, Duration::from_secs(10)).await?;
    let equal = catalogs_equal(&cluster, 1, Duration::from_secs(30)).await?;
    // After healing each name takes a conditional write again, at the latest when the reservations have
    // expired whose release was cut off: until then 503 tells the client to come again.
    let waited = Cell::new(0);
    for number in 0..NAMES {
        let (node, name) = (&cluster.nodes[number % 3], format!("raced/{number}"));
        eventually(&format!("seed {seed}: {name} takes a write"), Duration::from_secs(15), async || {
            let Ok(response) = node.try_get(&name).await else { return false };
            let request = node.client().put(node.file_url(&name)).body("last");
            let request = match response.headers().get("etag").filter(|_| response.status() == StatusCode::OK)
            {
                Some(token) => request.header("If-Match", token),
                None => request.header("If-None-Match", "*"),
            };
            let taken = request.send().await.is_ok_and(|last| last.status() == StatusCode::OK);
            waited.set(waited.get() + usize::from(!taken));
            taken
        })
        .await?;
    }
    let winners = won.borrow().len();
    println!(
        "conditional races: {} of three writers each, {} cuts, {} heals: {winners} tokens with one winner, 0 with \
         two; answers {:?}; whole after {merged:?}, equal after {equal:?}; {} writes had to come again",
        raced.get(),
        cuts.get(),
        heals.get(),
        statuses.borrow(),
        waited.get()
    );
    ensure!(winners > 0, "seed {seed}: nobody ever won");
    Ok(())
}
