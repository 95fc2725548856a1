//! Addresses that open one file without a token, for a while.

use kepler_protocol::api;
use serde::Deserialize;
use warp::http::header;
use warp::reply::Response;

use super::error::Failure;
use super::files::version_of;
use super::ticket::{GOOD_FOR, TICKET};
use super::{Call, json, names, set};

/// The largest JSON body, in bytes.
const MAX_JSON: usize = 16 << 10;

/// The body before what is in it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    name: String,
    version: Option<String>,
    #[serde(default)]
    download: bool,
}

/// `POST /v1/links`
pub(super) async fn post(mut call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    let raw: RawLink = call.json(MAX_JSON, r#"{"name": "a", "download": true}"#).await?;
    let name = names::parse(&raw.name)?;
    let version = version_of(raw.version)?;
    let ticket = call.shared.config.access.ticket(&name, version);
    let ticket = ticket.ok_or_else(|| Failure::internal(&anyhow::anyhow!("no randomness for tickets")))?;
    let mut url = format!("{}?{TICKET}={ticket}", names::location(&name));
    if let Some(version) = version {
        url.push_str(&format!("&version={version}"));
    }
    if raw.download {
        url.push_str("&download=1");
    }
    let mut response = json(&api::Link { url, expires_in_secs: GOOD_FOR.as_secs() })?;
    set(&mut response, header::CACHE_CONTROL, "no-store");
    Ok(response)
}
