//! `/kepler/transfer/1`: moving chunks. One stream an exchange; both sides are here.
//!
//! ```text
//! push   offer (id, size, dots) ─►   ◄─ have | send | refused     bytes ─►   ◄─ stored | refused
//! adopt  id, dots ─►                 ◄─ have | missing | refused
//! fetch  id ─►                       ◄─ found (size) bytes | missing | refused
//! held   ids ─►                      ◄─ present | refused
//! ```
//!
//! The receiver answers *send* only when it holds one of its slots and has a place for the bytes, so
//! no byte travels in vain and a sender is held back instead of being turned away. Received bytes go
//! to the [`ChunkStore`](super::ChunkStore) in pieces; no chunk is ever whole in the receiver's memory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use kepler_protocol::chunk::{Chunk, ChunkId, MAX_CHUNK_BYTES};
use kepler_protocol::version::Dot;
use minicbor::{Decode, Encode};
use tracing::debug;

use super::codec::{Flow, StreamError, converse, read_message, within, write_flow, write_message};
use super::connection::Server;
use super::handle::{Counters, TransferError};
use super::limits::{Limits, PIECE_BYTES};
use super::{Incoming, Refusal};
use crate::throttle::Pace;

/// The most references that one push carries; more go in further offers.
pub const MAX_DOTS: usize = 4096;

/// The most chunks that one question may ask after; more go in further questions.
pub const MAX_IDS: usize = 4096;

/// Bounds [`MAX_DOTS`] dots of the longest node ids.
const MAX_REQUEST_BYTES: usize = 512 << 10;

/// Bounds [`MAX_IDS`] answers.
const MAX_REPLY_BYTES: usize = 64 << 10;

/// Chunks below this are hashed where they are: handing them over would take longer.
const HASH_INLINE_BYTES: usize = 64 << 10;

/// What the opener of a stream wants.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Request {
    #[n(0)]
    Push(#[n(0)] Offer),
    #[n(1)]
    Fetch(#[n(0)] Fetch),
    #[n(2)]
    Held(#[n(0)] Held),
    #[n(3)]
    Adopt(#[n(0)] Adopt),
}

/// References to a chunk that the other side may have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Adopt {
    #[n(0)]
    id: ChunkId,
    #[n(1)]
    dots: Vec<Dot>,
}

/// A chunk that the opener would send.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Offer {
    #[n(0)]
    pub id: ChunkId,
    #[n(1)]
    pub size: u64,
    #[n(2)]
    pub dots: Vec<Dot>,
    /// Whether nobody waits for it: both sides bound it then.
    #[n(3)]
    #[cbor(default)]
    pub background: bool,
    /// Whether the sender may have lost references of it with a database, so that it is not to be
    /// collected for want of one.
    #[n(4)]
    #[cbor(default)]
    pub recovered: bool,
}

impl Offer {
    pub(super) fn new(chunk: &Chunk, dots: &[Dot], how: How) -> Self {
        let (id, size, dots) = (chunk.id(), chunk.bytes().len() as u64, dots.to_vec());
        Self { id, size, dots, background: how.pace.is_some(), recovered: how.recovered }
    }
}

/// A chunk that the opener would have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Fetch {
    #[n(0)]
    id: ChunkId,
    /// Whether nobody waits for it: both sides bound it then.
    #[n(1)]
    #[cbor(default)]
    background: bool,
}

/// Chunks that the opener asks after.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Held {
    #[n(0)]
    ids: Vec<ChunkId>,
}

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Reply {
    /// The chunk is here and its references are recorded: send nothing.
    #[n(0)]
    Have,
    /// Send the bytes.
    #[n(1)]
    Send,
    /// The chunk and its references are durable.
    #[n(2)]
    Stored,
    /// The bytes follow.
    #[n(3)]
    Found(#[n(0)] u64),
    /// The chunk is not here.
    #[n(4)]
    Missing,
    /// Which chunks are here, in the order asked.
    #[n(5)]
    Present(#[n(0)] Vec<bool>),
    /// None of these; a [`Refusal`] by number.
    #[n(6)]
    Refused(#[n(0)] u8),
}

impl Refusal {
    /// Its number on the wire.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::DiskFull => 1,
            Self::Busy => 2,
            Self::Corrupt => 3,
            Self::TooLarge => 4,
            Self::Malformed => 5,
            Self::Leaving => 7,
            Self::Failed => 6,
        }
    }

    /// What a number means; those of later versions are failures.
    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::DiskFull,
            2 => Self::Busy,
            3 => Self::Corrupt,
            4 => Self::TooLarge,
            5 => Self::Malformed,
            7 => Self::Leaving,
            _ => Self::Failed,
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.code())
    }
}

