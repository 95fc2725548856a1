//! What the README says is done here word by word: the commands are read from it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kepler_protocol::api;
use kepler_tests::cluster::{binary, client, eventually};
use tempfile::TempDir;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// The flag of a variable, as `--help` shows it: every variable is also a flag.
pub fn flag(variable: &str) -> String {
    format!("--{} <", variable.to_lowercase().replace('_', "-"))
}

/// The README's ports are fixed: whoever uses them holds this, in this process or another.
fn fixed_ports() -> Result<File> {
    let lock = File::create(std::env::temp_dir().join("kepler-fixed-ports.lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// A folder as after `make build`: the README and `dist/`.
fn as_built() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("dist"))?;
    for program in ["kepler-node", "kepler"] {
        std::os::unix::fs::symlink(binary(program), folder.path().join("dist").join(program))?;
    }
    std::fs::copy(root().join("README.md"), folder.path().join("README.md"))?;
    Ok(folder)
}

/// The shell blocks of the README, in order.
fn blocks() -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    Ok(blocks.map(str::to_owned).collect())
}

/// Processes that are stopped by SIGTERM when the test ends, and waited for.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// The environment of a newcomer: nothing of ours.
fn shell(folder: &Path, line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", line]).current_dir(folder).env_clear();
    command.envs(std::env::vars().filter(|(key, _)| matches!(key.as_str(), "PATH" | "HOME" | "TMPDIR")));
    command
}

async fn all_see_each_other(ports: &[u16]) -> Result<()> {
    let client = client();
    eventually("the README's nodes see each other", Duration::from_secs(60), async || {
        for port in ports {
            let url = format!("http://127.0.0.1:{port}/v1/cluster");
            let Ok(answer) = client.get(url).send().await else { return false };
            let Ok(bytes) = answer.bytes().await else { return false };
            let Ok(cluster) = serde_json::from_slice::<api::Cluster>(&bytes) else { return false };
            if cluster.members.iter().filter(|m| m.status == api::Status::Alive).count() < ports.len() {
                return false;
            }
            let ready = client.get(format!("http://127.0.0.1:{port}/readyz")).send().await;
            if !ready.is_ok_and(|answer| answer.status().is_success()) {
                return false;
            }
        }
        true
    })
    .await
}

#[tokio::test]
async fn every_command_of_the_readme_does_what_it_says() -> Result<()> {
    let _ports = fixed_ports()?;
    let folder = as_built()?;
    let blocks = blocks()?;
    let nodes: Vec<&String> = blocks.iter().filter(|block| block.contains("kepler-node")).collect();
    ensure!(nodes.len() == 3, "the README has three terminals, not {}", nodes.len());
    let mut running = Running(Vec::new());
    let mut ports = Vec::new();
    for block in nodes {
        let line = block.trim();
        let port = line.split_whitespace().find_map(|word| word.strip_prefix("HTTP_PORT="));
        ports.push(port.context("each has its HTTP_PORT")?.parse::<u16>()?);
        let log = File::create(folder.path().join(format!("{}.log", running.0.len())))?;
        let mut command = shell(folder.path(), &format!("exec env {line}"));
        running.0.push(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
    }
    all_see_each_other(&ports).await?;

    let mut done = 0;
    for block in blocks.iter().filter(|block| !block.contains("kepler-node")) {
        if block.lines().all(|line| line.is_empty() || line.starts_with("make ")) {
            // What they do is what runs this test, and the test below.
            continue;
        }
        let out = shell(folder.path(), block).output()?;
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "{block}\nended with {}:\n{stdout}\n{stderr}", out.status);
        let readme = std::fs::read_to_string(folder.path().join("README.md"))?;
        ensure!(stdout.matches(&readme).count() == 2, "kepler get and curl both print the README:\n{stdout}");
        ensure!(!stdout.contains("\"status\":"), "curl printed a problem:\n{stdout}");
        done += block.lines().filter(|line| !line.trim().is_empty()).count();
    }
    ensure!(done >= 8, "only {done} lines of the README were run");
    println!("readme: 3 nodes and {done} lines, as written");
    Ok(())
}

