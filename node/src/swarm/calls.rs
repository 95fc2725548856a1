//! `/kepler/catalog/1`, `/kepler/gossip/1`, `/kepler/load/1`, `/kepler/operations/1`,
//! `/kepler/replicator/1`, `/kepler/ping/1`: one request, one answer.
//!
//! A request is a length (32 bits, big-endian) and so many bytes; an answer is a status byte (0, or the
//! number of a [`Refusal`]), a length and so many bytes. Bodies are opaque here and at most
//! [`MAX_BODY_BYTES`]. A ping is eight bytes, sent back.

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::codec::{StreamError, converse, read_body, read_length, within, write_body};
use super::error::CallError;
use super::limits::BUDGET_UNIT_BYTES;
use super::limits::Limits;
use super::server::Server;
use super::{Inbound, MAX_BODY_BYTES, Peer, Refusal, Reply, Service};

/// The status of an answer that is none of the refusals.
pub(super) const ANSWERED: u8 = 0;

/// Asks, and waits for the answer; the caller sets the deadline.
pub(super) async fn call<S>(io: S, body: &[u8], limits: &Limits) -> Result<Bytes, CallError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = io.split();
    let request = frame(&[], body);
    let sending = write_body(&mut writer, &request, limits.stall, |_| ());
    // The caller's deadline is the one that counts; this one only has to be there.
    let patience = limits.answer * 4;
    let (status, answer) = converse(sending, read_answer(&mut reader), patience).await?;
    if status == ANSWERED { Ok(answer) } else { Err(CallError::Refused(Refusal::from_code(status))) }
}

impl From<StreamError> for CallError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::TimedOut(_) => Self::TimedOut,
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// A length-prefixed body behind `head`, in one buffer, so that it leaves in one frame.
fn frame(head: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("bodies are bounded by MAX_BODY_BYTES");
    let mut frame = Vec::with_capacity(head.len() + 4 + body.len());
    frame.extend_from_slice(head);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

async fn read_answer<R: AsyncRead + Unpin>(io: &mut R) -> Result<(u8, Bytes), StreamError> {
    let mut status = [0];
    io.read_exact(&mut status).await?;
    let length = read_length(io, MAX_BODY_BYTES).await?;
    Ok((status[0], read_body(io, length).await?))
}

/// Answers one call of a peer. Errors are of the stream: nobody is left to be told.
pub(super) async fn serve<S>(
    mut io: S,
    service: Service,
    from: Peer,
    server: &Server,
) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &server.limits;
    let frame = match read_and_answer(&mut io, service, from, server).await? {
        Ok(body) => frame(&[ANSWERED], &body),
        Err(refusal) => frame(&[refusal.code()], &[]),
    };
    write_body(&mut io, &frame, limits.stall, |_| ()).await?;
    within(limits.stall, io.close()).await
}

/// Reads the request, has the node answer it, and holds its share of the budget until then.
async fn read_and_answer<S>(
    io: &mut S,
    service: Service,
    from: Peer,
    server: &Server,
) -> Result<Result<Bytes, Refusal>, StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &server.limits;
    let length = match within(limits.stall, read_length(io, MAX_BODY_BYTES)).await {
        Ok(length) => length,
        Err(StreamError::TooLarge { .. }) => return Ok(Err(Refusal::TooLarge)),
        Err(gone) => return Err(gone),
    };
    let units = u32::try_from(length / BUDGET_UNIT_BYTES + 1).expect("bounded by MAX_BODY_BYTES");
    let Some(_share) = server.share(units).await else { return Ok(Err(Refusal::Busy)) };
    let body = within(limits.transfer(length as u64), read_body(io, length)).await?;
    Ok(answer(service, body, from, server).await)
}

/// Has the node answer a call; the caller holds its share of the budget.
pub(super) async fn answer(
    service: Service,
    body: Bytes,
    from: Peer,
    server: &Server,
) -> Result<Bytes, Refusal> {
    let limits = &server.limits;
    let (sender, receiver) = oneshot::channel();
    let inbound = Inbound { from, service, body, reply: Reply { answer: sender } };
    if server.inbound.send_timeout(inbound, limits.slot_wait).await.is_err() {
        return Err(Refusal::Busy);
    }
    match tokio::time::timeout(limits.answer, receiver).await {
        Ok(Ok(body)) if body.len() <= MAX_BODY_BYTES => Ok(body),
        Ok(Ok(_)) => Err(Refusal::TooLarge),
        Ok(Err(_)) => Err(Refusal::Failed),
        Err(_) => Err(Refusal::Busy),
    }
}

/// Sends eight bytes and waits for them; the caller sets the deadline.
pub(super) async fn ping<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) -> Result<(), StreamError> {
    let sent = *b"kepler-1";
    io.write_all(&sent).await?;
    io.flush().await?;
    let mut back = [0; 8];
    io.read_exact(&mut back).await?;
    if back == sent { Ok(()) } else { Err(StreamError::Malformed) }
}

/// Sends eight bytes back.
pub(super) async fn serve_ping<S>(mut io: S, limits: &Limits) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = [0; 8];
    within(limits.stall, io.read_exact(&mut bytes)).await?;
    within(limits.stall, io.write_all(&bytes)).await?;
    within(limits.stall, io.close()).await
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;
    use kepler_protocol::fuzz;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;
    use crate::swarm::transfer::tests::server;

    fn peer() -> Peer {
        Peer { node: "a".parse().expect("a node id"), key: [1; 32] }
    }

    #[test]
    fn no_answer_of_a_peer_harms_its_reader() {
        let examples = [frame(&[ANSWERED], b"an answer"), frame(&[Refusal::Busy.code()], &[])];
        let mut understood = 0;
        fuzz::bears_anything(&examples, 1 << 16, 2_000, |bytes| {
            if let Ok((status, body)) = block_on(read_answer(&mut Cursor::new(bytes))) {
                assert!(body.len() + 5 <= bytes.len());
                // Every status has a meaning.
                assert!(status == ANSWERED || Refusal::from_code(status).code() > 0);
                understood += 1;
            }
        });
        assert!(understood > 100, "only {understood} damaged answers could be read");
    }

    #[test]
    fn a_length_that_lies_costs_no_memory() {
        for declared in [MAX_BODY_BYTES as u32, MAX_BODY_BYTES as u32 + 1, 1 << 31, u32::MAX] {
            let bytes = [&[ANSWERED][..], &declared.to_be_bytes(), b"little"].concat();
            assert!(block_on(read_answer(&mut Cursor::new(&bytes))).is_err());
        }
    }

    #[test]
    fn no_request_of_a_peer_harms_a_node() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (server, _) = server();
        let example = frame(&[], b"a request");
        fuzz::bears_anything(&[example], 1 << 16, 60, |bytes| {
            runtime.block_on(async {
                let (mut ours, theirs) = tokio::io::duplex(1 << 20);
                let sending = async {
                    tokio::io::AsyncWriteExt::write_all(&mut ours, bytes).await.expect("it is read");
                    tokio::io::AsyncWriteExt::shutdown(&mut ours).await.expect("it is read");
                    let mut answer = Vec::new();
                    tokio::io::AsyncReadExt::read_to_end(&mut ours, &mut answer).await.expect("it ends");
                    answer
                };
                let serving = serve(theirs.compat(), Service::Catalog, peer(), &server);
                let (served, answer) = tokio::join!(serving, sending);
                // Nobody takes calls from this node's queue, so that no whole request is answered.
                assert_eq!(served.is_ok(), !answer.is_empty(), "{served:?}");
                assert!(answer.is_empty() || answer[0] != ANSWERED);
            });
        });
    }
}
