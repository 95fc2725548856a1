//! One side of the protocol against bytes written by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::AsyncWriteExt;
use kepler_protocol::chunk::{Chunk, ChunkId, Codec, MAX_CHUNK_BYTES};
use kepler_protocol::version::Dot;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use tokio_util::sync::CancellationToken;

use super::message::{Fetch, Held, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Reply, Request};
use super::*;
use crate::swarm::codec::{StreamError, encode, read_message, write_message};
use crate::swarm::error::TransferError;
use crate::swarm::limits::Limits;
use crate::swarm::server::Server;
use crate::swarm::{ChunkStore, Incoming, Refusal};

/// Counts chunks that were begun, and keeps none.
#[derive(Default)]
pub(in crate::swarm) struct Counting {
    pub begun: AtomicUsize,
    pub finished: AtomicUsize,
}

struct Sink(Arc<Counting>, ChunkId, Vec<u8>);

#[async_trait]
impl ChunkStore for Arc<Counting> {
    async fn receive(&self, id: ChunkId, _: u64) -> Result<Box<dyn Incoming>, Refusal> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Sink(self.clone(), id, Vec::new())))
    }

    async fn adopt(&self, _: ChunkId, _: Vec<Dot>) -> Result<bool, Refusal> {
        Ok(false)
    }

    async fn read(&self, _: ChunkId) -> Result<Option<Chunk>, Refusal> {
        Ok(None)
    }

    async fn held(&self, ids: Vec<ChunkId>) -> Result<Vec<bool>, Refusal> {
        Ok(vec![false; ids.len()])
    }
}

#[async_trait]
impl Incoming for Sink {
    async fn write(&mut self, piece: Bytes) -> Result<(), Refusal> {
        self.2.extend_from_slice(&piece);
        Ok(())
    }

