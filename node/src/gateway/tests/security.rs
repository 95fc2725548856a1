//! Strangers: foreign hosts and pages, missing tokens, files that want to be pages.

use super::client::{Answer, Gateway, p};
use crate::config::{Anonymous, ApiTokens};
use crate::gateway::{Access, Config, Door};

const TOKEN: &str = "0123456789abcdef";

async fn with_access(tokens: &[&str], anonymous: Anonymous) -> Gateway {
    let access = Access { tokens: ApiTokens::parse(tokens.iter().copied()).unwrap(), anonymous }.into();
    let hosts = vec!["kepler.example".parse().unwrap(), "10.0.0.7".parse().unwrap()];
    Gateway::start(Config { hosts, access, ..Config::default() }).await
}

#[tokio::test]
async fn a_foreign_host_is_turned_away() {
    let gateway = with_access(&[], Anonymous::None).await;
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:3000",
        "127.9.9.9",
        "[::1]:3000",
        "kepler.example:80",
        "10.0.0.7",
    ] {
        let answer = gateway.send(&format!("GET /v1/ring HTTP/1.1\r\nHost: {host}"), "").await;
        assert_eq!(answer.status, 200, "{host}");
    }
    for host in ["evil.example", "kepler.example.evil", "10.0.0.8:3000", "localhost.evil", "[2001:db8::1]"] {
        for path in ["/v1/ring", "/", "/healthz", "/nothing"] {
            let answer = gateway.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}"), "").await;
            assert_eq!(answer.problem(), p(421, "foreign-host"), "{host} {path}");
        }
    }
    let target = gateway.send("GET http://evil.example/v1/ring HTTP/1.1\r\nHost: evil.example", "").await;
    assert_eq!(target.status, 421);
    for host in
        ["\r\nHost: localhost\r\nHost: localhost", "\r\nHost: ", "\r\nHost: a b", "\r\nHost: localhost:x"]
    {
        let answer = gateway.send(&format!("GET /v1/ring HTTP/1.1{host}"), "").await;
        assert_eq!(answer.problem(), p(400, "bad-parameter"), "{host}");
    }
    let mut bare = gateway.connect().await;
    bare.raw("GET /v1/ring HTTP/1.1\r\n\r\n").await;
    assert_eq!(bare.answer(false).await.unwrap().status, 400);
    let mixed = gateway.send("GET http://localhost/v1/ring HTTP/1.1\r\nHost: evil.example", "").await;
    assert_eq!(mixed.status, 400);
}

