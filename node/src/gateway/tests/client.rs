//! A gateway on a real socket, and a client that sends exactly what a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake::Fake;
use crate::gateway::{Config, serve};
use crate::telemetry::Metrics;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Gateway {
    pub addr: SocketAddr,
    pub files: Arc<Fake>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl Gateway {
    pub async fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let files = Arc::new(Fake::new());
        let metrics = Arc::new(Metrics::new());
        let stop = CancellationToken::new();
        let serving = serve(listener, config, files.clone(), metrics.clone(), stop.clone());
        Self { addr, files, metrics, stop, task: tokio::spawn(serving) }
    }

    pub async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.addr).await.unwrap(), buffer: Vec::new() }
    }

    /// One request on a connection of its own; `head` without the request's final blank line and
    /// without `Host`.
    pub async fn send(&self, head: &str, body: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect().await;
        client.request(head, body).await;
        client.answer(head.starts_with("HEAD ")).await.unwrap_or_else(|e| panic!("{head}: {e}"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1"), "").await
    }

    pub async fn put(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(&format!("PUT {path} HTTP/1.1"), body).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(&format!("POST {path} HTTP/1.1\r\nKepler-Client: test"), body).await
    }
}

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub async fn request(&mut self, head: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let host = if head.to_lowercase().contains("\r\nhost:") { "" } else { "\r\nHost: localhost" };
        let lower = head.to_lowercase();
        let framed = lower.contains("content-length") || lower.contains("transfer-encoding");
        let length = if framed || (body.is_empty() && !lower.starts_with('p')) {
            String::new()
        } else {
            format!("\r\nContent-Length: {}", body.len())
        };
        let mut bytes = format!("{head}{host}{length}\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body);
        // The gateway may answer and close before it has read everything.
        drop(self.stream.write_all(&bytes).await);
    }

    /// Reads until `end` is in the buffer or the connection ends.
    async fn fill(&mut self, done: impl Fn(&[u8]) -> bool) -> Result<bool, String> {
        while !done(&self.buffer) {
            let mut piece = vec![0; 64 << 10];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece))
                .await
                .map_err(|_| "the gateway was silent".to_owned())?
                .map_err(|e| format!("the connection was reset: {e}"))?;
            if read == 0 {
                return Ok(false);
            }
            self.buffer.extend_from_slice(&piece[..read]);
        }
        Ok(true)
    }

    /// Reads one answer; an answer cut short is an error.
    pub async fn answer(&mut self, bodiless: bool) -> Result<Answer, String> {
        let end = |b: &[u8]| b.windows(4).position(|w| w == b"\r\n\r\n");
        if !self.fill(|b| end(b).is_some()).await? {
            return Err("the connection ended before an answer".to_owned());
        }
        let at = end(&self.buffer).unwrap() + 4;
        let head = String::from_utf8(self.buffer.drain(..at).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if bodiless || matches!(status, 100 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.chunks().await?;
            return Ok(answer);
        }
        let length: usize = answer.header("content-length").expect("answers have a length").parse().unwrap();
        if !self.fill(|b| b.len() >= length).await? {
            return Err(format!("{} of {length} bytes came", self.buffer.len()));
        }
        answer.body = self.buffer.drain(..length).collect();
        Ok(answer)
    }

    /// A body in chunks, until its last.
    async fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = |b: &[u8]| b.windows(2).position(|w| w == b"\r\n");
            if !self.fill(|b| line(b).is_some()).await? {
                return Err("the connection ended within a chunked body".to_owned());
            }
            let head: Vec<u8> = self.buffer.drain(..line(&self.buffer).unwrap() + 2).collect();
            let size = usize::from_str_radix(String::from_utf8(head).unwrap().trim(), 16).unwrap();
            if !self.fill(|b| b.len() >= size + 2).await? {
                return Err("the connection ended within a chunk".to_owned());
            }
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Everything until `needle` has come.
    pub async fn until(&mut self, needle: &str) -> String {
        let found = |b: &[u8]| String::from_utf8_lossy(b).contains(needle);
        assert!(self.fill(found).await.unwrap(), "ended without {needle:?}: {:?}", self.text());
        self.text()
    }

    /// Whether the connection ends, and whatever came before.
    pub async fn rest(&mut self) -> Result<String, String> {
        self.fill(|_| false).await.map(|_| self.text())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The status and the problem's type, having checked that it is a proper problem.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert!(json["detail"].as_str().unwrap().len() > 10 && !json["title"].as_str().unwrap().is_empty());
        assert_eq!(
            self.status == 503,
            self.header("retry-after").is_some() && self.status != 429,
            "{self:?}"
        );
        (self.status, json["type"].as_str().unwrap().to_owned())
    }
}

/// A problem as tests write it.
pub fn p(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}
