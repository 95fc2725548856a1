//! What each call does when all is well.

use kepler_protocol::api;
use kepler_protocol::catalog::command::Consistency;

use super::client::{Gateway, p};
use crate::gateway::{Config, Limits};

async fn gateway() -> Gateway {
    Gateway::start(Config::default()).await
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out_with_everything_known_of_it() {
    let gateway = gateway().await;
    let put = gateway
        .send("PUT /v1/files/a%20b/%C3%A9+.txt?durability=all HTTP/1.1\r\nContent-Type: text/plain", "hello")
        .await;
    assert_eq!(put.status, 200, "{put:?}");
    let receipt: api::Receipt = serde_json::from_value(put.json()).unwrap();
    assert_eq!((receipt.name.as_str(), receipt.size), ("a b/é+.txt", 5));
    assert_eq!(receipt.durability, api::Durability::All);
    assert_eq!(put.header("location"), Some("/v1/files/a%20b/%C3%A9+.txt"));
    assert_eq!(put.header("kepler-cid"), Some(receipt.cid.to_string().as_str()));
    let etag = format!("\"{}\"", receipt.version);
    assert_eq!(put.header("etag"), Some(etag.as_str()));

    for method in ["GET", "HEAD"] {
        let got = gateway.send(&format!("{method} /v1/files/a%20b/%C3%A9%2B.txt HTTP/1.1"), "").await;
        assert_eq!(got.status, 200);
        assert_eq!(got.body, if method == "GET" { b"hello".to_vec() } else { vec![] });
        for (name, value) in [
            ("content-length", "5"),
            ("content-type", "text/plain"),
            ("etag", &etag),
            ("last-modified", "Tue, 29 Feb 2000 12:34:56 GMT"),
            ("accept-ranges", "bytes"),
            ("kepler-cid", &receipt.cid.to_string()),
            ("kepler-consistency", "majority"),
            ("content-security-policy", "sandbox; default-src 'none'"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
            ("content-disposition", "inline; filename=\"_+.txt\"; filename*=UTF-8''%C3%A9+.txt"),
        ] {
            assert_eq!(got.header(name), Some(value), "{method} {name}");
        }
        assert_eq!(got.header("kepler-conflicts"), None);
        assert_eq!(got.header("access-control-allow-origin"), None);
    }
    let saved = gateway.get("/v1/files/a%20b/%C3%A9+.txt?download=1").await;
    assert!(saved.header("content-disposition").unwrap().starts_with("attachment;"));

    *gateway.files.marks.lock().unwrap() = (2, Consistency::Local);
    let got = gateway.get(&format!("/v1/files/a%20b/%C3%A9+.txt?version={}", receipt.version)).await;
    assert_eq!(got.header("kepler-conflicts"), Some("2"));
    assert_eq!(got.header("kepler-consistency"), Some("local"));

    let delete = "DELETE /v1/files/a%20b/%C3%A9+.txt HTTP/1.1";
    assert_eq!(gateway.send(delete, "").await.status, 204);
    assert_eq!(gateway.send(delete, "").await.problem(), p(404, "not-found"));
}

#[tokio::test]
async fn empty_and_large_files_survive_both_framings() {
    let gateway = gateway().await;
    let large: Vec<u8> = (0..3_000_001_u32).map(|i| (i % 251) as u8).collect();
    for (name, bytes) in [("empty", &b""[..]), ("large", &large)] {
        assert_eq!(gateway.put(&format!("/v1/files/{name}"), bytes).await.status, 200);
        let got = gateway.get(&format!("/v1/files/{name}")).await;
        assert_eq!(got.header("content-length"), Some(bytes.len().to_string().as_str()));
        assert!(got.body == bytes, "{name}");

        let mut chunked = Vec::new();
        for piece in bytes.chunks(100_000) {
            chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let head = format!("PUT /v1/files/{name}-chunked HTTP/1.1\r\nTransfer-Encoding: chunked");
        assert_eq!(gateway.send(&head, &chunked).await.status, 200);
        assert!(gateway.files.bytes(&format!("{name}-chunked")).unwrap() == bytes);
    }
}

#[tokio::test]
async fn ranges_are_single_or_whole() {
    let gateway = gateway().await;
    gateway.put("/v1/files/f", "0123456789").await;
    let etag = gateway.get("/v1/files/f").await.header("etag").unwrap().to_owned();
    let cases = [
        ("bytes=0-3", 206, "0123", Some("bytes 0-3/10")),
        ("bytes=4-", 206, "456789", Some("bytes 4-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=8-99", 206, "89", Some("bytes 8-9/10")),
        ("bytes=-99", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=0-1,3-4", 200, "0123456789", None),
        ("lines=1-2", 200, "0123456789", None),
    ];
    for (range, status, body, content_range) in cases {
        let got = gateway.send(&format!("GET /v1/files/f HTTP/1.1\r\nRange: {range}"), "").await;
        assert_eq!((got.status, got.body.as_slice()), (status, body.as_bytes()), "{range}");
        assert_eq!(got.header("content-range"), content_range, "{range}");
    }
    for range in ["bytes=10-", "bytes=-0", "bytes=5-4", "bytes=x", "bytes=", "bytes=99999999999999999999-"] {
        let got = gateway.send(&format!("GET /v1/files/f HTTP/1.1\r\nRange: {range}"), "").await;
        assert_eq!(got.problem(), p(416, "range-not-satisfiable"), "{range}");
        assert_eq!(got.header("content-range"), Some("bytes */10"));
    }
    let head = gateway.send("HEAD /v1/files/f HTTP/1.1\r\nRange: bytes=0-1", "").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    for (if_range, status) in
        [(etag.as_str(), 206), ("\"other\"", 200), ("Tue, 29 Feb 2000 12:34:56 GMT", 200)]
    {
        let head = format!("GET /v1/files/f HTTP/1.1\r\nRange: bytes=0-1\r\nIf-Range: {if_range}");
        assert_eq!(gateway.send(&head, "").await.status, status, "{if_range}");
    }
}

#[tokio::test]
async fn conditional_requests_are_answered_by_version() {
    let gateway = gateway().await;
    let put = |headers: &'static str| {
        let head = format!("PUT /v1/files/f HTTP/1.1{headers}");
        let gateway = &gateway;
        async move { gateway.send(&head, "x").await }
    };
    assert_eq!(put("\r\nIf-Match: *").await.problem(), p(412, "precondition-failed"));
    assert_eq!(put("\r\nIf-None-Match: *").await.status, 200);
    let refused = put("\r\nIf-None-Match: *").await;
    assert_eq!(refused.problem(), p(412, "precondition-failed"));
    let first = "\"node-a.00000000000000ab.1\"";
    assert_eq!(refused.header("etag"), Some(first));
    assert_eq!(put("\r\nIf-Match: \"node-a.00000000000000ab.1\"").await.status, 200);
    assert_eq!(put("\r\nIf-Match: \"node-a.00000000000000ab.1\"").await.status, 412);
    assert_eq!(put("\r\nIf-Match: \"x\"").await.status, 412);
    assert_eq!(put("\r\nIf-Match: W/\"node-a.00000000000000ab.2\"").await.status, 412);
    assert_eq!(put("\r\nIf-Match: \"x\", \"node-a.00000000000000ab.2\"").await.status, 200);
    assert_eq!(put("\r\nIf-Match: *").await.status, 200);
    for bad in ["\r\nIf-Match: x", "\r\nIf-None-Match: \"x\"", "\r\nIf-Match: *\r\nIf-None-Match: *"] {
        assert_eq!(put(bad).await.problem(), p(400, "bad-parameter"), "{bad}");
    }

    let etag = gateway.get("/v1/files/f").await.header("etag").unwrap().to_owned();
    let get = |headers: String| {
        let head = format!("GET /v1/files/f HTTP/1.1\r\n{headers}");
        let gateway = &gateway;
        async move { gateway.send(&head, "").await }
    };
    let same = get(format!("If-None-Match: \"x\", W/{etag}")).await;
    assert_eq!((same.status, same.header("etag")), (304, Some(etag.as_str())));
    for (headers, status) in [
        (format!("If-None-Match: {first}"), 200),
        ("If-None-Match: *".to_owned(), 304),
        (format!("If-Match: {etag}"), 200),
        (format!("If-Match: {first}"), 412),
        ("If-Modified-Since: Tue, 29 Feb 2000 12:34:56 GMT".to_owned(), 304),
        ("If-Modified-Since: Tue, 29 Feb 2000 12:34:55 GMT".to_owned(), 200),
        ("If-Modified-Since: yesterday".to_owned(), 200),
        ("If-Unmodified-Since: Tue, 29 Feb 2000 12:34:55 GMT".to_owned(), 412),
        (format!("If-None-Match: {first}\r\nIf-Modified-Since: Tue, 29 Feb 2000 12:34:56 GMT"), 200),
    ] {
        assert_eq!(get(headers.clone()).await.status, status, "{headers}");
    }

    let delete = format!("DELETE /v1/files/f HTTP/1.1\r\nIf-Match: {first}");
    assert_eq!(gateway.send(&delete, "").await.status, 412);
    let delete = format!("DELETE /v1/files/f HTTP/1.1\r\nIf-Match: {etag}");
    assert_eq!(gateway.send(&delete, "").await.status, 204);
}

#[tokio::test]
async fn listing_copying_moving_and_stat_speak_json() {
    let gateway = gateway().await;
    for name in ["a/1", "a/2", "a/3", "b"] {
        gateway.put(&format!("/v1/files/{name}"), "x").await;
    }
    let page: api::Listing =
        serde_json::from_value(gateway.get("/v1/files?prefix=a%2F&limit=2&delimiter=/").await.json())
            .unwrap();
    assert_eq!(page.files.len(), 2);
    assert_eq!(page.next.as_deref(), Some("a/2"));
    let page = gateway.get("/v1/files?prefix=a/&limit=2&after=a/2").await.json();
    assert_eq!((page["files"][0]["name"].as_str(), page.get("next")), (Some("a/3"), None));
    for bad in ["limit=0", "limit=1001", "limit=x", "limits=1", "limit=1&limit=2"] {
        assert_eq!(
            gateway.get(&format!("/v1/files?{bad}")).await.problem(),
            p(400, "bad-parameter"),
            "{bad}"
        );
    }

    let copied = gateway.post("/v1/copy", r#"{"from":"b","to":"c d","durability":"fast"}"#).await;
    assert_eq!((copied.status, copied.header("location")), (200, Some("/v1/files/c%20d")), "{copied:?}");
    assert_eq!(copied.json()["durability"], "fast");
    assert_eq!(gateway.post("/v1/move?durability=all", r#"{"from":"b","to":"e"}"#).await.status, 200);
    assert_eq!(gateway.files.names(), ["a/1", "a/2", "a/3", "c d", "e"]);
    for (body, problem) in [
        (r#"{"from":"b","to":"f"}"#, p(404, "not-found")),
        (r#"{"from":"/","to":"f"}"#, p(400, "bad-name")),
        (r#"{"from":"e","to":"e"}"#, p(400, "bad-parameter")),
        (r#"{"from":"e"}"#, p(400, "bad-parameter")),
        (r#"{"from":"e","to":"f","durable":"all"}"#, p(400, "bad-parameter")),
        (r#"{"from":"e","to":"f","durability":"most"}"#, p(400, "bad-parameter")),
        ("", p(400, "bad-parameter")),
    ] {
        assert_eq!(gateway.post("/v1/copy", body).await.problem(), problem, "{body}");
    }
    let refused =
        gateway.post("/v1/move", r#"{"from":"e","to":"f","version":"node-a.00000000000000ab.1"}"#).await;
    assert_eq!(refused.problem(), p(400, "bad-parameter"));
    let long = format!("{{\"from\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(gateway.post("/v1/copy", &long).await.problem(), p(413, "too-large"));

    assert_eq!(gateway.get("/v1/stat/e").await.json()["consistency"], "majority");
    assert_eq!(gateway.get("/v1/stat/none").await.problem(), p(404, "not-found"));
}

#[tokio::test]
async fn a_copy_reads_a_version_or_a_cid_and_is_conditional() {
    let gateway = gateway().await;
    gateway.send("PUT /v1/files/a HTTP/1.1\r\nContent-Type: text/plain", "old").await;
    let head = gateway.get("/v1/files/a").await;
    let (cid, etag) =
        (head.header("kepler-cid").unwrap().to_owned(), head.header("etag").unwrap().to_owned());
    let version = etag.trim_matches('"');
    let copy = async |headers: &str, body: String| {
        gateway.send(&format!("POST /v1/copy HTTP/1.1\r\nKepler-Client: x{headers}"), body).await
    };

    let same = copy("", format!(r#"{{"from":"a","version":"{version}","to":"a"}}"#)).await;
    assert_eq!(same.status, 200, "a version may become the head of its own name: {same:?}");
    let stale = copy("", format!(r#"{{"from":"a","version":"{version}","to":"b"}}"#)).await;
    assert_eq!(stale.problem(), p(404, "not-found"));

    let by_cid = format!(r#"{{"cid":"{cid}","content_type":"image/png","to":"b"}}"#);
    assert_eq!(copy("\r\nIf-None-Match: *", by_cid.clone()).await.status, 200);
    let copied = gateway.get("/v1/files/b").await;
    assert_eq!((copied.body.as_slice(), copied.header("content-type")), (&b"old"[..], Some("image/png")));
    let refused = copy("\r\nIf-None-Match: *", by_cid.clone()).await;
    assert_eq!(refused.problem(), p(412, "precondition-failed"));
    assert_eq!(copy(&format!("\r\nIf-Match: {etag}"), by_cid.clone()).await.status, 412);
    let now = copied.header("etag").unwrap().to_owned();
    assert_eq!(copy(&format!("\r\nIf-Match: {now}"), by_cid).await.status, 200);

    let gone = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    let collected = copy("", format!(r#"{{"cid":"{gone}","to":"c"}}"#)).await;
    assert_eq!(collected.problem(), p(404, "not-found"));
    assert!(collected.json()["detail"].as_str().unwrap().contains("collected"), "{collected:?}");
    for body in [
        format!(r#"{{"from":"a","cid":"{cid}","to":"c"}}"#),
        format!(r#"{{"cid":"{cid}","version":"{version}","to":"c"}}"#),
        r#"{"from":"a","content_type":"text/plain","to":"c"}"#.to_owned(),
        r#"{"from":"a","version":"1","to":"c"}"#.to_owned(),
        r#"{"cid":"Qm","to":"c"}"#.to_owned(),
        format!(r#"{{"cid":"{cid}","content_type":"no type","to":"c"}}"#),
        r#"{"to":"c"}"#.to_owned(),
    ] {
        assert_eq!(copy("", body.clone()).await.problem(), p(400, "bad-parameter"), "{body}");
    }
    assert_eq!(gateway.files.names(), ["a", "b"]);
}

#[tokio::test]
async fn the_node_tells_of_itself() {
    let gateway = gateway().await;
    assert!(gateway.get("/v1/cluster").await.json()["members"].is_array());
    assert_eq!(gateway.get("/v1/ring").await.json()["replication_factor"], 3);
    assert_eq!(gateway.get("/v1/status").await.json()["id"], "node-a");
    assert_eq!(gateway.get("/healthz").await.status, 200);
    assert_eq!(gateway.get("/readyz").await.status, 200);
    *gateway.files.waiting_for.lock().unwrap() = Some("the roster".to_owned());
    let waiting = gateway.get("/readyz").await;
    assert_eq!(waiting.problem(), p(503, "not-ready"));
    assert!(waiting.json()["detail"].as_str().unwrap().contains("the roster"));
    assert_eq!(gateway.get("/healthz").await.status, 200);

    let page = gateway.get("/").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(String::from_utf8(page.body).unwrap().contains("KeplerFS"));
    for screen in ["/files/a%20b/c", "/file/a.js", "/cluster", "/nodes/node-a"] {
        assert_eq!(
            gateway.get(screen).await.header("content-type"),
            Some("text/html; charset=utf-8"),
            "{screen}"
        );
    }
    assert_eq!(gateway.get("/_app/none.js").await.problem(), p(404, "not-found"));

    let metrics = String::from_utf8(gateway.get("/metrics").await.body).unwrap();
    for line in [
        "kepler_http_requests_total{method=\"GET\",route=\"/v1/ring\",status=\"2xx\"} 1",
        "kepler_http_requests_total{method=\"GET\",route=\"/readyz\",status=\"5xx\"} 1",
        "kepler_http_requests_in_flight 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing in:\n{metrics}");
    }
}

#[tokio::test]
async fn bytes_in_and_out_are_counted_until_the_last() {
    let gateway = gateway().await;
    gateway.put("/v1/files/f", "0123456789").await;
    let before = gateway.metrics.http.bytes_out.get();
    gateway.get("/v1/files/f").await;
    assert_eq!(gateway.metrics.http.bytes_in.get(), 10);
    assert_eq!(gateway.metrics.http.bytes_out.get() - before, 10);
    super::fake::eventually("nothing in flight", || gateway.metrics.http.in_flight.get() == 0).await;
}

#[tokio::test]
async fn chunks_are_served_raw_for_ever_and_ipfs_by_the_trustless_rules() {
    let gateway = gateway().await;
    let cid = gateway.put("/v1/files/f", "0123456789").await.json()["cid"].as_str().unwrap().to_owned();
    let chunk = gateway.get(&format!("/v1/chunks/{cid}")).await;
    assert_eq!((chunk.status, chunk.body.as_slice()), (200, &b"0123456789"[..]));
    assert_eq!(chunk.header("content-type"), Some("application/vnd.ipld.raw"));
    assert!(chunk.header("cache-control").unwrap().contains("immutable"));

    let path = format!("/ipfs/{cid}");
    let by_format = gateway.get(&format!("{path}?format=raw")).await;
    let by_accept =
        gateway.send(&format!("GET {path} HTTP/1.1\r\nAccept: application/vnd.ipld.raw"), "").await;
    for block in [&by_format, &by_accept] {
        assert_eq!((block.status, block.body.as_slice()), (200, &b"0123456789"[..]));
        assert_eq!(block.header("content-type"), Some("application/vnd.ipld.raw"));
        assert_eq!(block.header("etag"), Some(format!("\"{cid}.raw\"").as_str()));
        assert_eq!(block.header("cache-control"), Some("public, max-age=29030400, immutable"));
        assert_eq!(block.header("x-ipfs-path"), Some(path.as_str()));
        assert_eq!(block.header("x-ipfs-roots"), Some(cid.as_str()));
        let disposition = format!("attachment; filename=\"{cid}.bin\"");
        assert_eq!(block.header("content-disposition"), Some(disposition.as_str()));
    }
    let head = format!("HEAD {path}?format=raw HTTP/1.1");
    assert_eq!(gateway.send(&head, "").await.header("content-length"), Some("10"));
    let head = format!("GET {path}?format=raw HTTP/1.1\r\nIf-None-Match: \"{cid}.raw\"");
    assert_eq!(gateway.send(&head, "").await.status, 304);
    let head = format!("GET {path}?format=raw HTTP/1.1\r\nRange: bytes=2-4");
    let part = gateway.send(&head, "").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"234"[..]));

    assert_eq!(gateway.get("/ipfs/bafkqaaa?format=raw").await.status, 200);
    assert_eq!(gateway.get(&path).await.problem(), p(400, "bad-parameter"));
    assert_eq!(gateway.get(&format!("{path}?format=car")).await.problem(), p(406, "not-acceptable"));
    assert_eq!(gateway.get(&format!("{path}/a?format=raw")).await.problem(), p(400, "bad-parameter"));
    assert_eq!(gateway.get("/v1/chunks/nonsense").await.problem(), p(400, "bad-parameter"));
    let other = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    assert_eq!(gateway.get(&format!("/v1/chunks/{other}")).await.problem(), p(404, "not-found"));
}

#[tokio::test]
async fn a_form_stores_each_of_its_parts() {
    let gateway = gateway().await;
    let large = "line\r\n--not the boundary\r\n".repeat(40_000);
    let form = format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\n\
         hello\r\n--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"dir/ü.bin\"\r\n\r\n{large}\r\n\
         --xyz\r\nContent-Disposition: form-data; name=\"bare\"\r\n\r\n\r\n--xyz--\r\n"
    );
    let head = "POST /v1/files?prefix=up/&durability=fast HTTP/1.1\r\nKepler-Client: form\r\nContent-Type: multipart/form-data; boundary=xyz";
    let done = gateway.send(head, &form).await;
    assert_eq!(done.status, 200, "{done:?}");
    let receipts: Vec<api::Receipt> = serde_json::from_value(done.json()["files"].clone()).unwrap();
    assert_eq!(
        receipts.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["up/a.txt", "up/dir/ü.bin", "up/bare"]
    );
    assert!(gateway.files.bytes("up/dir/ü.bin").unwrap() == large.as_bytes());
    assert_eq!(gateway.files.bytes("up/bare").unwrap().len(), 0);
    let puts = gateway.files.puts.lock().unwrap().clone();
    assert_eq!(puts[0].content_type.as_deref(), Some("text/plain"));
    assert_eq!(puts[0].durability, api::Durability::Fast);
}

#[tokio::test]
async fn a_bad_form_says_which_part_is_wrong() {
    let gateway = gateway().await;
    let head =
        "POST /v1/files HTTP/1.1\r\nKepler-Client: form\r\nContent-Type: multipart/form-data; boundary=xyz";
    let part = |name: &str| {
        format!("--xyz\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\nx\r\n")
    };
    let answer = gateway.send(head, format!("{}{}--xyz--\r\n", part("a"), part("../b"))).await;
    assert_eq!(answer.problem(), p(400, "bad-name"));
    assert!(answer.json()["detail"].as_str().unwrap().starts_with("part 2 (the 1 before it are stored)"));
    assert_eq!(gateway.send(head, "--xyz--\r\n").await.problem(), p(400, "bad-parameter"));
    assert_eq!(gateway.send(head, part("cut")).await.problem(), p(400, "broken-upload"));
    let endless = format!("--xyz\r\nX: {}", "y".repeat(3 << 20));
    assert_eq!(gateway.send(head, endless).await.problem(), p(400, "broken-upload"));
    let plain = "POST /v1/files HTTP/1.1\r\nKepler-Client: form\r\nContent-Type: text/plain";
    assert_eq!(gateway.send(plain, "x").await.problem(), p(415, "unsupported-media-type"));
    assert_eq!(gateway.files.names(), ["a"]);
}

#[tokio::test]
async fn events_are_followed_live_with_heartbeats_and_told_of_loss() {
    let limits =
        Limits { heartbeat: std::time::Duration::from_millis(30), max_followers: 1, ..Limits::default() };
    let gateway = Gateway::start(Config { limits, ..Config::default() }).await;
    let mut follower = gateway.connect().await;
    follower.request("GET /v1/events HTTP/1.1", "").await;
    let head = follower.until(": heartbeat").await;
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let refused = gateway.get("/v1/events").await;
    assert_eq!((refused.status, refused.json()["type"].as_str()), (429, Some("too-many-requests")));
    gateway.files.events.send(api::Event::Ready { ready: true }).unwrap();
    follower.until("event: ready\ndata: {\"type\":\"ready\",\"ready\":true}\n\n").await;
    // More than the channel of the fake holds, before the follower's task runs again.
    for number in 0..20 {
        drop(gateway.files.events.send(api::Event::Roster { number, members: vec![] }));
    }
    follower.until("event: lagged\ndata: {\"type\":\"lagged\",\"missed\":").await;
    gateway.stop.cancel();
    follower.rest().await.unwrap();
    gateway.task.await.unwrap().unwrap();
}
