//! Connections: slow, broken, too many, and at the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use super::client::{Gateway, p};
use super::fake::eventually;
use crate::gateway::{Config, Limits};

const SHORT: Duration = Duration::from_millis(150);

async fn with(limits: Limits) -> Gateway {
    Gateway::start(Config { limits, ..Config::default() }).await
}

async fn usual() -> Gateway {
    with(Limits::default()).await
}

#[tokio::test]
async fn a_half_sent_request_is_closed_on_time_however_it_trickles() {
    let gateway = with(Limits { head_deadline: 2 * SHORT, ..Limits::default() }).await;
    let started = Instant::now();
    let mut half = gateway.connect().await;
    half.raw("GET /v1/ring HTTP/1.1\r\nHost: local").await;
    let mut trickle = gateway.connect().await;
    let mut silent = gateway.connect().await;
    for byte in b"GET /v1/ring HTTP/1.1" {
        trickle.raw([*byte]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for client in [&mut half, &mut trickle] {
        assert_eq!(client.answer(false).await.unwrap().problem(), p(408, "timeout"));
        client.rest().await.unwrap();
    }
    assert_eq!(silent.rest().await.unwrap(), "");
    assert!(started.elapsed() >= 2 * SHORT);
    drop((half, trickle));
    eventually("no connection is left", || gateway.metrics.http.connections.get() == 0).await;
}

#[tokio::test]
async fn a_connection_is_used_again_until_it_idles() {
    let gateway = with(Limits { head_deadline: SHORT, ..Limits::default() }).await;
    let mut client = gateway.connect().await;
    for i in 0..3 {
        client.request(&format!("PUT /v1/files/f{i} HTTP/1.1"), "x").await;
        assert_eq!(client.answer(false).await.unwrap().status, 200);
    }
    client.request("GET /v1/files/f0 HTTP/1.1", "").await;
    client.request("GET /v1/files/f1 HTTP/1.1", "").await;
    assert_eq!(client.answer(false).await.unwrap().body, b"x");
    assert_eq!(client.answer(false).await.unwrap().body, b"x");
    assert_eq!(client.rest().await.unwrap(), "", "an idle connection ends without a word");
}

#[tokio::test]
async fn what_is_no_http_is_told_so() {
    let gateway = usual().await;
    let mut client = gateway.connect().await;
    client.raw(b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n").await;
    assert_eq!(client.answer(false).await.unwrap().problem(), p(400, "bad-parameter"));
    client.rest().await.unwrap();
    let many = "\r\nX: y".repeat(200);
    assert_eq!(
        gateway.send(&format!("GET / HTTP/1.1{many}"), "").await.problem(),
        p(431, "headers-too-large")
    );
    for size in [40 << 10, 1 << 20] {
        let large = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(size));
        assert_eq!(gateway.send(&large, "").await.problem(), p(431, "headers-too-large"), "{size}");
    }
    let long = format!("GET /{} HTTP/1.1", "y".repeat(70_000));
    assert_eq!(gateway.send(&long, "").await.problem(), p(414, "uri-too-long"));
    assert_eq!(gateway.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_stalled_upload_ends_and_stores_nothing() {
    let gateway = with(Limits { body_idle: SHORT, ..Limits::default() }).await;
    let mut client = gateway.connect().await;
    client.request("PUT /v1/files/f HTTP/1.1\r\nContent-Length: 100", "half").await;
    assert_eq!(client.answer(false).await.unwrap().problem(), p(408, "timeout"));
    client.rest().await.unwrap();
    assert!(gateway.files.names().is_empty());
}

#[tokio::test]
async fn an_endlessly_slow_upload_ends_although_it_is_never_silent() {
    let limits = Limits { body_slow_grace: SHORT, body_min_bytes_per_second: 1 << 20, ..Limits::default() };
    let gateway = with(limits).await;
    let mut client = gateway.connect().await;
    client.request("PUT /v1/files/f HTTP/1.1\r\nContent-Length: 100000", "").await;
    let started = Instant::now();
    while started.elapsed() < 3 * SHORT {
        use tokio::io::AsyncWriteExt;
        drop(client.stream.write_all(b"x").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(client.answer(false).await.unwrap().problem(), p(408, "timeout"));
    assert!(gateway.files.names().is_empty());
}

#[tokio::test]
async fn an_upload_that_breaks_off_stores_nothing() {
    let gateway = usual().await;
    for body in [
        "Content-Length: 100\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nha",
    ] {
        let mut client = gateway.connect().await;
        client.raw(format!("PUT /v1/files/f HTTP/1.1\r\nHost: localhost\r\n{body}")).await;
        eventually("the upload began", || gateway.metrics.http.in_flight.get() == 1).await;
        drop(client);
        eventually("the upload ended", || gateway.metrics.http.in_flight.get() == 0).await;
        eventually("its slot is free", || gateway.metrics.http.connections.get() == 0).await;
    }
    // A write shut down on the client's side alone is no end either.
    let mut client = gateway.connect().await;
    client.request("PUT /v1/files/f HTTP/1.1\r\nContent-Length: 100", "half").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    drop(client.rest().await);
    assert!(gateway.files.names().is_empty(), "{:?}", gateway.files.names());
}

#[tokio::test]
async fn a_write_whose_client_leaves_is_finished_all_the_same() {
    let gateway = usual().await;
    let hold = Arc::new(Notify::new());
    *gateway.files.hold.lock().unwrap() = Some(Arc::clone(&hold));
    let mut client = gateway.connect().await;
    client.request("PUT /v1/files/f HTTP/1.1", "whole").await;
    eventually("the body has come", || gateway.metrics.http.bytes_in.get() == 5).await;
    drop(client);
    eventually("the client is gone", || gateway.metrics.http.connections.get() == 0).await;
    hold.notify_one();
    eventually("the file is there", || gateway.files.bytes("f").is_some()).await;
}

#[tokio::test]
async fn a_client_that_expects_it_is_told_to_continue() {
    let gateway = usual().await;
    let mut client = gateway.connect().await;
    client.request("PUT /v1/files/f HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue", "").await;
    assert_eq!(client.answer(false).await.unwrap().status, 100);
    client.raw("hello").await;
    assert_eq!(client.answer(false).await.unwrap().status, 200);
    let mut client = gateway.connect().await;
    client.request("PUT /v1/files/a%2Fb HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue", "").await;
    assert_eq!(client.answer(false).await.unwrap().status, 400, "no body is asked for in vain");
}

#[tokio::test]
async fn an_answer_to_an_upload_reaches_a_client_that_is_still_sending() {
    let gateway = usual().await;
    for _ in 0..20 {
        let answer = gateway.put("/v1/files/a%2Fb", vec![0; 2 << 20]).await;
        assert_eq!(answer.problem(), p(400, "bad-name"));
    }
}

#[tokio::test]
async fn a_download_that_fails_midway_aborts_the_connection() {
    let gateway = usual().await;
    gateway.put("/v1/files/f", vec![7; 1 << 20]).await;
    *gateway.files.break_after.lock().unwrap() = Some(300 << 10);
    for range in ["", "\r\nRange: bytes=1-1000000"] {
        let mut client = gateway.connect().await;
        client.request(&format!("GET /v1/files/f HTTP/1.1{range}"), "").await;
        let error = client.answer(false).await.unwrap_err();
        assert!(error.contains("reset") || error.contains(" of "), "{error}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let gateway = with(Limits { write_idle: SHORT, ..Limits::default() }).await;
    gateway.put("/v1/files/f", vec![7; 32 << 20]).await;
    let mut client = gateway.connect().await;
    client.request("GET /v1/files/f HTTP/1.1", "").await;
    eventually("the download began", || gateway.metrics.http.bytes_out.get() > 1 << 20).await;
    eventually("it was cut off", || gateway.metrics.http.connections.get() == 0).await;
    let sent = gateway.metrics.http.bytes_out.get();
    assert!(sent < 32 << 20, "{sent} bytes were taken for a client that read none");
    let mut came = Vec::new();
    drop(client.stream.read_to_end(&mut came).await);
    assert!(came.len() < 32 << 20);
}

#[tokio::test]
async fn one_connection_too_many_is_told_and_others_go_on() {
    let gateway = with(Limits { max_connections: 2, ..Limits::default() }).await;
    let mut first = gateway.connect().await;
    let second = gateway.connect().await;
    eventually("both are served", || gateway.metrics.http.connections.get() == 2).await;
    let mut third = gateway.connect().await;
    assert_eq!(third.answer(false).await.unwrap().problem(), p(503, "overloaded"));
    assert_eq!(gateway.metrics.http.connections_refused.get(), 1);
    first.request("GET /healthz HTTP/1.1", "").await;
    assert_eq!(first.answer(false).await.unwrap().status, 200);
    drop(second);
    eventually("one has left", || gateway.metrics.http.connections.get() == 1).await;
    assert_eq!(gateway.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn one_upload_too_many_is_asked_to_come_back() {
    let gateway = with(Limits { max_uploads: 1, ..Limits::default() }).await;
    let mut first = gateway.connect().await;
    first.request("PUT /v1/files/a HTTP/1.1\r\nContent-Length: 2", "x").await;
    eventually("the first runs", || gateway.metrics.http.bytes_in.get() == 1).await;
    let refused = gateway.put("/v1/files/b", "x").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    first.raw("y").await;
    assert_eq!(first.answer(false).await.unwrap().status, 200);
    assert_eq!(gateway.put("/v1/files/b", "x").await.status, 200);
}

#[tokio::test]
async fn a_stopping_gateway_finishes_what_runs_and_takes_nothing_new() {
    let gateway = usual().await;
    let mut idle = gateway.connect().await;
    let mut upload = gateway.connect().await;
    upload.request("PUT /v1/files/f HTTP/1.1\r\nContent-Length: 10", "first").await;
    eventually("the upload runs", || gateway.metrics.http.bytes_in.get() == 5).await;
    gateway.stop.cancel();
    assert_eq!(idle.rest().await.unwrap(), "", "an idle connection is closed at once");
    eventually("nobody is let in", || std::net::TcpStream::connect(gateway.addr).is_err()).await;
    upload.raw("-last").await;
    assert_eq!(upload.answer(false).await.unwrap().status, 200);
    gateway.task.await.unwrap().unwrap();
    assert_eq!(gateway.files.bytes("f").unwrap(), "first-last");
}

#[tokio::test]
async fn a_stopping_gateway_waits_no_longer_than_its_deadline() {
    let gateway = with(Limits { drain: SHORT, ..Limits::default() }).await;
    let mut upload = gateway.connect().await;
    upload.request("PUT /v1/files/f HTTP/1.1\r\nContent-Length: 10", "first").await;
    eventually("the upload runs", || gateway.metrics.http.bytes_in.get() == 5).await;
    gateway.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), gateway.task).await.unwrap().unwrap().unwrap();
    assert!(upload.answer(false).await.is_err());
    assert!(gateway.files.names().is_empty());
}
