//! The side that answers.

use std::sync::atomic::Ordering;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use kepler_protocol::chunk::{ChunkId, MAX_CHUNK_BYTES};

use super::message::{Adopt, Fetch, Held, MAX_DOTS, MAX_IDS, MAX_REQUEST_BYTES, Offer, Reply, Request};
use crate::swarm::codec::{StreamError, read_message, within, write_flow, write_message};
use crate::swarm::limits::{Flow, Limits};
use crate::swarm::server::Server;
use crate::swarm::{Incoming, Refusal};
use crate::throttle::Pace;

/// Answers one exchange that a peer opened. Errors are of the stream: nobody is left to be told.
pub(in crate::swarm) async fn serve<S>(mut io: S, server: &Server) -> Result<(), StreamError>
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
