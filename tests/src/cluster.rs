//! A cluster of real processes in temporary directories, driven over HTTP and by signals.
//!
//! Nothing here knows how a node works inside: it starts the binaries, speaks their public API
//! and looks at their disks.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use kepler_protocol::api;
use reqwest::{Response, StatusCode};
use tempfile::TempDir;

use crate::network::Network;

/// The cluster key of clusters whose nodes have hosts of their own.
pub const CLUSTER_KEY: &str = "6b65706c65722066732c20612074657374206f6620746865206e6574776f726b";

/// Their token; the client of each node sends it.
pub const API_TOKEN: &str = "a-token-for-cluster-tests";

/// Where the binaries under test are: `KEPLER_BIN_DIR`, or beside the test's own.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("KEPLER_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().expect("a test knows its own path");
            test.ancestors().nth(2).expect("target/debug/deps/test").to_path_buf()
        },
        PathBuf::from,
    );
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --bins` first", path.display());
    path
}

/// The full numbers of the acceptance list, or a tenth of them.
pub fn scaled(full: usize) -> usize {
    if std::env::var("FULL").is_ok_and(|v| v == "1") { full } else { full.div_ceil(10) }
}

/// Three ports that nobody listens on now: HTTP, gossip, transfer.
///
/// They lie below the range from which the kernel draws ports of outgoing connections, so that a
/// node which is down does not lose its ports to a client.
fn free_ports() -> [u16; 3] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + (std::process::id() % 1_500) as u16 * 13;
    std::array::from_fn(|_| {
        loop {
            let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
            if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
            {
                return port;
            }
        }
    })
}

/// One node: its process, its directory, its ports.
pub struct Node {
    /// `NODE_ID`.
    pub id: String,
    /// HTTP, gossip, transfer.
    pub ports: [u16; 3],
    /// `DATA_DIR`.
    pub data: PathBuf,
    host: IpAddr,
    namespace: Option<String>,
    environment: BTreeMap<String, String>,
    log: PathBuf,
    child: Option<Child>,
    client: reqwest::Client,
}

impl Node {
    /// The base address of its gateway.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.ports[0])
    }

    /// The address of a file.
    pub fn file_url(&self, name: &str) -> String {
        format!("{}/v1/files/{name}", self.url())
    }

    /// Starts the process, or starts it again.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.id);
        let log = File::options().create(true).append(true).open(&self.log)?;
        // `ip netns exec` becomes the node: its process id is the node's.
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary("kepler-node"));
                command
            }
            None => Command::new(binary("kepler-node")),
        };
        let child = command
            .env_clear()
            .envs(std::env::vars().filter(|(key, _)| matches!(key.as_str(), "PATH" | "HOME" | "TMPDIR")))
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start kepler-node")?;
        self.child = Some(child);
        Ok(())
    }

    /// Sets a variable for the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(key.to_owned(), value.to_owned());
    }

    /// Takes a variable away for the next start.
    pub fn unset(&mut self, key: &str) {
        self.environment.remove(key);
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid().context("not running")?;
        let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
        ensure!(status.success(), "kill -{name} {pid}");
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub async fn terminate(&mut self) -> Result<()> {
        self.signal("TERM")?;
        let mut child = self.child.take().context("not running")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                bail!("{} did not end within 30 s of SIGTERM", self.id);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether the process has ended by itself, with its exit code.
    pub fn exited(&mut self) -> Option<i32> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(status.code().unwrap_or(-1))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// PUT; any answer.
    pub async fn try_put(&self, name: &str, query: &str, body: impl Into<reqwest::Body>) -> Result<Response> {
        Ok(self.client.put(format!("{}{query}", self.file_url(name))).body(body).send().await?)
    }

    /// PUT that must succeed.
    pub async fn put(&self, name: &str, body: impl Into<reqwest::Body>) -> Result<api::Receipt> {
        let response = self.try_put(name, "", body).await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status == StatusCode::OK, "put {name} at {}: {status} {text}", self.id);
        Ok(serde_json::from_str(&text)?)
    }

    /// GET; any answer.
    pub async fn try_get(&self, name: &str) -> Result<Response> {
        Ok(self.client.get(self.file_url(name)).send().await?)
    }

    /// GET that must succeed.
    pub async fn get(&self, name: &str) -> Result<Bytes> {
        let response = self.try_get(name).await?;
        let status = response.status();
        if status != StatusCode::OK {
            bail!("get {name} at {}: {status} {}", self.id, response.text().await.unwrap_or_default());
        }
        Ok(response.bytes().await?)
    }

    /// GET of a JSON document.
    pub async fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.client.get(format!("{}{path}", self.url())).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&response.bytes().await?)?)
    }

    /// All files that the node lists, page by page.
    pub async fn list(&self) -> Result<Vec<api::FileEntry>> {
        let mut files = Vec::new();
        let mut query = String::new();
        loop {
            let page: api::Listing = self.json(&format!("/v1/files?limit=500{query}")).await?;
            files.extend(page.files);
            let Some(next) = page.next else { return Ok(files) };
            query = format!("&after={next}");
        }
    }

    /// Whether `/readyz` says so.
    pub async fn is_ready(&self) -> bool {
        let url = format!("{}/readyz", self.url());
        self.client.get(url).send().await.is_ok_and(|r| r.status() == StatusCode::OK)
    }

    /// The status of a member as this node sees it.
    pub async fn sees(&self, id: &str) -> Option<api::Status> {
        let cluster: api::Cluster = self.json("/v1/cluster").await.ok()?;
        cluster.members.iter().find(|m| m.id.as_str() == id).map(|m| m.status)
    }

    /// The client whose connections go to this node.
    pub const fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Files below `chunks/` on its disk, by name.
    pub fn chunk_files(&self) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        walk(&self.data.join("chunks"), &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(name, path.to_owned());
        });
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}

/// Nodes that belong together.
pub struct Cluster {
    /// In the order in which they were added.
    pub nodes: Vec<Node>,
    /// Dropped after the nodes that live in it.
    network: Option<Network>,
    environment: BTreeMap<String, String>,
    directory: TempDir,
}

impl Cluster {
    /// Starts `count` nodes and waits until all are ready and see each other alive.
    pub async fn start(count: usize) -> Result<Self> {
        Self::start_with(count, &[]).await
    }

    /// The same, with further variables for every node.
    pub async fn start_with(count: usize, environment: &[(&str, &str)]) -> Result<Self> {
        Self::start_on(None, count, environment).await
    }

    /// Starts `count` nodes with a host each, on a network of their own.
    pub async fn start_apart(count: usize, environment: &[(&str, &str)]) -> Result<Self> {
        let secrets = [("CLUSTER_KEY", CLUSTER_KEY), ("API_TOKEN", API_TOKEN)];
        let environment: Vec<(&str, &str)> = secrets.iter().chain(environment).copied().collect();
        Self::start_on(Some(Network::new(0)?), count, &environment).await
    }

    async fn start_on(network: Option<Network>, count: usize, environment: &[(&str, &str)]) -> Result<Self> {
        let mut cluster = Self {
            nodes: Vec::new(),
            network,
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            directory: TempDir::new()?,
        };
        for _ in 0..count {
            cluster.add()?;
        }
        cluster.settle().await?;
        Ok(cluster)
    }

    /// The network whose host *n* is the home of node *n*.
    ///
    /// # Panics
    /// The nodes were not started apart.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a cluster started by `start_apart`")
    }

    /// Adds and starts one node that joins through the first, without waiting for it.
    pub fn add(&mut self) -> Result<&mut Node> {
        let node = self.prepare()?;
        node.start()?;
        Ok(node)
    }

    /// Adds one node that is to join through the first, and does not start it.
    pub fn prepare(&mut self) -> Result<&mut Node> {
        let index = self.nodes.len();
        let id = format!("node-{}", char::from(b'a' + u8::try_from(index)?));
        let ports = free_ports();
        let data = self.directory.path().join(&id);
        let mut environment = self.environment.clone();
        for (key, value) in [
            ("NODE_ID", id.clone()),
            ("HTTP_PORT", ports[0].to_string()),
            ("GOSSIP_PORT", ports[1].to_string()),
            ("TRANSFER_PORT", ports[2].to_string()),
            ("DATA_DIR", data.display().to_string()),
        ] {
            environment.insert(key.to_owned(), value);
        }
        let (mut host, mut namespace) = (IpAddr::V4(Ipv4Addr::LOCALHOST), None);
        if let Some(network) = &mut self.network {
            let number = network.add_host()?;
            host = network.address(number).into();
            namespace = Some(network.namespace(number));
            environment.insert("BIND_ADDR".into(), host.to_string());
        }
        if let Some(first) = self.nodes.first() {
            environment.insert("SEEDS".into(), format!("{}:{}", first.host, first.ports[1]));
        }
        let token = environment.get("API_TOKEN").map(String::as_str);
        let node = Node {
            host,
            namespace,
            client: client_with(token),
            log: self.directory.path().join(format!("{id}.log")),
            id,
            ports,
            data,
            environment,
            child: None,
        };
        self.nodes.push(node);
        Ok(self.nodes.last_mut().expect("just pushed"))
    }

    /// Waits until every running node is ready and sees every running node alive.
    pub async fn settle(&self) -> Result<()> {
        let running: Vec<&Node> = self.nodes.iter().filter(|n| n.child.is_some()).collect();
        let settled = eventually("the cluster settles", Duration::from_secs(60), async || {
            for node in &running {
                if !node.is_ready().await {
                    return false;
                }
                for other in &running {
                    if node.sees(&other.id).await != Some(api::Status::Alive) {
                        return false;
                    }
                }
            }
            true
        });
        settled.await.inspect_err(|_| self.print_logs())
    }

    /// Prints what each node has logged last, for a failing test.
    pub fn print_logs(&self) {
        for node in &self.nodes {
            let log = node.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            println!("---- {} ({} lines)", node.id, log.lines().count());
            tail.iter().rev().for_each(|line| println!("{line}"));
        }
    }

    /// How many nodes have a whole file of each chunk, over all chunks on any disk.
    pub fn copies(&self) -> BTreeMap<String, usize> {
        let mut copies = BTreeMap::new();
        for node in &self.nodes {
            for chunk in node.chunk_files().into_keys().filter(|name| !name.ends_with(".tmp")) {
                *copies.entry(chunk).or_default() += 1;
            }
        }
        copies
    }

    /// Files on the disks whose names end in `.tmp`.
    pub fn temporary_files(&self) -> Vec<String> {
        self.nodes
            .iter()
            .flat_map(|n| n.chunk_files().into_keys())
            .filter(|name| name.ends_with(".tmp"))
            .collect()
    }
}

/// A client with a deadline for each request and no proxy.
pub fn client() -> reqwest::Client {
    client_with(None)
}

/// The same, with this `API_TOKEN` in each request.
pub fn client_with(token: Option<&str>) -> reqwest::Client {
    let authorization = token.map(|token| {
        let value = format!("Bearer {token}").parse().expect("a token is visible ASCII");
        (reqwest::header::AUTHORIZATION, value)
    });
    reqwest::Client::builder()
        .default_headers(authorization.into_iter().collect())
        .no_proxy()
        .timeout(Duration::from_secs(120))
        .connect_timeout(Duration::from_secs(5))
        .build()
        .expect("a plain client can be built")
}

/// Waits until `condition` holds, and fails with its name if it does not within `deadline`.
pub async fn eventually(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let started = Instant::now();
    loop {
        if condition().await {
            return Ok(());
        }
        if started.elapsed() > deadline {
            bail!("still waiting for this after {deadline:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `size` bytes that differ for every seed.
pub fn random_bytes(seed: u64, size: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes.into()
}
