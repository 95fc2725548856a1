//! Health, placement and the operator's verbs, as HTTP has them.

use kepler_protocol::api;

use super::client::{Gateway, p};
use crate::gateway::Config;
use crate::service::OperatorError;

async fn gateway() -> Gateway {
    Gateway::start(Config::default()).await
}

#[tokio::test]
async fn health_is_one_word_and_why() {
    let gateway = gateway().await;
    let health = gateway.get("/v1/health").await;
    assert_eq!((health.status, health.header("cache-control")), (200, Some("no-store")));
    let json = health.json();
    assert_eq!((json["status"].as_str(), json["reasons"][0].as_str()), (Some("at-risk"), Some("so")));
    assert_eq!(gateway.get("/v1/health?deep=1").await.problem(), p(400, "bad-parameter"));
}

#[tokio::test]
async fn a_file_is_located_also_for_the_case_that_a_node_were_down() {
    let gateway = gateway().await;
    assert_eq!(gateway.put("/v1/files/a%20b", "x").await.status, 200);
    let located: api::Located = serde_json::from_value(gateway.get("/v1/locate/a%20b").await.json()).unwrap();
    assert_eq!((located.chunks.len(), located.if_down), (1, None));
    assert_eq!(located.chunks[0].owners_if_down, None);
    let located: api::Located =
        serde_json::from_value(gateway.get("/v1/locate/a%20b?if_down=node-a").await.json()).unwrap();
    assert_eq!(located.chunks[0].owners_if_down, Some(vec![]));
    assert_eq!(gateway.get("/v1/locate/none").await.problem(), p(404, "not-found"));
    for query in ["if_down=node-z", "if_down=No%20Node", "if_up=node-a"] {
        let refused = gateway.get(&format!("/v1/locate/a%20b?{query}")).await;
        assert_eq!(refused.problem(), p(400, "bad-parameter"), "{query}");
    }
}

#[tokio::test]
async fn verbs_are_accepted_with_who_takes_them_and_say_what_they_do() {
    let gateway = gateway().await;
    for (path, body) in [
        ("/v1/scrub", r#"{"action": "start"}"#),
        ("/v1/repair", r#"{"action": "resume", "bandwidth_mbps": 2.5, "all": true}"#),
        ("/v1/cluster/leave", ""),
        ("/v1/cluster/forget/node-b", ""),
        ("/v1/cluster/forget/node-b?lost=0", ""),
        ("/v1/cluster/forget/node-b,node-c?lost=1", ""),
    ] {
        let answer = gateway.post(path, body).await;
        assert_eq!(answer.status, 202, "{path}: {answer:?}");
        let accepted: api::Accepted = serde_json::from_value(answer.json()).unwrap();
        assert_eq!((accepted.nodes.len(), accepted.nodes[0].accepted), (1, true), "{path}");
    }
    let verbs = gateway.files.verbs.lock().unwrap().clone();
    assert_eq!(
        verbs,
        [
            "ScrubRequest { action: Start, all: false }",
            "RepairRequest { action: Resume, bandwidth_mbps: Some(2.5), all: true }",
            "leave",
            "forget {node-b} false",
            "forget {node-b} false",
            "forget {node-b, node-c} true",
        ]
    );
}

#[tokio::test]
async fn malformed_verbs_are_refused_and_change_nothing() {
    let gateway = gateway().await;
    for (path, body) in [
        ("/v1/scrub", ""),
        ("/v1/scrub", r#"{"action": "stop"}"#),
        ("/v1/scrub", r#"{"action": "start", "bandwidth_mbps": 1}"#),
        ("/v1/scrub?all=1", r#"{"action": "start"}"#),
        ("/v1/repair", r#"{"action": "start", "bandwidth_mbps": 0}"#),
        ("/v1/repair", r#"{"action": "start", "bandwidth_mbps": -1}"#),
        ("/v1/repair", r#"{"action": "start", "bandwidth_mbps": 1e9}"#),
        ("/v1/repair", r#"{"bandwidth_mbps": 5}"#),
        ("/v1/cluster/forget/", ""),
        ("/v1/cluster/forget/No", ""),
        ("/v1/cluster/forget/a/b", ""),
        ("/v1/cluster/forget/a,b", ""),
        ("/v1/cluster/forget/a?lost=yes", ""),
        ("/v1/cluster/leave?now=1", ""),
    ] {
        assert_eq!(gateway.post(path, body).await.problem(), p(400, "bad-parameter"), "{path} {body}");
    }
    assert_eq!(gateway.get("/v1/scrub").await.problem(), p(405, "method-not-allowed"));
    assert_eq!(gateway.files.verbs.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn why_a_verb_is_not_followed_has_a_status_of_its_own() {
    let gateway = gateway().await;
    let node = "node-b".parse().unwrap();
    for (error, expected) in [
        (OperatorError::NotAMember(node), p(404, "not-found")),
        (OperatorError::Conflict("it is alive".to_owned()), p(409, "conflict")),
        (OperatorError::NotReady("so".to_owned()), p(503, "not-ready")),
        (OperatorError::Stopping, p(503, "stopping")),
        (OperatorError::Busy, p(429, "too-many-requests")),
    ] {
        *gateway.files.fail_verb.lock().unwrap() = Some(error);
        assert_eq!(gateway.post("/v1/cluster/forget/node-b", "").await.problem(), expected);
    }
}

#[tokio::test]
async fn a_verification_is_lines_of_json_and_no_foreign_page_can_start_one() {
    let gateway = gateway().await;
    let plain = gateway.get("/v1/verify?all=1").await;
    assert_eq!(plain.problem(), p(403, "client-header-missing"));
    assert_eq!(gateway.files.verbs.lock().unwrap().len(), 0);
    let answer = gateway.send("GET /v1/verify?all=1 HTTP/1.1\r\nKepler-Client: test", "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/jsonl")));
    let text = String::from_utf8(answer.body.clone()).unwrap();
    let lines: Vec<api::VerifyLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], api::VerifyLine::Progress { chunks: 1, copies: 1, bytes: 2 });
    assert!(matches!(&lines[1], api::VerifyLine::Total(total) if total.ok), "{text}");
    assert_eq!(*gateway.files.verbs.lock().unwrap(), ["verify true"]);
}

#[tokio::test]
async fn the_past_is_told_of_this_node_or_of_all_and_of_an_hour_at_most() {
    let gateway = gateway().await;
    let here = gateway.get("/v1/recent").await.json();
    assert_eq!((&here["node"], &here["interval_secs"]), (&"node-a".into(), &3600.into()));
    assert!(here.get("cluster").is_none());
    let everywhere = gateway.get("/v1/recent?all=1&secs=30").await.json();
    assert_eq!(everywhere["interval_secs"], 30);
    assert!(everywhere["cluster"].is_array());
    for bad in ["secs=0", "secs=3601", "secs=x", "all=2", "since=1"] {
        let path = format!("/v1/recent?{bad}");
        assert_eq!(gateway.get(&path).await.status, 400, "{bad}");
    }
    assert_eq!(gateway.get("/v1/earlier/a/b").await.json()["name"], "a/b");
    assert_eq!(gateway.get("/v1/earlier/a/").await.status, 400);
}

#[tokio::test]
async fn what_is_sent_of_files_is_counted_apart_from_how_things_are() {
    let gateway = gateway().await;
    gateway.put("/v1/files/f", "0123456789").await;
    gateway.get("/v1/files/f").await;
    gateway.get("/v1/status").await;
    let http = &gateway.metrics.http;
    assert_eq!(http.content_out.get(), 10);
    assert!(http.bytes_out.get() > 100);
}
