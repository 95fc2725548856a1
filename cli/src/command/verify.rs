//! `kepler verify`.

use anyhow::Result;
use kepler_protocol::api::{VerifyLine, VerifyTotal};
use kepler_protocol::node_id::NodeId;
use reqwest::Method;
use serde_json::Value;

use super::lines;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::{Output, count, size};

/// Hashes every copy again, here or everywhere, and says what is wrong.
pub async fn run(client: &Client, output: &Output, all: bool) -> Result<()> {
    let path = if all { "/v1/verify?all=1" } else { "/v1/verify" };
    let response = client.send(client.request(Method::GET, path)).await?;
    let bar = output.progress("hashing", None);
    let mut total = None;
    lines::each(client, response, |line| {
        let value: Value = serde_json::from_str(line)?;
        match serde_json::from_value::<VerifyLine>(value.clone()) {
            Ok(VerifyLine::Progress { bytes, .. }) => {
                bar.set_position(bytes);
                return Ok(());
            }
            Ok(VerifyLine::Total(last)) => total = Some(last),
            // What a newer node says beside it is passed on as it is.
            _ => {}
        }
        bar.suspend(|| output.print(&value, text))
    })
    .await?;
    bar.finish_and_clear();
    let Some(total) = total else {
        return Err(client.silent("the verification was not finished; run it again").into());
    };
    match code(&total) {
        0 => Ok(()),
        code => Err(Failure::Told(code).into()),
    }
}

const fn code(total: &VerifyTotal) -> u8 {
    match total {
        VerifyTotal { ok: true, .. } => 0,
        VerifyTotal { missing: 0, damaged: 0, .. } => 1,
        _ => 5,
    }
}

fn text(line: &Value) -> String {
    match serde_json::from_value::<VerifyLine>(line.clone()) {
        Ok(VerifyLine::BadCopy { cid, node, problem }) => {
            format!("bad copy: chunk {cid} on {node}: {problem}")
        }
        Ok(VerifyLine::UnderReplicated { cid, intact, wanted, lacking }) => {
            let lacking = join(&lacking);
            format!("too few: chunk {cid} has {} of {wanted}; it lacks one on {lacking}", copies(intact))
        }
        Ok(VerifyLine::Missing { cid }) => {
            format!("missing: chunk {cid} has no intact copy on any node that answers")
        }
        Ok(VerifyLine::Damaged { name, version, cid }) => {
            format!("damaged: file {name} (version {version}) lacks chunk {cid}")
        }
        Ok(VerifyLine::Silent { node, problem }) => format!("no answer: {node}: {problem}"),
        Ok(VerifyLine::Total(total)) => summary(&total),
        Ok(VerifyLine::Progress { .. }) | Err(_) => line.to_string(),
    }
}

fn summary(total: &VerifyTotal) -> String {
    let mut text = format!(
        "{}: {} of {} hashed ({}) on {}",
        if total.ok { "all is well" } else { "not all is well" },
        copies(total.copies),
        count(total.chunks, "chunk"),
        size(total.bytes),
        join(&total.nodes),
    );
    if total.files > 0 {
        text.push_str(&format!("; {} looked at", count(total.files, "file")));
    }
    for (number, what) in [
        (total.bad_copies, "bad copies"),
        (total.under_replicated, "with too few copies"),
        (total.single_copy, "with a single copy"),
        (total.missing, "missing"),
        (total.damaged, "files damaged"),
        (total.silent, "nodes without an answer"),
        (total.surplus, "copies more than needed"),
    ] {
        if number > 0 {
            text.push_str(&format!("; {number} {what}"));
        }
    }
    text
}

fn copies(number: u64) -> String {
    if number == 1 { "1 copy".to_owned() } else { format!("{number} copies") }
}

fn join(nodes: &[NodeId]) -> String {
    nodes.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_what_is_lost_from_what_is_only_wrong() {
        let total = |ok, under_replicated, missing, damaged| VerifyTotal {
            ok,
            under_replicated,
            missing,
            damaged,
            ..VerifyTotal::default()
        };
        assert_eq!(code(&total(true, 0, 0, 0)), 0);
        assert_eq!(code(&total(false, 1, 0, 0)), 1);
        assert_eq!(code(&total(false, 1, 1, 0)), 5);
        assert_eq!(code(&total(false, 0, 0, 1)), 5);
    }

    #[test]
    fn each_line_is_a_sentence() {
        let total = VerifyTotal {
            copies: 3,
            chunks: 1,
            bad_copies: 1,
            nodes: vec!["a".parse().expect("an id")],
            ..VerifyTotal::default()
        };
        let line = serde_json::to_value(VerifyLine::Total(total)).expect("JSON");
        assert_eq!(text(&line), "not all is well: 3 copies of 1 chunk hashed (0 B) on a; 1 bad copies");
        let silent = VerifyLine::Silent { node: "b".parse().expect("an id"), problem: "so".to_owned() };
        assert_eq!(text(&serde_json::to_value(silent).expect("JSON")), "no answer: b: so");
    }
}
