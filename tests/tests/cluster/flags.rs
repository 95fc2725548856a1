//! Flags of the command line that the other tests do not use, and the list of all.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kepler_protocol::api::Status;
use kepler_tests::cluster::{Cluster, Node, binary, eventually};
use serde_json::Value;

fn run(node: &Node, token: Option<&str>, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("kepler"));
    command.env("KEPLER_URL", node.url()).env_remove("KEPLER_TOKEN").args(args).stdin(Stdio::null());
    command.envs(token.map(|token| ("KEPLER_TOKEN", token)));
    Ok(command.output()?)
}

fn exits(node: &Node, code: i32, args: &[&str]) -> Result<String> {
    let out = run(node, None, args)?;
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    let why = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(code), "kepler {args:?}: {} {told} {why}", out.status);
    Ok(told)
}

/// The long flags of a verb, from its help.
fn flags(args: &[&str], found: &mut BTreeSet<String>) -> Result<()> {
    let out = Command::new(binary("kepler")).args(args).arg("--help").output()?;
    let help = String::from_utf8(out.stdout)?;
    ensure!(out.status.success(), "kepler {args:?} --help");
    for line in help.lines().filter(|line| line.trim_start().starts_with('-')) {
        let flag = line.split([' ', ',', '=', '[']).find(|word| word.starts_with("--") && word.len() > 2);
        found.extend(flag.map(str::to_owned));
    }
    let verbs = help.split("Commands:\n").nth(1).unwrap_or_default();
    for verb in verbs.lines().take_while(|line| line.starts_with("  ")) {
        // Verbs stand two blanks in, what they do further.
        let verb = verb.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')).unwrap_or_default();
        let verb = verb.split(' ').next().unwrap_or_default();
        // `kepler node --help` is the node's own.
        if !verb.is_empty() && !["help", "node"].contains(&verb) {
            flags(&[args, &[verb]].concat(), found)?;
        }
    }
    Ok(())
}

#[test]
fn every_flag_of_the_command_line_is_used_by_a_test() -> Result<()> {
    let tests = [
        include_str!("cli.rs"),
        include_str!("flags.rs"),
        include_str!("operations.rs"),
        include_str!("readme.rs"),
        include_str!("healing.rs"),
        include_str!("healing/leaving.rs"),
        include_str!("healing/verbs.rs"),
    ]
    .concat();
    let mut found = BTreeSet::new();
    flags(&[], &mut found)?;
    let used = |flag: &String| tests.contains(&format!("\"{flag}\"")) || tests.contains(&format!("{flag} "));
    let unused: Vec<_> = found.iter().filter(|flag| !used(flag)).collect();
    println!("cli: {} flags, {} of them in no test", found.len(), unused.len());
    ensure!(found.len() > 20 && found.contains("--if-match"), "{found:?}");
    ensure!(unused.is_empty(), "no test uses {unused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_side_of_a_conflict_is_fetched_and_deleted_by_its_version() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let node = &cluster.nodes[2];
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("f");
    std::fs::write(&file, "first")?;
    let path = file.to_str().context("a path")?;
    let receipt: Value = serde_json::from_str(&exits(
        node,
        0,
        &["--json", "put", path, "typed", "--content-type", "text/x-test", "--durability", "all"],
    )?)?;
    let first = receipt["version"].as_str().context("a version")?;
    let typed = node.try_get("typed").await?;
    ensure!(typed.headers()["content-type"] == "text/x-test", "{:?}", typed.headers());
    // Two that do not know of each other.
    let mut versions = Vec::new();
    for attempt in 0..50 {
        let name = format!("both/{attempt}");
        let [a, b] = [0, 1].map(|n| cluster.nodes[n].put(&name, format!("of {n}")));
        let (a, b) = futures::join!(a, b);
        let (a, b) = (a?.version, b?.version);
        let stat: Value = serde_json::from_str(&exits(node, 0, &["--json", "stat", &name])?)?;
        if stat["versions"].as_array().map(Vec::len) == Some(2) {
            versions = vec![name, a, b];
            break;
        }
    }
    let [name, a, b] = versions.as_slice() else { anyhow::bail!("50 pairs of writes, and no conflict") };
    ensure!(exits(node, 0, &["get", name, "-", "--version", a])? == "of 0");
    ensure!(exits(node, 0, &["get", name, "-", "--version", b])? == "of 1");
    exits(node, 3, &["get", name, "-", "--version", first])?;
    exits(node, 0, &["rm", name, "--version", a, "--durability", "all"])?;
    ensure!(exits(node, 0, &["cat", name])? == "of 1");
    // It survives no more, and is remembered while its chunks are there.
    let stat: Value = serde_json::from_str(&exits(node, 0, &["--json", "stat", name])?)?;
    ensure!(stat["versions"].as_array().map(Vec::len) == Some(1), "{stat}");
    ensure!(exits(node, 0, &["get", name, "-", "--version", a])? == "of 0");
    exits(node, 0, &["cp", "typed", "copied", "--durability", "all"])?;
    exits(node, 0, &["mv", "copied", "moved", "--durability", "all"])?;
    let listed = exits(node, 0, &["ls", "--long", "--recursive"])?;
    ensure!(listed.contains("moved") && listed.contains("text/x-test"), "{listed}");
    println!("cli: a conflict of two, each side fetched, one deleted by its version");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_from_the_environment_and_a_flag_wins() -> Result<()> {
    let cluster = Cluster::start_with(1, &[("API_TOKEN", "correct-horse-battery")]).await?;
    let node = &cluster.nodes[0];
    let code =
        |token: Option<&str>, args: &[&str]| -> Result<_> { Ok(run(node, token, args)?.status.code()) };
    ensure!(code(None, &["ls"])? == Some(1));
    ensure!(code(Some("correct-horse-battery"), &["ls"])? == Some(0));
    ensure!(code(Some("correct-horse-batterz"), &["ls"])? == Some(1));
    ensure!(code(Some("correct-horse-batterz"), &["--token", "correct-horse-battery", "ls"])? == Some(0));
    ensure!(code(Some("correct-horse-battery"), &["--token", "another-horse-battery", "ls"])? == Some(1));
    // The address as well.
    ensure!(code(Some("correct-horse-battery"), &["--node", "http://127.0.0.1:9", "ls"])? == Some(5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_leave_without_waiting_leaves_all_the_same() -> Result<()> {
    let mut cluster = Cluster::start(4).await?;
    cluster.nodes[0].put("kept", "kept").await?;
    let mut follower = Command::new(binary("kepler"))
        .env("KEPLER_URL", cluster.nodes[0].url())
        .args(["events", "--about", "node-d", "--type", "member"])
        .stdout(Stdio::piped())
        .spawn()?;
    let told = exits(&cluster.nodes[3], 0, &["cluster", "leave", "--no-wait"])?;
    eventually("node-d has left", Duration::from_secs(60), async || {
        matches!(cluster.nodes[0].sees("node-d").await, None | Some(Status::Left))
    })
    .await?;
    let node = &mut cluster.nodes[3];
    eventually("its process ends", Duration::from_secs(30), async || node.exited().is_some()).await?;
    ensure!(cluster.nodes[1].get("kept").await? == "kept");
    follower.kill()?;
    let heard = String::from_utf8(follower.wait_with_output()?.stdout)?;
    ensure!(
        !heard.is_empty() && heard.lines().all(|line| line.contains("node-d") && line.contains("\"member\"")),
        "{heard}"
    );
    println!(
        "cli: left without being waited for ({}), {} events about it",
        told.trim(),
        heard.lines().count()
    );
    Ok(())
}
