//! The command line as a person uses it, against real nodes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kepler_tests::cluster::{Cluster, Node, binary, eventually, random_bytes};
use serde_json::Value;

const MIB: usize = 1 << 20;

struct User<'a> {
    url: String,
    folder: &'a Path,
}

impl User<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("kepler"));
        command.current_dir(self.folder).env("KEPLER_URL", &self.url).env_remove("KEPLER_TOKEN").args(args);
        command
    }

    /// Runs a verb that must end with this exit code.
    fn exits(&self, code: i32, args: &[&str]) -> Result<Output> {
        let out = self.command(args).stdin(Stdio::null()).output()?;
        ensure!(
            out.status.code() == Some(code),
            "kepler {args:?} ended with {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(out)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let out = self.exits(0, &[&["--json"], args].concat())?;
        serde_json::from_slice(&out.stdout).with_context(|| format!("kepler --json {args:?}"))
    }

    fn sh(&self, script: &str) -> Result<Output> {
        let path = format!(
            "{}:{}",
            binary("kepler").parent().context("in a folder")?.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder);
        Ok(bash.env("KEPLER_URL", &self.url).env("PATH", path).output()?)
    }
}

fn user<'a>(node: &Node, folder: &'a Path) -> User<'a> {
    User { url: node.url(), folder }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("(not UTF-8)")
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_pipes_and_single_files_go_in_through_one_node_and_out_through_another() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let folder = tempfile::tempdir()?;
    let (a, b) = (user(&cluster.nodes[0], folder.path()), user(&cluster.nodes[1], folder.path()));
    let big = random_bytes(1, 9 * MIB + 5);
    std::fs::create_dir_all(folder.path().join("site/deep/er"))?;
    // `a/a/...` below a folder `a`: the prefix is taken off once.
    for (name, bytes) in [
        ("site/index.html", &b"<p>"[..]),
        ("site/deep/er/big", &big),
        ("site/empty", b""),
        ("site/site", b"x"),
    ] {
        std::fs::write(folder.path().join(name), bytes)?;
    }
    let out = a.exits(0, &["put", "-r", "site", "site"])?;
    ensure!(text(&out.stdout).matches("durable on").count() == 4, "{}", text(&out.stdout));
    ensure!(!text(&out.stderr).contains('\u{1b}'), "a progress bar off a terminal");
    b.exits(0, &["get", "-r", "site", "copy"])?;
    let diff = Command::new("diff").args(["-r", "site", "copy"]).current_dir(folder.path()).output()?;
    ensure!(diff.status.success(), "{}", text(&diff.stdout));

    let receipt = a.json(&["put", "site/deep/er/big", "one"])?;
    ensure!(
        receipt["chunks"] == 3 && receipt["cid"].as_str().is_some_and(|c| c.starts_with("baf")),
        "{receipt}"
    );
    let out = b.exits(0, &["get", "one", "--cid", receipt["cid"].as_str().context("a CID")?])?;
    ensure!(text(&out.stdout).contains(receipt["cid"].as_str().context("a CID")?), "{}", text(&out.stdout));
    ensure!(std::fs::read(folder.path().join("one"))? == big);
    b.exits(0, &["get", "one", "into/"])?;
    ensure!(std::fs::read(folder.path().join("into/one"))? == big);

    let out = a.sh("cat site/deep/er/big | kepler put - piped --durability all > receipt
        kepler get piped - | cmp - site/deep/er/big
        kepler cat site/index.html piped | tail -c +4 | cmp - site/deep/er/big
        kepler cat piped | head -c 1 | wc -c
        kepler ls -r | head -n 1")?;
    ensure!(out.status.success() && out.stderr.is_empty(), "{} {}", out.status, text(&out.stderr));
    println!("cli: 4 files of a folder, 3 single files and 4 pipes, all equal");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_listed_copied_moved_and_deleted_with_the_right_exit_codes() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let folder = tempfile::tempdir()?;
    let user = user(&cluster.nodes[2], folder.path());
    std::fs::write(folder.path().join("f"), "text")?;
    let version = user.json(&["put", "f", "d/f"])?["version"].as_str().context("a version")?.to_owned();
    user.exits(4, &["put", "f", "d/f", "--no-clobber"])?;
    user.exits(4, &["put", "f", "d/f", "--if-match", "node-a.0000000000000001.1"])?;
    user.exits(0, &["put", "f", "d/f", "--if-match", &version])?;
    user.exits(0, &["cp", "d/f", "d/g h%?"])?;
    user.exits(0, &["mv", "d/f", "e"])?;
    user.exits(3, &["mv", "d/f", "e"])?;
    for missing in [
        &["get", "d/f"][..],
        &["cat", "d/f"],
        &["stat", "d/f"],
        &["rm", "d/f"],
        &["locate", "d/f"],
        &["ls", "d/f"],
        &["get", "-r", "nothing", "x"],
        &["rm", "-r", "nothing"],
    ] {
        let out = user.exits(3, missing)?;
        ensure!(out.stdout.is_empty() && !out.stderr.is_empty(), "{missing:?}");
        let error: Value = serde_json::from_slice(&user.exits(3, &[&["--json"], missing].concat())?.stderr)?;
        ensure!(error["exit"] == 3 && error["type"] == "not-found", "{missing:?}: {error}");
    }
    ensure!(text(&user.exits(0, &["ls"])?.stdout) == "d/\ne\n");
    ensure!(text(&user.exits(0, &["ls", "-r"])?.stdout) == "d/g h%?\ne\n");
    ensure!(text(&user.exits(0, &["ls", "d/"])?.stdout) == "d/g h%?\n");
    ensure!(user.json(&["ls", "e"])?["files"][0]["name"] == "e");
    ensure!(user.json(&["stat", "e"])?["versions"][0]["size"] == 4);
    ensure!(user.json(&["locate", "e"])?[0]["owners"].as_array().map(Vec::len) == Some(3));
    ensure!(text(&user.exits(0, &["ls", "-l"])?.stdout).contains("4 B"));
    ensure!(user.json(&["cluster", "members"])?.as_array().map(Vec::len) == Some(3));
    ensure!(user.json(&["cluster", "status"])?["status"]["ready"] == true);
    ensure!(user.json(&["cluster", "ring"])?["roster"]["members"].as_array().map(Vec::len) == Some(3));
    ensure!(user.json(&["version"])?["node"].is_string());
    user.exits(0, &["rm", "-r", "d"])?;
    let cid = user.json(&["stat", "e"])?["versions"][0]["cid"].as_str().context("a CID")?.to_owned();
    user.exits(0, &["rm", "e"])?;
    let back = user.json(&["cp", "--cid", &cid, "e", "--content-type", "text/plain"])?;
    ensure!(back["size"] == 4 && back["cid"] == cid.as_str(), "{back}");
    ensure!(text(&user.exits(0, &["cat", "e"])?.stdout) == "text");
    ensure!(user.json(&["stat", "e"])?["versions"][0]["content_type"] == "text/plain");
    let version = back["version"].as_str().context("a version")?;
    user.exits(0, &["cp", "e", "f", "--version", version])?;
    user.exits(3, &["cp", "e", "g", "--version", "node-a.0000000000000001.1"])?;
    user.exits(2, &["cp", "--cid", "e", "g"])?;
    user.exits(2, &["cp", "--cid", &cid, "g", "--version", version])?;
    user.exits(0, &["rm", "e", "f"])?;
    ensure!(user.exits(0, &["ls", "-r"])?.stdout.is_empty());
    println!("cli: every verb, exit codes 0, 3 and 4");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_is_killed_leaves_no_half_file_and_resumes() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let folder = tempfile::tempdir()?;
    let user = user(&cluster.nodes[0], folder.path());
    let body = random_bytes(3, 200 * MIB);
    cluster.nodes[0].put("large", body.clone()).await?;
    let mut resumed = 0;
    for attempt in 0..20 {
        let mut child =
            user.command(&["get", "large"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        // Killed as soon as another part of it is on the disk.
        let before = partial_size(folder.path());
        while partial_size(folder.path()) <= before + MIB as u64 && child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "nothing was written");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.kill()?;
        if child.wait()?.success() {
            ensure!(attempt > 0, "it was over before it could be killed");
            break;
        }
        ensure!(!folder.path().join("large").exists(), "a half file under the final name");
        resumed += 1;
        if resumed == 3 {
            let told = user.json(&["get", "large"])?;
            ensure!(told["resumed"].as_u64().is_some_and(|bytes| bytes > 0), "{told}");
            break;
        }
    }
    ensure!(std::fs::read(folder.path().join("large"))? == body);
    ensure!(partial_size(folder.path()) == 0, "a partial file is left");
    println!("cli: a get of 200 MiB killed {resumed} times, resumed and equal");
    Ok(())
}

fn partial_size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter(|file| file.file_name().to_string_lossy().ends_with(".part"))
        .map(|file| file.metadata().map_or(0, |m| m.len()))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_nodes_are_exit_code_5_and_a_token_is_asked_for() -> Result<()> {
    let mut cluster =
        Cluster::start_with(3, &[("API_TOKEN", "correct-horse-battery"), ("ANONYMOUS", "read")]).await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("f"), "text")?;
    let url = cluster.nodes[0].url();
    let user = User { url, folder: folder.path() };
    let out = user.exits(1, &["put", "f", "f"])?;
    ensure!(text(&out.stderr).to_lowercase().contains("token"), "{}", text(&out.stderr));
    let token = ["--token", "correct-horse-battery"];
    user.exits(0, &[&["put", "f", "f"][..], &token].concat())?;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let started = Instant::now();
    user.exits(5, &[&["put", "f", "g"][..], &token].concat())?;
    ensure!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    user.exits(0, &[&["put", "f", "g", "--durability", "fast"][..], &token].concat())?;
    println!("cli: exit code 5 without a majority, {:?}; fast goes on", started.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_line_by_line() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let folder = tempfile::tempdir()?;
    let user = user(&cluster.nodes[0], folder.path());
    let mut child = user.command(&["events"]).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(|line| line.ok()).try_for_each(|line| sender.send(line)));
    let mut found = None;
    for attempt in 0..100 {
        // It may not be listening yet.
        cluster.nodes[0].put(&format!("e/{attempt}"), "x").await?;
        if let Ok(line) = receiver.recv_timeout(Duration::from_millis(200)) {
            found = Some(line);
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    let event: Value = serde_json::from_str(&found.context("no event came")?)?;
    ensure!(event["type"] == "written", "{event}");
    Ok(())
}

/// `kepler dev` on ports of its own.
pub struct Dev {
    child: Child,
    /// What it said when it was ready.
    pub told: Value,
}

impl Dev {
    fn start(folder: &Path, port: u16) -> Result<Self> {
        let mut child = Command::new(binary("kepler"))
            .args(["--json", "dev", "--nodes", "3", "--http-port", &port.to_string(), "--dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        if line.is_empty() {
            let mut why = String::new();
            child.stderr.take().context("piped")?.read_to_string(&mut why)?;
            bail!("kepler dev did not start: {why}");
        }
        Ok(Self { child, told: serde_json::from_str(&line)? })
    }

    fn pids(&self) -> Vec<u64> {
        let nodes = self.told["nodes"].as_array().into_iter().flatten();
        nodes.filter_map(|node| node["pid"].as_u64()).collect()
    }

    fn signal(pid: u64, name: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
        ensure!(status.success(), "kill -{name} {pid}");
        Ok(())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = Self::signal(self.child.id().into(), "TERM");
        let _ = self.child.wait();
    }
}

fn runs(pid: u64) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dev_cluster_survives_a_death_and_takes_its_nodes_down_on_every_signal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (round, signal) in ["INT", "TERM", "HUP"].into_iter().enumerate() {
        let mut dev = Dev::start(folder.path(), 17_001)?;
        let pids = dev.pids();
        ensure!(pids.len() == 3 && pids.iter().all(|pid| runs(*pid)), "{}", dev.told);
        let user = User {
            url: dev.told["nodes"][0]["url"].as_str().context("an address")?.to_owned(),
            folder: folder.path(),
        };
        if round == 0 {
            std::fs::File::create(folder.path().join("f"))?.write_all(b"text")?;
            user.exits(0, &["put", "f", "kept"])?;
            Dev::signal(pids[2], "KILL")?;
            user.exits(0, &["put", "f", "after"])?;
        } else {
            ensure!(text(&user.exits(0, &["ls"])?.stdout) == "after\nkept\n");
            user.exits(0, &["cat", "kept"])?;
        }
        Dev::signal(dev.child.id().into(), signal)?;
        eventually("kepler dev ends", Duration::from_secs(30), async || {
            matches!(dev.child.try_wait(), Ok(Some(_)))
        })
        .await?;
        let status = dev.child.wait()?;
        ensure!(status.code() == Some(0) && status.signal().is_none(), "SIG{signal}: {status}");
        ensure!(!pids.iter().any(|pid| runs(*pid)), "SIG{signal} left a node behind");
    }
    // A node id in use, a port in use, a folder in use: the second cluster says so and harms nothing.
    let dev = Dev::start(folder.path(), 17_001)?;
    let Err(error) = Dev::start(&folder.path().join("other"), 17_001) else {
        bail!("two clusters on the same ports")
    };
    ensure!(format!("{error}").contains("17001"), "{error}");
    ensure!(dev.pids().iter().all(|pid| runs(*pid)));
    println!("cli: kepler dev stopped by INT, TERM and HUP, one node killed, the data kept");
    Ok(())
}