#[tokio::test]
async fn a_page_of_a_foreign_origin_is_turned_away() {
    let gateway = with_access(&[], Anonymous::None).await;
    let send = async |method: &str, origin: &str| -> Answer {
        let head = format!(
            "{method} /v1/files/f HTTP/1.1\r\nHost: localhost:3000\r\nKepler-Client: x\r\nOrigin: {origin}"
        );
        gateway.send(&head, "").await
    };
    for origin in [
        "https://evil.example",
        "null",
        "http://localhost",
        "http://localhost:8080",
        "http://127.0.0.1:3000",
        "",
    ] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "POST"] {
            let answer = send(method, origin).await;
            assert_eq!(answer.problem(), p(403, "foreign-origin"), "{method} {origin:?}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert_eq!(send("PUT", "http://localhost:3000").await.status, 200);
    let default_port =
        "PUT /v1/files/g HTTP/1.1\r\nHost: kepler.example\r\nOrigin: https://kepler.example:443";
    assert_eq!(gateway.send(default_port, "").await.status, 200);
    assert_eq!(gateway.files.names(), ["f", "g"]);
}

#[tokio::test]
async fn a_post_needs_a_header_that_no_foreign_page_can_send() {
    let gateway = with_access(&[], Anonymous::None).await;
    gateway.put("/v1/files/a", "x").await;
    let body = r#"{"from":"a","to":"b"}"#;
    let plain = gateway.send("POST /v1/copy HTTP/1.1\r\nContent-Type: text/plain", body).await;
    assert_eq!(plain.problem(), p(403, "client-header-missing"));
    assert_eq!(gateway.send("POST /v1/copy HTTP/1.1\r\nKepler-Client: curl", body).await.status, 200);
    let gateway = with_access(&[TOKEN], Anonymous::None).await;
    gateway.send(&format!("PUT /v1/files/a HTTP/1.1\r\nAuthorization: Bearer {TOKEN}"), "x").await;
    let head = format!("POST /v1/copy HTTP/1.1\r\nAuthorization: Bearer {TOKEN}");
    assert_eq!(gateway.send(&head, body).await.status, 200);
}

#[tokio::test]
async fn with_tokens_every_call_but_the_public_ones_needs_one() {
    let second = "fedcba9876543210";
    let gateway = with_access(&[TOKEN, second], Anonymous::None).await;
    for path in ["/v1/files", "/v1/files/f", "/v1/ring", "/metrics", "/v1/events", "/nothing", "/ipfs/x"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.problem(), p(401, "unauthorized"), "{path}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer "));
    }
    for path in ["/", "/files/a", "/healthz", "/readyz"] {
        assert_eq!(gateway.get(path).await.status, 200, "{path}");
    }
    assert_eq!(gateway.get("/_app/none.js").await.problem(), p(404, "not-found"));
    // Where the members are is not for everybody.
    let policy = gateway.get("/").await.header("content-security-policy").unwrap_or_default().to_owned();
    assert!(!policy.contains("http://"), "{policy}");
    for token in [TOKEN, second] {
        let head = format!("GET /v1/ring HTTP/1.1\r\nAuthorization: bearer  {token}");
        assert_eq!(gateway.send(&head, "").await.status, 200);
    }
    for value in [format!("Bearer {TOKEN}x"), format!("Basic {TOKEN}"), "Bearer".to_owned(), TOKEN.to_owned()]
    {
        let head = format!("GET /v1/ring HTTP/1.1\r\nAuthorization: {value}");
        assert_eq!(gateway.send(&head, "").await.status, 401, "{value}");
    }
    let twice = format!("GET /v1/ring HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nAuthorization: Bearer x");
    assert_eq!(gateway.send(&twice, "").await.status, 401);
    let put = gateway.put("/v1/files/f", vec![0; 1 << 20]).await;
    assert_eq!(put.problem(), p(401, "unauthorized"));
    assert!(gateway.files.names().is_empty());
}

#[tokio::test]
async fn anonymous_reads_are_no_writes() {
    for tokens in [&[][..], &[TOKEN]] {
        let gateway = with_access(tokens, Anonymous::Read).await;
        assert_eq!(gateway.get("/v1/ring").await.status, 200);
        assert_eq!(gateway.send("HEAD /v1/files HTTP/1.1", "").await.status, 200);
        for method in ["PUT", "DELETE", "POST"] {
            let head = format!("{method} /v1/files/f HTTP/1.1\r\nKepler-Client: x");
            assert_eq!(gateway.send(&head, "").await.problem(), p(401, "unauthorized"), "{method}");
        }
        if !tokens.is_empty() {
            let head = format!("PUT /v1/files/f HTTP/1.1\r\nAuthorization: Bearer {TOKEN}");
            assert_eq!(gateway.send(&head, "").await.status, 200);
            let wrong = "GET /v1/ring HTTP/1.1\r\nAuthorization: Bearer wrong";
            assert_eq!(gateway.send(wrong, "").await.status, 401);
        }
    }
}

