//! Notes what clients ask real nodes and are answered, for the same [`checker`](super::checker) that judges simulations.
//!
//! What a client cannot know is left out: a write that was broken off, or answered after its node was started anew, is
//! `unknown`, and its version is the one that a read shows with its value. Times are of one clock, which is read before
//! a request is sent and after its answer has come.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use anyhow::{Result, bail};
use kepler_protocol::api::{Durability, Problem, Receipt};
use kepler_protocol::chunk::{ChunkId, Codec};
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use super::{Action, History, Line, Phase};
use crate::cluster::Node;

/// A node as clients see it.
struct Target {
    id: String,
    client: Client,
    base: String,
    /// Runs of its process.
    session: Cell<u64>,
}

/// What is asked of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read it.
    Get,
    /// Write it, whatever it is.
    Put(Durability),
    /// Write it if it still is this version.
    PutIf(String),
    /// Write it if it is not there.
    PutNew,
    /// Delete all that is known of it.
    Delete,
}

/// Clients of some nodes and their history.
pub struct Recorder {
    targets: Vec<Target>,
    started: Instant,
    history: RefCell<History>,
    next: Cell<u64>,
    ended: Cell<[usize; 3]>,
}

impl Recorder {
    /// Clients of these nodes.
    pub fn new(nodes: &[Node]) -> Self {
        let target = |node: &Node| Target {
            id: node.id.clone(),
            client: node.client().clone(),
            base: node.url(),
            session: Cell::new(1),
        };
        Self {
            targets: nodes.iter().map(target).collect(),
            started: Instant::now(),
            history: RefCell::default(),
            next: Cell::new(0),
            ended: Cell::new([0; 3]),
        }
    }

    /// To be called between the end of a node's process and its next start.
    pub fn restarts(&self, node: usize) {
        let session = &self.targets[node].session;
        session.set(session.get() + 1);
    }

    /// What was asked and answered so far.
    pub fn history(&self) -> History {
        self.history.borrow().clone()
    }

    /// Operations that ended ok, failed, or without an answer that says which.
    pub const fn ended(&self) -> [usize; 3] {
        self.ended.get()
    }

    fn now(&self) -> u64 {
        // From 1: zero stands for none.
        self.started.elapsed().as_micros() as u64 + 1
    }

    /// Asks, and notes question and answer. Gives the version read or written, if there was one.
    ///
    /// # Errors
    /// An answer that the API does not know.
    pub async fn ask(&self, node: usize, name: &str, ask: Ask) -> Result<Option<String>> {
        let target = &self.targets[node];
        self.next.set(self.next.get() + 1);
        let id = self.next.get();
        // Unique, and one chunk that is its own root.
        let value = format!("value {id}");
        let mut line = Line::new(Phase::Invoke, id);
        (line.node, line.session, line.name) = (target.id.clone(), target.session.get(), name.to_owned());
        line.start = self.now();
        let url = format!("{}/v1/files/{name}", target.base);
        let mut request = match ask {
            Ask::Get => target.client.get(url),
            Ask::Delete => target.client.delete(url),
            _ => target.client.put(url).body(value.clone()),
        };
        line.action = match ask {
            Ask::Get => Action::Get,
            Ask::Delete => Action::Delete,
            _ => Action::Put,
        };
        if line.action == Action::Put {
            line.cid = Some(ChunkId::of(Codec::Raw, value.as_bytes()).to_string());
        }
        match &ask {
            Ask::Put(durability) => {
                line.durability = *durability;
                let word = serde_json::to_value(durability)?;
                request = request.query(&[("durability", word.as_str().unwrap_or_default())]);
            }
            Ask::PutIf(version) => {
                line.if_match = Some(version.clone());
                request = request.header("If-Match", format!("\"{version}\""));
            }
            Ask::PutNew => {
                line.if_absent = true;
                request = request.header("If-None-Match", "*");
            }
            Ask::Get | Ask::Delete => {}
        }
        let session = line.session;
        self.history.borrow_mut().push(line);
        let mut end = self.answer(id, &ask, request).await?;
        end.end = self.now();
        if target.session.get() != session {
            // Whose answer this was, the process that was asked or the next one, nobody knows.
            end = Line { version: end.version, cid: end.cid, end: end.end, ..Line::new(Phase::Unknown, id) };
        }
        let mut ended = self.ended.get();
        ended[match end.phase {
            Phase::Ok => 0,
            Phase::Fail => 1,
            Phase::Unknown | Phase::Invoke => 2,
        }] += 1;
        self.ended.set(ended);
        let version = end.version.clone().filter(|_| end.phase == Phase::Ok);
        self.history.borrow_mut().push(end);
        Ok(version)
    }

    async fn answer(&self, id: u64, ask: &Ask, request: RequestBuilder) -> Result<Line> {
        let unknown = Line::new(Phase::Unknown, id);
        let Ok(response) = request.send().await else { return Ok(unknown) };
        let (status, headers) = (response.status(), response.headers().clone());
        let reads = *ask == Ask::Get;
        match status {
            StatusCode::OK if reads => {
                let Ok(body) = response.bytes().await else { return Ok(unknown) };
                read(id, &headers, &body)
            }
            StatusCode::NOT_FOUND if reads => {
                Ok(Line { survivors: Some(Vec::new()), ..Line::new(Phase::Ok, id) })
            }
            StatusCode::OK => {
                let Ok(body) = response.bytes().await else { return Ok(unknown) };
                let receipt: Receipt = serde_json::from_slice(&body)?;
                let (version, cid) = (Some(receipt.version), Some(receipt.cid.to_string()));
                Ok(Line { version, cid, ..Line::new(Phase::Ok, id) })
            }
            StatusCode::NO_CONTENT if *ask == Ask::Delete => Ok(Line::new(Phase::Ok, id)),
            StatusCode::PRECONDITION_FAILED | StatusCode::NOT_FOUND if !reads => {
                Ok(Line::new(Phase::Fail, id))
            }
            StatusCode::SERVICE_UNAVAILABLE => refused(id, response).await,
            status => bail!("{ask:?}: {status} {}", response.text().await.unwrap_or_default()),
        }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim_matches('"').to_owned())
}

fn read(id: u64, headers: &HeaderMap, body: &[u8]) -> Result<Line> {
    let mut line = Line::new(Phase::Ok, id);
    let cid = ChunkId::of(Codec::Raw, body).to_string();
    if header(headers, "kepler-cid").as_deref() != Some(&cid) {
        bail!("operation {id}: bytes of {cid} under {:?}", headers.get("kepler-cid"));
    }
    line.version = header(headers, "etag");
    line.cid = Some(cid);
    line.local = header(headers, "kepler-consistency").as_deref() == Some("local");
    if headers.get("kepler-conflicts").is_none() {
        line.survivors = Some(line.version.iter().cloned().collect());
    }
    Ok(line)
}

/// 503: done it is not, unless it says that it may be.
async fn refused(id: u64, response: Response) -> Result<Line> {
    let version = header(response.headers(), "kepler-version");
    let Ok(body) = response.bytes().await else { return Ok(Line::new(Phase::Unknown, id)) };
    let problem: Problem = serde_json::from_slice(&body)?;
    let phase = if problem.kind == "unknown" { Phase::Unknown } else { Phase::Fail };
    Ok(Line { version: version.filter(|_| phase == Phase::Unknown), ..Line::new(phase, id) })
}
