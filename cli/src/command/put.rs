//! `kepler put`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kepler_protocol::api::{self, Receipt};
use kepler_protocol::name::Name;
use walkdir::WalkDir;

use super::upload::Upload;
use crate::args::Put;
use crate::client::{Client, SILENCE};
use crate::exit::Failure;
use crate::output::{Output, count, size};

/// What is stored, and under which name.
struct Job {
    source: Source,
    name: Name,
}

enum Source {
    Stdin,
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Stores files and prints their receipts.
///
/// # Errors
/// The first failure; what was stored before it stays.
pub async fn run(client: &Client, output: &Output, put: Put) -> Result<()> {
    for job in jobs(output, &put)? {
        let receipt = store(client, output, &put, &job).await?;
        output.print(&receipt, describe)?;
    }
    Ok(())
}

fn jobs(output: &Output, put: &Put) -> Result<Vec<Job>> {
    let (target, sources) = put.paths.split_last().context("clap asks for two paths")?;
    let prefix = target.trim_end_matches('/');
    let into = target.ends_with('/') || sources.len() > 1;
    let mut jobs = Vec::new();
    for source in sources {
        if source == "-" {
            if into || put.recursive {
                return Err(Failure::Usage("standard input needs a name, not a folder".to_owned()).into());
            }
            jobs.push(Job { source: Source::Stdin, name: parse(target)? });
            continue;
        }
        let path = Path::new(source);
        let metadata = std::fs::metadata(path).with_context(|| format!("look at {source}"))?;
        if !metadata.is_dir() {
            let name = if into || put.recursive { under(prefix, &base_name(path)?) } else { target.clone() };
            jobs.push(Job { source: Source::File(path.to_owned()), name: parse(&name)? });
            continue;
        }
        if !put.recursive {
            return Err(Failure::Usage(format!("{source} is a folder: add -r to store what is in it")).into());
        }
        // As with `cp`: one folder becomes NAME, several (or any into NAME/) keep their own names.
        let root = if into { under(prefix, &base_name(path)?) } else { prefix.to_owned() };
        walk(output, path, &root, &mut jobs)?;
    }
    let mut seen = BTreeMap::new();
    for job in &jobs {
        if let Some(other) = seen.insert(&job.name, &job.source) {
            let (name, this) = (&job.name, &job.source);
            return Err(
                Failure::Usage(format!("{other} and {this} would both become {name}: rename one")).into()
            );
        }
    }
    Ok(jobs)
}

/// Every file below a folder. Links are followed; what is neither file nor folder is left out, loudly.
fn walk(output: &Output, folder: &Path, root: &str, jobs: &mut Vec<Job>) -> Result<()> {
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.with_context(|| format!("walk {}", folder.display()))?;
        let path = entry.path();
        if entry.file_type().is_dir() {
            continue;
        }
        if !entry.file_type().is_file() {
            output.note(&format!("left out {}: neither a file nor a folder", path.display()));
            continue;
        }
        let relative = path.strip_prefix(folder).context("a walk stays below its root")?;
        let relative = relative
            .to_str()
            .ok_or_else(|| Failure::Usage(format!("{}: the name is not UTF-8: rename it", path.display())))?;
        jobs.push(Job { name: parse(&under(root, relative))?, source: Source::File(path.to_owned()) });
    }
    Ok(())
}

fn parse(text: &str) -> Result<Name> {
    text.parse().map_err(|e| Failure::Usage(format!("{text:?} is no name: {e}")).into())
}

fn under(prefix: &str, relative: &str) -> String {
    if prefix.is_empty() { relative.to_owned() } else { format!("{prefix}/{relative}") }
}

/// The last part of a path; of `.` and `..` too.
fn base_name(path: &Path) -> Result<String> {
    let whole = match path.file_name() {
        Some(_) => path.to_owned(),
        None => path.canonicalize().with_context(|| format!("look at {}", path.display()))?,
    };
    let base = whole.file_name().and_then(|base| base.to_str());
    let error = || Failure::Usage(format!("{}: it has no name in UTF-8", path.display()));
    Ok(base.ok_or_else(error)?.to_owned())
}

