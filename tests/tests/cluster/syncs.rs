//! What is synced before an answer, as the kernel sees it: `strace` on real nodes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kepler_tests::cluster::{Cluster, eventually, random_bytes};

/// One call of a trace: where it began and ended, counted in lines.
#[derive(Debug)]
struct Call {
    text: String,
    began: usize,
    ended: usize,
}

/// Puts calls together again that another thread interrupted.
fn calls(trace: &str) -> Vec<Call> {
    let mut open: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, said)) = line.trim_start().split_once(' ') else { continue };
        let said = said.trim_start();
        if let Some(begun) = said.strip_suffix("<unfinished ...>") {
            open.insert(thread, (begun.to_owned(), at));
        } else if said.starts_with("<... ") {
            let Some((text, began)) = open.remove(thread) else { continue };
            calls.push(Call { text: text + said, began, ended: at });
        } else {
            calls.push(Call { text: said.to_owned(), began: at, ended: at });
        }
    }
    calls.extend(open.into_values().map(|(text, began)| Call { text, began, ended: usize::MAX }));
    calls
}

/// The first of these calls that began after a line and satisfies `is`.
fn after<'a>(calls: &'a [Call], line: usize, what: &str, is: impl Fn(&str) -> bool) -> Result<&'a Call> {
    let found = calls.iter().filter(|call| call.began > line && is(&call.text)).min_by_key(|call| call.ended);
    found.with_context(|| format!("no {what} after line {line}"))
}

/// That the chunk was synced under a temporary name, took its own, and the folder was synced: when that was done.
fn made_durable(calls: &[Call], folder: &Path, chunk: &str) -> Result<usize> {
    let folder = folder.display().to_string();
    let name = format!("{folder}/{chunk}\"");
    // The first attempt fails where the folder is yet to be made.
    let is_rename = |text: &str| text.starts_with("rename") && text.contains(&name) && text.ends_with("= 0");
    let renamed = after(calls, 0, "rename", is_rename)?;
    let temporary = renamed.text.split('"').nth(1).context("a rename has two paths")?;
    ensure!(temporary.ends_with(".tmp"), "{}", renamed.text);
    let is_sync = |text: &str| text.starts_with("fsync(") || text.starts_with("fdatasync(");
    let of = format!("<{temporary}>");
    let synced = calls.iter().find(|call| is_sync(&call.text) && call.text.contains(&of));
    let synced = synced.with_context(|| format!("{temporary} was never synced"))?;
    ensure!(synced.ended < renamed.began, "renamed before it was synced: {synced:?} {renamed:?}");
    // Nothing had its name there before, so its folder is new, and is an entry of another.
    let parent = format!("<{}>", Path::new(&folder).parent().context("a folder in chunks")?.display());
    let parent = after(calls, 0, "sync of its parent", |text| is_sync(text) && text.contains(&parent))?;
    let of = format!("<{folder}>");
    let folder =
        after(calls, renamed.ended, "sync of its folder", |text| is_sync(text) && text.contains(&of))?;
    for call in [synced, parent, folder] {
        ensure!(call.text.ends_with("= 0"), "{call:?}");
    }
    Ok(folder.ended.max(parent.ended))
}

#[tokio::test]
async fn an_answer_leaves_after_file_name_folder_and_database_are_synced_on_all_owners() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let log = tempfile::NamedTempFile::new()?;
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-y",
        "-s",
        "200",
        "-e",
        "trace=fsync,fdatasync,rename,renameat,renameat2,write,writev,sendto",
    ]);
    for node in &cluster.nodes {
        strace.args(["-p", &node.pid().context("it runs")?.to_string()]);
    }
    let mut strace = strace
        .arg("-o")
        .arg(log.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start strace: run tests/install")?;
    let read = || std::fs::read_to_string(log.path()).unwrap_or_default();
    // Once a small file leaves its traces, everything does.
    let probes = std::cell::Cell::new(0);
    let traced = eventually("both nodes are traced", Duration::from_secs(20), async || {
        probes.set(probes.get() + 1);
        let name = format!("probe/{}", probes.get());
        if cluster.nodes[0].try_put(&name, "?durability=all", "x").await.is_err() {
            return false;
        }
        let trace = read();
        let syncs = |data: &Path| {
            let wal = format!("{}/kepler.db-wal>", data.display());
            trace.lines().any(|line| line.contains("sync(") && line.contains(&wal))
        };
        cluster.nodes.iter().all(|node| syncs(&node.data))
    });
    traced.await?;
    let response = cluster.nodes[0].try_put("big", "?durability=all", random_bytes(1, 300_000)).await?;
    let (status, cid) = (response.status(), response.headers()["kepler-cid"].to_str()?.to_owned());
    ensure!(status == 200, "{status}");
    eventually("the answer is in the trace", Duration::from_secs(10), async || read().contains(&cid)).await?;
    let _ = Command::new("kill").args(["-INT", &strace.id().to_string()]).status();
    strace.wait()?;
    let calls = calls(&read());
    let is_answer = |call: &&Call| call.text.contains("HTTP/1.1 200") && call.text.contains(&cid);
    let answer = calls.iter().find(is_answer).context("the answer is in the trace")?;
    for node in &cluster.nodes {
        let path = node.chunk_files().remove(&cid).with_context(|| format!("{} has no {cid}", node.id))?;
        let folder = path.parent().context("a chunk is in a folder")?;
        let durable = made_durable(&calls, folder, &cid).with_context(|| node.id.clone())?;
        ensure!(durable < answer.began, "{}: answered at {}, durable at {durable}", node.id, answer.began);
        let wal = format!("<{}/kepler.db-wal>", node.data.display());
        let row = after(&calls, durable, "sync of the database", |text| {
            text.contains("sync(") && text.contains(&wal)
        })?;
        ensure!(row.ended < answer.began, "{}: answered before its row was durable", node.id);
    }
    println!(
        "syncs: {} calls traced; on both owners file, rename, folder, database, and only then the answer",
        calls.len()
    );
    Ok(())
}
