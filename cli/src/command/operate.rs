//! `kepler scrub`, `repair`, `cluster leave` and `cluster forget`.

use std::time::Duration;

use anyhow::Result;
use kepler_protocol::api::{
    Accepted, BANDWIDTH_MBPS, Cluster, NodeStatus, RepairRequest, ScrubRequest, Status,
};
use kepler_protocol::node_id::NodeId;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use crate::args::Steer;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::{Output, count};

/// How often a node that leaves is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at the others, once the node has stopped, before they must know that it left.
const FAREWELL_LOOKS: u32 = 30;

/// Hurries or pauses scrubbing.
pub async fn scrub(client: &Client, output: &Output, steer: Steer) -> Result<()> {
    let request = ScrubRequest { action: steer.action(), all: steer.all };
    let what =
        if steer.pause { "scrubbing pauses" } else { "scrubbing; `kepler health` shows how far it is" };
    post(client, output, "/v1/scrub", Some(&request), what).await
}

/// Hurries or pauses repair, and sets its cap.
pub async fn repair(client: &Client, output: &Output, steer: Steer, bandwidth: Option<f64>) -> Result<()> {
    if bandwidth.is_some_and(|mbps| !BANDWIDTH_MBPS.contains(&mbps)) {
        return Err(Failure::Usage("--bandwidth is in MB/s, from 0.1 to 1000000".to_owned()).into());
    }
    let request = RepairRequest { action: steer.action(), bandwidth_mbps: bandwidth, all: steer.all };
    let what = if steer.pause {
        "repair pauses; `kepler repair --resume` goes on"
    } else {
        "repairing; `kepler health` shows what is lacking"
    };
    post(client, output, "/v1/repair", Some(&request), what).await
}

/// Takes members that will not return from the roster.
pub async fn forget(client: &Client, output: &Output, nodes: &[NodeId], lost: bool) -> Result<()> {
    if lost {
        let all = nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(",");
        let path = format!("/v1/cluster/forget/{all}?lost=1");
        return post::<()>(client, output, &path, None, "the remaining members are the cluster").await;
    }
    for node in nodes {
        let what = format!("{node} is being forgotten; `kepler cluster ring` shows the roster");
        post::<()>(client, output, &format!("/v1/cluster/forget/{node}"), None, &what).await?;
    }
    Ok(())
}

/// Has the node stay that is leaving.
pub async fn stay(client: &Client, output: &Output) -> Result<()> {
    post::<()>(client, output, "/v1/cluster/leave?cancel=1", None, "staying: it owns its share again").await
}

/// Has the node leave, and with `wait` watches until it has.
pub async fn leave(client: &Client, output: &Output, wait: bool) -> Result<()> {
    // Who it is and who else there is, while it can still say so.
    let status: NodeStatus = client.json("/v1/status").await?;
    let cluster: Cluster = client.json("/v1/cluster").await?;
    client.send(client.request(Method::POST, "/v1/cluster/leave")).await?;
    let node = status.id;
    if !wait {
        return output.print(&json!({ "node": node, "leaving": true }), |_| {
            format!("{node} is leaving; `kepler health` shows how far it is")
        });
    }
    output.note(&format!("{node} is leaving; it goes on if this program is interrupted"));
    let mut told = None;
    while let Ok(status) = client.json::<NodeStatus>("/v1/status").await {
        let left = status.healing.map(|healing| healing.surplus);
        if left.is_some() && told != left {
            told = left;
            output.note(&format!("{} to bring elsewhere", count(left.unwrap_or(0), "chunk")));
        }
        match state(client, node).await {
            Some(Status::Left) => return farewell(output, node),
            Some(Status::Alive) if told.is_some() => {
                return Err(anyhow::anyhow!("{node} stays after all: the leave was called off"));
            }
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // It answers no more. Whether it has left, only the others can say.
    let others: Vec<Client> = cluster
        .members
        .iter()
        .filter(|member| member.id != node && matches!(member.status, Status::Alive | Status::Suspect))
        .filter_map(|member| client.at(&member.addr, member.http_port).ok())
        .collect();
    for _ in 0..FAREWELL_LOOKS {
        for other in &others {
            match state(other, node).await {
                Some(Status::Left) => return farewell(output, node),
                Some(Status::Dead) => {
                    let why =
                        format!("{node} stopped before it had left: start it again, and it goes on leaving");
                    return Err(anyhow::anyhow!(why));
                }
                _ => {}
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(client
        .silent(&format!(
            "{node} stopped, and nobody says that it has left: ask `kepler cluster members` on another node"
        ))
        .into())
}

fn farewell(output: &Output, node: NodeId) -> Result<()> {
    output.print(&json!({ "node": node, "left": true }), |_| format!("{node} has left"))
}

/// A member's state in the eyes of another node; `left` where it is on no list any more.
async fn state(client: &Client, node: NodeId) -> Option<Status> {
    let cluster: Cluster = client.json("/v1/cluster").await.ok()?;
    let on_roster = cluster.roster.is_none_or(|roster| roster.members.contains(&node));
    match cluster.members.iter().find(|member| member.id == node) {
        Some(member) if on_roster && member.status == Status::Left => Some(Status::Leaving),
        Some(member) => Some(member.status),
        None => (!on_roster).then_some(Status::Left),
    }
}

/// Says a word to the node, and shows who took it. Whoever did not is a failure.
async fn post<T: Serialize>(
    client: &Client,
    output: &Output,
    path: &str,
    body: Option<&T>,
    what: &str,
) -> Result<()> {
    let mut request = client.request(Method::POST, path);
    if let Some(body) = body {
        request = request.json(body);
    }
    let accepted: Accepted = client.parse(client.send(request).await?).await?;
    output.print(&accepted, |accepted| {
        let lines = accepted.nodes.iter().map(|node| match &node.detail {
            None => format!("{}: {what}", node.node),
            Some(why) => format!("{}: not done: {why}", node.node),
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    match accepted.nodes.iter().any(|node| !node.accepted) {
        true => Err(Failure::Told(1).into()),
        false => Ok(()),
    }
}
