//! Bad links are no deaths.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kepler_protocol::api::Status;
use kepler_tests::cluster::{Cluster, eventually, scaled};
use kepler_tests::network::Traffic;
use reqwest::StatusCode;

use super::{Witness, all_up, catalogs_equal, one_cluster, put_gives};

/// Threads that burn all cores until dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn start() -> (Self, usize) {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..cores {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut x = 1u64;
                while !stop.load(Ordering::Relaxed) {
                    x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            });
        }
        (Self(stop), cores)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks for a while: nobody may be seen other than alive or suspect.
async fn watch(cluster: &Cluster, duration: Duration) -> Result<usize> {
    let started = Instant::now();
    let mut polls = 0;
    while started.elapsed() < duration {
        all_up(cluster).await?;
        polls += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(polls)
}

#[tokio::test]
async fn partitions_are_not_seen_in_full_load_and_a_fifth_of_datagrams_lost() -> Result<()> {
    let cluster = Cluster::start_apart(3, &[]).await?;
    let witness = Witness::follow(&cluster).await?;
    cluster.network().lose(20)?;
    let seconds = scaled(60) as u64;
    let (load, cores) = Load::start();
    let outcome = watch(&cluster, Duration::from_secs(seconds)).await;
    drop(load);
    let dropped = cluster.network().dropped()?;
    let polls = outcome.inspect_err(|_| cluster.print_logs())?;
    witness.nobody_died().inspect_err(|_| cluster.print_logs())?;
    let suspected = witness.said(Status::Suspect).len();
    println!(
        "{seconds} s of full load on {cores} cores and 20 % datagram loss: {polls} polls of 3 nodes, \
         {dropped} datagrams lost, {suspected} suspicions, 0 deaths"
    );
    ensure!(dropped > 10, "only {dropped} datagrams were lost");
    Ok(())
}

#[tokio::test]
async fn partitions_of_datagrams_alone_kill_nobody() -> Result<()> {
    let cluster = Cluster::start_apart(3, &[]).await?;
    let witness = Witness::follow(&cluster).await?;
    let hold = Duration::from_secs(12);
    // Between two, whom the third could still vouch for; then one whom no datagram reaches.
    cluster.network().cut_both(0, 1, Traffic::Udp)?;
    let one = watch(&cluster, hold).await.inspect_err(|_| cluster.print_logs())?;
    witness.nobody_died().inspect_err(|_| cluster.print_logs())?;
    let suspected_one = witness.said(Status::Suspect).len();
    let dropped_one = cluster.network().dropped()?;
    ensure!(dropped_one > 0, "no datagram was blocked");
    cluster.network().cut_both(0, 2, Traffic::Udp)?;
    let both = watch(&cluster, hold).await.inspect_err(|_| cluster.print_logs())?;
    witness.nobody_died().inspect_err(|_| cluster.print_logs())?;
    let suspected = witness.said(Status::Suspect).len() - suspected_one;
    let dropped = cluster.network().dropped()?;
    ensure!(dropped > 0, "no datagram was blocked");
    for (i, node) in cluster.nodes.iter().enumerate() {
        put_gives(node, &format!("over-tcp/{i}"), "", "x", StatusCode::OK).await?;
    }
    println!(
        "UDP blocked, TCP open, {hold:?} each: between two nodes {one} polls, {dropped_one} datagrams blocked, \
         {suspected_one} suspicions; around one node {both} polls, {dropped} blocked, {suspected} suspicions; \
         0 deaths, quorum writes through all three"
    );
    Ok(())
}

#[tokio::test]
async fn partitions_one_way_heal() -> Result<()> {
    let cluster = Cluster::start_apart(3, &[]).await?;
    let network = cluster.network();
    let witness = Witness::follow(&cluster).await?;
    // b does not hear a; c hears both and vouches.
    network.cut(0, 1, Traffic::All)?;
    watch(&cluster, Duration::from_secs(8)).await.inspect_err(|_| cluster.print_logs())?;
    witness.nobody_died().inspect_err(|_| cluster.print_logs())?;
    let suspected = witness.said(Status::Suspect).len();
    network.heal()?;
    let first = one_cluster(&cluster, Duration::from_secs(10)).await?;
    // Nobody hears a, which hears everybody; then a hears nobody, whom everybody hears. The latter says
    // itself that it is not well and is given more time, but not for ever.
    let mut healed = Vec::new();
    for (deaf, patience) in [(false, 20), (true, 60)] {
        network.graph(|from, to| if deaf { to != 0 } else { from != 0 })?;
        let started = Instant::now();
        let mut n = 0;
        eventually("the others see a dead", Duration::from_secs(patience), async || {
            let written =
                put_gives(&cluster.nodes[1 + n % 2], &format!("{deaf}/{n}"), "", "x", StatusCode::OK).await;
            written.expect("a majority is up and whole");
            n += 1;
            let (b, c) = (cluster.nodes[1].sees("node-a").await, cluster.nodes[2].sees("node-a").await);
            b == Some(Status::Dead) && c == Some(Status::Dead)
        })
        .await
        .inspect_err(|_| cluster.print_logs())?;
        let dead = started.elapsed();
        ensure!(
            !witness.said(Status::Dead).is_empty(),
            "no event told of a death: are events followed at all?"
        );
        network.heal()?;
        let merged = one_cluster(&cluster, Duration::from_secs(10)).await?;
        let equal = catalogs_equal(&cluster, n, Duration::from_secs(30)).await?;
        healed.push((n, dead, merged, equal));
    }
    println!(
        "one way: b deaf to a for 8 s with {suspected} suspicions and 0 deaths, whole after {first:?}; a unheard, \
         then deaf (quorum writes by the others until it is dead, dead after, whole after, equal after): {healed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn partitions_with_a_bridge_node_kill_nobody_and_lose_nothing() -> Result<()> {
    let cluster = Cluster::start_apart(5, &[]).await?;
    let witness = Witness::follow(&cluster).await?;
    // a and b | c, who hears all | d and e.
    cluster.network().graph(|from, to| from == 2 || to == 2 || (from < 2) == (to < 2))?;
    let started = Instant::now();
    let (taken, refused) = (RefCell::new(Vec::new()), Cell::new(0));
    let writers = cluster.nodes.iter().map(|node| async {
        for n in 0.. {
            if started.elapsed() > Duration::from_secs(15) {
                break;
            }
            let name = format!("bridged/{}/{n}", node.id);
            let response = node.try_put(&name, "", name.clone()).await?;
            match response.status() {
                StatusCode::OK => taken.borrow_mut().push(name),
                StatusCode::SERVICE_UNAVAILABLE => refused.set(refused.get() + 1),
                status => anyhow::bail!("{status} {}", response.text().await?),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    });
    let watched =
        async { watch(&cluster, Duration::from_secs(15)).await.inspect_err(|_| cluster.print_logs()) };
    futures::future::try_join(futures::future::try_join_all(writers), watched).await?;
    let (taken, refused) = (taken.into_inner(), refused.get());
    witness.nobody_died().inspect_err(|_| cluster.print_logs())?;
    cluster.network().heal()?;
    let merged = one_cluster(&cluster, Duration::from_secs(10)).await?;
    let equal = catalogs_equal(&cluster, taken.len(), Duration::from_secs(30)).await?;
    for node in &cluster.nodes {
        for name in &taken {
            ensure!(node.get(name).await? == *name);
        }
    }
    let suspected = witness.said(Status::Suspect).len();
    println!(
        "bridge node between 2 and 2 for 15 s: {suspected} suspicions, 0 deaths, {} quorum writes taken and read \
         back through 5 nodes, {refused} refused; whole after {merged:?}, equal after {equal:?}",
        taken.len()
    );
    Ok(())
}
