//! Health, placement and the operator's verbs.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use kepler_protocol::api;
use kepler_protocol::node_id::NodeId;
use warp::http::{StatusCode, header};
use warp::reply::{Reply, Response};

use super::error::{self, Failure};
use super::{Call, json, names, set};
use crate::service::VerifyStream;

/// The most bytes of a verb's JSON.
const MAX_JSON: usize = 4 << 10;

/// How far back the past is told, in seconds.
const LONGEST_PAST: u64 = 3_600;
const SECS: &str = "a number from 1 to 3600";

/// The most members that are forgotten at once.
const MOST_FORGOTTEN: usize = 64;

/// `GET /v1/health`
pub(super) async fn health(call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    json(&call.shared.files.health().await)
}

/// `GET /v1/recent`
pub(super) async fn recent(call: Call) -> Result<Response, Failure> {
    let query = call.query(&["all", "secs"])?;
    let secs = query.parsed::<u64>("secs", SECS)?.unwrap_or(LONGEST_PAST);
    if !(1..=LONGEST_PAST).contains(&secs) {
        return Err(Failure::bad_parameter(format!("the parameter secs is not {SECS}")));
    }
    let past = std::time::Duration::from_secs(secs);
    json(&call.shared.files.recent(flag(&query, "all")?, past).await)
}

/// `GET /v1/locate/{name}`
pub(super) async fn locate(call: Call) -> Result<Response, Failure> {
    let name = names::decode(&call.rest)?;
    let query = call.query(&["if_down"])?;
    let if_down = query.parsed("if_down", "a node id")?;
    json(&call.shared.files.locate(&name, if_down).await.map_err(error::locate)?)
}

/// `GET /v1/verify`: JSON, a line each.
pub(super) async fn verify(call: Call) -> Result<Response, Failure> {
    let query = call.query(&["all"])?;
    let lines = call.shared.files.verify(flag(&query, "all")?).map_err(error::operator)?;
    let mut response = warp::reply::stream(Lines(lines)).into_response();
    set(&mut response, header::CONTENT_TYPE, "application/jsonl");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    Ok(response)
}

/// `POST /v1/scrub`
pub(super) async fn scrub(mut call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    let request = call.json(MAX_JSON, r#"{"action": "start", "all": true}"#).await?;
    accepted(&call.shared.files.scrub(request).await)
}

/// `POST /v1/repair`
pub(super) async fn repair(mut call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    let example = r#"{"action": "start", "bandwidth_mbps": 100, "all": true}"#;
    let request: api::RepairRequest = call.json(MAX_JSON, example).await?;
    if request.bandwidth_mbps.is_some_and(|mbps| !api::BANDWIDTH_MBPS.contains(&mbps)) {
        return Err(Failure::bad_parameter("bandwidth_mbps is not a number from 0.1 to 1000000"));
    }
    accepted(&call.shared.files.repair(request).await)
}

/// `POST /v1/cluster/leave`; with `cancel=1` it is called off.
pub(super) async fn leave(call: Call) -> Result<Response, Failure> {
    let query = call.query(&["cancel"])?;
    let files = &call.shared.files;
    let done = if flag(&query, "cancel")? { files.stay().await } else { files.leave().await };
    accepted(&done.map_err(error::operator)?)
}

/// `POST /v1/cluster/forget/{node}`; with `lost=1` several, separated by commas.
pub(super) async fn forget(call: Call) -> Result<Response, Failure> {
    let query = call.query(&["lost"])?;
    let lost = flag(&query, "lost")?;
    let nodes = call.rest.split(',').map(|node| node.parse::<NodeId>());
    let nodes: BTreeSet<NodeId> =
        nodes.collect::<Result<_, _>>().map_err(|error| Failure::bad_parameter(error.to_string()))?;
    if nodes.len() > 1 && !lost {
        return Err(Failure::bad_parameter(
            "several members are forgotten at once only with lost=1; without it, one after another",
        ));
    }
    if nodes.len() > MOST_FORGOTTEN {
        return Err(Failure::bad_parameter(format!("name at most {MOST_FORGOTTEN} members")));
    }
    let (shared, files) = (call.shared.clone(), call.shared.files.clone());
    // Begun, it is carried on whether or not the client waits.
    let forgetting = shared.writes.spawn(async move { files.forget(nodes, lost).await });
    let done = forgetting.await.map_err(|panicked| Failure::internal(&panicked.into()))?;
    accepted(&done.map_err(error::operator)?)
}

/// 202: begun, not done.
fn accepted(accepted: &api::Accepted) -> Result<Response, Failure> {
    let mut response = json(accepted)?;
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

fn flag(query: &names::Query, key: &str) -> Result<bool, Failure> {
    match query.get(key) {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(_) => Err(Failure::bad_parameter(format!("the parameter {key} is neither 0 nor 1"))),
    }
}

/// A verification as text.
struct Lines(VerifyStream);

impl Stream for Lines {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx).map(|line| {
            let mut text = serde_json::to_string(&line?).expect("a line is text and numbers");
            text.push('\n');
            Some(Ok(text.into()))
        })
    }
}
