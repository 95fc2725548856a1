//! Bytes on a stream: length-prefixed messages, and bodies that are sent while an answer may come.
//!
//! Every declared length is compared with its bound before anything is read, and memory grows with
//! what arrives, never with what was declared. Nothing here panics on any input.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use minicbor::{Decode, Encode};

use super::limits::Flow;

/// What is reserved before the first byte of a body has come.
const FIRST_RESERVE_BYTES: usize = 64 << 10;

/// How long a broken sender listens for the reason.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a stream gave no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// The stream ended or the connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Nothing moved for too long.
    #[error("nothing came within {0:?}")]
    TimedOut(Duration),
    /// A length above its bound.
    #[error("{declared} bytes announced where at most {most} are taken")]
    TooLarge { declared: u64, most: u64 },
    /// Bytes that are no message.
    #[error("not a message of this protocol")]
    Malformed,
}

/// Waits for `work`, but not longer than `limit`.
pub(super) async fn within<T, E>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, StreamError>
where
    StreamError: From<E>,
{
    match tokio::time::timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StreamError::TimedOut(limit)),
    }
}

/// A message with its length before it.
pub(super) fn encode<M: Encode<()>>(message: &M) -> Vec<u8> {
    let mut frame = vec![0; 4];
    minicbor::encode(message, &mut frame).expect("a vector takes everything");
    let length = u32::try_from(frame.len() - 4).expect("our own messages are far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Writes a message and flushes.
pub(super) async fn write_message<W, M>(io: &mut W, message: &M) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    M: Encode<()>,
{
    io.write_all(&encode(message)).await?;
    io.flush().await
}

/// Reads a message of at most `most` bytes; what follows it stays in the stream.
pub(super) async fn read_message<R, M>(io: &mut R, most: usize) -> Result<M, StreamError>
where
    R: AsyncRead + Unpin,
    M: for<'b> Decode<'b, ()>,
{
    let length = read_length(io, most).await?;
    let bytes = read_body(io, length).await?;
    minicbor::decode(&bytes).map_err(|_| StreamError::Malformed)
}

/// Reads a length and compares it with its bound.
pub(super) async fn read_length<R: AsyncRead + Unpin>(io: &mut R, most: usize) -> Result<usize, StreamError> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length);
    match usize::try_from(length) {
        Ok(length) if length <= most => Ok(length),
        _ => Err(StreamError::TooLarge { declared: u64::from(length), most: most as u64 }),
    }
}

/// Reads exactly `length` bytes, which the caller has bounded; memory grows as they come.
pub(super) async fn read_body<R: AsyncRead + Unpin>(io: &mut R, length: usize) -> io::Result<Bytes> {
    let mut body = Vec::new();
    let mut wanted = length.min(FIRST_RESERVE_BYTES);
    while body.len() < length {
        let start = body.len();
        body.resize(wanted, 0);
        io.read_exact(&mut body[start..]).await?;
        // What has come is the measure of what may come.
        wanted = length.min(wanted.saturating_mul(2));
    }
    Ok(body.into())
}

/// Writes `body` in pieces, each of which must get through within `stall`, and flushes.
pub(super) async fn write_body<W: AsyncWrite + Unpin>(
    io: &mut W,
    body: &[u8],
    stall: Duration,
    moved: impl FnMut(usize),
) -> Result<(), StreamError> {
    write_flow(io, body, stall, Flow::Client, moved).await
}

/// The same, as fast as `flow` allows. Pieces of background traffic are flushed one by one, so that
/// they leave as evenly as they were let through.
pub(super) async fn write_flow<W: AsyncWrite + Unpin>(
    io: &mut W,
    body: &[u8],
    stall: Duration,
    flow: Flow<'_>,
    mut moved: impl FnMut(usize),
) -> Result<(), StreamError> {
    for piece in body.chunks(flow.piece()) {
        flow.pass(piece.len()).await;
        within(stall, io.write_all(piece)).await?;
        if matches!(flow, Flow::Background(..)) {
            within(stall, io.flush()).await?;
        }
        moved(piece.len());
    }
    within(stall, io.flush()).await
}

/// Sends while listening: an answer that comes before everything was sent ends the sending, so that a
/// refusal is heard by a sender whom the receiver no longer reads from.
pub(super) async fn converse<T>(
    sending: impl Future<Output = Result<(), StreamError>>,
    answer: impl Future<Output = Result<T, StreamError>>,
    patience: Duration,
) -> Result<T, StreamError> {
    let sending = pin!(sending);
    let mut answer = pin!(answer);
    match select(sending, answer.as_mut()).await {
        Either::Left((Ok(()), _)) => within(patience, answer).await,
        Either::Left((Err(broken), _)) => within(LAST_WORDS, answer).await.map_err(|_| broken),
        Either::Right((answer, _)) => answer,
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;
    use crate::swarm::transfer::message::{Reply, Request};

    const MOST: usize = 1 << 16;

    /// Counts what is asked of it, and never ends.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            buffer.fill(0xff);
            std::task::Poll::Ready(Ok(buffer.len()))
        }
    }

    fn decode<M: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<M, StreamError> {
        block_on(read_message(&mut Cursor::new(bytes), MOST))
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
            let mut framed = (bytes.len() as u32).to_be_bytes().to_vec();
            framed.extend(&bytes);
            let _ = decode::<Request>(&framed);
            let _ = decode::<Reply>(&framed);
        }

        #[test]
        fn a_length_above_its_bound_is_refused_before_a_byte_is_read(declared in (MOST as u32 + 1)..) {
            let mut io = Cursor::new(declared.to_be_bytes()).chain(Endless);
            let read = block_on(read_message::<_, Request>(&mut io, MOST));
            prop_assert!(matches!(read, Err(StreamError::TooLarge { .. })), "{read:?}");
        }

        #[test]
        fn a_body_is_read_whole_or_not_at_all(length in 0usize..300_000, missing in 1usize..100) {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let whole = block_on(read_body(&mut Cursor::new(&bytes), length));
            prop_assert_eq!(&whole.expect("all of it is there")[..], &bytes[..]);
            let short = block_on(read_body(&mut Cursor::new(&bytes), length + missing));
            prop_assert_eq!(short.expect_err("bytes are missing").kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_sender_that_is_not_read_from_still_hears_the_refusal() {
        let answer = async { Ok("refused") };
        let sending = std::future::pending();
        let heard = block_on(converse(sending, answer, Duration::from_secs(1)));
        assert!(matches!(heard, Ok("refused")), "{heard:?}");
    }
}