    async fn finish(self: Box<Self>, _: Vec<Dot>) -> Result<(), Refusal> {
        Chunk::verify(self.1, self.2.into()).map_err(|_| Refusal::Corrupt)?;
        self.0.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

type Pipe = Compat<tokio::io::DuplexStream>;

fn pipe() -> (Pipe, Pipe) {
    let (a, b) = tokio::io::duplex(1 << 20);
    (a.compat(), b.compat())
}

fn limits() -> Limits {
    let short = Duration::from_millis(50);
    Limits { stall: short, slot_wait: short, answer: short, receive_slots: 1, ..Limits::default() }
}

/// A node with short deadlines and a store that keeps nothing.
pub(in crate::swarm) fn server() -> (Server, Arc<Counting>) {
    let store = Arc::new(Counting::default());
    let (inbound, _) = mpsc::channel(1);
    let chunks = Arc::new(store.clone());
    (Server::new(limits(), chunks, inbound, Arc::default(), CancellationToken::new()), store)
}

fn offer(size: u64, dots: usize) -> Request {
    let id = ChunkId::of(Codec::Raw, b"kepler");
    let origin = kepler_protocol::version::Origin { node: "a".parse().expect("a node id"), generation: 1 };
    let dots = vec![Dot { origin, sequence: 1 }; dots];
    Request::Push(Offer { id, size, dots, background: false, recovered: false })
}

async fn reply(io: &mut Pipe) -> Reply {
    read_message(io, MAX_REPLY_BYTES).await.expect("every request is answered")
}

#[tokio::test]
async fn a_sender_of_other_bytes_is_told_and_nothing_is_kept() {
    let (server, store) = server();
    let (mut io, theirs) = pipe();
    let sending = async {
        write_message(&mut io, &offer(6, 1)).await.expect("it is read");
        assert_eq!(reply(&mut io).await, Reply::Send);
        io.write_all(b"keples").await.expect("it is read");
        assert_eq!(reply(&mut io).await, Refusal::Corrupt.into());
    };
    let (served, ()) = tokio::join!(serve(theirs, &server), sending);
    served.expect("the exchange is complete");
    assert_eq!(store.finished.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_too_large_or_not_understood_is_refused_before_anything_is_begun() {
    let (server, store) = server();
    let many = Request::Held(Held { ids: vec![ChunkId::of(Codec::Raw, b""); MAX_IDS + 1] });
    let unknown = minicbor::to_vec((9, ())).expect("a vector takes everything");
    let cases = [
        (encode(&offer(MAX_CHUNK_BYTES as u64 + 1, 1)), Refusal::TooLarge),
        (encode(&offer(u64::MAX, 1)), Refusal::TooLarge),
        (encode(&offer(6, MAX_DOTS + 1)), Refusal::TooLarge),
        (encode(&many), Refusal::TooLarge),
        (u32::MAX.to_be_bytes().to_vec(), Refusal::TooLarge),
        (encode(&minicbor::bytes::ByteVec::from(unknown)), Refusal::Malformed),
        (vec![0; 4], Refusal::Malformed),
    ];
    for (n, (request, refusal)) in cases.into_iter().enumerate() {
        let (mut io, theirs) = pipe();
        let asking = async {
            io.write_all(&request).await.expect("it is read");
            assert_eq!(reply(&mut io).await, refusal.into(), "case {n}");
        };
        let (served, ()) = tokio::join!(serve(theirs, &server), asking);
        served.expect("the exchange is complete");
    }
    assert_eq!(store.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_sender_that_stalls_loses_its_slot() {
    let (server, store) = server();
    let (mut stalled, theirs) = pipe();
    let stalling = async {
        write_message(&mut stalled, &offer(6, 1)).await.expect("it is read");
        assert_eq!(reply(&mut stalled).await, Reply::Send);
    };
    let (served, ()) = tokio::join!(serve(theirs, &server), stalling);
    assert!(matches!(served, Err(StreamError::TimedOut(_))), "{served:?}");
    assert_eq!(server.receive_slots.available_permits(), 1);

    let held = server.slot(&server.receive_slots).await;
    let (mut io, theirs) = pipe();
    let asking = async {
        write_message(&mut io, &offer(6, 1)).await.expect("it is read");
        assert_eq!(reply(&mut io).await, Refusal::Busy.into(), "all slots are taken");
    };
    let (served, ()) = tokio::join!(serve(theirs, &server), asking);
    served.expect("the exchange is complete");
    drop(held);
    assert_eq!(store.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_giver_cannot_make_us_take_more_less_or_other_than_we_asked() {
    let id = ChunkId::of(Codec::Raw, b"kepler");
    type Expected = fn(&TransferError) -> bool;
    let answers: [(Vec<u8>, Expected); 5] = [
        (encode(&Reply::Found(u64::MAX)), |e| *e == TransferError::Corrupt),
        ([&encode(&Reply::Found(6))[..], b"keples"].concat(), |e| *e == TransferError::Corrupt),
        ([&encode(&Reply::Found(6))[..], b"kep"].concat(), |e| matches!(e, TransferError::Unreachable(_))),
        (encode(&Reply::Stored), |e| matches!(e, TransferError::Unreachable(_))),
        (vec![0xff; 64], |e| matches!(e, TransferError::Unreachable(_))),
    ];
    for (n, (answer, expected)) in answers.into_iter().enumerate() {
        let (io, mut theirs) = pipe();
        let answering = async {
            theirs.write_all(&answer).await.expect("it is read");
            theirs.close().await.expect("it is read");
        };
        let limits = limits();
        let (fetched, ()) = tokio::join!(fetch(io, id, None, &limits, |_| ()), answering);
        let error = fetched.expect_err("it is not the chunk");
        assert!(expected(&error), "case {n}: {error:?}");
    }
}

#[tokio::test]
async fn messages_of_later_versions_with_more_fields_are_understood() {
    let id = ChunkId::of(Codec::Raw, b"kepler");
    let mut bytes = Vec::new();
    let mut e = minicbor::Encoder::new(&mut bytes);
    e.array(2).and_then(|e| e.u32(1)).expect("a vector takes everything");
    e.array(1).and_then(|e| e.map(2)).and_then(|e| e.u32(0)).expect("a vector takes everything");
    e.encode(id).and_then(|e| e.u32(77)).and_then(|e| e.str("news")).expect("a vector takes everything");
    assert_eq!(
        minicbor::decode::<Request>(&bytes).expect("it is a request"),
        Request::Fetch(Fetch { id, background: false })
    );
}

proptest! {
    #[test]
    fn whatever_a_peer_sends_is_answered_or_dropped(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        framed in any::<bool>(),
        kind in 0u8..8,
    ) {
        if framed && bytes.len() > 8 {
            let length = bytes.len() as u32 - 4;
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..6].copy_from_slice(&[0x82, kind]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let (server, store) = server();
            let (mut io, theirs) = pipe();
            io.write_all(&bytes).await.expect("it is buffered");
            io.close().await.expect("it is buffered");
            let _ = serve(theirs, &server).await;
            assert_eq!(store.finished.load(Ordering::SeqCst), 0);
            assert_eq!(server.receive_slots.available_permits(), 1);
        });
    }

    #[test]
    fn truncated_requests_are_never_taken_for_whole_ones(dots in 0usize..20, cut in 1usize..40) {
        let whole = encode(&offer(6, dots));
        let cut = &whole[..whole.len().saturating_sub(cut)];
        let read = futures::executor::block_on(read_message::<_, Request>(
            &mut futures::io::Cursor::new(cut),
            MAX_REQUEST_BYTES,
        ));
        prop_assert!(matches!(read, Err(StreamError::Io(_))), "{:?}", read);
    }
}
