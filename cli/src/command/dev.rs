//! `kepler dev` and `kepler node`: running nodes.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::args::Dev;
use crate::client::Client;

/// How long a cluster on one machine may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

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
    child: Child,
}

/// Runs a cluster until Ctrl-C.
///
/// # Errors
/// When a node does not start, or ends by itself.
pub async fn run(options: Dev) -> Result<()> {
    let mut nodes = Vec::new();
    let result = run_until_interrupted(&options, &mut nodes).await;
    stop(&mut nodes).await;
    result
}

async fn run_until_interrupted(options: &Dev, nodes: &mut Vec<Running>) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let started = async {
        for index in 0..options.nodes {
            nodes.push(start(options, index)?);
        }
        wait_until_ready(nodes).await
    };
    tokio::select! {
        result = started => result?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    }
    println!("\n{} nodes are ready:", nodes.len());
    for node in nodes.iter() {
        println!("  {:8} {}", node.id, node.url);
    }
    let first = nodes.first().map_or("", |node| &node.url);
    println!("\nOpen {first} in a browser, or type in another terminal:\n");
    println!("  export KEPLER_URL={first}");
    println!("  kepler put README.md docs/readme.md");
    println!("  kepler get docs/readme.md -\n");
    println!("Ctrl-C stops the cluster; the data stays in {}.", options.dir.display());
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                for node in nodes.iter_mut() {
                    if let Some(status) = node.child.try_wait()? {
                        bail!("{} ended by itself with {status}; its log is in {}", node.id, log(options, &node.id).display());
                    }
                }
            }
        }
    }
}

fn log(options: &Dev, id: &str) -> PathBuf {
    options.dir.join(format!("{id}.log"))
}

fn start(options: &Dev, index: u16) -> Result<Running> {
    let letter = char::from(b'a' + u8::try_from(index)?);
    let id = format!("node-{letter}");
    let http = options.http_port.checked_add(index).context("the HTTP port is too high")?;
    let port =
        |offset: u16| http.checked_add(offset).context("--http-port must leave room for the other ports");
    std::fs::create_dir_all(&options.dir).with_context(|| format!("make {}", options.dir.display()))?;
    let output = std::fs::File::create(log(options, &id)).context("create a log file")?;
    let program = node_program();
    let mut command = Command::new(&program);
    command
        .env("NODE_ID", &id)
        .env("HTTP_PORT", http.to_string())
        .env("GOSSIP_PORT", port(1000)?.to_string())
        .env("TRANSFER_PORT", port(2000)?.to_string())
        .env("DATA_DIR", options.dir.join(&id))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A group of its own: Ctrl-C reaches this program alone, which then stops the nodes in order.
        .process_group(0);
    if index > 0 {
        let seed = options.http_port.checked_add(1000).context("the gossip port is too high")?;
        command.env("SEEDS", format!("127.0.0.1:{seed}"));
    } else {
        command.env_remove("SEEDS");
    }
    let child =
        command.spawn().with_context(|| format!("run {}: build it with `make build`", program.display()))?;
    Ok(Running { id, url: format!("http://127.0.0.1:{http}"), child })
}

async fn wait_until_ready(nodes: &mut [Running]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for node in nodes {
        let client = Client::new(&node.url, None)?;
        loop {
            if client.send(client.request(reqwest::Method::GET, "/readyz")).await.is_ok() {
                break;
            }
            if let Some(status) = node.child.try_wait()? {
                bail!("{} did not start ({status}); see its log file in the data folder", node.id);
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {PATIENCE:?}; see its log file in the data folder", node.id);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn stop(nodes: &mut [Running]) {
    for node in nodes.iter() {
        if let Some(pid) = i32::try_from(node.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    for node in nodes {
        while Instant::now() < deadline && matches!(node.child.try_wait(), Ok(None)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = node.child.kill();
        let _ = node.child.wait();
    }
}