#[tokio::test]
async fn a_link_reads_its_file_without_a_token_and_does_nothing_else() {
    let access = || Access { tokens: ApiTokens::parse([TOKEN]).unwrap(), anonymous: Anonymous::None };
    let door: Door = access().into();
    let gateway = Gateway::start(Config { access: door.clone(), ..Config::default() }).await;
    let bearer = format!("\r\nAuthorization: Bearer {TOKEN}");
    for name in ["a%20b", "c"] {
        gateway.send(&format!("PUT /v1/files/{name} HTTP/1.1{bearer}"), "0123456789").await;
    }
    let link = async |body: &str| {
        let answer = gateway.send(&format!("POST /v1/links HTTP/1.1{bearer}"), body).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
        answer.json()["url"].as_str().unwrap().to_owned()
    };
    let url = link(r#"{"name":"a b"}"#).await;
    assert!(url.starts_with("/v1/files/a%20b?ticket=") && !url.contains(TOKEN), "{url}");
    let got = gateway.send(&format!("GET {url} HTTP/1.1\r\nRange: bytes=2-4"), "").await;
    assert_eq!((got.status, got.body.as_slice()), (206, &b"234"[..]));
    assert!(got.header("cache-control").unwrap().starts_with("private"));
    assert_eq!(gateway.send(&format!("HEAD {url} HTTP/1.1"), "").await.status, 200);
    let saved = gateway.get(&link(r#"{"name":"c","download":true}"#).await).await;
    assert!(saved.header("content-disposition").unwrap().starts_with("attachment;"));
    let version = saved.header("etag").unwrap().trim_matches('"').to_owned();
    let of_version = link(&format!(r#"{{"name":"c","version":"{version}"}}"#)).await;
    assert_eq!(gateway.get(&of_version).await.status, 200);

    // Neither another verb, file, version nor call; and no page of others.
    let ticket = url.split_once("ticket=").unwrap().1;
    for (method, path) in [
        ("PUT", url.clone()),
        ("DELETE", url.clone()),
        ("GET", format!("/v1/files/c?ticket={ticket}")),
        ("GET", format!("{url}&version={version}")),
        ("GET", of_version.split("&version=").next().unwrap().to_owned()),
        ("GET", format!("/v1/stat/a%20b?ticket={ticket}")),
        ("GET", format!("/v1/files?ticket={ticket}")),
        ("GET", format!("{url}0")),
        ("GET", format!("{url}&ticket={ticket}")),
        ("POST", "/v1/links".to_owned()),
    ] {
        let answer = gateway.send(&format!("{method} {path} HTTP/1.1\r\nKepler-Client: x"), "").await;
        assert_eq!(answer.problem(), p(401, "unauthorized"), "{method} {path}");
    }
    let foreign = gateway
        .send(&format!("GET {url} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example"), "")
        .await;
    assert_eq!(foreign.problem(), p(403, "foreign-origin"));
    let wrong = gateway.send(&format!("GET {url} HTTP/1.1\r\nAuthorization: Bearer wrong"), "").await;
    assert_eq!(wrong.status, 401, "a wrong token is not made good by a ticket");
    for body in ["", r#"{"name":"/"}"#, r#"{"name":"a","version":"1"}"#, r#"{"name":"a","until":9}"#] {
        let answer = gateway.send(&format!("POST /v1/links HTTP/1.1{bearer}"), body).await;
        assert_eq!(answer.status, 400, "{body}");
    }
    // Tickets end with the tokens they were drawn with.
    door.set(access());
    assert_eq!(gateway.get(&url).await.status, 401);
}

#[tokio::test]
async fn files_never_become_pages_of_this_origin() {
    let gateway = with_access(&[], Anonymous::None).await;
    for (content_type, inline) in [
        ("text/html", false),
        ("TEXT/HTML; charset=utf-8", false),
        ("image/svg+xml", false),
        ("application/xml", false),
        ("application/pdf", false),
        ("application/xhtml+xml", false),
        ("text/javascript", false),
        ("text/plain; charset=utf-8", true),
        ("image/png", true),
        ("video/mp4", true),
    ] {
        gateway.send(&format!("PUT /v1/files/f HTTP/1.1\r\nContent-Type: {content_type}"), "x").await;
        let got = gateway.get("/v1/files/f").await;
        let disposition = got.header("content-disposition").unwrap();
        assert_eq!(disposition.starts_with("inline;"), inline, "{content_type}: {disposition}");
        assert_eq!(got.header("content-type"), Some(content_type));
        assert!(got.header("content-security-policy").unwrap().starts_with("sandbox"));
        assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(got.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(got.header("cross-origin-resource-policy"), Some("same-origin"));
    }
}
