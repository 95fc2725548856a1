//! What nodes and client have spent, by the kernel's counts and the nodes' own metrics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kepler_tests::cluster::Cluster;

/// USER_HZ is 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system seconds.
type Seconds = (f64, f64);

/// The counts at one moment.
struct Counts {
    threads: BTreeMap<String, Seconds>,
    client: Seconds,
    switches: f64,
    metrics: BTreeMap<String, f64>,
}

/// Counts from [`Meter::start`] to [`Meter::stop`].
pub struct Meter {
    before: Counts,
    started: Instant,
}

/// What was spent in between.
pub struct Spent {
    /// Wall clock.
    pub elapsed: Duration,
    /// Seconds of all nodes in user space.
    pub user: f64,
    /// Seconds of all nodes in the kernel.
    pub system: f64,
    /// Seconds of this process.
    pub client: f64,
    /// Context switches of all nodes.
    pub switches: f64,
    /// Transactions that changed something.
    pub commits: f64,
    /// Files and transactions made durable.
    pub syncs: f64,
    sync_seconds: f64,
    threads: BTreeMap<String, Seconds>,
}

impl Meter {
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let before = Counts::take(cluster).await?;
        Ok(Self { before, started: Instant::now() })
    }

    pub async fn stop(self, cluster: &Cluster) -> Result<Spent> {
        let elapsed = self.started.elapsed();
        let (before, after) = (self.before, Counts::take(cluster).await?);
        let metric = |name: &str| {
            after.metrics.get(name).copied().unwrap_or(0.0) - before.metrics.get(name).copied().unwrap_or(0.0)
        };
        let mut threads = BTreeMap::new();
        for (name, (user, system)) in &after.threads {
            let (user_before, system_before) = before.threads.get(name).copied().unwrap_or_default();
            // A thread that ended takes its count along.
            threads.insert(name.clone(), ((user - user_before).max(0.0), (system - system_before).max(0.0)));
        }
        Ok(Spent {
            elapsed,
            user: threads.values().map(|(user, _)| user).sum(),
            system: threads.values().map(|(_, system)| system).sum(),
            client: after.client.0 + after.client.1 - before.client.0 - before.client.1,
            switches: after.switches - before.switches,
            commits: metric("kepler_database_commits_total"),
            syncs: metric("kepler_disk_sync_duration_seconds_count"),
            sync_seconds: metric("kepler_disk_sync_duration_seconds_sum"),
            threads,
        })
    }
}

impl Spent {
    /// Milliseconds that one sync took.
    pub fn durable_ms(&self) -> Option<f64> {
        (self.syncs > 0.0).then(|| self.sync_seconds * 1e3 / self.syncs)
    }

    /// Milliseconds of each kind of thread for one of `count` operations.
    pub fn threads(&self, count: f64) -> String {
        let mut threads: Vec<_> = self.threads.iter().collect();
        threads.sort_by(|a, b| (b.1.0 + b.1.1).total_cmp(&(a.1.0 + a.1.1)));
        let shown = threads.iter().filter(|(_, (user, system))| user + system > 0.0).take(4).map(
            |(name, (user, system))| {
                format!(
                    "`{name}` {:.2} ms user and {:.2} ms system",
                    user * 1e3 / count,
                    system * 1e3 / count
                )
            },
        );
        shown.collect::<Vec<_>>().join(", ")
    }
}

