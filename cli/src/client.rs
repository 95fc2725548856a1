//! Requests to a node.

use std::time::Duration;

use anyhow::{Context as _, Result};
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

/// How long a node may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// A node's HTTP API.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
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
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(SILENCE)
            .no_proxy()
            .build()
            .context("set up HTTP")?;
        Ok(Self { http, base, token })
    }

    /// The path of a file.
    pub fn file_path(name: &Name) -> String {
        let segments: Vec<String> =
            name.as_str().split('/').map(|s| utf8_percent_encode(s, SEGMENT).to_string()).collect();
        format!("/v1/files/{}", segments.join("/"))
    }

    /// A request, with what every request carries.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
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
        let text = response.text().await.unwrap_or_default();
        let problem = serde_json::from_str(&text).unwrap_or_else(|_| Problem {
            kind: "unknown".to_owned(),
            title: status.to_string(),
            status: status.as_u16(),
            detail: format!("the node answered {status}"),
            answered: None,
            needed: None,
        });
        Err(Failure::Problem(Box::new(problem)).into())
    }

    /// What to say when no answer came, or broke off.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = cause.to_string();
            source = cause.source();
        }
        Failure::Unreachable { url: self.base.clone(), reason }
    }

    /// GET of a JSON document.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(self.request(Method::GET, path)).await?;
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).with_context(|| format!("read the answer to GET {path}"))
    }

    /// A chunk, checked against its id: a gateway that lies is caught here.
    ///
    /// # Errors
    /// As [`Client::send`], and [`Failure::Untrusted`].
    pub async fn chunk(&self, id: ChunkId) -> Result<Chunk> {
        let response = self.send(self.request(Method::GET, &format!("/v1/chunks/{id}"))).await?;
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
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
            let response = self.send(self.request(Method::GET, "/v1/files").query(&query)).await?;
            let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
            let page: api::Listing = serde_json::from_slice(&bytes).context("read a page of names")?;
            after = page.next.clone();
            each(page)?;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