impl Reply {
    /// What an answer means that is not one of those hoped for.
    fn into_error(self) -> TransferError {
        match self {
            Self::Missing => TransferError::Missing,
            Self::Refused(code) => Refusal::from_code(code).into(),
            _ => TransferError::Unreachable("it answered out of turn".into()),
        }
    }
}

impl From<Refusal> for TransferError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Corrupt => Self::Corrupt,
            other => Self::Refused(other),
        }
    }
}

impl From<StreamError> for TransferError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::TimedOut(_) => Self::TimedOut,
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// How a chunk is pushed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    /// As background traffic, so fast.
    pub pace: Option<Pace>,
    /// References of it may have been lost.
    pub recovered: bool,
}

/// Sends a chunk, if the peer lacks it, with at most [`MAX_DOTS`] references; says whether bytes went.
pub(super) async fn push<S>(
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

/// Adds at most [`MAX_DOTS`] references to a chunk if the peer has it, and says whether it does.
pub(super) async fn adopt<S>(
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
pub(super) async fn fetch<S>(
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

/// Asks after at most [`MAX_IDS`] chunks.
pub(super) async fn held<S>(mut io: S, ids: &[ChunkId], limits: &Limits) -> Result<Vec<bool>, TransferError>
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

/// Answers one exchange that a peer opened. Errors are of the stream: nobody is left to be told.
pub(super) async fn serve<S>(mut io: S, server: &Server) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &server.limits;
    let reply = match within(limits.stall, read_message(&mut io, MAX_REQUEST_BYTES)).await {
        Ok(Request::Push(offer)) => receive(&mut io, offer, server).await?,
        Ok(Request::Fetch(fetch)) => match give(&mut io, fetch, server).await? {
            Some(reply) => reply,
            None => return close(io, limits).await,
        },
        Ok(Request::Held(Held { ids })) => answer_held(ids, server).await,
        Ok(Request::Adopt(adopt)) => answer_adopt(adopt, server).await,
        Err(StreamError::Malformed) => Refusal::Malformed.into(),
        Err(StreamError::TooLarge { .. }) => Refusal::TooLarge.into(),
        Err(gone) => return Err(gone),
    };
    within(limits.stall, write_message(&mut io, &reply)).await?;
    close(io, limits).await
}

async fn close<S: AsyncWrite + Unpin>(mut io: S, limits: &Limits) -> Result<(), StreamError> {
    within(limits.stall, io.close()).await
}

/// Takes an offered chunk and says how it went.
async fn receive<S>(io: &mut S, offer: Offer, server: &Server) -> Result<Reply, StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Offer { id, size, dots, background, recovered } = offer;
    let limits = &server.limits;
    if size > MAX_CHUNK_BYTES as u64 || dots.len() > MAX_DOTS {
        return Ok(Refusal::TooLarge.into());
    }
    let slots = if background { &server.background_receive_slots } else { &server.receive_slots };
    let Some(_slot) = server.slot(slots).await else {
        return Ok(Refusal::Busy.into());
    };
    match server.ask(server.chunks.adopt(id, dots.clone())).await {
        Ok(true) => return Ok(settled(Reply::Have, id, recovered, server).await),
        Ok(false) => {}
        Err(refusal) => return Ok(refusal.into()),
    }
    let mut incoming = match server.ask(server.chunks.receive(id, size)).await {
        Ok(incoming) => incoming,
        Err(refusal) => return Ok(refusal.into()),
    };
    within(limits.stall, write_message(io, &Reply::Send)).await?;
    let taking = take(io, &mut *incoming, size, limits.flow(background.then_some(Pace::Full)), server);
    let taken = tokio::time::timeout(limits.allowance(background, size), taking).await;
    match taken {
        Ok(Ok(())) => {}
        Ok(Err(Interrupted::Refused(refusal))) => return Ok(refusal.into()),
        Ok(Err(Interrupted::Stream(error))) => return Err(error),
        Err(_) => return Ok(Refusal::Busy.into()),
    }
    match server.ask(incoming.finish(dots)).await {
        Ok(()) => Ok(settled(Reply::Stored, id, recovered, server).await),
        Err(refusal) => Ok(refusal.into()),
    }
}

/// The good answer, once what the sender knows of lost references is recorded here too.
async fn settled(reply: Reply, id: ChunkId, recovered: bool, server: &Server) -> Reply {
    if !recovered {
        return reply;
    }
    match server.ask(server.chunks.mark_recovered(id)).await {
        Ok(()) => reply,
        Err(refusal) => refusal.into(),
    }
}

/// Records references to a chunk if it is here and intact.
async fn answer_adopt(Adopt { id, dots }: Adopt, server: &Server) -> Reply {
    if dots.len() > MAX_DOTS {
        return Refusal::TooLarge.into();
    }
    // Adopting hashes the whole file: it takes a slot like a chunk on its way in.
    let Some(_slot) = server.slot(&server.receive_slots).await else {
        return Refusal::Busy.into();
    };
    match server.ask(server.chunks.adopt(id, dots)).await {
        Ok(true) => Reply::Have,
        Ok(false) => Reply::Missing,
        Err(refusal) => refusal.into(),
    }
}

/// Why a chunk did not come whole.
enum Interrupted {
    Refused(Refusal),
    Stream(StreamError),
}

/// Hands `size` bytes from the stream to the store, piece by piece.
async fn take<R: AsyncRead + Unpin>(
    io: &mut R,
    incoming: &mut dyn Incoming,
    size: u64,
    flow: Flow<'_>,
    server: &Server,
) -> Result<(), Interrupted> {
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).map_or(flow.piece(), |left| left.min(flow.piece()));
        flow.pass(length).await;
        let mut piece = server.pieces.take();
        let read = within(server.limits.stall, io.read_exact(&mut piece[..length])).await;
        read.map_err(Interrupted::Stream)?;
        server.counters.chunk_bytes_in.fetch_add(length as u64, Ordering::Relaxed);
        let piece = server.pieces.freeze(piece, length);
        server.ask(incoming.write(piece)).await.map_err(Interrupted::Refused)?;
        left -= length as u64;
    }
    Ok(())
}

