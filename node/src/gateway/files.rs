//! Files: put, get, head, delete, list, copy, move, stat.

use std::sync::Arc;

use futures::StreamExt as _;
use kepler_protocol::api;
use kepler_protocol::catalog::command::{Consistency, Precondition};
use kepler_protocol::name::Name;
use kepler_protocol::version::Dot;
use serde::Deserialize;
use warp::http::header::{self, HeaderMap, HeaderName};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply, Response};

use super::body::Download;
use super::error::{self, Failure};
use super::headers::{self, Tags, Verdict, Wanted};
use super::ticket::TICKET;
use super::{Call, Shared, json, names, set};
use crate::service::{BodyError, Copy, CopySource, Files, ListQuery, OpenFile, PutRequest, ReadError};

/// What reading a file takes in its query.
pub(super) const FILE_PARAMETERS: [&str; 3] = ["version", "download", TICKET];

const KEPLER_CID: HeaderName = HeaderName::from_static("kepler-cid");
const KEPLER_CONSISTENCY: HeaderName = HeaderName::from_static("kepler-consistency");
const KEPLER_CONFLICTS: HeaderName = HeaderName::from_static("kepler-conflicts");

/// The most entries of a page.
const MAX_PAGE: usize = 1000;
/// The largest JSON body, in bytes: two names and change.
const MAX_JSON: usize = 64 << 10;
const VERSION: &str = "a version, as ETag gives it without the quotes";

/// `PUT /v1/files/{name}`
pub(super) async fn put(mut call: Call) -> Result<Response, Failure> {
    let name = names::decode(&call.rest)?;
    let query = call.query(&["durability"])?;
    let durability = durability(query.get("durability"))?;
    let content_type = headers::content_type(&call.headers)?;
    refuse_partial(&call.headers)?;
    let max = call.shared.config.limits.max_file_bytes;
    if call.announced().is_some_and(|announced| announced > max) {
        return Err(error::body(&BodyError::TooLarge(max)));
    }
    let slot = upload_slot(&call.shared)?;
    let precondition = precondition(&*call.shared.files, &call.headers, &name).await?;
    let upload = call.upload().boxed();
    let request = PutRequest { name, durability, precondition, content_type };
    let files = call.shared.files.clone();
    let put = async move {
        let _slot = slot;
        files.put(request, upload).await
    };
    let receipt = call.shared.write(put).await?;
    receipt_response(&receipt)
}

