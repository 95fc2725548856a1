//! From a TCP socket to streams of a peer that has proved itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::PeerId;
use libp2p::{Transport, tcp};

use super::counters::Counters;
use super::muxer::Yamux;
use super::tls::Tls;

/// What TLS reads from the kernel at once: sixteen records instead of one.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// TCP, counted, buffered, encrypted, multiplexed; all within `handshake`.
pub(super) fn build(
    tls: Tls,
    counters: Arc<Counters>,
    handshake: Duration,
) -> Boxed<(PeerId, StreamMuxerBox)> {
    tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |socket, _| {
            BufReader::with_capacity(READ_BUFFER_BYTES, Counted { socket, counters: counters.clone() })
        })
        .upgrade(Version::V1)
        .authenticate(tls)
        .multiplex(Yamux)
        .timeout(handshake)
        .boxed()
}

/// A socket whose bytes are counted.
struct Counted<S> {
    socket: S,
    counters: Arc<Counters>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if let Poll::Ready(Ok(n)) = polled {
            self.counters.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = polled {
            self.counters.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(n)) = polled {
            self.counters.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
