//! `kepler events`.

use anyhow::Result;
use kepler_protocol::api::Event;
use reqwest::Method;
use serde_json::Value;

use super::cluster::word;
use super::lines;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::{Output, count, size};

/// Every type there is, for whoever misspells one.
const TYPES: [&str; 16] = [
    "member",
    "written",
    "delivered",
    "quarantined",
    "roster",
    "ready",
    "repair_started",
    "repaired",
    "moved",
    "released",
    "collected",
    "scrubbed",
    "conflict",
    "leaving",
    "health",
    "lagged",
];

/// Follows what happens on the node.
pub async fn run(client: &Client, output: &Output, types: &[String], about: &[String]) -> Result<()> {
    if let Some(unknown) = types.iter().find(|wanted| !TYPES.contains(&wanted.as_str())) {
        let known = TYPES.join(", ");
        return Err(Failure::Usage(format!("there are no events of type {unknown:?}: use {known}")).into());
    }
    let response = client.send(client.request(Method::GET, "/v1/events")).await?;
    lines::each(client, response, |line| {
        // Names and heartbeats are for browsers: the data says it all.
        let Some(event) =
            line.strip_prefix("data:").and_then(|data| serde_json::from_str::<Value>(data).ok())
        else {
            return Ok(());
        };
        let kind = event["type"].as_str().unwrap_or_default();
        let wanted = types.is_empty() || types.iter().any(|wanted| wanted == kind);
        if !wanted || !is_about(&event, about) {
            return Ok(());
        }
        output.stream(&event, text)
    })
    .await?;
    Err(client.silent("the node ended the stream of events").into())
}

/// Whether one of its fields, or of the lists in them, is one of the texts.
fn is_about(event: &Value, about: &[String]) -> bool {
    let mentions = |value: &Value| match value {
        Value::String(text) => about.contains(text),
        Value::Array(items) => items.iter().any(|i| i.as_str().is_some_and(|i| about.iter().any(|a| a == i))),
        _ => false,
    };
    let Some(fields) = event.as_object() else { return about.is_empty() };
    about.is_empty() || fields.iter().any(|(key, value)| key != "type" && mentions(value))
}

/// An event in a line; one that this program does not know as it came.
fn text(event: &Value) -> String {
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
    format!("{now} {}", describe(event))
}

fn describe(event: &Value) -> String {
    let Ok(event) = serde_json::from_value::<Event>(event.clone()) else {
        return match event["missed"].as_u64() {
            Some(missed) => format!("{} lost: this program was too slow", count(missed, "event")),
            None => event.to_string(),
        };
    };
    match event {
        Event::Member { node, status } => format!("{node} is {}", word(&status)),
        Event::Written { name, deleted: true, .. } => format!("{name} deleted"),
        Event::Written { name, version, .. } => format!("{name} written as {version}"),
        Event::Delivered { node, chunks } => format!("{} delivered to {node}", owed(chunks)),
        Event::Quarantined { cid } => format!("chunk {cid} is rotten and was set aside"),
        Event::Roster { number, members } => {
            let members: Vec<&str> = members.iter().map(|m| m.as_str()).collect();
            format!("roster {number}: {}", members.join(", "))
        }
        Event::Ready { ready } => format!("this node is {}", if ready { "ready" } else { "not ready" }),
        Event::RepairStarted { node, chunks } => format!("bringing {} to {node}", count(chunks, "chunk")),
        Event::Repaired { node, chunks, bytes } => {
            format!("brought {} ({}) to {node}", count(chunks, "chunk"), size(bytes))
        }
        Event::Moved { cid, from, to, bytes } => {
            format!("chunk {cid} ({}) copied from {from} to {to}", size(bytes))
        }
        Event::Released { chunks } => {
            format!("{} deleted here: every owner promised to keep its copy", count(chunks, "surplus chunk"))
        }
        Event::Collected { chunks, bytes } => {
            format!("{} ({}) deleted here: no file needs them", count(chunks, "chunk"), size(bytes))
        }
        Event::Scrubbed { checked, bad } => format!("{} hashed, {bad} bad", count(checked, "chunk")),
        Event::Conflict { name } => format!("{name} has concurrent versions: kepler stat {name}"),
        Event::Leaving { node, left_chunks } => {
            format!("{node} is leaving: {} to bring elsewhere", count(left_chunks, "chunk"))
        }
        Event::Health { status } => format!("health: {}", super::health::spoken(status)),
    }
}

fn owed(chunks: u64) -> String {
    if chunks == 1 { "1 owed copy".to_owned() } else { format!("{chunks} owed copies") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_looks_at_nodes_names_and_lists_but_not_at_types() {
        let about = |event: &Value, text: &str| is_about(event, &[text.to_owned()]);
        let member = json!({"type": "member", "node": "node-b", "status": "dead"});
        assert!(about(&member, "node-b") && !about(&member, "node") && !about(&member, "member"));
        let roster = json!({"type": "roster", "number": 2, "members": ["node-a", "node-b"]});
        assert!(about(&roster, "node-a") && !about(&roster, "node-c"));
        assert!(is_about(&roster, &[]));
    }

    #[test]
    fn every_event_has_a_sentence_and_every_type_is_known() {
        let samples = [
            json!({"type": "member", "node": "b", "status": "dead"}),
            json!({"type": "written", "name": "a", "version": "v", "deleted": false}),
            json!({"type": "delivered", "node": "b", "chunks": 2}),
            json!({"type": "roster", "number": 2, "members": ["a"]}),
            json!({"type": "ready", "ready": true}),
            json!({"type": "repair_started", "node": "b", "chunks": 1}),
            json!({"type": "repaired", "node": "b", "chunks": 1, "bytes": 7}),
            json!({"type": "released", "chunks": 1}),
            json!({"type": "collected", "chunks": 1, "bytes": 7}),
            json!({"type": "scrubbed", "checked": 1, "bad": 0}),
            json!({"type": "conflict", "name": "a"}),
            json!({"type": "leaving", "node": "b", "left_chunks": 7}),
            json!({"type": "health", "status": "at-risk"}),
            json!({"type": "lagged", "missed": 3}),
        ];
        for event in samples {
            let text = describe(&event);
            assert!(!text.contains('{'), "{text}");
            assert!(TYPES.contains(&event["type"].as_str().expect("a type")), "{event}");
        }
        let future = json!({"type": "later", "x": 1});
        assert_eq!(describe(&future), future.to_string());
    }
}