async fn store(client: &Client, output: &Output, put: &Put, job: &Job) -> Result<Receipt> {
    let durability: api::Durability = put.durability.into();
    let mut request = client.upload(&Client::file_path(&job.name)).query(&[("durability", durability)]);
    if let Some(version) = &put.if_match {
        request = request.header("If-Match", format!("\"{}\"", version.trim_matches('"')));
    }
    if put.no_clobber {
        request = request.header("If-None-Match", "*");
    }
    let guessed = mime_guess::from_path(job.name.as_str()).first_raw().map(str::to_owned);
    if let Some(content_type) = put.content_type.clone().or(guessed) {
        request = request.header("Content-Type", content_type);
    }
    let (upload, body, bar) = match &job.source {
        Source::Stdin => {
            let bar = output.progress(job.name.as_str(), None);
            let (upload, body) = Upload::new(tokio::io::stdin(), None, &bar);
            (upload, body, bar)
        }
        Source::File(path) => {
            let file =
                tokio::fs::File::open(path).await.with_context(|| format!("open {}", path.display()))?;
            let metadata = file.metadata().await.with_context(|| format!("look at {}", path.display()))?;
            // A named pipe or device has no length to announce, and the files of /proc say 0 and are not empty.
            let length = Some(metadata.len()).filter(|length| metadata.is_file() && *length > 0);
            let bar = output.progress(job.name.as_str(), length);
            if let Some(length) = length {
                request = request.header("Content-Length", length);
            }
            let (upload, body) = Upload::new(file, length, &bar);
            (upload, body, bar)
        }
    };
    let answer = async { client.parse(client.send(request.body(body)).await?).await };
    let receipt = tokio::select! {
        receipt = answer => receipt,
        () = upload.stalled(SILENCE) => Err(client.silent(&format!("it did nothing for {SILENCE:?}")).into()),
    };
    bar.finish_and_clear();
    match upload.broken() {
        // The node was not to blame.
        Some(error) => Err(error).with_context(|| format!("read {}: nothing was stored", job.source)),
        None => receipt.with_context(|| format!("put {}", job.name)),
    }
}

/// The receipt for people: the CID first, then who holds it.
pub fn describe(receipt: &Receipt) -> String {
    let replicas = &receipt.replicas;
    let nodes: Vec<&str> = replicas.nodes.iter().map(|n| n.as_str()).collect();
    let mut text = format!(
        "{}  {}\n  {} in {}, {} of {} copies durable on {}",
        receipt.cid,
        receipt.name,
        size(receipt.size),
        count(receipt.chunks, "chunk"),
        replicas.acked,
        replicas.wanted,
        nodes.join(", ")
    );
    for queued in &replicas.queued {
        text.push_str(&format!("\n  {} still queued for {}", count(queued.chunks, "chunk"), queued.node));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Durability;

    fn names(sources: &[&Path], target: &str, recursive: bool) -> Result<Vec<String>> {
        let mut paths: Vec<String> = sources.iter().map(|p| p.display().to_string()).collect();
        paths.push(target.to_owned());
        let put = Put {
            paths,
            recursive,
            durability: Durability::default(),
            if_match: None,
            no_clobber: false,
            content_type: None,
        };
        Ok(jobs(&Output::new(true), &put)?.into_iter().map(|job| job.name.to_string()).collect())
    }

    #[test]
    fn one_folder_becomes_the_name_and_several_keep_their_own() {
        let root = tempfile::tempdir().expect("a folder");
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        for file in [a.join("x"), a.join("deep/y"), b.join("x")] {
            std::fs::create_dir_all(file.parent().expect("below a folder")).expect("made");
            std::fs::write(file, "text").expect("written");
        }
        std::os::unix::fs::symlink(b.join("x"), a.join("link")).expect("linked");
        assert_eq!(names(&[&a], "to", true).expect("jobs"), ["to/deep/y", "to/link", "to/x"]);
        assert_eq!(names(&[&b], "to/", true).expect("jobs"), ["to/b/x"]);
        assert_eq!(
            names(&[&a, &b], "to", true).expect("jobs"),
            ["to/a/deep/y", "to/a/link", "to/a/x", "to/b/x"]
        );
        assert_eq!(names(&[&b.join("x")], "to", false).expect("jobs"), ["to"]);
        assert_eq!(names(&[&b.join("x")], "to/", false).expect("jobs"), ["to/x"]);
        let clash = names(&[&a.join("x"), &b.join("x")], "to", false).expect_err("both become to/x");
        assert!(clash.to_string().contains("to/x"), "{clash}");
        let folder = names(&[&a], "to", false).expect_err("a folder without -r");
        assert!(folder.to_string().contains("-r"), "{folder}");
    }
}
