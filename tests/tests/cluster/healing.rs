//! Nodes die, join, rot and leave, and every chunk finds its place again: checked on the disks.
//!
//! Chunks here are of 1 MiB, which are files of their own; a file of one chunk is that chunk.

mod breaker;
mod deaths;
mod deletion;
mod growth;
mod leaving;
mod pace;
mod restarts;
mod rot;
mod storms;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use kepler_protocol::api;
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::ring::{Ring, Weighted};
use kepler_tests::cluster::{Cluster, Node, random_bytes};

pub const MIB: usize = 1 << 20;

/// Everything that waits, waits for seconds.
pub const FAST: [(&str, &str); 8] = [
    ("REPAIR_DELAY_SECS", "2"),
    ("HANDOFF_GRACE_SECS", "4"),
    ("GC_GRACE_SECS", "3"),
    ("INVENTORY_INTERVAL_SECS", "3"),
    ("SWIM_PERIOD_MS", "200"),
    ("CAPACITY", "100GB"),
    ("CHUNK_SIZE_MB", "1"),
    ("MIN_FREE_MB", "64"),
];

/// [`FAST`] with some variables set otherwise, or others set too.
pub fn with<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = FAST.into_iter().filter(|(key, _)| changes.iter().all(|(changed, _)| changed != key));
    kept.chain(changes.iter().copied()).collect()
}

/// A file that was acknowledged: its name, the seed of its bytes, its one chunk.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    pub seed: u64,
    pub size: usize,
    pub chunk: ChunkId,
}

impl Stored {
    pub fn bytes(&self) -> Bytes {
        random_bytes(self.seed, self.size)
    }
}

/// Writes files of one chunk each through all running nodes in turn, several at once.
pub async fn write(cluster: &Cluster, prefix: &str, count: usize, size: usize) -> Result<Vec<Stored>> {
    let running: Vec<&Node> = cluster.nodes.iter().filter(|node| node.pid().is_some()).collect();
    let salt = prefix.bytes().fold(17_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let writing = futures::stream::iter(0..count).map(|i| {
        let node = running[i % running.len()];
        async move {
            let (name, seed) = (format!("{prefix}/{i}"), salt.wrapping_mul(1 << 20) + i as u64);
            let receipt = node.put(&name, random_bytes(seed, size)).await?;
            anyhow::Ok(Stored { name, seed, size, chunk: receipt.cid })
        }
    });
    let stored: Vec<Result<Stored>> = writing.buffer_unordered(6).collect().await;
    stored.into_iter().collect()
}

/// Reads every file through every running node, and compares.
pub async fn read_all(cluster: &Cluster, stored: &[Stored]) -> Result<usize> {
    let running: Vec<&Node> = cluster.nodes.iter().filter(|node| node.pid().is_some()).collect();
    let pairs = running.iter().flat_map(|node| stored.iter().map(move |file| (*node, file)));
    let reading = futures::stream::iter(pairs).map(|(node, file)| async move {
        let body = node.get(&file.name).await?;
        ensure!(body == file.bytes(), "{} through {} is not what was written", file.name, node.id);
        anyhow::Ok(())
    });
    let read: Vec<Result<()>> = reading.buffer_unordered(6).collect().await;
    let count = read.len();
    read.into_iter().collect::<Result<()>>()?;
    Ok(count)
}

/// Who owns chunks by the ring that a node sees, and how many copies there should be.
pub struct Owners {
    ring: Ring,
    wanted: usize,
}

impl Owners {
    pub async fn by(node: &Node) -> Result<Self> {
        let cluster: api::Cluster = node.json("/v1/cluster").await?;
        let constants: Vec<&str> = cluster.ring.version.split('/').collect();
        let [_, reference, wanted] = constants[..] else { bail!("a ring of {}", cluster.ring.version) };
        let on_ring = cluster.members.iter().filter(|member| member.status.is_on_ring());
        let weighted = on_ring.map(|m| Weighted { id: m.id, zone: m.zone.as_deref(), capacity: m.capacity });
        Ok(Self { ring: Ring::build(reference.parse()?, weighted), wanted: wanted.parse()? })
    }

    pub fn of(&self, chunk: &ChunkId) -> BTreeSet<String> {
        self.ring.owners(chunk.key(), self.wanted).iter().map(ToString::to_string).collect()
    }

    pub fn nodes(&self) -> usize {
        self.ring.len()
    }
}

/// Which running nodes have a file of each chunk, unread.
pub fn holders(cluster: &Cluster) -> BTreeMap<ChunkId, BTreeSet<String>> {
    let mut holders: BTreeMap<ChunkId, BTreeSet<String>> = BTreeMap::new();
    for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
        for id in node.chunk_files().keys().filter_map(|name| name.parse().ok()) {
            holders.entry(id).or_default().insert(node.id.clone());
        }
    }
    holders
}

