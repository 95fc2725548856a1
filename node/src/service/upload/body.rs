//! A body on its way in: cut into leaves, and the clock that its end starts.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use kepler_protocol::chunker::{ChunkSize, Chunker, Leaf};
use kepler_protocol::time::Instant;

use crate::service::{Body, BodyError};

/// Within this after the last byte a write has succeeded, or is refused.
const ANSWER_WITHIN: Duration = Duration::from_millis(9_500);

/// How much of the time until an answer is due has passed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    /// When the answer is due; set by the last byte.
    due: Option<Instant>,
}

impl Timing {
    /// The last byte has come.
    pub fn end(&mut self, now: Instant) {
        self.due = Some(now + ANSWER_WITHIN);
    }

    /// Whether it has.
    pub const fn has_ended(&self) -> bool {
        self.due.is_some()
    }

    /// What is left; `None` while bytes still come.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.since(now))
    }
}

/// Cuts a body into leaves.
pub(super) struct Cutter {
    body: Body,
    /// Until the body has ended.
    chunker: Option<Chunker>,
    piece: Bytes,
}

impl Cutter {
    pub fn new(body: Body, chunk_size: ChunkSize) -> Self {
        Self { body, chunker: Some(Chunker::new(chunk_size)), piece: Bytes::new() }
    }

    /// The next leaf; `None` once the body has ended and all of it was given.
    pub async fn next(&mut self) -> Result<Option<Leaf>, BodyError> {
        loop {
            let Some(chunker) = &mut self.chunker else { return Ok(None) };
            if let Some(leaf) = chunker.cut(&mut self.piece) {
                return Ok(Some(leaf));
            }
            match self.body.next().await {
                Some(piece) => self.piece = piece?,
                None => return Ok(self.chunker.take().and_then(Chunker::finish)),
            }
        }
    }
}
