//! A gateway that lies, breaks off or redirects is caught, and what was fetched before is resumed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use bytes::Bytes;
use kepler_protocol::chunk::{Chunk, Codec};
use kepler_protocol::manifest::Builder;

/// What the gateway does instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    /// The second leaf has one wrong bit.
    Bytes,
    /// The second leaf is another chunk, whole and consistent in itself.
    OtherChunk,
    /// The second leaf ends early, and the answer says so.
    Short,
    /// The second leaf ends before its `Content-Length`.
    Cut,
    /// The second leaf is endless.
    Endless,
    /// The file has more bytes than its manifest says.
    Size,
    /// The root is no CID.
    NoCid,
    /// The manifest is that of another file.
    Manifest,
    /// The second leaf is not there.
    Missing,
}

struct Gateway {
    url: String,
    lie: Arc<Mutex<Lie>>,
    asked: Arc<Mutex<Vec<String>>>,
}

struct File {
    bytes: Vec<u8>,
    root: String,
    chunks: BTreeMap<String, Bytes>,
    second: String,
}

const LEAF: usize = 1000;

fn file() -> File {
    let bytes: Vec<u8> = (0..10 * LEAF).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut builder = Builder::new(4);
    let mut chunks = BTreeMap::new();
    let mut second = String::new();
    for (index, leaf) in bytes.chunks(LEAF).enumerate() {
        let chunk = Chunk::new(Codec::Raw, Bytes::copy_from_slice(leaf));
        let nodes = builder.push(chunk.id(), leaf.len()).expect("a small file");
        if index == 1 {
            second = chunk.id().to_string();
        }
        for chunk in nodes.into_iter().chain([chunk]) {
            chunks.insert(chunk.id().to_string(), chunk.into_bytes());
        }
    }
    let finished = builder.finish();
    let root = finished.root.to_string();
    for chunk in finished.nodes {
        chunks.insert(chunk.id().to_string(), chunk.into_bytes());
    }
    File { bytes, root, chunks, second }
}

impl Gateway {
    fn start(file: &File) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let gateway =
            Self { url, lie: Arc::new(Mutex::new(Lie::None)), asked: Arc::new(Mutex::new(Vec::new())) };
        let (lie, asked) = (gateway.lie.clone(), gateway.asked.clone());
        let (root, size, second) = (file.root.clone(), file.bytes.len(), file.second.clone());
        let chunks = Arc::new(file.chunks.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (lie, asked) = (lie.clone(), asked.clone());
                let (root, second, chunks) = (root.clone(), second.clone(), chunks.clone());
                std::thread::spawn(move || {
                    serve(stream, |method, path| {
                        asked.lock().expect("not poisoned").push(format!("{method} {path}"));
                        let lie = *lie.lock().expect("not poisoned");
                        answer(lie, method, path, &root, size, &second, &chunks)
                    });
                });
            }
        });
        gateway
    }

    fn lie(&self, lie: Lie) {
        *self.lie.lock().expect("not poisoned") = lie;
        self.asked.lock().expect("not poisoned").clear();
    }

    fn kepler(&self, folder: &Path, args: &[&str]) -> Output {
        let mut command = Command::cargo_bin("kepler").expect("built");
        command.current_dir(folder).env("KEPLER_URL", &self.url).args(args).output().expect("it runs")
    }
}

/// The head of an answer and what is sent after it.
struct Answer {
    head: String,
    body: Bytes,
}

fn answer(
    lie: Lie,
    method: &str,
    path: &str,
    root: &str,
    size: usize,
    second: &str,
    chunks: &BTreeMap<String, Bytes>,
) -> Answer {
    let ok = |length: usize, more: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{more}\r\n");
    if method == "HEAD" && path == "/v1/files/file" {
        let size = if lie == Lie::Size { size + 1 } else { size };
        let root = if lie == Lie::NoCid { "nonsense" } else { root };
        return Answer { head: ok(size, &format!("Kepler-Cid: {root}\r\n")), body: Bytes::new() };
    }
    let cid = path.trim_start_matches("/v1/chunks/");
    let missing = || Answer {
        head: "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        body: Bytes::new(),
    };
    let Some(mut body) = chunks.get(cid).cloned() else { return missing() };
    let mut length = body.len();
    if cid == second {
        match lie {
            Lie::Bytes => {
                let mut changed = body.to_vec();
                changed[500] ^= 1;
                body = changed.into();
            }
            Lie::OtherChunk => {
                body = Bytes::from(vec![0; length]);
            }
            Lie::Short => {
                body.truncate(10);
                length = 10;
            }
            Lie::Cut => body.truncate(10),
            Lie::Endless => length = usize::MAX >> 8,
            Lie::Missing => return missing(),
            Lie::None | Lie::Size | Lie::NoCid | Lie::Manifest => {}
        }
    }
    if lie == Lie::Manifest && cid == root {
        // A node of the same file, but not the root.
        let other = chunks.iter().find(|(id, _)| id.starts_with("bafybe") && *id != cid);
        body = other.expect("the tree has two levels").1.clone();
        length = body.len();
    }
    Answer { head: ok(length, ""), body }
}

