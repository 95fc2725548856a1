//! `/kepler/line/1`: one stream to a peer that its small requests share, instead of a stream each.
//!
//! A stream costs several packets and wake-ups beside what is said on it. On a line, what waits at one
//! moment leaves in one write, and answers come in any order.
//!
//! ```text
//! request   length (32 bits, big-endian, of what follows), id (64 bits), service (8 bits), body
//! answer    length, id, status (0, or the number of a refusal), body
//! ```
//!
//! The service [`PUSH`] takes a small chunk: the length of an offer (32 bits), the offer, the bytes. It is
//! sent whole: asking first whether the peer has it costs more than its bytes.
//!
//! Invariants: no length is trusted before it was compared with its bound; what a line holds for requests
//! of the peer counts in the budget of calls; a line without requests is closed after a while, so that
//! idle connections end.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite};
use kepler_protocol::chunk::Chunk;
use kepler_protocol::version::Dot;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::debug;

use super::codec::{StreamError, within};
use super::lane::{Lane, OpenError};
use super::limits::{BUDGET_UNIT_BYTES, Limits, PIECE_BYTES};
use super::server::Server;
use super::transfer::{How, Offer};
use super::{MAX_BODY_BYTES, Peer, Refusal, Service, calls};

/// Chunks up to this size, and calls up to this size, go by line.
pub(super) const LINE_BYTES: usize = 64 << 10;

/// References that a chunk on a line may bring.
pub(super) const LINE_DOTS: usize = 64;

/// The number of the service that takes a chunk; those below are calls.
const PUSH: u8 = 128;

/// Id, and service or status.
const HEAD_BYTES: usize = 9;

/// Requests that wait to be written.
const QUEUE: usize = 256;

/// Requests of one line that are being answered at once.
const MOST_AT_ONCE: usize = 256;

/// Frames that leave in one write at most.
const BATCH: usize = 64;

/// Entries above which those that nobody waits for are forgotten.
const MOST_WAITING: usize = 1024;

/// What is asked on a line.
#[derive(Clone, Debug)]
pub(super) struct Question {
    service: u8,
    head: Bytes,
    tail: Bytes,
}

impl Question {
    pub(super) fn call(service: Service, body: Bytes) -> Self {
        Self { service: service.code(), head: Bytes::new(), tail: body }
    }

    /// A chunk of at most [`LINE_BYTES`] with at most [`LINE_DOTS`] references.
    pub(super) fn push(chunk: &Chunk, dots: &[Dot]) -> Self {
        let offer = Offer::new(chunk, dots, How::default());
        let head = Bytes::from(super::codec::encode(&offer));
        Self { service: PUSH, head, tail: chunk.bytes().clone() }
    }
}

/// What the peer said: a status and a body.
pub(super) type Answer = (u8, Bytes);

struct Asked {
    question: Question,
    reply: oneshot::Sender<Result<Answer, OpenError>>,
}

/// The way onto a line; cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    asked: mpsc::Sender<Asked>,
}

impl Line {
    /// Opens a line in a task of its own; what is asked meanwhile waits.
    pub(super) fn open(
        opening: impl Future<Output = Result<Lane, OpenError>> + Send + 'static,
        stop: tokio_util::sync::CancellationToken,
        limits: &Limits,
    ) -> Self {
        let (asked, asking) = mpsc::channel(QUEUE);
        let (stall, idle) = (limits.stall, limits.idle / 2);
        tokio::spawn(async move { stop.run_until_cancelled(run(opening, asking, stall, idle)).await });
        Self { asked }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.asked.is_closed()
    }

