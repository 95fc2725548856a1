//! `kepler get` and `kepler cat`: every chunk is verified against the file's root CID here, so a
//! gateway that lies is caught, and a fetch that broke off goes on where it ended.

use std::io::{Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use indicatif::ProgressBar;
use kepler_protocol::chunk::{ChunkId, Codec};
use kepler_protocol::manifest::Walk;
use kepler_protocol::name::Name;
use reqwest::Method;
use serde_json::json;

use crate::args::Get;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::{Output, size};

/// Chunks on their way at the same time.
const IN_FLIGHT: usize = 4;

/// A file as the node describes it: only the CID is relied on.
struct Remote {
    root: ChunkId,
    size: u64,
}

/// Fetches a file or a folder.
///
/// # Errors
/// The first failure. A partial file stays beside the target under a hidden name, to be resumed.
pub async fn run(client: &Client, output: &Output, get: Get) -> Result<()> {
    if !get.recursive {
        let name: Name = parse(&get.name)?;
        let target = match &get.file {
            Some(file) if file.to_string_lossy().ends_with('/') => {
                std::fs::create_dir_all(file).with_context(|| format!("make {}", file.display()))?;
                file.join(last_segment(&name))
            }
            Some(file) if file.is_dir() => file.join(last_segment(&name)),
            Some(file) => file.clone(),
            None => PathBuf::from(last_segment(&name)),
        };
        return fetch(client, output, &name, get.version.as_deref(), get.cid, &target).await;
    }
    let folder = get.name.trim_end_matches('/');
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let root = get.file.clone().unwrap_or_else(|| PathBuf::from("."));
    if root == Path::new("-") {
        let message = "a folder cannot go to standard output: name a folder to fetch it into";
        return Err(Failure::Usage(message.to_owned()).into());
    }
    let mut names = Vec::new();
    client
        .list(&prefix, None, |page| {
            names.extend(page.files.into_iter().map(|file| file.name));
            Ok(())
        })
        .await?;
    if names.is_empty() {
        let message = format!("there is no file in a folder {folder:?}: `kepler ls` shows what there is");
        return Err(Failure::NotFound(message).into());
    }
    for name in names {
        // A name has no `.`, `..` or empty segments, so this stays below the root.
        let Some(relative) = name.as_str().strip_prefix(&prefix) else {
            return Err(Failure::Untrusted(format!("it lists {name} as in {folder}")).into());
        };
        let target = root.join(relative);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        fetch(client, output, &name, None, None, &target).await?;
    }
    Ok(())
}

/// Prints files to standard output, each chunk only after it was verified.
///
/// # Errors
/// The first failure.
pub async fn cat(client: &Client, names: &[Name]) -> Result<()> {
    for name in names {
        let remote = look_up(client, name, None).await?;
        copy_verified(client, &remote, 0, &mut std::io::stdout().lock(), &ProgressBar::hidden())
            .await
            .with_context(|| format!("cat {name}"))?;
    }
    Ok(())
}

fn parse(text: &str) -> Result<Name> {
    text.parse().map_err(|e| Failure::Usage(format!("{text:?} is no name: {e}")).into())
}

fn last_segment(name: &Name) -> &str {
    name.as_str().rsplit('/').next().unwrap_or(name.as_str())
}

async fn look_up(client: &Client, name: &Name, version: Option<&str>) -> Result<Remote> {
    let request = |method: Method| {
        let request = client.request(method, &Client::file_path(name));
        match version {
            Some(version) => request.query(&[("version", version)]),
            None => request,
        }
    };
    let mut response = client.send(request(Method::HEAD)).await;
    // An answer to HEAD has no body that could say what is wrong; one to GET has.
    if let Err(error) = &response
        && matches!(error.downcast_ref(), Some(Failure::Problem(_)))
    {
        response = client.send(request(Method::GET)).await;
    }
    let response = response.map_err(|error| match error.downcast::<Failure>() {
        Ok(Failure::Problem(mut problem)) if problem.status == 404 => {
            problem.detail = format!("{}: `kepler ls` shows what there is", problem.detail);
            Failure::Problem(problem).into()
        }
        Ok(other) => other.into(),
        Err(other) => other,
    })?;
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    let missing = |what: &str| Failure::Untrusted(format!("its answer has no usable {what}"));
    Ok(Remote {
        root: header("kepler-cid").and_then(|v| v.parse().ok()).ok_or_else(|| missing("Kepler-Cid"))?,
        size: header("content-length")
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| missing("Content-Length"))?,
    })
}

