//! Chunks by CID: `/v1/chunks/{cid}`, and `/ipfs/{cid}` by the IPFS trustless gateway rules.
//!
//! A chunk never changes, so answers are cached for ever. `/ipfs/` serves raw blocks alone: whoever
//! wants a file asks for its name, or puts the blocks together and checks them.

use kepler_protocol::chunk::{ChunkId, Codec};
use kepler_protocol::time::UnixMillis;
use warp::http::header::{self, HeaderName};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply as _, Response};

use super::body::Download;
use super::error::{self, Failure};
use super::headers::{self, Verdict, Wanted};
use super::{Call, set};
use crate::service::OpenChunk;

const RAW: &str = "application/vnd.ipld.raw";
const DAG_PB: &str = "application/vnd.ipld.dag-pb";
/// The empty block inlined into its CID, by which clients ask whether a gateway is one.
const PROBE: &str = "bafkqaaa";

/// `GET /v1/chunks/{cid}`
pub(super) async fn get(call: Call) -> Result<Response, Failure> {
    let id = parse(&call.rest)?;
    call.query(&[])?;
    let chunk = call.shared.files.chunk(id).await.map_err(error::read)?;
    let content_type = match id.codec() {
        Codec::Raw => RAW,
        Codec::DagPb => DAG_PB,
    };
    block(&call, &id.to_string(), &id.to_string(), content_type, chunk)
}

/// `GET /ipfs/{cid}`
pub(super) async fn ipfs(call: Call) -> Result<Response, Failure> {
    let query = call.query(&["format"])?;
    let accept = call.headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    match (query.get("format"), accepted(accept)) {
        (Some("raw"), _) | (None, Accepted::Raw) => {}
        (Some(_), _) | (None, Accepted::Other) => {
            return Err(Failure::new(
                StatusCode::NOT_ACCEPTABLE,
                "not-acceptable",
                "Not acceptable",
                format!("this gateway serves raw blocks alone: add ?format=raw or Accept: {RAW}"),
            ));
        }
        (None, Accepted::Anything) => {
            return Err(Failure::bad_parameter(format!(
                "this is a trustless gateway, which serves raw blocks alone: add ?format=raw or Accept: {RAW}"
            )));
        }
    }
    let (cid, chunk) = if call.rest == PROBE {
        (PROBE.to_owned(), OpenChunk::new(0, Box::new(|_| Box::pin(futures::stream::empty()))))
    } else {
        let id = parse(&call.rest)?;
        (id.to_string(), call.shared.files.chunk(id).await.map_err(error::read)?)
    };
    let mut response = block(&call, &cid, &format!("{cid}.raw"), RAW, chunk)?;
    set(&mut response, HeaderName::from_static("x-ipfs-path"), &format!("/ipfs/{cid}"));
    set(&mut response, HeaderName::from_static("x-ipfs-roots"), &cid);
    set(&mut response, header::VARY, "accept");
    Ok(response)
}

fn parse(text: &str) -> Result<ChunkId, Failure> {
    if text.contains('/') {
        return Err(Failure::bad_parameter("a block has no paths below it: end the path with its CID"));
    }
    text.parse()
        .map_err(|error: kepler_protocol::chunk::InvalidChunkId| Failure::bad_parameter(error.to_string()))
}

/// What an `Accept` header asks for, of what this gateway knows.
#[derive(Debug, PartialEq, Eq)]
enum Accepted {
    Raw,
    /// Nothing in particular.
    Anything,
    /// Something that is not served.
    Other,
}

fn accepted<'a>(values: impl Iterator<Item = &'a str>) -> Accepted {
    let mut other = false;
    for value in values.flat_map(|v| v.split(',')) {
        let mut parts = value.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        if parts.any(|p| p.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))) {
            continue;
        }
        if kind.eq_ignore_ascii_case(RAW) {
            return Accepted::Raw;
        }
        other |= kind.to_ascii_lowercase().starts_with("application/vnd.ip");
    }
    if other { Accepted::Other } else { Accepted::Anything }
}

/// An immutable answer with one block, or the part of it that is asked for.
fn block(
    call: &Call,
    cid: &str,
    tag: &str,
    content_type: &str,
    chunk: OpenChunk,
) -> Result<Response, Failure> {
    let size = chunk.size;
    // A block has no date of its own; the epoch keeps every date condition true.
    let verdict = headers::condition(&call.headers, tag, UnixMillis(0))?;
    let mut response = Response::default();
    match verdict {
        Verdict::Failed => return Err(Failure::precondition_failed(None)),
        Verdict::NotModified => *response.status_mut() = StatusCode::NOT_MODIFIED,
        Verdict::Serve { range } => {
            let range = call.headers.get(header::RANGE).filter(|_| range && call.method == Method::GET);
            let part = match range.map(|r| headers::range(r.to_str().unwrap_or_default(), size)) {
                Some(Wanted::Unsatisfiable) => return Err(Failure::range_not_satisfiable(size)),
                Some(Wanted::Part(part)) => Some(part),
                Some(Wanted::Whole) | None => None,
            };
            let length = part.as_ref().map_or(size, |part| part.end - part.start);
            if call.method == Method::GET {
                let bytes = chunk.read(part.clone().unwrap_or(0..size));
                response = warp::reply::stream(Download::new(bytes)).into_response();
            }
            if let Some(part) = part {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                set(&mut response, header::CONTENT_RANGE, &content_range);
            }
            set(&mut response, header::CONTENT_LENGTH, &length.to_string());
            set(&mut response, header::CONTENT_TYPE, content_type);
            set(
                &mut response,
                header::CONTENT_DISPOSITION,
                &headers::disposition(&format!("{cid}.bin"), false),
            );
            set(&mut response, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
            set(&mut response, header::ACCEPT_RANGES, "bytes");
        }
    }
    set(&mut response, header::ETAG, &format!("\"{tag}\""));
    let open = !call.shared.config.access.has_tokens();
    let scope = if open { "public" } else { "private" };
    set(&mut response, header::CACHE_CONTROL, &format!("{scope}, max-age=29030400, immutable"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers_are_read_for_what_this_gateway_serves() {
        let cases = [
            ("", Accepted::Anything),
            ("*/*", Accepted::Anything),
            ("text/html,*/*;q=0.8", Accepted::Anything),
            (RAW, Accepted::Raw),
            ("text/html, application/vnd.IPLD.raw;q=0.5", Accepted::Raw),
            ("application/vnd.ipld.raw;q=0", Accepted::Anything),
            ("application/vnd.ipld.car; version=1", Accepted::Other),
            ("application/vnd.ipld.car, application/vnd.ipld.raw", Accepted::Raw),
        ];
        for (text, expected) in cases {
            assert_eq!(accepted([text].into_iter()), expected, "{text}");
        }
    }
}