impl Counts {
    async fn take(cluster: &Cluster) -> Result<Self> {
        let (mut threads, mut switches, mut metrics) = (BTreeMap::new(), 0.0, BTreeMap::new());
        for node in &cluster.nodes {
            let pid = node.pid().context("the node runs")?;
            let mut seen = (0.0, 0.0);
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let path = task?.path();
                // A thread may end while it is looked at.
                let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
                let (name, seconds) = parse_stat(&stat).context("a line of /proc/PID/stat")?;
                add(threads.entry(name).or_default(), seconds);
                add(&mut seen, seconds);
                switches +=
                    std::fs::read_to_string(path.join("status")).map_or(0.0, |text| switches_of(&text));
            }
            // Threads that have ended are in the count of the process alone.
            let (_, all) = parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
                .context("a line of /proc/PID/stat")?;
            add(threads.entry("ended".into()).or_default(), (all.0 - seen.0, all.1 - seen.1));
            for (name, value) in scrape(node).await? {
                *metrics.entry(name).or_default() += value;
            }
        }
        let (_, client) =
            parse_stat(&std::fs::read_to_string("/proc/self/stat")?).context("a line of /proc/self/stat")?;
        Ok(Self { threads, client, switches, metrics })
    }
}

fn add(sum: &mut Seconds, more: Seconds) {
    sum.0 += more.0;
    sum.1 += more.1;
}

/// Name, and user and system seconds.
fn parse_stat(stat: &str) -> Option<(String, Seconds)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((name, (ticks(11)? / TICKS_PER_SECOND, ticks(12)? / TICKS_PER_SECOND)))
}

fn switches_of(status: &str) -> f64 {
    let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
    lines.filter_map(|(_, count)| count.trim().parse::<f64>().ok()).sum()
}

/// The largest peak of resident memory of a node, in MiB.
pub fn peak_mib(cluster: &Cluster) -> Result<u64> {
    let mut peak = 0;
    for node in &cluster.nodes {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().context("runs")?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        peak = peak.max(line.trim().trim_end_matches(" kB").parse::<u64>()?);
    }
    Ok(peak / 1024)
}

/// The metrics of a node, by name with labels.
async fn scrape(node: &kepler_tests::cluster::Node) -> Result<Vec<(String, f64)>> {
    let text = node.client().get(format!("{}/metrics", node.url())).send().await?.text().await?;
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    Ok(lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// What a live connection between two of the nodes negotiated.
pub async fn cipher(cluster: &Cluster) -> Result<Option<String>> {
    // The gauge is set every few seconds.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for (name, _) in scrape(&cluster.nodes[0]).await? {
            if let Some(suite) = name.strip_prefix("kepler_transfer_cipher{suite=\"") {
                return Ok(Some(suite.trim_end_matches("\"}").to_owned()));
            }
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A histogram over all nodes: how many probes took at most so many seconds.
pub struct RoundTrips(Vec<(f64, f64)>);

/// The probes' histogram at this moment.
pub async fn round_trips(cluster: &Cluster) -> Result<RoundTrips> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for node in &cluster.nodes {
        let lines = scrape(node).await?.into_iter().filter_map(|(name, count)| {
            let bound = name.strip_prefix("kepler_gossip_round_trip_seconds_bucket{le=\"")?;
            let bound = bound.trim_end_matches("\"}");
            Some((if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? }, count))
        });
        for (at, (bound, count)) in lines.enumerate() {
            match buckets.get_mut(at) {
                Some(bucket) => bucket.1 += count,
                None => buckets.push((bound, count)),
            }
        }
    }
    Ok(RoundTrips(buckets))
}

impl RoundTrips {
    /// Count, p50 and p99 of what came after `before`, as columns of a table.
    pub fn since(&self, before: &Self) -> String {
        let counts: Vec<(f64, f64)> =
            self.0.iter().zip(&before.0).map(|((bound, now), (_, then))| (*bound, now - then)).collect();
        let all = counts.last().map_or(0.0, |(_, count)| *count);
        let at = |share: f64| {
            let bound = counts.iter().find(|(_, count)| *count >= all * share).map(|(bound, _)| *bound);
            bound
                .filter(|_| all > 0.0)
                .map_or_else(|| "-".to_owned(), |bound| format!("{:.2} ms", bound * 1e3))
        };
        format!("{all:.0} | {} | {}", at(0.5), at(0.99))
    }
}
