//! Bodies that nobody sends by mistake: forms and JSON, damaged and worse.

use kepler_protocol::fuzz;

use super::client::Gateway;
use crate::gateway::Config;

/// Sends every damaged body; how many were taken (2xx). None may be answered with the node's own fault.
async fn survive(head: &str, examples: &[Vec<u8>], seeds: u64) -> usize {
    let gateway = Gateway::start(Config::default()).await;
    assert_eq!(gateway.put("/v1/files/a", "there").await.status, 200);
    let mut taken = 0;
    for (seed, bytes) in fuzz::hostile(examples, 1 << 16, seeds) {
        let answer = gateway.send(head, &bytes).await;
        assert!(answer.status < 500, "{head}, seed {seed}: {answer:?}");
        taken += usize::from(answer.status < 300);
        if answer.status >= 400 {
            answer.problem();
        }
    }
    assert_eq!(gateway.get("/healthz").await.status, 200);
    assert_eq!(gateway.get("/v1/files/a").await.body, b"there", "{head}");
    taken
}

#[tokio::test]
async fn no_form_harms_the_gateway() {
    let form = "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"up.txt\"\r\nContent-Type: text/plain\r\n\r\n\
                one\r\n--b\r\nContent-Disposition: form-data; name=\"g\"\r\n\r\ntwo\r\n--b--\r\n";
    let head = "POST /v1/files?prefix=up/ HTTP/1.1\r\nKepler-Client: test\r\nContent-Type: multipart/form-data; boundary=b";
    let taken = survive(head, &[form.as_bytes().to_vec(), b"--b--".to_vec()], 300).await;
    assert!(taken > 0, "no damaged form was understood");
}

#[tokio::test]
async fn no_json_harms_the_gateway() {
    // As deep as the body may be long.
    let deep = |most: usize| [b"{\"from\":".to_vec(), vec![b'['; most]].concat();
    let cases = [
        ("/v1/copy", r#"{"from": "a", "to": "b", "durability": "quorum"}"#),
        ("/v1/move", r#"{"from": "none", "to": "b"}"#),
        ("/v1/links", r#"{"name": "a", "download": true}"#),
        ("/v1/scrub", r#"{"action": "start", "all": true}"#),
        ("/v1/repair", r#"{"action": "start", "bandwidth_mbps": 100.5, "all": false}"#),
    ];
    for (path, example) in cases {
        let head = format!("POST {path} HTTP/1.1\r\nKepler-Client: test");
        let examples = [example.as_bytes().to_vec(), deep(3_000), deep(60_000)];
        let taken = survive(&head, &examples, 100).await;
        // Some damage is to blanks, and to the text of names.
        assert!(taken > 0 || path == "/v1/move", "no damaged body of {path} was understood");
    }
}