    /// Asks, and waits; the caller sets the deadline.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, OpenError> {
        let (reply, answer) = oneshot::channel();
        let ended = || OpenError::Stream("the connection ended".into());
        self.asked.send(Asked { question, reply }).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Answer, OpenError>>>>;

async fn run(
    opening: impl Future<Output = Result<Lane, OpenError>>,
    mut asking: mpsc::Receiver<Asked>,
    stall: Duration,
    idle: Duration,
) {
    let Lane { stream, _load } = match opening.await {
        Ok(lane) => lane,
        Err(error) => {
            asking.close();
            while let Some(asked) = asking.recv().await {
                let _ = asked.reply.send(Err(error.clone()));
            }
            return;
        }
    };
    let (mut reader, mut writer) = stream.split();
    let waiting = Waiting::default();
    let reading = read_answers(&mut reader, &waiting);
    let writing = write_questions(&mut writer, &mut asking, &waiting, stall, idle);
    let ended = match select(std::pin::pin!(reading), std::pin::pin!(writing)).await {
        Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
    };
    // Whoever still waits is told by his sender being dropped, and asks again on another line.
    if let Err(error) = ended {
        debug!(%error, "a line to a peer broke");
    }
}

async fn read_answers<R: AsyncRead + Unpin>(io: &mut R, waiting: &Waiting) -> Result<(), StreamError> {
    let mut frames = Frames::default();
    loop {
        let Some(Frame { id, kind, body }) = frames.next(io).await? else { return Ok(()) };
        let asker = lock(waiting).remove(&id);
        if let Some(asker) = asker {
            let _ = asker.send(Ok((kind, body)));
        }
    }
}

async fn write_questions<W: AsyncWrite + Unpin>(
    io: &mut W,
    asking: &mut mpsc::Receiver<Asked>,
    waiting: &Waiting,
    stall: Duration,
    idle: Duration,
) -> Result<(), StreamError> {
    let mut next = 0_u64;
    let mut batch = Vec::with_capacity(BATCH);
    let mut buffer = Vec::new();
    loop {
        match tokio::time::timeout(idle, asking.recv_many(&mut batch, BATCH)).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) if lock(waiting).is_empty() => return Ok(()),
            Err(_) => continue,
        }
        {
            let mut waiting = lock(waiting);
            for Asked { question, reply } in batch.drain(..) {
                if reply.is_closed() {
                    continue; // its asker gave up
                }
                next += 1;
                waiting.insert(next, reply);
                put_frame(&mut buffer, next, question.service, &question.head, &question.tail);
            }
            if waiting.len() > MOST_WAITING {
                waiting.retain(|_, reply| !reply.is_closed());
            }
        }
        write(io, &mut buffer, stall).await?;
    }
}

/// Answers what a peer asks on a line that it opened, until it ends.
pub(super) async fn serve<S>(io: S, from: Peer, server: &Arc<Server>) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = io.split();
    let (answers, mut answered) = mpsc::channel::<(u64, u8, Bytes, Option<OwnedSemaphorePermit>)>(BATCH);
    let reading = async move {
        let turns = Arc::new(Semaphore::new(MOST_AT_ONCE));
        let mut frames = Frames::default();
        loop {
            // Whoever asks nothing closes the line; one that is merely forgotten is closed from here.
            let next = within(server.limits.idle * 2, frames.next(&mut reader));
            // Whoever stops answers what it has heard, and listens no more.
            let Some(frame) = server.stop.run_until_cancelled(next).await else { return Ok(()) };
            let Some(Frame { id, kind, body }) = frame? else { return Ok(()) };
            let turn = turns.clone().acquire_owned().await.expect("never closed");
            let share = server.share(units_of(&body)).await;
            let (server, answers) = (server.clone(), answers.clone());
            server.tasks.clone().spawn(async move {
                let (_turn, _busy) = (turn, server.counters.serving());
                let result = match share {
                    Some(_share) => answer(kind, body, from, &server).await,
                    None => Err(Refusal::Busy),
                };
                // An answer has its share until it is written: whoever asks and does not read is held back.
                let share = match &result {
                    Ok(body) if !body.is_empty() => server.share(units_of(body)).await,
                    _ => None,
                };
                let (status, body) = match result {
                    Ok(body) if share.is_some() || body.is_empty() || server.stop.is_cancelled() => {
                        (calls::ANSWERED, body)
                    }
                    Ok(_) => (Refusal::Busy.code(), Bytes::new()),
                    Err(refusal) => (refusal.code(), Bytes::new()),
                };
                // The line may have ended meanwhile.
                let _ = answers.send((id, status, body, share)).await;
            });
        }
    };
    let writing = async {
        let mut batch = Vec::with_capacity(BATCH);
        let mut buffer = Vec::new();
        while answered.recv_many(&mut batch, BATCH).await > 0 {
            for (id, status, body, _share) in batch.drain(..) {
                put_frame(&mut buffer, id, status, &[], &body);
                if buffer.len() >= PIECE_BYTES {
                    write(&mut writer, &mut buffer, server.limits.stall).await?;
                }
            }
            write(&mut writer, &mut buffer, server.limits.stall).await?;
        }
        Ok(())
    };
    match select(Box::pin(reading), std::pin::pin!(writing)).await {
        // Writing ends once all that was asked is answered.
        Either::Left((Ok(()), writing)) => writing.await,
        Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
    }
}

