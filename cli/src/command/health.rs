//! `kepler health`.

use anyhow::Result;
use kepler_protocol::api::{Health, HealthStatus, NodeHealth};

use crate::client::Client;
use crate::exit::Failure;
use crate::output::{Output, size, table};

/// Says in a word how the cluster is, and why.
pub async fn run(client: &Client, output: &Output) -> Result<()> {
    let health: Health = client.json("/v1/health").await?;
    output.print(&health, text)?;
    match code(health.status) {
        0 => Ok(()),
        code => Err(Failure::Told(code).into()),
    }
}

/// The word as people say it.
pub const fn spoken(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Ok => "ok",
        HealthStatus::Degraded => "degraded",
        HealthStatus::AtRisk => "at risk",
        HealthStatus::Unavailable => "data unavailable",
    }
}

const fn code(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Ok => 0,
        HealthStatus::Degraded | HealthStatus::AtRisk => 1,
        HealthStatus::Unavailable => 5,
    }
}

fn text(health: &Health) -> String {
    let mut lines = vec![spoken(health.status).to_owned()];
    lines.extend(health.reasons.iter().map(|reason| format!("  {reason}")));
    lines.push(table(
        ["NODE", "LACKING", "ONE COPY", "MISSING", "SURPLUS", "MOVING", "OWED", "LAST SCRUB", "WAITING FOR"],
        health.nodes.iter().map(row),
    ));
    lines.join("\n")
}

fn row(node: &NodeHealth) -> [String; 9] {
    if !node.answered {
        let mut row = std::array::from_fn(|_| "-".to_owned());
        row[0] = node.node.to_string();
        row[8] = "no answer".to_owned();
        return row;
    }
    let scrub = match (&node.scrub.at, node.scrub.running) {
        (_, true) => format!("{:.0} % done", node.scrub.progress * 100.0),
        (Some(at), false) => format!("{at}, {} bad", node.scrub.bad),
        (None, false) => "never".to_owned(),
    };
    let waiting = node.waiting.iter().map(|waiting| match waiting.until_secs {
        Some(secs) => format!("{} ({secs} s)", waiting.what),
        None => waiting.what.clone(),
    });
    [
        node.node.to_string(),
        node.under_replicated.to_string(),
        node.single_copy.to_string(),
        node.missing.to_string(),
        node.surplus.to_string(),
        if node.moving == 0 {
            "0".to_owned()
        } else {
            format!("{} ({})", node.moving, size(node.moving_bytes))
        },
        node.queue_depth.to_string(),
        scrub,
        waiting.collect::<Vec<_>>().join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_comes_first_and_alone_and_then_why() {
        let mut node = NodeHealth::idle("node-a".parse().expect("an id"));
        (node.scrub.running, node.scrub.progress) = (true, 0.424);
        let silent = NodeHealth::silent("node-b".parse().expect("an id"));
        let health = Health {
            status: HealthStatus::AtRisk,
            reasons: vec!["1 chunk has one copy left".to_owned()],
            nodes: vec![node, silent],
            ..Health::default()
        };
        let text = text(&health);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["at risk", "  1 chunk has one copy left"]);
        assert!(lines[3].starts_with("node-a") && lines[3].contains("42 % done"), "{text}");
        assert!(lines[4].starts_with("node-b") && lines[4].ends_with("no answer"), "{text}");
    }
}
