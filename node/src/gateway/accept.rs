//! The accept loop: connections, their deadlines, their cap, and how they end.
//!
//! Invariants: at most [`Limits::max_connections`] connections are open; a head is complete within
//! [`Limits::head_deadline`], counted from when it could have begun; a client that takes no byte of
//! an answer for [`Limits::write_idle`] is cut off. An answer is never cut short politely: where a
//! body fails the connection is reset. The body of a request has its own deadlines in
//! [`super::body`].

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use warp::http::{Request, Response, StatusCode};

use super::Limits;
use super::error::{self, Failure, PROBLEM_JSON};
use crate::telemetry::HttpMetrics;

/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// How much a connection reads ahead; also the largest head.
const READ_BUFFER: usize = super::body::PIECE;
/// How long what a client still sends is thrown away after an answer that ends the connection:
/// closing at once would reset it, and the answer would be lost on the way.
const LINGER: Duration = Duration::from_secs(1);
/// How long accepting rests when the process is out of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop`, then waits for what runs, at most [`Limits::drain`]; the rest is cut off.
/// `make` builds the service of one connection from the address that the client connected to, and
/// a flag that the service sets when it is first called.
pub async fn run<S, B>(
    listener: TcpListener,
    limits: &Limits,
    metrics: HttpMetrics,
    stop: CancellationToken,
    make: impl Fn(IpAddr, Arc<AtomicBool>) -> S,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + Unpin + 'static,
    S::Future: Send + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let connections = TaskTracker::new();
    let cut_off = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            metrics.connections_refused.inc();
            refuse(stream);
            continue;
        };
        let local = stream.local_addr().map_or(IpAddr::from([127, 0, 0, 1]), |a: SocketAddr| a.ip());
        let called = Arc::new(AtomicBool::new(false));
        let service = make(local, Arc::clone(&called));
        let (limits, stop, cut_off, gauge) =
            (limits.clone(), stop.clone(), cut_off.clone(), metrics.connections.clone());
        connections.spawn(async move {
            gauge.inc();
            let served =
                cut_off.run_until_cancelled(connection(stream, service, called, &limits, &stop)).await;
            gauge.dec();
            drop(slot);
            if let Some(Err(error)) = served {
                debug!(%peer, error = format!("{:#}", anyhow::Error::new(error)), "a connection failed");
            }
        });
    }
    drop(listener);
    connections.close();
    if timeout(limits.drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "cutting off connections that did not finish in time");
        cut_off.cancel();
        connections.wait().await;
    }
}

/// Serves one connection to its end.
async fn connection<S, B>(
    stream: TcpStream,
    service: S,
    called: Arc<AtomicBool>,
    limits: &Limits,
    stop: &CancellationToken,
) -> Result<(), hyper::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Unpin,
    S::Future: Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Answers are written whole: waiting for more to send would only delay the last packet.
    drop(stream.set_nodelay(true));
    let io = TokioIo::new(Wire::new(stream, limits.write_idle, called));
    let mut conn = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_deadline)
        .max_headers(MAX_HEADERS)
        .max_buf_size(READ_BUFFER)
        .serve_connection(io, service);
    let mut stopping = false;
    let result = loop {
        tokio::select! {
            biased;
            result = poll_fn(|cx| conn.poll_without_shutdown(cx)) => break result,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                Pin::new(&mut conn).graceful_shutdown();
            }
        }
    };
    let parts = conn.into_parts();
    let mut stream = parts.io.into_inner().stream;
    match &result {
        Ok(()) => linger(stream).await,
        Err(error) if error.is_timeout() => {
            // A connection that is merely idle ends without a word.
            if !parts.read_buf.is_empty() {
                let failure = error::timeout(&format!(
                    "the headers were not complete within {:?}",
                    limits.head_deadline
                ));
                let answer = plain_answer(StatusCode::REQUEST_TIMEOUT, &failure);
                if timeout(LINGER, stream.write_all(&answer)).await.is_ok() {
                    linger(stream).await;
                }
            }
        }
        // hyper has answered already.
        Err(error) if error.is_parse() => linger(stream).await,
        Err(_) => reset(&stream),
    }
    result
}

/// Ends our side, then throws away what still comes, so that the answer reaches the client.
async fn linger(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut scrap = vec![0; 64 << 10];
        while stream.read(&mut scrap).await? > 0 {}
        io::Result::Ok(())
    };
    drop(timeout(LINGER, drain).await);
}

/// Makes the end of the connection unmistakable for the end of an answer.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

/// Tells a client that there are too many connections, if its socket takes it at once.
fn refuse(stream: TcpStream) {
    let failure = Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "Overloaded",
        "this node has as many connections as it takes: try again or ask another node",
    );
    if let Ok(mut stream) = stream.into_std() {
        // The socket does not block, and its empty buffer takes a few hundred bytes.
        drop(io::Write::write(&mut stream, &plain_answer(StatusCode::SERVICE_UNAVAILABLE, &failure)));
    }
}

/// An answer written by hand, where no HTTP library runs.
fn plain_answer(status: StatusCode, failure: &Failure) -> Vec<u8> {
    let body = failure.to_json();
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE { "retry-after: 1\r\n" } else { "" };
    let mut out = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n{retry}connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(&body);
    out
}

/// A socket that gives up on a client that takes nothing, and that gives hyper's own bare answers
/// to what is no HTTP a body that says why.
struct Wire {
    stream: TcpStream,
    write_idle: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether the service was called: before that no byte of a user is in any buffer.
    called: Arc<AtomicBool>,
    /// An answer in place of a bare one, still to be written.
    instead: Bytes,
}

impl Wire {
    fn new(stream: TcpStream, write_idle: Duration, called: Arc<AtomicBool>) -> Self {
        Self { stream, write_idle, stalled: None, called, instead: Bytes::new() }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let deadline = Instant::now() + self.write_idle;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing for too long")))
    }

    /// Recognises a bare answer of hyper's to a head it cannot parse.
    fn replace(&mut self, bytes: &[u8]) -> bool {
        if self.called.load(Ordering::Acquire) {
            return false;
        }
        let failure = if bytes.starts_with(b"HTTP/1.1 400 ") {
            (StatusCode::BAD_REQUEST, Failure::bad_parameter("this is no HTTP/1.1 request"))
        } else if bytes.starts_with(b"HTTP/1.1 431 ") {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let detail = format!("the head is too large: send at most {MAX_HEADERS} short headers");
            (status, Failure::new(status, "headers-too-large", "Headers too large", detail))
        } else if bytes.starts_with(b"HTTP/1.1 414 ") {
            let status = StatusCode::URI_TOO_LONG;
            let detail = "the path is too long: a name has at most 1,024 bytes";
            (status, Failure::new(status, "uri-too-long", "URI too long", detail))
        } else {
            return false;
        };
        self.instead = plain_answer(failure.0, &failure.1).into();
        true
    }

    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.instead.has_remaining() {
            let progress = Pin::new(&mut self.stream).poll_write(cx, &self.instead);
            let written = ready!(self.watch(cx, progress))?;
            self.instead.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.replace(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.poll_instead(cx))?;
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
        if self.replace(first) {
            return Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()));
        }
        ready!(self.poll_instead(cx))?;
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