/// Speaks just enough HTTP/1.1, keep-alive included.
fn serve(stream: TcpStream, answer: impl Fn(&str, &str) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
        let path = path.to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let _ = reader.by_ref().take(length).read_to_end(&mut Vec::new());
        let Answer { head, body } = answer(&method, &path);
        let promised = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: ").and_then(|n| n.parse::<usize>().ok()));
        let sent = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&body));
        if sent.is_err() || (method != "HEAD" && promised != Some(body.len())) {
            return;
        }
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn an_honest_gateway_is_believed() {
    let (file, folder) = (file(), tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::start(&file);
    let out = gateway.kepler(folder.path(), &["get", "file"]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(std::fs::read(folder.path().join("file")).expect("fetched"), file.bytes);
    let cat = gateway.kepler(folder.path(), &["cat", "file", "file"]);
    assert_eq!(cat.stdout, [&file.bytes[..], &file.bytes].concat());
}

#[test]
fn every_lie_is_caught_before_a_wrong_byte_is_written() {
    let file = file();
    let gateway = Gateway::start(&file);
    let mut caught = 0;
    for lie in [
        Lie::Bytes,
        Lie::OtherChunk,
        Lie::Short,
        Lie::Cut,
        Lie::Endless,
        Lie::Size,
        Lie::NoCid,
        Lie::Manifest,
        Lie::Missing,
    ] {
        gateway.lie(lie);
        let folder = tempfile::tempdir().expect("a folder");
        let out = gateway.kepler(folder.path(), &["get", "file"]);
        let expected = match lie {
            Lie::Cut => 5,
            Lie::Missing => 3,
            _ => 1,
        };
        assert_eq!(out.status.code(), Some(expected), "{lie:?}: {}", stderr(&out));
        assert!(!folder.path().join("file").exists(), "{lie:?}: a file under the final name");
        if expected == 1 {
            assert!(stderr(&out).contains("cannot be trusted"), "{lie:?}: {}", stderr(&out));
        }
        let cat = gateway.kepler(folder.path(), &["cat", "file"]);
        assert!(!cat.status.success(), "{lie:?}");
        assert!(file.bytes.starts_with(&cat.stdout), "{lie:?}: cat printed bytes that are not the file's");
        caught += 1;
    }
    println!("{caught} kinds of lies caught");
}

#[test]
fn a_broken_fetch_resumes_and_does_not_ask_for_what_it_has() {
    let (file, folder) = (file(), tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::start(&file);
    gateway.lie(Lie::Bytes);
    let out = gateway.kepler(folder.path(), &["get", "file"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("resumes"), "{}", stderr(&out));
    gateway.lie(Lie::None);
    let out = gateway.kepler(folder.path(), &["--json", "get", "file"]);
    assert!(out.status.success(), "{}", stderr(&out));
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(told["resumed"].as_u64(), Some(LEAF as u64), "{told}");
    let first = Chunk::new(Codec::Raw, Bytes::copy_from_slice(&file.bytes[..LEAF])).id().to_string();
    let asked = gateway.asked.lock().expect("not poisoned").clone();
    assert!(!asked.iter().any(|line| line.contains(&first)), "the first leaf was fetched again: {asked:?}");
    assert_eq!(std::fs::read(folder.path().join("file")).expect("fetched"), file.bytes);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("listed").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_partial_file_that_rotted_is_fetched_anew_from_where_it_is_wrong() {
    let (file, folder) = (file(), tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::start(&file);
    let mut partial = file.bytes[..3 * LEAF + 17].to_vec();
    partial[2 * LEAF] ^= 1;
    std::fs::write(folder.path().join(format!(".file.{}.part", file.root)), partial).expect("written");
    let out = gateway.kepler(folder.path(), &["--json", "get", "file"]);
    assert!(out.status.success(), "{}", stderr(&out));
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(told["resumed"].as_u64(), Some(2 * LEAF as u64), "{told}");
    assert_eq!(std::fs::read(folder.path().join("file")).expect("fetched"), file.bytes);
}

#[test]
fn another_cid_than_the_one_asked_for_is_refused() {
    let (file, folder) = (file(), tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::start(&file);
    let out = gateway.kepler(folder.path(), &["get", "file", "--cid", &file.second]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("cannot be trusted"), "{}", stderr(&out));
    let out = gateway.kepler(folder.path(), &["get", "file", "--cid", &file.root]);
    assert!(out.status.success(), "{}", stderr(&out));
}

#[test]
fn a_device_is_written_to_and_never_replaced() {
    let (file, folder) = (file(), tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::start(&file);
    let link = folder.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &link).expect("linked");
    let out = gateway.kepler(folder.path(), &["get", "file", "null"]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(link.is_symlink(), "the device was replaced");
}
