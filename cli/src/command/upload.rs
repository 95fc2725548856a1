//! The body of an upload: what was sent, and who is slow.
//!
//! An upload may take hours and its source may be a pipe that pauses, so no deadline covers the whole.
//! What is bounded is the node's silence: from a piece handed over to the next one asked for, and
//! from the last piece to the answer.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream as _;
use indicatif::ProgressBar;
use reqwest::Body;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::ReaderStream;

/// Bytes read from a file or a pipe at a time.
const PIECE: usize = 256 << 10;

#[derive(Clone, Copy)]
enum Waiting {
    /// For the file or pipe.
    Source,
    /// For the node, since then.
    Node(Instant),
}

struct State {
    waiting: Waiting,
    broken: Option<io::Error>,
}

/// What is known of an upload under way.
#[derive(Clone)]
pub struct Upload(Arc<Mutex<State>>);

impl Upload {
    /// An upload of `length` bytes of `source`, or of all there are.
    pub fn new(
        source: impl AsyncRead + Send + 'static,
        length: Option<u64>,
        bar: &ProgressBar,
    ) -> (Self, Body) {
        let upload =
            Self(Arc::new(Mutex::new(State { waiting: Waiting::Node(Instant::now()), broken: None })));
        let (state, bar) = (upload.clone(), bar.clone());
        let mut pieces =
            Box::pin(ReaderStream::with_capacity(source.take(length.unwrap_or(u64::MAX)), PIECE));
        let mut sent = 0;
        let stream = futures::stream::poll_fn(move |context| {
            let mut polled = pieces.as_mut().poll_next(context);
            if let std::task::Poll::Ready(None) = polled
                && let Some(length) = length
                && sent < length
            {
                let error = io::Error::other(format!("the file shrank from {length} to {sent} bytes"));
                polled = std::task::Poll::Ready(Some(Err(error)));
            }
            state.note(match &polled {
                std::task::Poll::Pending => Waiting::Source,
                std::task::Poll::Ready(_) => Waiting::Node(Instant::now()),
            });
            polled.map(|piece| {
                piece.map(|piece| match piece {
                    Ok(piece) => {
                        sent += piece.len() as u64;
                        bar.inc(piece.len() as u64);
                        Ok(piece)
                    }
                    Err(error) => {
                        let told = io::Error::new(error.kind(), error.to_string());
                        state.0.lock().unwrap_or_else(PoisonError::into_inner).broken = Some(error);
                        Err(told)
                    }
                })
            })
        });
        (upload, Body::wrap_stream(stream))
    }

    fn note(&self, waiting: Waiting) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).waiting = waiting;
    }

    /// What was wrong with the source, if that is why the upload failed.
    pub fn broken(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).broken.take()
    }

    /// Ends when the node has done nothing for `patience`.
    pub async fn stalled(&self, patience: Duration) {
        loop {
            let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).waiting;
            let left = match waiting {
                Waiting::Source => patience,
                Waiting::Node(since) => patience.saturating_sub(since.elapsed()),
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_shrinks_is_told_from_a_node_that_fails() {
        let (upload, body) = Upload::new(&b"short"[..], Some(10), &ProgressBar::hidden());
        // Nobody listens there: the request fails as soon as it is sent, or when the body does.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let sent = reqwest::Client::new().put(url).header("Content-Length", 10).body(body).send();
        assert!(sent.await.is_err());
        let broken = upload.broken().expect("the source is to blame");
        assert!(broken.to_string().contains("shrank from 10 to 5"), "{broken}");
    }

    #[tokio::test]
    async fn a_node_that_asks_for_nothing_is_given_up() {
        let (upload, _body) = Upload::new(&b"bytes"[..], None, &ProgressBar::hidden());
        let stalled = upload.stalled(Duration::from_millis(20));
        tokio::time::timeout(Duration::from_secs(10), stalled).await.expect("it ends");
        assert!(upload.broken().is_none());
    }

    #[tokio::test]
    async fn a_pipe_that_pauses_is_waited_for() {
        let (upload, _body) = Upload::new(&b""[..], None, &ProgressBar::hidden());
        upload.note(Waiting::Source);
        let stalled = upload.stalled(Duration::from_millis(5));
        assert!(tokio::time::timeout(Duration::from_millis(100), stalled).await.is_err());
    }
}