/// `GET` and `HEAD /v1/files/{name}`
pub(super) async fn get(call: Call) -> Result<Response, Failure> {
    let name = names::decode(&call.rest)?;
    let query = call.query(&FILE_PARAMETERS)?;
    let version = query.parsed::<Dot>("version", VERSION)?;
    let download = match query.get("download") {
        None | Some("0") => false,
        Some("1") => true,
        Some(_) => return Err(Failure::bad_parameter("the parameter download is neither 0 nor 1")),
    };
    let file = call.shared.files.open(&name, version).await.map_err(error::read)?;
    let Some(content) = file.version.content.clone() else {
        return Err(Failure::not_found(format!("there is no file {name}")));
    };
    let tag = file.version.dot.to_string();
    let verdict = headers::condition(&call.headers, &tag, file.version.created_at)?;
    let size = content.size;
    let wanted = match (verdict, call.headers.get(header::RANGE)) {
        (Verdict::Failed, _) => return Err(Failure::precondition_failed(Some(&tag))),
        (Verdict::Serve { range: true }, Some(range)) if call.method == Method::GET => {
            headers::range(range.to_str().unwrap_or_default(), size)
        }
        (Verdict::Serve { .. } | Verdict::NotModified, _) => Wanted::Whole,
    };
    let (status, range) = match wanted {
        Wanted::Unsatisfiable => {
            return Err(Failure::range_not_satisfiable(size).with_header(header::ETAG, &format!("\"{tag}\"")));
        }
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Whole => (StatusCode::OK, 0..size),
    };
    let not_modified = verdict == Verdict::NotModified;
    let mut response = if not_modified || call.method == Method::HEAD || range.is_empty() {
        Response::default()
    } else {
        let mut bytes = file.read(range.clone());
        // The head promises the bytes: it waits for the first of them, and says so where none come.
        let first = match bytes.next().await {
            Some(Err(error)) => return Err(error::read(error)),
            first => futures::stream::iter(first),
        };
        warp::reply::stream(Download::new(Box::pin(first.chain(bytes)))).into_response()
    };
    *response.status_mut() = if not_modified { StatusCode::NOT_MODIFIED } else { status };
    describe(&mut response, &file, &tag, !call.shared.config.access.has_tokens());
    if not_modified {
        return Ok(response);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        set(&mut response, header::CONTENT_RANGE, &content_range);
    }
    set(&mut response, header::CONTENT_LENGTH, &(range.end - range.start).to_string());
    let content_type = content.content_type.filter(|t| headers::is_media_type(t));
    let content_type = content_type.as_deref().unwrap_or("application/octet-stream");
    let inline = headers::is_inline(content_type) && !download;
    set(&mut response, header::CONTENT_TYPE, content_type);
    set(&mut response, header::CONTENT_DISPOSITION, &headers::disposition(name.as_str(), inline));
    set(&mut response, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
    Ok(response)
}

/// What GET, HEAD and 304 say of a file alike.
fn describe(response: &mut Response, file: &OpenFile, tag: &str, public: bool) {
    set(response, header::ETAG, &format!("\"{tag}\""));
    set(response, header::LAST_MODIFIED, &headers::http_date(file.version.created_at));
    set(response, header::ACCEPT_RANGES, "bytes");
    // The name may have another head at any time: caches keep it, but ask.
    set(response, header::CACHE_CONTROL, if public { "no-cache" } else { "private, no-cache" });
    if let Some(content) = &file.version.content {
        set(response, KEPLER_CID, &content.root.to_string());
    }
    let consistency = match file.consistency {
        Consistency::Majority => "majority",
        Consistency::Local => "local",
    };
    set(response, KEPLER_CONSISTENCY, consistency);
    if file.conflicts > 0 {
        set(response, KEPLER_CONFLICTS, &file.conflicts.to_string());
    }
}

/// `DELETE /v1/files/{name}`
pub(super) async fn delete(call: Call) -> Result<Response, Failure> {
    let name = names::decode(&call.rest)?;
    let query = call.query(&["version", "durability"])?;
    let version = query.parsed::<Dot>("version", VERSION)?;
    let durability = durability(query.get("durability"))?;
    let precondition = precondition(&*call.shared.files, &call.headers, &name).await?;
    let files = call.shared.files.clone();
    let delete = async move { files.delete(&name, version, precondition, durability).await };
    call.shared.write(delete).await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// `GET /v1/files`
pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let query = call.query(&["prefix", "delimiter", "after", "limit"])?;
    let limit = query.parsed::<usize>("limit", "a number from 1 to 1000")?.unwrap_or(MAX_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Failure::bad_parameter("the parameter limit is not a number from 1 to 1000"));
    }
    let text = |key: &str| query.get(key).filter(|text| !text.is_empty()).map(str::to_owned);
    let query = ListQuery {
        prefix: text("prefix").unwrap_or_default(),
        delimiter: text("delimiter"),
        after: text("after"),
        limit,
    };
    let listing = call.shared.files.list(query).await.map_err(error::read)?;
    json(&listing)
}

/// `GET /v1/stat/{name}`
pub(super) async fn stat(call: Call) -> Result<Response, Failure> {
    let name = names::decode(&call.rest)?;
    call.query(&[])?;
    let stat = call.shared.files.stat(&name).await.map_err(error::read)?;
    json(&stat)
}

/// `GET /v1/earlier/{name}`
pub(super) async fn earlier(call: Call) -> Result<Response, Failure> {
    let name = names::decode(&call.rest)?;
    call.query(&[])?;
    json(&call.shared.files.earlier(&name).await.map_err(error::read)?)
}

/// `POST /v1/copy`
pub(super) async fn copy(mut call: Call) -> Result<Response, Failure> {
    let (raw, to, durability) = copy_request(&mut call).await?;
    let from = raw.source()?;
    if matches!(&from, CopySource::Name(name, None) if *name == to) {
        return Err(same_name());
    }
    let precondition = precondition(&*call.shared.files, &call.headers, &to).await?;
    let files = call.shared.files.clone();
    let copy = Copy { from, to, precondition, durability };
    let receipt = call.shared.write(async move { files.copy(copy).await }).await?;
    receipt_response(&receipt)
}

/// `POST /v1/move`
pub(super) async fn rename(mut call: Call) -> Result<Response, Failure> {
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        if call.headers.contains_key(&name) {
            return Err(Failure::bad_parameter(format!("a move takes no {name}: copy, PUT and DELETE do")));
        }
    }
    let (raw, to, durability) = copy_request(&mut call).await?;
    let CopySource::Name(from, None) = raw.source()? else {
        return Err(Failure::bad_parameter("a move takes no version and no cid: copy does"));
    };
    if from == to {
        return Err(same_name());
    }
    let files = call.shared.files.clone();
    let receipt = call.shared.write(async move { files.rename(from, to, durability).await }).await?;
    receipt_response(&receipt)
}

fn same_name() -> Failure {
    Failure::bad_parameter("from and to are the same name")
}

/// The body of a copy or move before its names are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCopy {
    from: Option<String>,
    version: Option<String>,
    cid: Option<String>,
    content_type: Option<String>,
    to: String,
    durability: Option<String>,
}

