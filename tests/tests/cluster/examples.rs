//! The examples, run as their first lines say.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use kepler_tests::cluster::{Cluster, binary};

use super::readme::{flag, root};

fn example(name: &str, port: u16, folder: &Path) -> Result<Command> {
    let mut command = Command::new(root().join("examples").join(name));
    command
        .current_dir(folder)
        .env("BIN", binary("kepler").parent().context("in a folder")?)
        .env("DIR", folder.join("data"))
        .env("PORT", port.to_string())
        .stdin(Stdio::null());
    Ok(command)
}

fn whole(out: &Output) -> Result<String> {
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success(), "{}: {text}", out.status);
    Ok(text)
}

#[test]
fn three_nodes_run_a_command_and_stop() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = "\"$BIN/kepler\" cluster members --json; cat \"$DIR\"/node-?.pid";
    let out = example("three-nodes.sh", 17_101, folder.path())?.args(["bash", "-c", script]).output()?;
    let text = whole(&out)?;
    ensure!(text.matches("\"status\":\"alive\"").count() == 3, "{text}");
    for pid in text.lines().filter_map(|line| line.parse::<u32>().ok()) {
        ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left behind");
    }
    let failed = example("three-nodes.sh", 17_101, folder.path())?.arg("false").output()?;
    ensure!(!failed.status.success(), "a command that fails is not reported");
    println!("examples: three-nodes.sh");
    Ok(())
}

#[test]
fn a_death_is_survived() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let text = whole(&example("survive-a-death.sh", 17_111, folder.path())?.output()?)?;
    ensure!(text.contains("both files are whole"), "{text}");
    ensure!(text.contains("it serves what was written while it was dead"), "{text}");
    println!("examples: survive-a-death.sh");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_python_speak_to_a_real_cluster() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    for (node, program) in cluster.nodes.iter().zip(["curl.sh", "client.py"]) {
        let out = Command::new(root().join("examples").join(program))
            .env("KEPLER_URL", node.url())
            .stdin(Stdio::null())
            .output()?;
        let text = whole(&out).with_context(|| program.to_owned())?;
        match program {
            "curl.sh" => {
                ensure!(text.contains("a second time: 412") && text.contains("numbers: 204"), "{text}")
            }
            _ => ensure!(text.contains("event:") && text.contains("10000"), "{text}"),
        }
    }
    println!("examples: curl.sh and client.py");
    Ok(())
}

#[test]
fn the_unit_and_the_compose_file_set_variables_that_exist() -> Result<()> {
    let help = Command::new(binary("kepler-node")).arg("--help").env_clear().output()?;
    let help = String::from_utf8(help.stdout)?;
    let unit = std::fs::read_to_string(root().join("examples/kepler-node.service"))?;
    let compose = std::fs::read_to_string(root().join("examples/compose.yaml"))?;
    let named = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .filter_map(|line| line.split('=').next())
        .chain(compose.split([' ', '{', ',']).filter_map(|word| word.trim().strip_suffix(':')));
    let mut count = 0;
    for name in
        named.filter(|name| name.len() > 3 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    {
        ensure!(help.contains(&flag(name)), "kepler-node does not know {name}");
        count += 1;
    }
    ensure!(count >= 10, "only {count} variables found");
    println!("examples: {count} variables of the unit and the compose file");
    Ok(())
}
