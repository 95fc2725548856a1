//! `kepler dev` and `kepler node`: running nodes.
//!
//! Nodes that `dev` started never outlive it, unless it is killed with -9. One that dies is reported and
//! the others go on: that is what they are for.

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kepler_protocol::api::{Cluster, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::signal::unix;

use crate::args::Dev;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::Output;

/// How long a cluster on one machine may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far the gossip and transfer ports lie above the HTTP port.
const GOSSIP: u16 = 1_000;
const TRANSFER: u16 = 2_000;

/// The `kepler-node` beside this program, else whichever is on `PATH`.
fn node_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("kepler-node"));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("kepler-node"))
}

/// Becomes a node.
///
/// # Errors
/// When there is no such program.
pub fn node(flags: &[String]) -> Result<()> {
    let program = node_program();
    let error = Command::new(&program).args(flags).exec();
    Err(error).with_context(|| format!("run {}: build it with `make build`", program.display()))
}

struct Running {
    id: String,
    url: String,
    log: PathBuf,
    /// What a person types to start it again.
    again: String,
    child: Child,
    ended: bool,
}

/// Every way in which a person or a service manager asks us to stop.
struct Interrupts([unix::Signal; 3]);

impl Interrupts {
    fn new() -> Result<Self> {
        let on = |kind| unix::signal(kind).context("listen to signals");
        Ok(Self([
            on(unix::SignalKind::interrupt())?,
            on(unix::SignalKind::terminate())?,
            on(unix::SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Runs a cluster until it is interrupted.
///
/// # Errors
/// When a node does not start, or when all have ended by themselves.
pub async fn run(output: &Output, options: Dev) -> Result<()> {
    if options.http_port > u16::MAX - TRANSFER - options.nodes {
        let message = format!(
            "--http-port {} leaves no room: gossip is {GOSSIP} and transfer {TRANSFER} above it",
            options.http_port
        );
        return Err(Failure::Usage(message).into());
    }
    for index in 0..options.nodes {
        // Else whoever has the port might be taken for the node that could not get it.
        let http = options.http_port + index;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let udp = |port| UdpSocket::bind(("127.0.0.1", port)).is_ok();
        let taken = [
            (http, free(http)),
            (http + GOSSIP, udp(http + GOSSIP)),
            (http + TRANSFER, free(http + TRANSFER)),
        ];
        if let Some((port, _)) = taken.into_iter().find(|(_, free)| !free) {
            bail!("port {port} is in use: end what uses it, or choose other ports with --http-port");
        }
    }
    let mut interrupts = Interrupts::new()?;
    let mut nodes = Vec::new();
    let result = run_until_interrupted(output, &options, &mut nodes, &mut interrupts).await;
    output.note("stopping the nodes");
    stop(output, &mut nodes, &mut interrupts).await;
    result
}

async fn run_until_interrupted(
    output: &Output,
    options: &Dev,
    nodes: &mut Vec<Running>,
    interrupts: &mut Interrupts,
) -> Result<()> {
    let started = async {
        for index in 0..options.nodes {
            nodes.push(start(options, index)?);
        }
        wait_until_ready(nodes).await
    };
    tokio::select! {
        result = started => result?,
        () = interrupts.next() => return Ok(()),
    }
    greet(output, options, nodes);
    loop {
        tokio::select! {
            () = interrupts.next() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(200)) => look_after(output, nodes)?,
        }
    }
}

/// Says what to open and type. A cluster runs also where nobody reads that.
fn greet(output: &Output, options: &Dev, nodes: &[Running]) {
    let told = json!({
        "nodes": nodes.iter().map(|node| json!({
            "id": node.id, "url": node.url, "pid": node.child.id(), "log": node.log,
        })).collect::<Vec<_>>(),
    });
    let _ = output.print(&told, |_| {
        let mut text = format!("\n{} nodes are ready:\n", nodes.len());
        for node in nodes {
            text.push_str(&format!("  {:8} {}  pid {}\n", node.id, node.url, node.child.id()));
        }
        let first = nodes.first().map_or("", |node| &node.url);
        text.push_str(&format!(
            "\nOpen {first} in a browser, or type in another terminal:\n
  export KEPLER_URL={first}
  kepler put README.md docs/readme.md
  kepler get docs/readme.md -

Ctrl-C stops the cluster; the data and the logs stay in {}.",
            options.dir.display()
        ));
        text
    });
    let _ = std::io::stdout().flush();
}

/// Reports nodes that have ended by themselves.
fn look_after(output: &Output, nodes: &mut [Running]) -> Result<()> {
    for index in 0..nodes.len() {
        let node = &mut nodes[index];
        if node.ended {
            continue;
        }
        let Some(status) = node.child.try_wait()? else { continue };
        node.ended = true;
        let (id, log, again) = (node.id.clone(), node.log.clone(), node.again.clone());
        let left = nodes.iter().filter(|node| !node.ended).count();
        if left == 0 {
            bail!("all nodes have ended, {id} last with {status}; its log is {}", log.display());
        }
        output.note(&format!(
            "{id} ended with {status}, {left} of {} go on; its log is {}; to start it again:\n  {again}",
            nodes.len(),
            log.display(),
        ));
    }
    Ok(())
}

fn start(options: &Dev, index: u16) -> Result<Running> {
    let letter = char::from(b'a' + u8::try_from(index)?);
    let id = format!("node-{letter}");
    let http = options.http_port + index;
    std::fs::create_dir_all(&options.dir).with_context(|| format!("make {}", options.dir.display()))?;
    let log = options.dir.join(format!("{id}.log"));
    let to_log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    let program = node_program();
    let mut variables = vec![
        ("NODE_ID", id.clone()),
        ("HTTP_PORT", http.to_string()),
        ("GOSSIP_PORT", (http + GOSSIP).to_string()),
        ("TRANSFER_PORT", (http + TRANSFER).to_string()),
        ("DATA_DIR", options.dir.join(&id).display().to_string()),
    ];
    if index > 0 {
        variables.push(("SEEDS", format!("127.0.0.1:{}", options.http_port + GOSSIP)));
    }
    let mut again: String = variables.iter().map(|(key, value)| format!("{key}={value} ")).collect();
    again.push_str(&program.display().to_string());
    let child = Command::new(&program)
        .env_remove("SEEDS")
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(to_log.try_clone()?)
        .stderr(to_log)
        // A group of its own: Ctrl-C reaches this program alone, which then stops the nodes in order.
        .process_group(0)
        .spawn()
        .with_context(|| format!("run {}: build it with `make build`", program.display()))?;
    Ok(Running { id, url: format!("http://127.0.0.1:{http}"), log, again, child, ended: false })
}

async fn wait_until_ready(nodes: &mut [Running]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let count = nodes.len();
    let clients: Vec<Client> =
        nodes.iter().map(|node| Client::new(&node.url, None)).collect::<Result<_>>()?;
    loop {
        let mut waiting = None;
        for (node, client) in nodes.iter_mut().zip(&clients) {
            // First the process, then the port: another program may answer on a port that was taken.
            if let Some(status) = node.child.try_wait()? {
                node.ended = true;
                bail!("{} did not start ({status}); its log ends with\n{}", node.id, tail(&node.log));
            }
            if !sees_alive(client, count).await {
                waiting = Some((node.id.clone(), node.log.clone()));
                break;
            }
        }
        let Some((id, log)) = waiting else { return Ok(()) };
        if Instant::now() > deadline {
            bail!("{id} is not ready after {PATIENCE:?}; its log ends with\n{}", tail(&log));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a node is ready and sees so many members alive: until then a write would find too few.
async fn sees_alive(client: &Client, count: usize) -> bool {
    let ready = client.send(client.request(reqwest::Method::GET, "/readyz")).await.is_ok();
    let alive = |cluster: Cluster| cluster.members.iter().filter(|m| m.status == Status::Alive).count();
    ready
        && match client.json::<Cluster>("/v1/cluster").await {
            Ok(cluster) => alive(cluster) >= count,
            // With an API_TOKEN in the environment it tells strangers only that it is ready.
            Err(error) => {
                matches!(error.downcast_ref(), Some(Failure::Problem(problem)) if problem.status == 401)
            }
        }
}

/// The last lines of a log, and where the rest is.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(5)..];
    format!("{}\nthe rest is in {}", last.join("\n"), log.display())
}

/// SIGTERM to all, and -9 to those that take too long, or when we are interrupted once more.
async fn stop(output: &Output, nodes: &mut [Running], interrupts: &mut Interrupts) {
    for node in nodes.iter().filter(|node| !node.ended) {
        if let Some(pid) = i32::try_from(node.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let all_ended = async {
        while nodes.iter_mut().any(|node| matches!(node.child.try_wait(), Ok(None))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = all_ended => {}
        () = tokio::time::sleep(PATIENCE) => {}
        () = interrupts.next() => {}
    }
    for node in nodes {
        if matches!(node.child.try_wait(), Ok(None)) {
            output.note(&format!("{} did not stop in time and was killed; nothing is lost", node.id));
            let _ = node.child.kill();
        }
        let _ = node.child.wait();
    }
}
