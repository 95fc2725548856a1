//! Errors as clients see them: RFC 9457 problems with stable `type` names.
//!
//! Services know nothing of HTTP: here one match an operation, without a catch-all arm, names the
//! status, so a new failure cannot be forgotten. What a 5xx hides from the client is logged here.

use kepler_protocol::api::Problem;
use tracing::{error, warn};
use warp::http::header::{self, HeaderName, HeaderValue};
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

use crate::service::{BodyError, LocateError, OperatorError, ReadError, WriteError};

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which a refused client may try again.
const RETRY_SOON: u32 = 1;
const RETRY_LATER: u32 = 5;

/// An answer that says what went wrong.
#[derive(Debug)]
pub struct Failure(Box<Parts>);

/// Boxed, for failures are rare and results are passed around.
#[derive(Debug)]
struct Parts {
    status: StatusCode,
    problem: Problem,
    headers: HeaderMap,
}

impl Failure {
    /// A problem of a stable kind; `detail` says what a person can do.
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        let problem = Problem {
            kind: kind.to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            answered: None,
            needed: None,
        };
        Self(Box::new(Parts { status, problem, headers: HeaderMap::new() }))
    }

    /// Adds a header to the answer.
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(name, value);
        }
        self
    }

    fn retry_after(self, seconds: u32) -> Self {
        self.with_header(header::RETRY_AFTER, &seconds.to_string())
    }

    fn counts(mut self, answered: usize, needed: usize) -> Self {
        self.0.problem.answered = Some(answered);
        self.0.problem.needed = Some(needed);
        self
    }

    /// 400: a name that no file can have.
    pub fn bad_name(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-name", "Bad name", detail)
    }

    /// 400: a parameter, header or body field that cannot be understood.
    pub fn bad_parameter(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-parameter", "Bad parameter", detail)
    }

    /// 404: nothing of that name.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405: the route knows other methods only.
    pub fn method_not_allowed(allow: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Method not allowed",
            format!("this path takes {allow}"),
        )
        .with_header(header::ALLOW, allow)
    }

    /// 412: the file is not what the request says.
    pub fn precondition_failed(head: Option<&str>) -> Self {
        let kind = "precondition-failed";
        let title = "Precondition failed";
        match head {
            Some(token) => Self::new(
                StatusCode::PRECONDITION_FAILED,
                kind,
                title,
                format!("the file is now version {token}: read it, then send its ETag in If-Match"),
            )
            .with_header(header::ETAG, &format!("\"{token}\"")),
            None => Self::new(
                StatusCode::PRECONDITION_FAILED,
                kind,
                title,
                "the file is not what the request's precondition says: read it again, then retry",
            ),
        }
    }

    /// 416: no byte of the file is asked for.
    pub fn range_not_satisfiable(size: u64) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range-not-satisfiable",
            "Range not satisfiable",
            format!("the range is not within the {size} bytes there are: ask for bytes=FIRST-LAST"),
        )
        .with_header(header::CONTENT_RANGE, &format!("bytes */{size}"))
    }

    /// 429: one thing too many at once.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests", detail)
            .retry_after(RETRY_SOON)
    }

    /// 503: this node cannot answer yet.
    pub fn not_ready(why: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-ready",
            "Not ready",
            format!("this node is not ready: {why}; try again soon or ask another node"),
        )
        .retry_after(RETRY_SOON)
    }

    /// 503: this node is going away.
    pub fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "Stopping",
            "this node is stopping: ask another node",
        )
        .retry_after(RETRY_LATER)
    }

    /// 500: our fault; the cause is logged and not told.
    pub fn internal(cause: &anyhow::Error) -> Self {
        error!(error = format!("{cause:#}"), "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "this node failed to do it; its log says why",
        )
    }

    /// The stable name.
    #[cfg(test)]
    pub fn kind(&self) -> &str {
        &self.0.problem.kind
    }

    /// Puts `prefix` before the detail.
    pub fn explain(mut self, prefix: &str) -> Self {
        self.0.problem.detail = format!("{prefix}: {}", self.0.problem.detail);
        self
    }

    /// The body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0.problem).expect("a problem is text and numbers")
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(self.to_json().into());
        *response.status_mut() = self.0.status;
        *response.headers_mut() = self.0.headers;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Put, delete, copy, move.
