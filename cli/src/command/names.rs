//! `kepler ls`, `rm`, `stat`, `cp` and `mv`.

use anyhow::{Context as _, Result};
use kepler_protocol::api::{self, CopyRequest, FileEntry, Stat};
use kepler_protocol::name::Name;
use reqwest::Method;
use serde_json::json;

use super::put::describe;
use crate::args::{Copy, Durability};
use crate::client::Client;
use crate::exit::{self, Failure};
use crate::output::{Output, count, size, table};

/// Lists names.
pub async fn ls(client: &Client, output: &Output, folder: &str, recursive: bool, long: bool) -> Result<()> {
    let prefix = match folder.trim_end_matches('/') {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let delimiter = (!recursive).then_some("/");
    let mut found = false;
    client
        .list(&prefix, delimiter, |page| {
            found |= !page.files.is_empty() || !page.prefixes.is_empty();
            if !found && !prefix.is_empty() {
                return Ok(());
            }
            output.print(&page, |page| if long { long_page(page) } else { short_page(page) })
        })
        .await?;
    if found || prefix.is_empty() {
        return Ok(());
    }
    // Perhaps it is a file: of all names that begin so it comes first.
    let request = client.request(Method::GET, "/v1/files").query(&[("prefix", folder), ("limit", "1")]);
    let mut page: api::Listing = client.parse(client.send(request).await?).await?;
    page.files.retain(|file| file.name.as_str() == folder);
    page.next = None;
    if page.files.is_empty() {
        let message = format!("there is no file or folder {folder}: `kepler ls -r` shows what there is");
        return Err(Failure::NotFound(message).into());
    }
    output.print(&page, |page| if long { long_page(page) } else { short_page(page) })
}

fn short_page(page: &api::Listing) -> String {
    let mut names: Vec<String> = page.prefixes.clone();
    names.extend(page.files.iter().map(|file| file.name.to_string()));
    names.sort();
    names.join("\n")
}

fn long_page(page: &api::Listing) -> String {
    let folders = page.prefixes.iter().map(|p| [String::new(), String::new(), String::new(), p.clone()]);
    let files = page.files.iter().map(|file: &FileEntry| {
        let name = match file.conflicts {
            0 => file.name.to_string(),
            n => format!("{} ({})", file.name, count(n as u64, "conflict")),
        };
        [size(file.size), file.created_at.clone(), file.content_type.clone().unwrap_or_default(), name]
    });
    table(["SIZE", "WRITTEN", "TYPE", "NAME"], folders.chain(files))
}

/// Deletes files.
pub async fn rm(
    client: &Client,
    output: &Output,
    names: &[String],
    recursive: bool,
    version: Option<&str>,
    durability: Durability,
) -> Result<()> {
    let durability: api::Durability = durability.into();
    for given in names {
        let mut doomed: Vec<Name> = Vec::new();
        if recursive {
            let prefix = format!("{}/", given.trim_end_matches('/'));
            client
                .list(&prefix, None, |page| {
                    doomed.extend(page.files.into_iter().map(|file| file.name));
                    Ok(())
                })
                .await?;
        }
        let in_folder = !doomed.is_empty();
        if !in_folder {
            doomed.push(given.parse().map_err(|e| Failure::Usage(format!("{given:?} is no name: {e}")))?);
        }
        for name in doomed {
            let mut request = client
                .request(Method::DELETE, &Client::file_path(&name))
                .query(&[("durability", durability)]);
            if let Some(version) = version {
                request = request.query(&[("version", version)]);
            }
            match client.send(request).await {
                // Of a folder's files, one may be gone before its turn comes.
                Err(error) if in_folder && exit::code(&error) == 3 => continue,
                sent => sent.with_context(|| format!("rm {name}"))?,
            };
            output.print(&json!({ "deleted": name }), |_| format!("deleted {name}"))?;
        }
    }
    Ok(())
}

fn stat_path(name: &Name) -> String {
    Client::file_path(name).replacen("/v1/files/", "/v1/stat/", 1)
}

/// Shows everything known of a file.
pub async fn stat(client: &Client, output: &Output, name: &Name) -> Result<()> {
    let stat: Stat = client.json(&stat_path(name)).await?;
    output.print(&stat, |stat| {
        let mut lines = vec![format!("{}  ({} consistency)", stat.name, stat.consistency)];
        for version in &stat.versions {
            lines.push(format!(
                "{} {}\n  cid      {}\n  size     {} in {}\n  type     {}\n  written  {}",
                if version.head { "head" } else { "conflict" },
                version.version,
                version.cid,
                size(version.size),
                count(version.chunks, "chunk"),
                version.content_type.as_deref().unwrap_or("-"),
                version.created_at,
            ));
        }
        if stat.versions.len() > 1 {
            lines.push(format!(
                "to keep one: kepler get {name} --version VERSION, or kepler rm {name} --version VERSION",
                name = stat.name
            ));
        }
        lines.join("\n")
    })
}

/// What `kepler cp` says beside from and to.
#[derive(Default)]
pub struct Of {
    /// A surviving version.
    pub version: Option<String>,
    /// From is a CID.
    pub cid: bool,
    /// Of the copy of a CID.
    pub content_type: Option<String>,
}

/// Copies or moves a file.
pub async fn copy(client: &Client, output: &Output, path: &str, copy: Copy, of: Of) -> Result<()> {
    let Copy { from, to, durability } = copy;
    let usage = |e: &dyn std::fmt::Display| Failure::Usage(format!("{from:?}: {e}"));
    let (name, cid) = if of.cid {
        (None, Some(from.parse().map_err(|e| usage(&e))?))
    } else {
        (Some(from.parse().map_err(|e| usage(&e))?), None)
    };
    let request = CopyRequest {
        from: name,
        version: of.version,
        cid,
        content_type: of.content_type,
        to,
        durability: durability.into(),
    };
    let response = client.send(client.request(Method::POST, path).json(&request)).await?;
    output.print(&client.parse::<api::Receipt>(response).await?, describe)
}
