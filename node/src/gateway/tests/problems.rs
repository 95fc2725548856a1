//! What goes wrong, and how it is told.

use std::time::Duration;

use futures::StreamExt as _;
use kepler_protocol::chunk::{ChunkId, Codec};

use super::client::{Gateway, p};
use super::fake::Fake;
use crate::gateway::Config;
use crate::service::{BodyError, Files as _, ReadError, WriteError};

#[tokio::test]
async fn each_failed_write_has_its_status_and_type() {
    let gateway = Gateway::start(Config::default()).await;
    let secret = || anyhow::anyhow!("/var/secret/path").context("open database");
    let cases = [
        (WriteError::NotReady("waiting".into()), p(503, "not-ready")),
        (WriteError::NoQuorum { answered: 1, needed: 2 }, p(503, "no-quorum")),
        (WriteError::Unknown { version: Fake::dot(7), answered: 1, needed: 2 }, p(503, "unknown")),
        (WriteError::PreconditionFailed { head: None }, p(412, "precondition-failed")),
        (WriteError::NotFound("f".into()), p(404, "not-found")),
        (WriteError::TooManyConflicts("f".parse().unwrap()), p(409, "too-many-conflicts")),
        (WriteError::DiskFull { free: 1, reserve: 2 }, p(507, "disk-full")),
        (WriteError::Body(BodyError::Broken("x".into())), p(400, "broken-upload")),
        (WriteError::Body(BodyError::Idle(Duration::from_secs(1))), p(408, "timeout")),
        (
            WriteError::Body(BodyError::Slow { received: 1, waited: Duration::from_secs(9) }),
            p(408, "timeout"),
        ),
        (WriteError::Body(BodyError::TooLarge(1)), p(413, "too-large")),
        (WriteError::Read(ReadError::NoQuorum { answered: 0, needed: 2 }), p(503, "no-quorum")),
        (WriteError::Store(secret()), p(500, "internal")),
    ];
    for (error, problem) in cases {
        let shown = format!("{error:?}");
        *gateway.files.fail_write.lock().unwrap() = Some(error);
        let answer = gateway.put("/v1/files/f", "x").await;
        assert_eq!(answer.problem(), problem, "{shown}");
        let json = answer.json();
        assert!(!json["detail"].as_str().unwrap().contains("secret"), "{json}");
        match problem.1.as_str() {
            "no-quorum" | "unknown" => assert_eq!(json["needed"], 2),
            _ => assert_eq!(json.get("needed"), None),
        }
        if problem.1 == "unknown" {
            assert_eq!(answer.header("kepler-version"), Some("node-a.00000000000000ab.7"));
        }
    }
    assert!(gateway.files.names().is_empty());
}

#[tokio::test]
async fn each_failed_read_has_its_status_and_type() {
    let gateway = Gateway::start(Config::default()).await;
    let cases = [
        (ReadError::NotReady("waiting".into()), p(503, "not-ready")),
        (ReadError::NotFound("f".into()), p(404, "not-found")),
        (ReadError::NoQuorum { answered: 1, needed: 2 }, p(503, "no-quorum")),
        (ReadError::ChunkUnavailable(ChunkId::of(Codec::Raw, b"")), p(503, "chunk-unavailable")),
        (
            ReadError::FileUnavailable { name: "f".parse().unwrap(), chunk: ChunkId::of(Codec::Raw, b"") },
            p(503, "chunk-unavailable"),
        ),
        (ReadError::Manifest("cycle".into()), p(500, "internal")),
        (ReadError::Store(anyhow::anyhow!("disk")), p(500, "internal")),
    ];
    for (error, problem) in cases {
        let shown = format!("{error:?}");
        *gateway.files.fail_read.lock().unwrap() = Some(error);
        assert_eq!(gateway.get("/v1/files/f").await.problem(), problem, "{shown}");
    }
}

