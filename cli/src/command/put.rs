//! `kepler put`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kepler_protocol::api::{self, Receipt};
use kepler_protocol::name::Name;
use reqwest::{Body, Method};
use tokio_util::io::ReaderStream;
use walkdir::WalkDir;

use crate::args::Put;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::{Output, size};

/// Bytes read from a file or a pipe at a time.
const PIECE: usize = 256 << 10;

/// What is stored, and under which name.
struct Job {
    source: Source,
    name: Name,
}

enum Source {
    Stdin,
    File(PathBuf),
}

/// Stores files and prints their receipts.
///
/// # Errors
/// The first failure; what was stored before it stays.
pub async fn run(client: &Client, output: &Output, put: Put) -> Result<()> {
    for job in jobs(&put)? {
        let receipt = store(client, output, &put, &job).await?;
        output.print(&receipt, describe)?;
    }
    Ok(())
}

fn jobs(put: &Put) -> Result<Vec<Job>> {
    let (target, sources) = put.paths.split_last().context("clap asks for two paths")?;
    let parse = |text: &str| -> Result<Name> {
        text.parse().map_err(|e| Failure::Usage(format!("{text:?} is no name: {e}")).into())
    };
    let folder = target.ends_with('/') || sources.len() > 1 || put.recursive;
    let prefix = target.trim_end_matches('/');
    let under =
        |relative: &str| if prefix.is_empty() { relative.to_owned() } else { format!("{prefix}/{relative}") };
    let mut jobs = Vec::new();
    for source in sources {
        if source == "-" {
            if folder {
                return Err(Failure::Usage("standard input needs a name, not a folder".to_owned()).into());
            }
            jobs.push(Job { source: Source::Stdin, name: parse(target)? });
            continue;
        }
        let path = Path::new(source);
        let metadata = std::fs::metadata(path).with_context(|| format!("look at {source}"))?;
        if !metadata.is_dir() {
            let base = path.file_name().context("a file has a name")?.to_str();
            let base =
                base.ok_or_else(|| Failure::Usage(format!("{source}: the file's name is not UTF-8")))?;
            let name = if folder { parse(&under(base))? } else { parse(target)? };
            jobs.push(Job { source: Source::File(path.to_owned()), name });
            continue;
        }
        if !put.recursive {
            return Err(Failure::Usage(format!("{source} is a folder: add -r to store what is in it")).into());
        }
        for entry in WalkDir::new(path).sort_by_file_name() {
            let entry = entry.with_context(|| format!("walk {source}"))?;
            if !entry.file_type().is_file() {
                continue;
            }
            let relative = entry.path().strip_prefix(path).context("a walk stays below its root")?;
            let relative = relative.to_str().ok_or_else(|| {
                Failure::Usage(format!("{}: the name is not UTF-8", entry.path().display()))
            })?;
            jobs.push(Job { name: parse(&under(relative))?, source: Source::File(entry.path().to_owned()) });
        }
    }
    Ok(jobs)
}

async fn store(client: &Client, output: &Output, put: &Put, job: &Job) -> Result<Receipt> {
    let durability: api::Durability = put.durability.into();
    let mut request =
        client.request(Method::PUT, &Client::file_path(&job.name)).query(&[("durability", durability)]);
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
    let (body, bar) = match &job.source {
        Source::Stdin => {
            let bar = output.progress(job.name.as_str(), None);
            (counted(tokio::io::stdin(), &bar), bar)
        }
        Source::File(path) => {
            let file =
                tokio::fs::File::open(path).await.with_context(|| format!("open {}", path.display()))?;
            let length = file.metadata().await.with_context(|| format!("look at {}", path.display()))?.len();
            let bar = output.progress(job.name.as_str(), Some(length));
            // The length lets the node notice a file that shrank while it was sent.
            request = request.header("Content-Length", length);
            (counted(file, &bar), bar)
        }
    };
    let response = client.send(request.body(body)).await;
    bar.finish_and_clear();
    let text = response?.text().await.map_err(|error| client.unreachable(&error))?;
    serde_json::from_str(&text).context("read the receipt")
}

fn counted(reader: impl tokio::io::AsyncRead + Send + 'static, bar: &indicatif::ProgressBar) -> Body {
    let bar = bar.clone();
    Body::wrap_stream(ReaderStream::with_capacity(reader, PIECE).inspect(move |piece| {
        if let Ok(piece) = piece {
            bar.inc(piece.len() as u64);
        }
    }))
}

/// The receipt for people: the CID first, then who holds it.
pub fn describe(receipt: &Receipt) -> String {
    let replicas = &receipt.replicas;
    let nodes: Vec<&str> = replicas.nodes.iter().map(|n| n.as_str()).collect();
    let mut text = format!(
        "{}  {}\n  {} in {} chunks, {} of {} copies durable on {}",
        receipt.cid,
        receipt.name,
        size(receipt.size),
        receipt.chunks,
        replicas.acked,
        replicas.wanted,
        nodes.join(", ")
    );
    for queued in &replicas.queued {
        text.push_str(&format!("\n  {} chunks still queued for {}", queued.chunks, queued.node));
    }
    text
}