/// Sends a chunk that a peer asked for, or says why not.
async fn give<S>(io: &mut S, fetch: Fetch, server: &Server) -> Result<Option<Reply>, StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Fetch { id, background } = fetch;
    let limits = &server.limits;
    let slots = if background { &server.background_serve_slots } else { &server.serve_slots };
    let Some(_slot) = server.slot(slots).await else {
        return Ok(Some(Refusal::Busy.into()));
    };
    let chunk = match server.ask(server.chunks.read(id)).await {
        Ok(Some(chunk)) => chunk,
        Ok(None) => return Ok(Some(Reply::Missing)),
        Err(refusal) => return Ok(Some(refusal.into())),
    };
    let bytes = chunk.bytes();
    within(limits.stall, write_message(io, &Reply::Found(bytes.len() as u64))).await?;
    let flow = limits.flow(background.then_some(Pace::Full));
    let sending = write_flow(io, bytes, limits.stall, flow, |n| {
        server.counters.chunk_bytes_out.fetch_add(n as u64, Ordering::Relaxed);
    });
    within(limits.allowance(background, bytes.len() as u64), sending).await?;
    Ok(None)
}

async fn answer_held(ids: Vec<ChunkId>, server: &Server) -> Reply {
    if ids.len() > MAX_IDS {
        return Refusal::TooLarge.into();
    }
    let asked = ids.len();
    match server.ask(server.chunks.held(ids)).await {
        Ok(present) if present.len() == asked => Reply::Present(present),
        Ok(_) => Refusal::Failed.into(),
        Err(refusal) => refusal.into(),
    }
}

#[cfg(test)]
pub(super) mod tests;
