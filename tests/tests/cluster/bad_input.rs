//! Bad input: a clear error each, and nothing lost.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;

use anyhow::{Result, ensure};
use kepler_tests::cluster::{Cluster, binary};

#[tokio::test]
async fn bad_requests_are_refused_with_a_problem_that_names_the_mend() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let node = &cluster.nodes[0];
    node.put("kept", "kept").await?;
    let long = "x".repeat(1025);
    let cases = [
        ("PUT", "/v1/files/a%2Fb".to_owned(), vec![], 400, "bad-name"),
        ("PUT", "/v1/files/a/".to_owned(), vec![], 400, "bad-name"),
        ("PUT", "/v1/files/a%00".to_owned(), vec![], 400, "bad-name"),
        ("PUT", format!("/v1/files/{long}"), vec![], 400, "bad-name"),
        ("PUT", "/v1/files/a?durability=maybe".to_owned(), vec![], 400, "bad-parameter"),
        ("GET", "/v1/files/none".to_owned(), vec![], 404, "not-found"),
        ("GET", "/v1/files?limit=0".to_owned(), vec![], 400, "bad-parameter"),
        ("GET", "/v1/chunks/nonsense".to_owned(), vec![], 400, "bad-parameter"),
        ("GET", "/v1/nothing".to_owned(), vec![], 404, "not-found"),
        ("PATCH", "/v1/files/kept".to_owned(), vec![], 405, "method-not-allowed"),
        (
            "PUT",
            "/v1/files/kept".to_owned(),
            vec![("If-Match", "\"stale.0000000000000001.1\"")],
            412,
            "precondition-failed",
        ),
        ("PUT", "/v1/files/kept".to_owned(), vec![("Origin", "http://evil.example")], 403, "foreign-origin"),
        ("PUT", "/v1/files/kept".to_owned(), vec![("Host", "evil.example")], 421, "foreign-host"),
        ("GET", "/v1/files/kept".to_owned(), vec![("Range", "bytes=9-")], 416, "range-not-satisfiable"),
    ];
    for (method, path, headers, status, kind) in &cases {
        let mut request =
            node.client().request(method.parse()?, reqwest::Url::parse(&format!("{}{path}", node.url()))?);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let got = response.status().as_u16();
        let text = response.text().await?;
        ensure!(got == *status && text.contains(kind), "{method} {path} {headers:?}: {got} {text}");
    }
    // A client's library resolves dots in a path before it sends it; an attacker does not.
    for path in ["/v1/files/a/../b", "/v1/files/a/%2E%2E/b", "/v1/files/./a"] {
        let mut stream = TcpStream::connect(("127.0.0.1", node.ports[0]))?;
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 400") && answer.contains("bad-name"), "{path}: {answer}");
    }
    ensure!(node.get("kept").await? == "kept");
    println!("bad requests: {} refused, each with its problem", cases.len() + 3);
    Ok(())
}

#[tokio::test]
async fn garbage_on_all_three_ports_changes_nothing() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let node = &cluster.nodes[0];
    node.put("kept", "kept").await?;
    let mut random = fastrand::Rng::with_seed(1);
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let mut sent = 0;
    for _ in 0..200 {
        let mut garbage = vec![0; random.usize(0..1500)];
        random.fill(&mut garbage);
        udp.send_to(&garbage, ("127.0.0.1", node.ports[1]))?;
        for port in [node.ports[0], node.ports[2]] {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            // The node may close on us while we write: that is its right.
            let _ = stream.write_all(&garbage);
        }
        sent += 3;
    }
    ensure!(cluster.nodes[1].get("kept").await? == "kept");
    node.put("after", "after").await?;
    cluster.settle().await?;
    println!("garbage: {sent} pieces on three ports, the cluster goes on");
    Ok(())
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let node = &cluster.nodes[0];
    let directory = tempfile::tempdir()?;
    let fresh = directory.path().join("fresh").display().to_string();
    let (http, gossip, transfer) =
        (node.ports[0].to_string(), node.ports[1].to_string(), node.ports[2].to_string());
    let used = node.data.display().to_string();
    let cases: Vec<(Vec<(&str, &str)>, &str)> = vec![
        (vec![], "NODE_ID"),
        (vec![("NODE_ID", "Bad Id")], "NODE_ID"),
        (vec![("NODE_ID", "x"), ("HTTP_PORT", "70000"), ("CHUNK_SIZE_MB", "0")], "CHUNK_SIZE_MB"),
        (vec![("NODE_ID", "x"), ("HTTP_PORT", "70000"), ("CHUNK_SIZE_MB", "0")], "HTTP_PORT"),
        (vec![("NODE_ID", "x"), ("BIND_ADDR", "0.0.0.0")], "CLUSTER_KEY"),
        (
            vec![
                ("NODE_ID", "x"),
                ("DATA_DIR", &fresh),
                ("HTTP_PORT", &http),
                ("GOSSIP_PORT", "0"),
                ("TRANSFER_PORT", "0"),
            ],
            "HTTP_PORT",
        ),
        (
            vec![
                ("NODE_ID", "x"),
                ("DATA_DIR", &fresh),
                ("HTTP_PORT", "0"),
                ("GOSSIP_PORT", &gossip),
                ("TRANSFER_PORT", "0"),
            ],
            "GOSSIP_PORT",
        ),
        (
            vec![
                ("NODE_ID", "x"),
                ("DATA_DIR", &fresh),
                ("HTTP_PORT", "0"),
                ("GOSSIP_PORT", "0"),
                ("TRANSFER_PORT", &transfer),
            ],
            "TRANSFER_PORT",
        ),
        (
            vec![
                ("NODE_ID", "node-a"),
                ("DATA_DIR", &used),
                ("HTTP_PORT", "0"),
                ("GOSSIP_PORT", "0"),
                ("TRANSFER_PORT", "0"),
            ],
            "in use",
        ),
    ];
    for (environment, word) in &cases {
        let output = Command::new("timeout")
            .arg("20")
            .arg(binary("kepler-node"))
            .env_clear()
            .envs(environment.iter().copied())
            .output()?;
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        ensure!(
            !output.status.success() && output.status.code() != Some(124),
            "{environment:?} started: {said}"
        );
        ensure!(said.contains(word), "{environment:?} does not name {word}: {said}");
    }
    println!("bad starts: {} refused, each naming what is wrong", cases.len());
    Ok(())
}

#[tokio::test]
async fn a_node_id_in_use_is_refused() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    cluster.add()?;
    cluster.settle().await?;
    let twin = {
        let third = cluster.nodes.last_mut().expect("three nodes");
        third.kill();
        third.set("NODE_ID", "node-b");
        third.set("DATA_DIR", &format!("{}-twin", third.data.display()));
        third.start()?;
        cluster.nodes.len() - 1
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let node = &mut cluster.nodes[twin];
        if node.log().contains("in use") || node.exited().is_some() {
            break;
        }
        ensure!(std::time::Instant::now() < deadline, "the twin does not say why it is refused");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ensure!(cluster.nodes[twin].log().contains("in use"), "{}", cluster.nodes[twin].log());
    ensure!(!cluster.nodes[twin].is_ready().await);
    cluster.nodes[1].put("still", "here").await?;
    println!("node id in use: refused, and says so");
    Ok(())
}
