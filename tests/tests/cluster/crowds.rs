//! More clients than a node takes, slow ones, and ones that stop half-way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kepler_tests::cluster::{Cluster, Node, eventually, random_bytes};
use reqwest::StatusCode;

/// What a node may use beside one with no clients, in MiB: 64 of chunks held for readers, 64 of pieces on
/// their way to them, and what a thousand connections and their small pieces take.
const MEMORY_MIB: u64 = 256;

/// Clients that ask for a file of two chunks, or for a chunk, and read nothing.
const READERS: usize = 400;

fn resident_mib(node: &Node) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().context("it runs")?))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse::<u64>()? >> 10)
}

/// A connection over which so much was said.
fn says(port: u16, text: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    match stream.write_all(text) {
        // It may be refused before it has said all.
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            Err(error.into())
        }
        _ => Ok(stream),
    }
}

/// What came, if the other side has ended the connection.
fn ended(stream: &mut TcpStream, heard: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return true,
            Ok(n) => heard.extend_from_slice(&piece[..n]),
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_clients_and_more_than_the_cap_leave_a_node_small_and_usable() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let node = &cluster.nodes[0];
    let body = random_bytes(7, 8 << 20);
    let receipt = node.put("kept", body.clone()).await?;
    let stat: serde_json::Value = node.json("/v1/stat/kept").await?;
    let leaf = stat["chunks"][0]["cid"].as_str().context("a leaf")?.to_owned();
    let before = resident_mib(node)?;
    let port = node.ports[0];
    let head = "HTTP/1.1\r\nHost: localhost\r\n";
    let form = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nKepler-Client: t\r\n\
                Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n\
                --b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"half-form\"\r\n\r\nhalf of it";
    let kinds: [(&str, Vec<u8>); 6] = [
        ("half a head", format!("GET /v1/files/kept {head}X-Half: ").into()),
        ("half an upload", format!("PUT /v1/files/half {head}Content-Length: 100000\r\n\r\nhalf").into()),
        ("half a form", form.into()),
        (
            "half a JSON",
            format!("POST /v1/copy {head}Kepler-Client: t\r\nContent-Length: 50\r\n\r\n{{").into(),
        ),
        // They never read what they asked for.
        ("a download", format!("GET /v1/files/kept {head}\r\n").into()),
        (
            "a block",
            format!("GET /ipfs/{leaf}?format=raw {head}Accept: application/vnd.ipld.raw\r\n\r\n").into(),
        ),
    ];
    let started = Instant::now();
    let mut slow = Vec::new();
    for number in 0..1_000 {
        // Of uploads fewer than a node takes at once, which is 256.
        let which = if number < READERS { 4 + number % 2 } else { [0, 1, 0, 2, 0, 3, 3, 0, 0][number % 9] };
        let (kind, text) = &kinds[which];
        slow.push((*kind, says(port, text)?, Vec::new()));
    }
    // A client that was there before goes on, members do, and reads are whole.
    ensure!(node.get("kept").await? == body, "a read beside 1,000 slow clients");
    node.put("beside", "beside").await?;
    ensure!(cluster.nodes[1].get("beside").await? == "beside");
    let crowded = resident_mib(node)?;
    // Now more than the cap of 1,024: every one is answered or cut off, none is left waiting.
    let mut surplus: Vec<_> = (0..200).map(|_| says(port, b"")).collect::<Result<_>>()?;
    let mut refused = 0;
    eventually("connections above the cap are refused", Duration::from_secs(5), async || {
        surplus.retain_mut(|stream| {
            let mut heard = Vec::new();
            let over = ended(stream, &mut heard);
            refused += usize::from(over || String::from_utf8_lossy(&heard).contains(" 503 "));
            !over && heard.is_empty()
        });
        refused >= 100
    })
    .await?;
    ensure!(node.is_ready().await, "the client that was there before is still served");
    ensure!(cluster.nodes[2].get("kept").await? == body, "through another node");
    let most = resident_mib(node)?.max(crowded);
    let allowed = before + MEMORY_MIB;
    ensure!(most < allowed, "{before} MiB before, {most} MiB with a crowd");
    drop(surplus);
    // All that stopped half-way are told so and cut off, in time; readers who do not read as well.
    let mut answers = std::collections::BTreeMap::<String, usize>::new();
    eventually("every slow client is cut off", Duration::from_secs(90), async || {
        slow.retain_mut(|(kind, stream, heard)| {
            // Those who were to read nothing do not.
            if matches!(*kind, "a download" | "a block") {
                return false;
            }
            let over = ended(stream, heard);
            if over {
                let status = String::from_utf8_lossy(heard).split(' ').nth(1).unwrap_or("none").to_owned();
                *answers.entry(format!("{kind}: {status}")).or_default() += 1;
            }
            !over
        });
        slow.is_empty()
    })
    .await?;
    let took = started.elapsed();
    for name in ["half", "half-form"] {
        let status = node.try_get(name).await?.status();
        ensure!(status == StatusCode::NOT_FOUND, "{name}: {status}");
    }
    ensure!(node.get("kept").await? == body && receipt.size == 8 << 20);
    ensure!(answers.keys().any(|told| told.ends_with("408")), "{answers:?}");
    println!(
        "crowd: 1,000 slow clients and 200 above the cap ({refused} refused at once); {before} MiB before, {most} MiB \
         at most; all cut off after {took:?}: {answers:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_fill_the_transfer_port_do_not_keep_members_from_each_other() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let before = resident_mib(&cluster.nodes[0])?;
    let port = cluster.nodes[0].ports[2];
    // Silent ones, and ones that begin a handshake and never go on.
    let mut strangers = Vec::new();
    for number in 0..600 {
        let text: &[u8] = if number % 2 == 0 { b"" } else { b"\x13/multistream/1.0.0\n" };
        strangers.push(says(port, text)?);
    }
    for i in 0..20 {
        let (name, node) = (format!("among/{i}"), &cluster.nodes[i % 3]);
        node.put(&name, random_bytes(i as u64, 200_000)).await?;
        ensure!(cluster.nodes[(i + 1) % 3].get(&name).await?.len() == 200_000);
    }
    let most = resident_mib(&cluster.nodes[0])?;
    ensure!(most < before + MEMORY_MIB, "{before} MiB before, {most} MiB with strangers");
    let mut cut = 0;
    eventually("strangers are cut off", Duration::from_secs(30), async || {
        strangers.retain_mut(|stream| !ended(stream, &mut Vec::new()));
        cut = 600 - strangers.len();
        strangers.is_empty()
    })
    .await
    .with_context(|| format!("{cut} of 600 were"))?;
    // A member that comes back finds its way in.
    cluster.nodes[1].kill();
    cluster.nodes[1].start()?;
    cluster.settle().await?;
    println!("strangers: 600 on the transfer port, all cut off; {before} MiB before, {most} MiB at most");
    Ok(())
}