#[tokio::test]
async fn a_chunk_that_nobody_has_is_told_with_the_name_of_the_file() {
    let gateway = Gateway::start(Config::default()).await;
    gateway.put("/v1/files/a/doomed", "x").await;
    *gateway.files.break_after.lock().unwrap() = Some(0);
    // The first piece is an empty one.
    let answer = gateway.files.open(&"a/doomed".parse().unwrap(), None).await.unwrap();
    let pieces: Vec<_> = answer.read(0..1).collect().await;
    let error = pieces.last().unwrap().as_ref().unwrap_err().to_string();
    assert!(error.starts_with("a/doomed cannot be read"), "{error}");
}

#[tokio::test]
async fn a_name_has_one_spelling_on_the_wire() {
    let gateway = Gateway::start(Config::default()).await;
    for path in ["a%2Fb", "a/", "", "a//b", "../b", "%2e%2e/b", "%", "%zz", "%ff", "a%00b", "a%0d%0ab"] {
        for method in ["PUT", "GET", "DELETE"] {
            let head = format!("{method} /v1/files/{path} HTTP/1.1");
            assert_eq!(gateway.send(&head, "").await.problem(), p(400, "bad-name"), "{method} {path}");
        }
    }
    let long = "x".repeat(1025);
    assert_eq!(gateway.put(&format!("/v1/files/{long}"), "").await.problem(), p(400, "bad-name"));
    let longest = "%78".repeat(1024);
    assert_eq!(gateway.put(&format!("/v1/files/{longest}"), "").await.status, 200);
    assert_eq!(gateway.files.names(), ["x".repeat(1024)]);
}

#[tokio::test]
async fn what_cannot_be_stored_as_sent_is_refused() {
    let gateway = Gateway::start(Config::default()).await;
    let cases = [
        ("?durability=most", "", p(400, "bad-parameter")),
        ("?durabilty=all", "", p(400, "bad-parameter")),
        ("?durability=all&durability=fast", "", p(400, "bad-parameter")),
        ("", "\r\nContent-Type: nonsense", p(400, "bad-parameter")),
        ("", "\r\nContent-Range: bytes 0-1/2", p(400, "bad-parameter")),
        ("", "\r\nContent-Encoding: gzip", p(415, "unsupported-encoding")),
        ("", "\r\nContent-Length: 9000000000000000000", p(413, "too-large")),
    ];
    for (query, headers, problem) in cases {
        let head = format!("PUT /v1/files/f{query} HTTP/1.1{headers}");
        assert_eq!(gateway.send(&head, "x").await.problem(), problem, "{head}");
    }
    assert_eq!(gateway.get("/v1/files/f?version=1").await.problem(), p(400, "bad-parameter"));
    assert_eq!(gateway.get("/v1/files/f?download=yes").await.problem(), p(400, "bad-parameter"));
    assert!(gateway.files.names().is_empty());
}

#[tokio::test]
async fn routing_knows_paths_and_methods() {
    let gateway = Gateway::start(Config::default()).await;
    for path in ["/nothing", "/v1", "/v1/cluster/", "/v2/files/a", "/v1/FILES"] {
        assert_eq!(gateway.get(path).await.problem(), p(404, "not-found"), "{path}");
    }
    for (method, path, allow) in [
        ("POST", "/v1/files/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/files/a", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/v1/files/a", "GET, HEAD, PUT, DELETE"),
        ("DELETE", "/v1/files", "GET, HEAD, POST"),
        ("GET", "/v1/copy", "POST"),
        ("PUT", "/", "GET, HEAD"),
        ("HEAD", "/v1/events", "GET"),
    ] {
        let answer = gateway.send(&format!("{method} {path} HTTP/1.1\r\nKepler-Client: x"), "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    for route in crate::gateway::route::Route::ALL {
        let path = route.pattern().replace("{name}", "a").replace("{cid}", "a").replace("{node}", "a");
        for method in ["GET", "PUT", "POST", "DELETE"] {
            let taken = route.allow().split(", ").any(|m| m == method);
            let head = format!("{method} {path} HTTP/1.1\r\nKepler-Client: x");
            if path == "/v1/events" && taken {
                continue; // It never ends.
            }
            let status = gateway.send(&head, "").await.status;
            assert_eq!(status != 405, taken, "{head}");
        }
    }
}
