//! `kepler cluster` for looking, and `version`.

use anyhow::Result;
use kepler_protocol::api::{Cluster, NodeStatus};
use serde_json::json;

use crate::client::Client;
use crate::output::{Output, count, size, table};

/// One line for each member, and whether this node is ready.
pub async fn status(client: &Client, output: &Output) -> Result<()> {
    let cluster: Cluster = client.json("/v1/cluster").await?;
    let status: NodeStatus = client.json("/v1/status").await?;
    output.print(&json!({ "cluster": cluster, "status": status }), |_| {
        let mut text = format!(
            "{} is {}; {}, {} ({}), {} queued\n",
            status.id,
            status.waiting_for.as_ref().map_or_else(|| "ready".to_owned(), |why| format!("not ready: {why}")),
            count(status.files, "file"),
            count(status.storage.chunks, "chunk"),
            size(status.storage.bytes),
            if status.queue.depth == 1 {
                "1 copy".to_owned()
            } else {
                format!("{} copies", status.queue.depth)
            },
        );
        let rows = cluster
            .members
            .iter()
            .map(|m| [m.id.to_string(), word(&m.status), format!("{:.1} %", m.share * 100.0), size(m.used)]);
        text.push_str(&table(["NODE", "STATE", "SHARE", "USED"], rows));
        text
    })
}

/// How a state is written.
pub fn word(status: &impl serde::Serialize) -> String {
    serde_json::to_value(status).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Every member with its addresses and load.
pub async fn members(client: &Client, output: &Output) -> Result<()> {
    let cluster: Cluster = client.json("/v1/cluster").await?;
    output.print(&cluster.members, |members| {
        let rows = members.iter().map(|m| {
            [
                m.id.to_string(),
                word(&m.status),
                m.incarnation.to_string(),
                m.addr.clone(),
                format!("{} {} {}", m.http_port, m.gossip_port, m.transfer_port),
                m.zone.clone().unwrap_or_else(|| "-".to_owned()),
                size(m.capacity),
                m.version.clone(),
                m.last_seen.clone().unwrap_or_else(|| "never".to_owned()),
            ]
        });
        table(
            ["NODE", "STATE", "INCARNATION", "ADDRESS", "PORTS", "ZONE", "CAPACITY", "VERSION", "LAST SEEN"],
            rows,
        )
    })
}

/// Each member's share of the ring.
pub async fn ring(client: &Client, output: &Output) -> Result<()> {
    let cluster: Cluster = client.json("/v1/cluster").await?;
    output.print(&json!({ "ring": cluster.ring, "roster": cluster.roster }), |_| {
        let mut text = format!("{}  digest {}\n", cluster.ring.version, cluster.ring.digest);
        if let Some(roster) = &cluster.roster {
            let members: Vec<&str> = roster.members.iter().map(|m| m.as_str()).collect();
            text.push_str(&format!("roster {}: {}\n", roster.number, members.join(", ")));
        }
        let rows = cluster.members.iter().map(|m| [m.id.to_string(), format!("{:.2} %", m.share * 100.0)]);
        text.push_str(&table(["NODE", "SHARE"], rows));
        text
    })
}

/// The version of this program and, if it answers, of the node.
pub async fn version(client: Option<&Client>, output: &Output) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let node = match client {
        Some(client) => client.json::<NodeStatus>("/v1/status").await.ok().map(|status| status.version),
        None => None,
    };
    output.print(&json!({ "kepler": own, "node": node }), |_| {
        format!("kepler {own}, node {}", node.as_deref().unwrap_or("unreachable"))
    })
}