#[tokio::test]
async fn make_run_starts_what_it_says_to_open_and_type() -> Result<()> {
    let _ports = fixed_ports()?;
    let folder = as_built()?;
    let makefile = std::fs::read_to_string(root().join("Makefile"))?;
    let recipe = makefile.split("\nrun:").nth(1).and_then(|rest| rest.lines().nth(1));
    ensure!(makefile.contains("\nDIST ?= dist\n"), "dist is where make build leaves the binaries");
    let line = recipe.context("the recipe of run")?.trim().replace("$(DIST)", "dist");
    let log = folder.path().join("said");
    let said = File::create(&log)?;
    let child = shell(folder.path(), &format!("exec {line}"))
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()?;
    let running = Running(vec![child]);
    eventually("it says that it is ready", Duration::from_secs(60), async || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Ctrl-C"))
    })
    .await?;
    let text = std::fs::read_to_string(&log)?;
    // What it says to type, typed.
    let typed: Vec<&str> =
        text.lines().filter(|l| l.starts_with("  export ") || l.starts_with("  kepler ")).collect();
    ensure!(typed.len() == 3, "{text}");
    let out = shell(folder.path(), &format!("PATH=$PWD/dist:$PATH\n{}", typed.join("\n"))).output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // What it says to open, opened.
    let url = text.split_whitespace().find(|word| word.starts_with("http://")).context("an address")?;
    let page = client().get(url).send().await?;
    ensure!(page.status().is_success(), "{url} answers {}", page.status());
    drop(running);
    for port in 3001..=3003 {
        ensure!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(), "port {port} is still in use");
    }
    println!("readme: make run, what it says to open and type");
    Ok(())
}

#[test]
fn the_readme_knows_the_variables_and_their_defaults() -> Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let help = Command::new(binary("kepler-node")).arg("--help").env_clear().output()?;
    let help = String::from_utf8(help.stdout)?;
    let defaults = Command::new(binary("kepler-node"))
        .args(["--node-id", "some-node", "--print-config"])
        .env_clear()
        .output()?;
    let defaults = String::from_utf8(defaults.stdout)?;
    let (mut variables, mut checked) = (0, 0);
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `"));
    for row in rows.filter(|row| row.starts_with(|c: char| c.is_ascii_uppercase())) {
        let mut cells = row.split(" | ");
        let (names, default) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            ensure!(help.contains(&flag(name)), "kepler-node does not know {name}");
            variables += 1;
            if default.parse::<u64>().is_ok() {
                let line = defaults.lines().find(|line| line.starts_with(name));
                let line = line.with_context(|| format!("--print-config does not show {name}"))?;
                ensure!(
                    line.split(|c: char| !c.is_ascii_digit()).any(|word| word == default),
                    "{name}: {line}"
                );
                checked += 1;
            }
        }
    }
    ensure!(variables >= 12 && checked >= 6, "{variables} variables and {checked} defaults found");
    println!("readme: {variables} variables, {checked} defaults");
    Ok(())
}

#[test]
fn links_between_documents_lead_somewhere() -> Result<()> {
    let mut links = 0;
    for document in ["README.md", "CONTRIBUTING.md"]
        .into_iter()
        .map(PathBuf::from)
        .chain(
            std::fs::read_dir(root().join("docs"))?.flatten().map(|e| Path::new("docs").join(e.file_name())),
        )
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
    {
        let text = std::fs::read_to_string(root().join(&document))?;
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let path = target.split('#').next().unwrap_or_default();
            let there = root().join(&document).parent().context("in a folder")?.join(path);
            ensure!(there.exists(), "{} links to {target}, which is not there", document.display());
            links += 1;
        }
    }
    println!("documents: {links} links");
    Ok(())
}
