//! Requests to a node.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use kepler_protocol::api::{self, Problem};
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::name::Name;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::exit::Failure;

/// What must not stand in a path segment as it is.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// How long a node may be silent: in the middle of an answer, or while it should take an upload.
pub const SILENCE: Duration = Duration::from_secs(60);

/// The largest chunk there can be, in bytes; whoever sends more is not believed.
const MAX_CHUNK: usize = 64 << 20;

/// The longest error document that is read, in bytes.
const MAX_PROBLEM: usize = 64 << 10;

/// The largest JSON answer that is read, in bytes: the stat of a file of a million chunks fits.
const MAX_JSON: usize = 1 << 30;

/// A node's HTTP API.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    upload: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    /// A client of the node at `base`.
    ///
    /// # Errors
    /// When `base` is no HTTP address.
    pub fn new(base: &str, token: Option<String>) -> Result<Self> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            return Err(Failure::Usage(format!("{base:?} is no address: use http://HOST:PORT")).into());
        }
        let builder = || {
            reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(5))
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
        };
        let http = builder().read_timeout(SILENCE).build().context("set up HTTP")?;
        // A read timeout runs while a body is sent, and would end every upload that takes longer.
        let upload = builder().build().context("set up HTTP")?;
        Ok(Self { http, upload, base, token })
    }

    /// A client of another node of the same cluster.
    ///
    /// # Errors
    /// When HTTP cannot be set up.
    pub fn at(&self, addr: &str, http_port: u16) -> Result<Self> {
        let host = if addr.contains(':') { format!("[{addr}]") } else { addr.to_owned() };
        Self::new(&format!("http://{host}:{http_port}"), self.token.clone())
    }

    /// The path of a file.
    pub fn file_path(name: &Name) -> String {
        let segments: Vec<String> =
            name.as_str().split('/').map(|s| utf8_percent_encode(s, SEGMENT).to_string()).collect();
        format!("/v1/files/{}", segments.join("/"))
    }

    /// A request, with what every request carries.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.with(&self.http, method, path)
    }

    /// A request with a body of any length; the caller watches over its progress.
    pub fn upload(&self, path: &str) -> RequestBuilder {
        self.with(&self.upload, Method::PUT, path)
    }

    fn with(&self, http: &reqwest::Client, method: Method, path: &str) -> RequestBuilder {
        let request = http
            .request(method, format!("{}{path}", self.base))
            .header("Kepler-Client", concat!("kepler/", env!("CARGO_PKG_VERSION")));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request and refuses every answer but a success.
    ///
    /// # Errors
    /// [`Failure::Problem`] with what the node said, [`Failure::Unreachable`] if it said nothing.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = self.body(response, MAX_PROBLEM).await.unwrap_or_default();
        let problem = serde_json::from_slice(&text).unwrap_or_else(|_| Problem {
            kind: "unknown".to_owned(),
            title: status.to_string(),
            status: status.as_u16(),
            detail: format!("{} answered {status}: is it a KeplerFS node? `kepler version` shows", self.base),
            answered: None,
            needed: None,
        });
        Err(Failure::Problem(Box::new(problem)).into())
    }

    /// The body of an answer, up to `limit` bytes.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] if it breaks off, [`Failure::Untrusted`] if it is longer.
    pub async fn body(&self, response: Response, limit: usize) -> Result<Bytes, Failure> {
        let too_long = || Failure::Untrusted(format!("it is longer than {limit} bytes"));
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let mut body = BytesMut::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.unreachable(&error))?;
            if body.len() + piece.len() > limit {
                return Err(too_long());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// A JSON answer.
    ///
    /// # Errors
    /// As [`Client::body`], and when it is not what it should be.
    pub async fn parse<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let bytes = self.body(response, MAX_JSON).await?;
        serde_json::from_slice(&bytes).with_context(|| {
            format!("read the answer of {}: is it a KeplerFS node of this version?", self.base)
        })
    }

    /// What to say when no answer came, or broke off.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = cause.to_string();
            source = cause.source();
        }
        if error.is_builder() {
            return Failure::Usage(format!("that cannot be asked of a node: {reason}"));
        }
        self.silent(&reason)
    }

    /// What to say of a node that did not answer.
    pub fn silent(&self, reason: &str) -> Failure {
        Failure::Unreachable { url: self.base.clone(), reason: reason.to_owned() }
    }

    /// GET of a JSON document.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.parse(self.send(self.request(Method::GET, path)).await?).await
    }

    /// A chunk, checked against its id: a gateway that lies is caught here.
    ///
    /// # Errors
    /// As [`Client::send`], and [`Failure::Untrusted`].
    pub async fn chunk(&self, id: ChunkId) -> Result<Chunk> {
        let response = self.send(self.request(Method::GET, &format!("/v1/chunks/{id}"))).await?;
        let bytes = self.body(response, MAX_CHUNK).await?;
        Ok(Chunk::verify(id, bytes).map_err(|corrupt| Failure::Untrusted(corrupt.to_string()))?)
    }

    /// All names that begin with `prefix`, page by page.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn list(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        mut each: impl FnMut(api::Listing) -> Result<()>,
    ) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let mut query = vec![("prefix", prefix), ("limit", "1000")];
            query.extend(delimiter.map(|delimiter| ("delimiter", delimiter)));
            query.extend(after.as_deref().map(|after| ("after", after)));
            let page: api::Listing =
                self.parse(self.send(self.request(Method::GET, "/v1/files").query(&query)).await?).await?;
            let next = page.next.clone();
            each(page)?;
            if next.is_none() {
                return Ok(());
            }
            if next <= after {
                return Err(Failure::Untrusted("its pages of names go in a circle".to_owned()).into());
            }
            after = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_a_segment_at_a_time() {
        let path = |name: &str| Client::file_path(&name.parse().expect("a name"));
        assert_eq!(path("a/b c.txt"), "/v1/files/a/b%20c.txt");
        assert_eq!(path("100%/x?y#z"), "/v1/files/100%25/x%3Fy%23z");
        assert_eq!(path("a+b"), "/v1/files/a+b");
        assert_eq!(path("ü"), "/v1/files/%C3%BC");
    }

    #[test]
    fn an_address_without_a_scheme_is_a_usage_error_that_shows_the_form() {
        let error = Client::new("127.0.0.1:3000", None).err().expect("refused");
        assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{error}");
        assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
    }
}
