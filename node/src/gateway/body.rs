//! Bodies on their way in and out.
//!
//! Invariants: an upload ends cleanly only if every byte that was announced came and the
//! connection still stands, so a truncated upload never looks whole; a client may be slow, but
//! neither silent nor endlessly slow; pieces have at most [`PIECE`] bytes and the next one is read
//! only when the last was taken.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::error::{self, Failure};
use crate::service::{Body, BodyError, ByteStream, ReadError};
use crate::telemetry::HttpMetrics;

/// The largest piece of a body that is handed on at once, in bytes.
pub const PIECE: usize = 256 << 10;

/// A request body as it leaves the HTTP library.
pub type RawBody = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// An upload with its limits.
pub struct Upload {
    raw: RawBody,
    rest: Bytes,
    received: u64,
    announced: Option<u64>,
    max: u64,
    idle: Duration,
    slow_grace: Duration,
    slow_rate: u64,
    /// Since when nothing came although it was asked for.
    waiting_since: Option<Instant>,
    waited: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Cancelled when the request's handler is gone, which means that its connection is.
    gone: CancellationToken,
    ended: bool,
    metrics: HttpMetrics,
}

impl Upload {
    /// `announced` is the `Content-Length`, if there is one.
    pub fn new(
        raw: RawBody,
        announced: Option<u64>,
        limits: &Limits,
        gone: CancellationToken,
        metrics: HttpMetrics,
    ) -> Self {
        Self {
            raw,
            rest: Bytes::new(),
            received: 0,
            announced,
            max: limits.max_file_bytes,
            idle: limits.body_idle,
            slow_grace: limits.body_slow_grace,
            slow_rate: limits.body_min_bytes_per_second.max(1),
            waiting_since: None,
            waited: Duration::ZERO,
            deadline: Box::pin(sleep_until(Instant::now())),
            gone,
            ended: false,
            metrics,
        }
    }

    /// As the services take it.
    pub fn boxed(self) -> Body {
        Box::pin(self)
    }

    /// How much waiting the bytes so far allow for.
    fn allowance(&self) -> Duration {
        self.slow_grace.saturating_add(Duration::from_secs(self.received / self.slow_rate))
    }

    fn poll_raw(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self.raw.as_mut().poll_next(cx) {
            Poll::Ready(next) => {
                if let Some(since) = self.waiting_since.take() {
                    self.waited += since.elapsed();
                }
                Poll::Ready(match next {
                    Some(Ok(bytes)) => Some(self.count(bytes)),
                    Some(Err(error)) => Some(Err(BodyError::Broken(error.to_string()))),
                    None => self.end().err().map(Err),
                })
            }
            Poll::Pending => {
                let now = Instant::now();
                let since = match self.waiting_since {
                    Some(since) => since,
                    None => {
                        let left = self.allowance().saturating_sub(self.waited).min(self.idle);
                        self.deadline.as_mut().reset(now + left);
                        *self.waiting_since.insert(now)
                    }
                };
                ready!(self.deadline.as_mut().poll(cx));
                let waited = self.waited + since.elapsed();
                Poll::Ready(Some(Err(if since.elapsed() >= self.idle {
                    BodyError::Idle(self.idle)
                } else {
                    BodyError::Slow { received: self.received, waited }
                })))
            }
        }
    }

    fn count(&mut self, bytes: Bytes) -> Result<Bytes, BodyError> {
        self.received += bytes.len() as u64;
        self.metrics.bytes_in.inc_by(bytes.len() as u64);
        if self.received > self.max { Err(BodyError::TooLarge(self.max)) } else { Ok(bytes) }
    }

    /// The HTTP library closes the stream without an error when it drops the connection.
    fn end(&self) -> Result<(), BodyError> {
        match self.announced {
            Some(announced) if announced != self.received => {
                Err(BodyError::Broken(format!("{} of the {announced} announced bytes came", self.received)))
            }
            _ if self.gone.is_cancelled() => Err(BodyError::Broken("the connection was closed".to_owned())),
            _ => Ok(()),
        }
    }
}

impl Stream for Upload {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        while this.rest.is_empty() {
            match ready!(this.poll_raw(cx)) {
                Some(Ok(bytes)) => this.rest = bytes,
                other => {
                    this.ended = true;
                    return Poll::Ready(other);
                }
            }
        }
        let piece = this.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(this.rest.split_to(piece))))
    }
}

/// Reads a small body whole, such as one of JSON.
///
/// # Errors
/// 413 beyond `max` bytes, 408 beyond the limit for small bodies, 400 where it breaks off.
pub async fn collect(upload: Upload, max: usize, deadline: Duration) -> Result<Vec<u8>, Failure> {
    let mut upload = Upload { max: max as u64, ..upload };
    let mut whole = Vec::new();
    let read = async {
        while let Some(piece) = upload.next().await {
            whole.extend_from_slice(&piece?);
        }
        Ok::<(), BodyError>(())
    };
    match tokio::time::timeout(deadline, read).await {
        Ok(Ok(())) => Ok(whole),
        Ok(Err(e)) => Err(error::body(&e)),
        Err(_) => Err(error::timeout(&format!("the body did not come within {deadline:?}"))),
    }
}

/// What the HTTP library hands over, as plain bytes.
pub fn raw(stream: impl Stream<Item = Result<impl Buf + 'static, warp::Error>> + Send + 'static) -> RawBody {
    // The buffers are `Bytes`, for which this copies nothing.
    Box::pin(stream.map(|piece| piece.map(|mut buf| buf.copy_to_bytes(buf.remaining()))))
}

/// A file on its way out, in pieces. An error aborts the connection, so that what a client got is
/// never taken for the whole file.
pub struct Download {
    inner: ByteStream,
    rest: Bytes,
}

impl Download {
    /// Cuts what the services give.
    pub fn new(inner: ByteStream) -> Self {
        Self { inner, rest: Bytes::new() }
    }
}

impl Stream for Download {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.rest.is_empty() {
            match ready!(self.inner.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => {
                    tracing::warn!(
                        error = format!("{:#}", anyhow::Error::new(error)),
                        "a download broke off"
                    );
                    let broken = ReadError::Manifest("the download broke off".to_owned());
                    return Poll::Ready(Some(Err(broken)));
                }
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(piece))))
    }
}
