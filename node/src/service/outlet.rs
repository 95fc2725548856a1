//! Bytes on their way to one client.
//!
//! A client that does not take what it asked for must not keep a chunk in memory that another waits for:
//! what it is given are copies, and it lets go of the chunk while it waits. It is read again when the client goes on.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::ReadError;
use crate::replication::budget::{Budget, Share};
use crate::replication::chunks::Chunks;

/// Bytes given at a time.
const PIECE: usize = 256 << 10;

/// Bytes given at a time where too much is on its way to others. The HTTP library keeps 16 pieces at most.
const SMALL_PIECE: usize = 8 << 10;

/// Pieces that wait for the client, beside what the HTTP library has taken.
const WAITING: usize = 2;

/// A client that takes nothing for so long lets go of its chunk if another waits for one.
const PATIENCE: Duration = Duration::from_millis(100);

/// The way to one client.
pub(super) struct Outlet {
    sender: mpsc::Sender<Result<Bytes, ReadError>>,
    reading: Budget,
    pieces: Budget,
}

/// How far bytes got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// The client has taken all, or will.
    All,
    /// So many; it takes no more for now, and others wait.
    Some(usize),
    /// The client is gone.
    Gone,
}

/// A piece with its share of what is on its way.
struct Piece {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outlet {
    pub fn new(chunks: &Chunks) -> (Self, mpsc::Receiver<Result<Bytes, ReadError>>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, reading: chunks.reading().clone(), pieces: chunks.pieces().clone() }, receiver)
    }

    /// Gives the client `bytes` as it takes them, or as many as it takes before another needs the room.
    pub async fn pass(&self, bytes: &[u8]) -> Passed {
        let mut passed = 0;
        while passed < bytes.len() {
            let slow = async {
                tokio::time::sleep(PATIENCE).await;
                self.reading.wanted().await;
            };
            let permit = tokio::select! {
                biased;
                permit = self.sender.reserve() => permit,
                () = slow => return Passed::Some(passed),
            };
            let Ok(permit) = permit else { return Passed::Gone };
            let left = &bytes[passed..];
            let piece = match self.pieces.try_take(PIECE.min(left.len())) {
                Some(share) => {
                    Bytes::from_owner(Piece { bytes: left[..PIECE.min(left.len())].to_vec(), _share: share })
                }
                None => Bytes::copy_from_slice(&left[..SMALL_PIECE.min(left.len())]),
            };
            passed += piece.len();
            permit.send(Ok(piece));
        }
        Passed::All
    }

    /// Waits until the client goes on; `false` where it is gone.
    pub async fn goes_on(&self) -> bool {
        self.sender.reserve().await.is_ok()
    }

    /// Waits until the client is gone.
    pub async fn gone(&self) {
        self.sender.closed().await;
    }

    /// Ends what the client gets with an error.
    pub async fn fail(&self, error: ReadError) {
        // The client may be gone; then nobody needs the reason.
        let _ = self.sender.send(Err(error)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet(reading: usize, pieces: usize) -> (Outlet, mpsc::Receiver<Result<Bytes, ReadError>>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Outlet { sender, reading: Budget::new(reading), pieces: Budget::new(pieces) }, receiver)
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_everything_in_order() {
        for pieces in [1 << 20, 1 << 10] {
            let (outlet, mut receiver) = outlet(1 << 20, pieces);
            let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
            let expected = bytes.clone();
            let passing = tokio::spawn(async move { outlet.pass(&bytes).await });
            let mut got = Vec::new();
            while let Some(piece) = receiver.recv().await {
                got.extend_from_slice(&piece.expect("no error"));
            }
            assert_eq!(passing.await.expect("it ends"), Passed::All);
            assert!(got == expected, "with {pieces} bytes of pieces");
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_lets_go_once_another_waits() {
        let (outlet, mut receiver) = outlet(1 << 20, 1 << 20);
        let reading = outlet.reading.clone();
        let held = reading.try_take(1 << 20);
        let passing = tokio::spawn(async move {
            let passed = outlet.pass(&[7; 4 << 20]).await;
            drop(held);
            (passed, outlet)
        });
        tokio::time::sleep(3 * PATIENCE).await;
        assert!(!passing.is_finished(), "nobody else waits");
        // Only ends if the other lets go.
        drop(reading.take(1).await);
        let (passed, outlet) = passing.await.expect("it ends");
        assert_eq!(passed, Passed::Some(WAITING * PIECE));
        assert!(receiver.recv().await.is_some());
        assert!(outlet.goes_on().await);
        drop(receiver);
        assert!(!outlet.goes_on().await);
        assert_eq!(outlet.pass(&[7; 9]).await, Passed::Gone);
    }

    #[tokio::test]
    async fn what_waits_for_clients_is_bounded_over_all_of_them() {
        let (first, _first) = outlet(1 << 10, 1 << 20);
        let mut others = Vec::new();
        let waits = first.reading.clone();
        let _held = waits.try_take(1 << 10);
        let waiting = tokio::spawn({
            let waits = waits.clone();
            async move { waits.take(1).await }
        });
        let mut passed = 0;
        for _ in 0..40 {
            let (sender, receiver) = mpsc::channel(WAITING);
            let outlet = Outlet { sender, reading: waits.clone(), pieces: first.pieces.clone() };
            match outlet.pass(&[7; 4 << 20]).await {
                Passed::Some(bytes) => passed += bytes,
                other => panic!("{other:?}"),
            }
            others.push((outlet, receiver));
        }
        assert!(passed <= (1 << 20) + 40 * WAITING * SMALL_PIECE, "{passed} bytes wait for 40 clients");
        waiting.abort();
    }
}
