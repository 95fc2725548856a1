//! What clients of real processes see under cuts and crashes, judged by the checker of the simulations.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api::Durability;
use kepler_tests::cluster::{Cluster, scaled};
use kepler_tests::history::recorder::{Ask, Recorder};
use kepler_tests::history::{History, Operation, Phase, checker};
use kepler_tests::network::Traffic;

use super::{catalogs_equal, one_cluster};

const NAMES: usize = 6;
const CLIENTS: usize = 9;

/// Names are used for so long, so that a name's history stays short enough to judge.
const EPOCH: Duration = Duration::from_secs(8);

/// Cuts and heals links, kills and restarts nodes, until no client is left. How many of each.
async fn torment(
    cluster: &mut Cluster,
    recorder: &Recorder,
    seed: u64,
    running: &Cell<usize>,
) -> Result<[usize; 3]> {
    let mut random = fastrand::Rng::with_seed(seed);
    let [mut cuts, mut heals, mut kills] = [0; 3];
    while running.get() > 0 {
        let (from, step) = (random.usize(..3), random.usize(1..3));
        match random.u8(..10) {
            0..3 => {
                cluster.network().heal()?;
                heals += 1;
            }
            3 => {
                // Both sides of the restart are in the history: the pause in between is not.
                cluster.nodes[from].kill();
                kills += 1;
                tokio::time::sleep(Duration::from_millis(random.u64(0..1_500))).await;
                recorder.restarts(from);
                cluster.nodes[from].start()?;
            }
            4..6 => {
                cluster.network().cut_both(from, (from + step) % 3, Traffic::All)?;
                cuts += 1;
            }
            6 => {
                let what = [Traffic::All, Traffic::Udp, Traffic::Tcp][random.usize(..3)];
                cluster.network().cut(from, (from + step) % 3, what)?;
                cuts += 1;
            }
            _ => {
                cluster.network().graph(|a, b| a != from && b != from)?;
                cuts += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(20..1_200))).await;
    }
    Ok([cuts, heals, kills])
}

/// One client: it asks for one thing after the other until the time is over.
async fn live(recorder: &Recorder, seed: u64, end: Instant) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let mut heads: BTreeMap<String, String> = BTreeMap::new();
    while Instant::now() < end {
        let epoch = begun.elapsed().as_secs() / EPOCH.as_secs();
        let (node, name) = (random.usize(..3), format!("history/{epoch}/{}", random.usize(..NAMES)));
        let ask = match (random.u8(..12), heads.get(&name)) {
            (0..5, _) => Ask::Get,
            (5..8, Some(head)) => Ask::PutIf(head.clone()),
            (5..8, None) => Ask::PutNew,
            (8, _) => Ask::Put(Durability::Fast),
            (9, _) => Ask::Delete,
            _ => Ask::Put(Durability::Quorum),
        };
        match recorder.ask(node, &name, ask).await? {
            Some(version) => drop(heads.insert(name, version)),
            None => drop(heads.remove(&name)),
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
    }
    Ok(())
}

#[tokio::test]
async fn what_clients_see_under_cuts_and_crashes_is_a_right_history() -> Result<()> {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut cluster = Cluster::start_apart(3, &[]).await?;
    let recorder = Recorder::new(&cluster.nodes);
    let time = Duration::from_secs(scaled(300) as u64);
    let end = Instant::now() + time;
    let running = Cell::new(CLIENTS);
    let clients = futures::future::join_all((0..CLIENTS as u64).map(|number| {
        let (recorder, running) = (&recorder, &running);
        async move {
            let outcome = live(recorder, seed ^ (number + 1), end).await;
            running.set(running.get() - 1);
            outcome
        }
    }));
    let (faults, clients) = futures::join!(torment(&mut cluster, &recorder, seed, &running), clients);
    let [cuts, heals, kills] = faults?;
    for outcome in clients {
        outcome.inspect_err(|_| cluster.print_logs())?;
    }
    cluster.network().heal()?;
    cluster.settle().await?;
    one_cluster(&cluster, Duration::from_secs(10)).await?;
    catalogs_equal(&cluster, 1, Duration::from_secs(30)).await?;
    // In the end every name is read through every node.
    for epoch in 0..=time.as_secs() / EPOCH.as_secs() {
        for name in 0..NAMES {
            for node in 0..3 {
                recorder.ask(node, &format!("history/{epoch}/{name}"), Ask::Get).await?;
            }
        }
    }
    let history = recorder.history();
    let judged = Instant::now();
    let violations = checker::check(&history)?;
    let judged = judged.elapsed();
    if !violations.is_empty() {
        let path = std::env::temp_dir().join(format!("kepler-history-{seed}.jsonl"));
        std::fs::write(&path, history.to_json_lines())?;
        println!("the history is in {}", path.display());
    }
    ensure!(violations.is_empty(), "seed {seed}: {violations:#?}");
    let [ok, failed, unknown] = recorder.ended();
    println!(
        "history: {ok} operations ok, {failed} refused, {unknown} without an answer, under {cuts} cuts, {heals} \
         heals and {kills} kills; 0 violations, judged in {judged:?}"
    );
    ensure!(
        ok > 20 * time.as_secs() as usize / 10 && kills > 0 && cuts > 0,
        "seed {seed}: too little happened"
    );
    finds_what_is_wrong(&history)
}

/// The judge would have noticed a last read of any name that shows a version which a later write had replaced.
fn finds_what_is_wrong(history: &History) -> Result<()> {
    let operations = history.operations()?;
    let mut tried = 0;
    for (at, line) in history.lines().iter().enumerate() {
        let Some(read) = operations.iter().find(|o| o.id == line.id && !o.is_write()) else { continue };
        let last = operations.iter().all(|o| o.is_write() || o.name != read.name || o.id <= read.id);
        if !last || line.phase != Phase::Ok || read.local {
            continue;
        }
        let acknowledged = || operations.iter().filter(|o| o.name == read.name && o.is_acknowledged());
        let replaced = acknowledged().find(|old| {
            let sweeps = |new: &&Operation| new.cid.is_some() && new.is_sweeping() && !new.if_absent;
            old.cid.is_some() && acknowledged().filter(sweeps).any(|new| old.end < new.start)
        });
        let Some(replaced) = replaced else { continue };
        let mut lines = history.lines().to_vec();
        lines[at].survivors = replaced.version.clone().map(|version| vec![version]);
        (lines[at].version, lines[at].cid) = (replaced.version.clone(), replaced.cid.clone());
        let mut wrong = History::default();
        lines.into_iter().for_each(|line| wrong.push(line));
        ensure!(!checker::check(&wrong)?.is_empty(), "a stale read of {} was not noticed", read.name);
        tried += 1;
    }
    println!("history: {tried} stale reads put into it, each one found");
    ensure!(tried > 0, "no name was written twice");
    Ok(())
}