impl RawCopy {
    fn source(self) -> Result<CopySource, Failure> {
        let both = "name what to copy by either from, with a version if not the head is meant, or cid, with a content_type";
        match (self.from, self.version, self.cid, self.content_type) {
            (Some(from), version, None, None) => {
                let from = names::parse(&from).map_err(|f| f.explain("from"))?;
                Ok(CopySource::Name(from, version_of(version)?))
            }
            (None, None, Some(cid), content_type) => {
                let root = cid.parse().map_err(|e| Failure::bad_parameter(format!("cid: {e}")))?;
                if content_type.as_deref().is_some_and(|text| !headers::is_media_type(text)) {
                    return Err(Failure::bad_parameter("the content_type is no media type"));
                }
                Ok(CopySource::Content { root, content_type })
            }
            _ => Err(Failure::bad_parameter(both)),
        }
    }
}

/// The version that a body names.
pub(super) fn version_of(text: Option<String>) -> Result<Option<Dot>, Failure> {
    let version = text.map(|text| text.parse()).transpose();
    version.map_err(|_| Failure::bad_parameter(format!("the version is not {VERSION}")))
}

async fn copy_request(call: &mut Call) -> Result<(RawCopy, Name, api::Durability), Failure> {
    let query = call.query(&["durability"])?;
    let raw: RawCopy = call.json(MAX_JSON, r#"{"from": "a", "to": "b", "durability": "quorum"}"#).await?;
    let durability = match (query.get("durability"), raw.durability.as_deref()) {
        (Some(a), Some(b)) if a != b => {
            return Err(Failure::bad_parameter("the durability of the query and of the body differ"));
        }
        (a, b) => durability(a.or(b))?,
    };
    let to = names::parse(&raw.to).map_err(|f| f.explain("to"))?;
    Ok((raw, to, durability))
}

/// 200 with a receipt.
fn receipt_response(receipt: &api::Receipt) -> Result<Response, Failure> {
    let mut response = json(receipt)?;
    set(&mut response, header::ETAG, &format!("\"{}\"", receipt.version));
    set(&mut response, KEPLER_CID, &receipt.cid.to_string());
    set(&mut response, header::LOCATION, &names::location(&receipt.name));
    Ok(response)
}

/// Parses a durability; `quorum` where none is given.
pub(super) fn durability(text: Option<&str>) -> Result<api::Durability, Failure> {
    match text {
        None => Ok(api::Durability::default()),
        Some("fast") => Ok(api::Durability::Fast),
        Some("quorum") => Ok(api::Durability::Quorum),
        Some("all") => Ok(api::Durability::All),
        Some(_) => Err(Failure::bad_parameter("the durability is none of fast, quorum, all")),
    }
}

/// One of the uploads that may run at once.
pub(super) fn upload_slot(shared: &Shared) -> Result<tokio::sync::OwnedSemaphorePermit, Failure> {
    Arc::clone(&shared.uploads).try_acquire_owned().map_err(|_| {
        Failure::too_many("this node takes no more uploads at once: try again or ask another node")
    })
}

/// A file is stored as it is sent and in one go.
fn refuse_partial(headers: &HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Failure::bad_parameter("a PUT with Content-Range is not supported: send the whole file"));
    }
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|v| !v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") && !v.is_empty());
    if encoded {
        return Err(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-encoding",
            "Unsupported encoding",
            "nothing is decompressed here: send the file without Content-Encoding",
        ));
    }
    Ok(())
}

/// What `If-Match` and `If-None-Match` demand of a write.
///
/// The services fence a write against one version, or against any. Where the header leaves a choice
/// (`If-Match: *`, or a list) the choice is made here from the head, and fenced by the services.
async fn precondition(files: &dyn Files, headers: &HeaderMap, name: &Name) -> Result<Precondition, Failure> {
    let matches = Tags::parse(headers, header::IF_MATCH)?;
    let matches_none = Tags::parse(headers, header::IF_NONE_MATCH)?;
    match (matches, matches_none) {
        (None, None) => Ok(Precondition::None),
        (None, Some(Tags::Any)) => Ok(Precondition::Absent),
        (None, Some(Tags::List(_))) => Err(Failure::bad_parameter(
            "a write takes If-None-Match: * (only if there is no file) or If-Match with an ETag",
        )),
        (Some(_), Some(_)) => Err(Failure::bad_parameter("If-Match and If-None-Match exclude each other")),
        (Some(tags), None) => {
            if let Some(dot) = tags.only_version() {
                return Ok(Precondition::Head(dot));
            }
            match files.open(name, None).await {
                Ok(file) if tags.match_strongly(&file.version.dot.to_string()) => {
                    Ok(Precondition::Head(file.version.dot))
                }
                Ok(file) => Err(Failure::precondition_failed(Some(&file.version.dot.to_string()))),
                Err(ReadError::NotFound(_)) => Err(Failure::precondition_failed(None)),
                Err(error) => Err(error::read(error)),
            }
        }
    }
}