/// Hashes every chunk file of the running nodes. Returns how many there are; one that is not what its name
/// says is an error.
pub fn hash_disks(cluster: &Cluster) -> Result<usize> {
    let mut hashed = 0;
    for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
        for (name, path) in node.chunk_files() {
            let Ok(id) = name.parse::<ChunkId>() else { continue };
            // It may have been deleted since the folder was read.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            Chunk::verify(id, bytes.into()).with_context(|| format!("on the disk of {}", node.id))?;
            hashed += 1;
        }
    }
    Ok(hashed)
}

/// What is not where it should be: (chunks that an owner lacks, copies on nodes that do not own them).
pub fn misplaced(cluster: &Cluster, owners: &Owners, chunks: &BTreeSet<ChunkId>) -> (usize, usize) {
    let holders = holders(cluster);
    let none = BTreeSet::new();
    let (mut lacking, mut surplus) = (0, 0);
    for chunk in chunks {
        let (should, has) = (owners.of(chunk), holders.get(chunk).unwrap_or(&none));
        lacking += usize::from(!should.is_subset(has));
        surplus += has.difference(&should).count();
    }
    (lacking, surplus)
}

/// Waits until each of these chunks is on exactly its owners by the ring of `members` nodes, then hashes
/// the disks. Returns how long it took and how many copies were hashed.
pub async fn exactly_placed(
    cluster: &Cluster,
    members: usize,
    chunks: &BTreeSet<ChunkId>,
    deadline: Duration,
) -> Result<(Duration, usize)> {
    let started = Instant::now();
    let seen_by = cluster.nodes.iter().find(|node| node.pid().is_some()).context("nobody runs")?;
    let mut last = String::new();
    loop {
        if let Ok(owners) = Owners::by(seen_by).await {
            let (lacking, surplus) = misplaced(cluster, &owners, chunks);
            last =
                format!("{} on the ring, {lacking} chunks lacking, {surplus} surplus copies", owners.nodes());
            if owners.nodes() == members && lacking == 0 && surplus == 0 {
                let took = started.elapsed();
                return Ok((took, hash_disks(cluster)?));
            }
        }
        if started.elapsed() > deadline {
            cluster.print_logs();
            for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
                let status: Result<serde_json::Value> = node.json("/v1/status").await;
                println!("{}: {}", node.id, status.map_or_else(|e| e.to_string(), |s| s.to_string()));
            }
            bail!("still not in place after {deadline:?}: {last}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A sum of the counters of one name on a node, over all label sets that hold `label`.
pub async fn metric(node: &Node, name: &str, label: &str) -> Result<f64> {
    let text = node.client().get(format!("{}/metrics", node.url())).send().await?.text().await?;
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// Bytes that the running nodes have sent in the background since they were started.
pub async fn sent_in_background(cluster: &Cluster) -> Result<f64> {
    let mut sum = 0.0;
    for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
        sum +=
            metric(node, "kepler_transfer_bytes_total", "direction=\"Out\",purpose=\"Background\"").await?;
    }
    Ok(sum)
}

/// The background bytes that one node has sent.
pub async fn background_bytes(node: &Node) -> Result<f64> {
    metric(node, "kepler_transfer_bytes_total", "direction=\"Out\",purpose=\"Background\"").await
}

/// `GET /v1/verify?all=1`: the problems, and the totals.
pub async fn verify(node: &Node) -> Result<(Vec<api::VerifyLine>, api::VerifyTotal)> {
    let request =
        node.client().get(format!("{}/v1/verify?all=1", node.url())).header("Kepler-Client", "test");
    let text = request.send().await?.error_for_status()?.text().await?;
    let mut lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<api::VerifyLine>, _>>()?;
    let Some(api::VerifyLine::Total(total)) = lines.pop() else { anyhow::bail!("no total: {text}") };
    lines.retain(|line| !matches!(line, api::VerifyLine::Progress { .. }));
    Ok((lines, total))
}

/// Makes a node's disk a new one.
pub fn wipe(data: &Path) -> Result<()> {
    std::fs::remove_dir_all(data).with_context(|| format!("remove {}", data.display()))
}

/// A response, and what was read (name, bytes) or written (name, seed).
type Asked = (reqwest::Response, Option<(String, Bytes)>, Option<(String, u64)>);

/// Clients that read and write through all nodes until they are stopped.
pub struct Load {
    urls: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    workers: Vec<tokio::task::JoinHandle<Outcome>>,
}

/// What clients met.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub reads: usize,
    pub writes: usize,
    /// 503: too few homes of a name answered.
    pub unavailable: usize,
    /// Requests to a node that was stopped meanwhile.
    pub cut_off: usize,
    /// Everything else that is no success.
    pub failed: Vec<String>,
    pub slowest: Duration,
    /// What was acknowledged: names, and the seeds of their bytes.
    pub written: Vec<(String, u64)>,
}

impl Outcome {
    /// Reads what was acknowledged, or a thousand of it, through one running node after the other. Returns
    /// how many that were.
    pub async fn read_back(&self, cluster: &Cluster) -> Result<usize> {
        let nodes: Vec<&Node> = cluster.nodes.iter().filter(|node| node.pid().is_some()).collect();
        let some = self.written.iter().step_by(self.written.len().div_ceil(1_000).max(1));
        let mut read = 0;
        for ((name, seed), node) in some.zip(nodes.iter().cycle()) {
            let body = node.get(name).await.with_context(|| format!("{name} through {}", node.id))?;
            ensure!(body == random_bytes(*seed, WRITTEN_BYTES), "{name} through {}: other bytes", node.id);
            read += 1;
        }
        ensure!(read > 0, "nothing was written");
        Ok(read)
    }
}

/// The size of what clients write.
const WRITTEN_BYTES: usize = 20_000;

impl Load {
    /// Four clients that read `files` and write new ones of 20 kB under `prefix`.
    pub fn start(cluster: &Cluster, files: &[Stored], prefix: &str) -> Self {
        let running = cluster.nodes.iter().filter(|node| node.pid().is_some());
        let urls = Arc::new(Mutex::new(running.map(Node::url).collect()));
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let workers = (0..4_u64).map(|worker| {
            let client = Client {
                worker,
                prefix: prefix.to_owned(),
                files: files.to_vec(),
                urls: urls.clone(),
                stop: stop.clone(),
                done: done.clone(),
            };
            tokio::spawn(client.run())
        });
        Self { workers: workers.collect(), urls, stop, done }
    }

    /// No further requests go to this node.
    pub fn leave_out(&self, node: &Node) {
        self.urls.lock().expect("no panic").retain(|url| *url != node.url());
    }

    /// Requests go to this node too.
    pub fn include(&self, node: &Node) {
        self.urls.lock().expect("no panic").push(node.url());
    }

    pub fn operations(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    pub async fn finish(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Outcome::default();
        for worker in self.workers {
            let one = worker.await?;
            sum.reads += one.reads;
            sum.writes += one.writes;
            sum.unavailable += one.unavailable;
            sum.cut_off += one.cut_off;
            sum.failed.extend(one.failed);
            sum.slowest = sum.slowest.max(one.slowest);
            sum.written.extend(one.written);
        }
        Ok(sum)
    }
}

struct Client {
    worker: u64,
    prefix: String,
    files: Vec<Stored>,
    urls: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
}

impl Client {
    async fn run(self) -> Outcome {
        let client = kepler_tests::cluster::client();
        let mut random = fastrand::Rng::with_seed(self.worker);
        let mut outcome = Outcome::default();
        let mut i = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            i += 1;
            let urls = self.urls.lock().expect("no panic").clone();
            let url = &urls[random.usize(..urls.len())];
            let started = Instant::now();
            let result = if i.is_multiple_of(3) {
                let (name, seed) = (format!("{}/{}/{i}", self.prefix, self.worker), (self.worker << 32) | i);
                let put =
                    client.put(format!("{url}/v1/files/{name}")).body(random_bytes(seed, WRITTEN_BYTES));
                put.send().await.map(|response| (response, None, Some((name, seed))))
            } else {
                let (name, expected) = match outcome.written.last() {
                    Some((name, seed)) if random.bool() => (name.clone(), random_bytes(*seed, WRITTEN_BYTES)),
                    _ => {
                        let file = &self.files[random.usize(..self.files.len())];
                        (file.name.clone(), file.bytes())
                    }
                };
                let get = client.get(format!("{url}/v1/files/{name}")).send().await;
                get.map(|response| (response, Some((name, expected)), None))
            };
            self.judge(url, result, &mut outcome).await;
            outcome.slowest = outcome.slowest.max(started.elapsed());
            self.done.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        outcome
    }

    async fn judge(&self, url: &str, result: reqwest::Result<Asked>, outcome: &mut Outcome) {
        let gone = || !self.urls.lock().expect("no panic").iter().any(|known| known == url);
        let (response, read, put) = match result {
            Ok(answer) => answer,
            Err(_) if gone() => return outcome.cut_off += 1,
            Err(error) => return outcome.failed.push(format!("{url}: {error:?}")),
        };
        let status = response.status();
        if status == 503 {
            outcome.unavailable += 1;
            return;
        }
        if status != 200 {
            let text = response.text().await.unwrap_or_default();
            return outcome.failed.push(format!("{url} {put:?}: {status} {text}"));
        }
        match (read, put) {
            (Some((name, expected)), _) => match response.bytes().await {
                Ok(body) if body == expected => outcome.reads += 1,
                Ok(_) => outcome.failed.push(format!("{name} through {url}: other bytes")),
                Err(_) if gone() => outcome.cut_off += 1,
                Err(error) => outcome.failed.push(format!("{name} through {url}: {error:?}")),
            },
            (None, Some(name)) => {
                outcome.writes += 1;
                outcome.written.push(name);
            }
            (None, None) => {}
        }
    }
}
