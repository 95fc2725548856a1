//! The node and its cluster: members, ring, status, metrics, health probes.

use warp::reply::Response;

use super::error::{self, Failure};
use super::{Call, json, text};

/// `GET /v1/cluster`
pub(super) async fn cluster(call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    json(&call.shared.files.cluster().await)
}

/// `GET /v1/ring`
pub(super) async fn ring(call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    json(&call.shared.files.ring())
}

/// `GET /v1/status`
pub(super) async fn status(call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    let status = call.shared.files.status().await.map_err(error::read)?;
    json(&status)
}

/// `GET /metrics`
pub(super) async fn metrics(call: Call) -> Result<Response, Failure> {
    let body = call.shared.metrics.encode();
    Ok(text("application/openmetrics-text; version=1.0.0; charset=utf-8", body))
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz(_: Call) -> Result<Response, Failure> {
    Ok(text("text/plain; charset=utf-8", "alive\n"))
}

/// `GET /readyz`: the node is admitted and its catalog has caught up.
pub(super) async fn readyz(call: Call) -> Result<Response, Failure> {
    match call.shared.files.readiness() {
        Ok(()) => Ok(text("text/plain; charset=utf-8", "ready\n")),
        Err(why) => Err(Failure::not_ready(&why)),
    }
}
