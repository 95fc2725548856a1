//! `kepler locate`.

use anyhow::Result;
use kepler_protocol::api::{Located, LocatedChunk};
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use reqwest::Method;

use crate::client::Client;
use crate::output::{Output, size};

/// Explains where a file's chunks belong, and shows who holds them.
pub async fn run(client: &Client, output: &Output, name: &Name, if_down: Option<NodeId>) -> Result<()> {
    let path = Client::file_path(name).replacen("/v1/files/", "/v1/locate/", 1);
    let mut request = client.request(Method::GET, &path);
    if let Some(node) = if_down {
        request = request.query(&[("if_down", node.as_str())]);
    }
    let located: Located = client.parse(client.send(request).await?).await?;
    output.print(&located.chunks, |chunks| {
        let mut text = format!("{}  version {}\n", located.name, located.version);
        for chunk in chunks {
            text.push('\n');
            text.push_str(&explain(chunk, located.if_down));
        }
        text.trim_end().to_owned()
    })
}

fn explain(chunk: &LocatedChunk, if_down: Option<NodeId>) -> String {
    let mut text = format!(
        "{}  {}\n  key      {}; the owners are found after {} tokens\n",
        chunk.cid,
        size(chunk.size),
        chunk.key,
        chunk.tokens_walked
    );
    for (at, step) in chunk.walk.iter().enumerate() {
        let zone = step.zone.as_ref().map_or(String::new(), |zone| format!(" in {zone}"));
        let label = if at == 0 { "walk" } else { "" };
        text.push_str(&format!("  {label:8} {} {}{zone}: {}\n", step.token, step.node, step.why));
    }
    text.push_str(&format!("  owners   {}\n", join(&chunk.owners)));
    for (at, holder) in chunk.holders.iter().enumerate() {
        let label = if at == 0 { "holders" } else { "" };
        let verified = holder.verified_at.as_deref().unwrap_or("never");
        let surplus = if chunk.owners.contains(&holder.node) { "" } else { "; not an owner" };
        text.push_str(&format!("  {label:8} {} verified {verified}{surplus}\n", holder.node));
    }
    let lacking: Vec<NodeId> =
        chunk.owners.iter().filter(|o| chunk.holders.iter().all(|h| h.node != **o)).copied().collect();
    if !lacking.is_empty() {
        text.push_str(&format!("  missing  on {}\n", join(&lacking)));
    }
    if let (Some(down), Some(owners)) = (if_down, &chunk.owners_if_down) {
        let fresh: Vec<NodeId> = owners.iter().filter(|o| !chunk.owners.contains(o)).copied().collect();
        let change = match (chunk.owners.contains(&down), fresh.is_empty()) {
            (false, _) => "nothing changes".to_owned(),
            (true, true) => format!("no other node takes its copy; owners {}", join(owners)),
            (true, false) => format!("{} takes its copy; owners {}", join(&fresh), join(owners)),
        };
        text.push_str(&format!("  if {down} were down: {change}\n"));
    }
    text
}

fn join(nodes: &[NodeId]) -> String {
    nodes.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use kepler_protocol::api::{Holder, WalkStep};
    use kepler_protocol::chunk::{ChunkId, Codec};

    use super::*;

    #[test]
    fn a_chunk_is_explained_from_its_key_to_its_holders_and_the_case_of_a_death() {
        let id = |text: &str| text.parse::<NodeId>().expect("an id");
        let step = |node: &str, owner, why: &str| WalkStep {
            token: "0".repeat(16),
            node: id(node),
            zone: None,
            owner,
            why: why.to_owned(),
        };
        let chunk = LocatedChunk {
            cid: ChunkId::of(Codec::Raw, b"x"),
            size: 1,
            key: "f".repeat(16),
            tokens_walked: 3,
            walk: vec![step("a", true, "next clockwise"), step("b", false, "passed over: it is dead")],
            owners: vec![id("a"), id("c")],
            holders: vec![
                Holder { node: id("a"), verified_at: None },
                Holder { node: id("d"), verified_at: Some("2026-01-01T00:00:00Z".to_owned()) },
            ],
            owners_if_down: Some(vec![id("c"), id("e")]),
        };
        let text = explain(&chunk, Some(id("a")));
        for expected in [
            "after 3 tokens",
            "b: passed over: it is dead",
            "owners   a c",
            "a verified never",
            "d verified 2026-01-01T00:00:00Z; not an owner",
            "missing  on c",
            "if a were down: e takes its copy; owners c e",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