async fn fetch(
    client: &Client,
    output: &Output,
    name: &Name,
    version: Option<&str>,
    cid: Option<ChunkId>,
    target: &Path,
) -> Result<()> {
    let remote = look_up(client, name, version).await?;
    if let Some(expected) = cid
        && expected != remote.root
    {
        return Err(Failure::Untrusted(format!("{name} is {} there, not {expected}", remote.root)).into());
    }
    let bar = output.progress(name.as_str(), Some(remote.size));
    if target == Path::new("-") {
        let copied = copy_verified(client, &remote, 0, &mut std::io::stdout().lock(), &bar).await;
        bar.finish_and_clear();
        return copied.with_context(|| format!("get {name}"));
    }
    // What is no plain file, such as a device or a pipe, is written to and never replaced.
    let special = std::fs::metadata(target).is_ok_and(|found| !found.is_file());
    let fetched = if special {
        let mut file = std::fs::File::options().write(true).open(target);
        match &mut file {
            Ok(file) => copy_verified(client, &remote, 0, file, &bar).await.map(|()| 0),
            Err(error) => Err(anyhow::anyhow!("open {}: {error}", target.display())),
        }
    } else {
        into_file(client, &remote, target, &bar).await
    };
    bar.finish_and_clear();
    let resumed = fetched.with_context(|| format!("get {name}"))?;
    let done =
        json!({ "name": name, "cid": remote.root, "size": remote.size, "file": target, "resumed": resumed });
    output.print(&done, |_| {
        let resumed = if resumed > 0 { format!(", resumed at {}", size(resumed)) } else { String::new() };
        format!("{}  {} ({}{resumed})", remote.root, target.display(), size(remote.size))
    })
}

/// Fetches into a partial file beside the target, then renames it; says where it resumed.
async fn into_file(client: &Client, remote: &Remote, target: &Path, bar: &ProgressBar) -> Result<u64> {
    // A link is followed: what it points at is replaced, not the link.
    let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    let partial = partial(&target, remote.root)?;
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&partial)
        .with_context(|| format!("open {}", partial.display()))?;
    if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
        anyhow::bail!("{} is being fetched by another kepler: wait for it", target.display());
    }
    let kept = verified_prefix(client, remote, &mut file).await?;
    file.set_len(kept)?;
    file.seek(SeekFrom::Start(kept))?;
    bar.inc(kept);
    if let Err(error) = copy_verified(client, remote, kept, &mut file, bar).await {
        let have = file.stream_position().unwrap_or(0);
        if have == 0 {
            // Nothing to resume from, so nothing is left behind.
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
        let (have, all) = (size(have), size(remote.size));
        return Err(error.context(format!("{have} of {all} are kept: the same command resumes")));
    }
    file.sync_all().with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, &target).with_context(|| format!("rename to {}", target.display()))?;
    Ok(kept)
}

/// Where a fetch is kept until it is whole. The root CID is in the name: only the same content is resumed.
fn partial(target: &Path, root: ChunkId) -> Result<PathBuf> {
    let base = target.file_name().context("the target is no file name")?.to_string_lossy();
    // A file name has 255 bytes at most.
    let base = if base.len() > 150 { "" } else { &*base };
    Ok(target.with_file_name(format!(".{base}.{root}.part")))
}

/// How many bytes of a partial file are whole chunks of this very file.
async fn verified_prefix(client: &Client, remote: &Remote, file: &mut std::fs::File) -> Result<u64> {
    let have = file.metadata()?.len().min(remote.size);
    if have == 0 {
        return Ok(0);
    }
    let mut walk = walk(remote, 0)?;
    let mut kept = 0;
    loop {
        while let Some(leaf) = walk.poll_leaf() {
            if kept + leaf.take > have {
                return Ok(kept);
            }
            let mut bytes = vec![0; usize::try_from(leaf.take)?];
            file.read_exact(&mut bytes).context("read the partial file")?;
            if ChunkId::of(Codec::Raw, &bytes) != leaf.id {
                return Ok(kept);
            }
            kept += leaf.take;
        }
        let Some(node) = walk.poll_wanted() else { return Ok(kept) };
        load(client, &mut walk, node).await?;
    }
}

async fn load(client: &Client, walk: &mut Walk, node: ChunkId) -> Result<()> {
    let chunk = client.chunk(node).await?;
    Ok(walk.handle_node(&chunk).map_err(|e| Failure::Untrusted(e.to_string()))?)
}

/// The chunks from `start` on.
fn walk(remote: &Remote, start: u64) -> Result<Walk> {
    Ok(Walk::new(remote.root, remote.size, start..remote.size)
        .map_err(|e| Failure::Untrusted(e.to_string()))?)
}

/// Copies the file's bytes from `start` on, each chunk only after it was verified.
async fn copy_verified(
    client: &Client,
    remote: &Remote,
    start: u64,
    target: &mut impl Write,
    bar: &ProgressBar,
) -> Result<()> {
    let mut walk = walk(remote, start)?;
    let mut ahead = FuturesOrdered::new();
    let mut written = start;
    loop {
        while ahead.len() < IN_FLIGHT {
            let Some(leaf) = walk.poll_leaf() else { break };
            ahead.push_back(async move { anyhow::Ok((client.chunk(leaf.id).await?, leaf)) });
        }
        if ahead.len() < IN_FLIGHT
            && let Some(node) = walk.poll_wanted()
        {
            load(client, &mut walk, node).await?;
            continue;
        }
        let Some(next) = ahead.next().await else { break };
        let (chunk, leaf) = next?;
        let bytes = leaf.slice(&chunk).map_err(|e| Failure::Untrusted(e.to_string()))?;
        target.write_all(&bytes).context("write")?;
        bar.inc(leaf.take);
        written += leaf.take;
    }
    target.flush().context("write")?;
    if written != remote.size {
        return Err(Failure::Untrusted(format!("{written} of {} bytes came", remote.size)).into());
    }
    Ok(())
}