pub fn write(error: WriteError) -> Failure {
    match error {
        WriteError::NotReady(why) => Failure::not_ready(&why),
        WriteError::NoQuorum { answered, needed } => no_quorum(answered, needed, "nothing was changed"),
        WriteError::Unknown { version, answered, needed } => {
            warn!(%version, answered, needed, "the outcome of a write is unknown");
            Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unknown",
                "Outcome unknown",
                format!(
                    "{answered} of the {needed} needed replicas answered: version {version} may or may not \
                     have been kept; look with a stat before you repeat the write"
                ),
            )
            .counts(answered, needed)
            .with_header(HeaderName::from_static("kepler-version"), &version.to_string())
            .retry_after(RETRY_LATER)
        }
        WriteError::PreconditionFailed { head } => {
            Failure::precondition_failed(head.map(|dot| dot.to_string()).as_deref())
        }
        error @ (WriteError::NotFound(_) | WriteError::Collected(_)) => Failure::not_found(error.to_string()),
        error @ WriteError::Conflicted(_) => {
            Failure::new(StatusCode::CONFLICT, "conflict", "Conflict", error.to_string())
        }
        WriteError::HalfMoved { ref version, .. } => {
            warn!(%error, "a move stopped half way");
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "unknown", "Outcome unknown", error.to_string())
                .with_header(HeaderName::from_static("kepler-version"), version)
                .retry_after(RETRY_LATER)
        }
        error @ WriteError::TooManyConflicts(_) => Failure::new(
            StatusCode::CONFLICT,
            "too-many-conflicts",
            "Too many conflicts",
            format!("{error}; a plain overwrite or delete resolves all that it has seen"),
        ),
        WriteError::DiskFull { free, reserve } => {
            warn!(free, reserve, "refused a write: the disk is at its reserve");
            Failure::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk-full",
                "Disk full",
                format!("{free} bytes are free and {reserve} are kept in reserve: free some or add a node"),
            )
        }
        WriteError::Body(error) => body(&error),
        WriteError::Read(error) => read(error),
        WriteError::Store(cause) => Failure::internal(&cause),
    }
}

/// Open, stat, list, chunk, status.
pub fn read(error: ReadError) -> Failure {
    match error {
        ReadError::NotReady(why) => Failure::not_ready(&why),
        error @ ReadError::NotFound(_) => Failure::not_found(error.to_string()),
        ReadError::NoQuorum { answered, needed } => {
            no_quorum(answered, needed, "whether the file exists is not known")
        }
        error @ (ReadError::ChunkUnavailable(_) | ReadError::FileUnavailable { .. }) => {
            warn!(%error, "a chunk is unavailable");
            Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "chunk-unavailable",
                "Chunk unavailable",
                format!("{error}: try again when more nodes are up"),
            )
            .retry_after(RETRY_LATER)
        }
        error @ ReadError::TooManyChunks { .. } => Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-chunks",
            "Too many chunks",
            format!("{error}: a HEAD of the file says its size and CID"),
        ),
        error @ ReadError::Manifest(_) => Failure::internal(&error.into()),
        ReadError::Store(cause) => Failure::internal(&cause),
    }
}

/// Locate.
pub fn locate(error: LocateError) -> Failure {
    match error {
        LocateError::Read(error) => read(error),
        error @ LocateError::NotAMember(_) => Failure::bad_parameter(error.to_string()),
    }
}

/// Leave, forget, verify.
pub fn operator(error: OperatorError) -> Failure {
    match error {
        OperatorError::NotReady(why) => Failure::not_ready(&why),
        error @ OperatorError::NotAMember(_) => {
            Failure::not_found(format!("{error}: GET /v1/cluster lists them"))
        }
        OperatorError::Conflict(why) => Failure::new(StatusCode::CONFLICT, "conflict", "Conflict", why),
        error @ OperatorError::Busy => {
            Failure::too_many(format!("{error}: wait for it, or ask another node"))
        }
        OperatorError::Stopping => Failure::stopping(),
    }
}

/// Receiving a body.
pub fn body(error: &BodyError) -> Failure {
    match error {
        BodyError::Broken(_) => Failure::new(
            StatusCode::BAD_REQUEST,
            "broken-upload",
            "Broken upload",
            format!("{error}; nothing was stored: send it again"),
        ),
        BodyError::Idle(_) | BodyError::Slow { .. } => timeout(&format!("{error}; nothing was stored")),
        BodyError::TooLarge(_) => Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "Too large",
            format!("{error}: send less"),
        ),
    }
}

/// 408: the client was too slow.
pub fn timeout(detail: &str) -> Failure {
    Failure::new(StatusCode::REQUEST_TIMEOUT, "timeout", "Timeout", detail)
        .with_header(header::CONNECTION, "close")
}

fn no_quorum(answered: usize, needed: usize, outcome: &str) -> Failure {
    warn!(answered, needed, "too few replicas answered");
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no-quorum",
        "No quorum",
        format!(
            "{answered} of the {needed} needed replicas answered; {outcome}: try again when more nodes are up"
        ),
    )
    .counts(answered, needed)
    .retry_after(RETRY_SOON)
}