/// What a body counts for in the budget of calls.
fn units_of(body: &Bytes) -> u32 {
    u32::try_from(body.len() / BUDGET_UNIT_BYTES + 1).expect("bodies are bounded")
}

async fn answer(kind: u8, body: Bytes, from: Peer, server: &Server) -> Result<Bytes, Refusal> {
    if kind == PUSH {
        return take(body, server).await.map(|()| Bytes::new());
    }
    let service = Service::from_code(kind).ok_or(Refusal::Malformed)?;
    calls::answer(service, body, from, server).await
}

/// Stores a chunk that came whole.
async fn take(mut body: Bytes, server: &Server) -> Result<(), Refusal> {
    let length = body.try_get_u32().map_err(|_| Refusal::Malformed)?;
    let length =
        usize::try_from(length).ok().filter(|length| *length <= body.len()).ok_or(Refusal::Malformed)?;
    let offer: Offer = minicbor::decode(&body.split_to(length)).map_err(|_| Refusal::Malformed)?;
    let Offer { id, size, dots, .. } = offer;
    if size != body.len() as u64 {
        return Err(Refusal::Malformed);
    }
    if body.len() > LINE_BYTES || dots.len() > LINE_DOTS {
        return Err(Refusal::TooLarge);
    }
    server.counters.chunk_came(size);
    server.ask(server.chunks.store(id, body, dots)).await
}

struct Frame {
    id: u64,
    kind: u8,
    body: Bytes,
}

/// Cuts a stream into frames.
#[derive(Default)]
struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// The next frame; `None` where the stream ends between two.
    async fn next<R: AsyncRead + Unpin>(&mut self, io: &mut R) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.cut()? {
                return Ok(Some(frame));
            }
            let filled = self.buffer.len();
            // What has come is the measure of what may come.
            self.buffer.resize(filled + filled.clamp(8 << 10, 64 << 10), 0);
            let read = io.read(&mut self.buffer[filled..]).await;
            self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
            match read? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => {}
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Frame>, StreamError> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        let most = MAX_BODY_BYTES + HEAD_BYTES;
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > most {
            return Err(StreamError::TooLarge { declared: u64::from(length), most: most as u64 });
        }
        if size < HEAD_BYTES {
            return Err(StreamError::Malformed);
        }
        if self.buffer.len() < 4 + size {
            return Ok(None);
        }
        self.buffer.advance(4);
        let (id, kind) = (self.buffer.get_u64(), self.buffer.get_u8());
        // A copy: a part of the buffer would keep all of it.
        let body = Bytes::copy_from_slice(&self.buffer[..size - HEAD_BYTES]);
        self.buffer.advance(size - HEAD_BYTES);
        Ok(Some(Frame { id, kind, body }))
    }
}

fn put_frame(buffer: &mut Vec<u8>, id: u64, kind: u8, head: &[u8], tail: &[u8]) {
    let length = u32::try_from(HEAD_BYTES + head.len() + tail.len()).expect("bodies are bounded");
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(&id.to_be_bytes());
    buffer.push(kind);
    buffer.extend_from_slice(head);
    buffer.extend_from_slice(tail);
}

/// Writes what was gathered, each piece within `stall`.
async fn write<W: AsyncWrite + Unpin>(
    io: &mut W,
    buffer: &mut Vec<u8>,
    stall: Duration,
) -> Result<(), StreamError> {
    super::codec::write_body(io, buffer, stall, |_| ()).await?;
    buffer.clear();
    // A large answer leaves no large buffer behind.
    buffer.shrink_to(PIECE_BYTES);
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
