//! The side that opens a stream.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite};
use kepler_protocol::chunk::{Chunk, ChunkId, MAX_CHUNK_BYTES};
use kepler_protocol::version::Dot;
use tracing::debug;

use super::message::{Adopt, Fetch, Held, How, MAX_REPLY_BYTES, Offer, Reply, Request};
use crate::swarm::codec::{StreamError, converse, read_message, within, write_flow, write_message};
use crate::swarm::counters::Counters;
use crate::swarm::error::TransferError;
use crate::swarm::limits::{Flow, Limits, PIECE_BYTES};
use crate::throttle::Pace;

/// Chunks below this are hashed where they are: handing them over would take longer.
const HASH_INLINE_BYTES: usize = 64 << 10;

/// Sends a chunk, if the peer lacks it, with at most [`MAX_DOTS`](super::MAX_DOTS) references; says whether bytes went.
pub(in crate::swarm) async fn push<S>(
    mut io: S,
    chunk: &Chunk,
    dots: &[Dot],
    how: How,
    limits: &Limits,
    counters: &Counters,
) -> Result<bool, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offer = Request::Push(Offer::new(chunk, dots, how));
    within(limits.stall, write_message(&mut io, &offer)).await?;
    let patience = limits.slot_wait + limits.answer;
    match within(patience, read_message(&mut io, MAX_REPLY_BYTES)).await? {
        Reply::Have => return Ok(false),
        Reply::Send => {}
        other => return Err(other.into_error()),
    }
    let (mut reader, mut writer) = io.split();
    let flow = limits.flow(how.pace);
    let sending = write_flow(&mut writer, chunk.bytes(), limits.stall, flow, |n| {
        counters.chunk_bytes_out.fetch_add(n as u64, Ordering::Relaxed);
    });
    let answer = read_message(&mut reader, MAX_REPLY_BYTES);
    match converse(sending, answer, limits.answer).await? {
        Reply::Stored => Ok(true),
        other => Err(other.into_error()),
    }
}

/// Adds at most [`MAX_DOTS`](super::MAX_DOTS) references to a chunk if the peer has it, and says whether it does.
pub(in crate::swarm) async fn adopt<S>(
    mut io: S,
    id: ChunkId,
    dots: &[Dot],
    limits: &Limits,
) -> Result<bool, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let question = Request::Adopt(Adopt { id, dots: dots.to_vec() });
    within(limits.stall, write_message(&mut io, &question)).await?;
    let patience = limits.slot_wait + limits.answer;
    match within(patience, read_message(&mut io, MAX_REPLY_BYTES)).await? {
        Reply::Have => Ok(true),
        Reply::Missing => Ok(false),
        other => Err(other.into_error()),
    }
}

/// Gets a chunk and verifies it; `moved` is told of its bytes as they come. With a pace it is background
/// traffic.
pub(in crate::swarm) async fn fetch<S>(
    mut io: S,
    id: ChunkId,
    pace: Option<Pace>,
    limits: &Limits,
    moved: impl Fn(u64),
) -> Result<Chunk, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let question = Request::Fetch(Fetch { id, background: pace.is_some() });
    within(limits.stall, write_message(&mut io, &question)).await?;
    let patience = limits.slot_wait + limits.answer;
    let size = match within(patience, read_message(&mut io, MAX_REPLY_BYTES)).await? {
        Reply::Found(size) => size,
        other => return Err(other.into_error()),
    };
    let size = usize::try_from(size).ok().filter(|size| *size <= MAX_CHUNK_BYTES);
    let size = size.ok_or(TransferError::Corrupt)?;
    let reading = read_chunk(&mut io, size, limits.stall, limits.flow(pace), moved);
    let bytes = within(limits.allowance(pace.is_some(), size as u64), reading).await?;
    let verified = if size <= HASH_INLINE_BYTES {
        Chunk::verify(id, bytes)
    } else {
        let verify = tokio::task::spawn_blocking(move || Chunk::verify(id, bytes));
        verify.await.map_err(|e| TransferError::Unreachable(format!("verify a chunk: {e}")))?
    };
    verified.map_err(|corrupt| {
        debug!(error = %corrupt, "a peer sent other bytes than it was asked for");
        TransferError::Corrupt
    })
}

/// Asks after at most [`MAX_IDS`](super::MAX_IDS) chunks.
pub(in crate::swarm) async fn held<S>(
    mut io: S,
    ids: &[ChunkId],
    limits: &Limits,
) -> Result<Vec<bool>, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let question = Request::Held(Held { ids: ids.to_vec() });
    within(limits.stall, write_message(&mut io, &question)).await?;
    match within(limits.answer, read_message(&mut io, MAX_REPLY_BYTES)).await? {
        Reply::Present(present) if present.len() == ids.len() => Ok(present),
        other => Err(other.into_error()),
    }
}

/// Reads a whole chunk of a size that has been bounded; memory grows with what comes.
async fn read_chunk<R: AsyncRead + Unpin>(
    io: &mut R,
    size: usize,
    stall: Duration,
    flow: Flow<'_>,
    moved: impl Fn(u64),
) -> Result<Bytes, StreamError> {
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let start = bytes.len();
        let piece = flow.piece().min(size - start);
        flow.pass(piece).await;
        if bytes.capacity() < start + piece {
            bytes.reserve_exact((start.max(4 * PIECE_BYTES)).min(size - start));
        }
        bytes.resize(start + piece, 0);
        within(stall, io.read_exact(&mut bytes[start..])).await?;
        moved(piece as u64);
    }
    Ok(bytes.into())
}
