//! What went wrong, as an exit code and as JSON.

use std::io;
use std::process::ExitCode;

use kepler_protocol::api::Problem;
use serde_json::{Value, json};

/// Why a command failed, where scripts care.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The node refused it and said why.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The node could not be asked.
    #[error("no answer from {url}: {reason}; is the node running? Set --node or KEPLER_URL to one that is")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The node answered, and there is nothing of the kind.
    #[error("{0}")]
    NotFound(String),
    /// The node served bytes that are not what their CID says.
    #[error("the node's answer cannot be trusted: {0}; ask another node with --node")]
    Untrusted(String),
    /// What was asked has been told, and it is not good news: this is only the exit code.
    #[error("exit code {0}")]
    Told(u8),
}

/// 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed, 5 unavailable.
pub fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Problem(problem)) => match problem.status {
            404 => 3,
            412 => 4,
            503 => 5,
            _ => 1,
        },
        Some(Failure::NotFound(_)) => 3,
        Some(Failure::Unreachable { .. }) => 5,
        Some(Failure::Usage(_)) => 2,
        Some(Failure::Told(code)) => *code,
        Some(Failure::Untrusted(_)) | None => 1,
    }
}

/// Whether whoever read our output had enough, as `head` has: no failure of ours.
pub fn reader_left(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether all there is to say has been said.
pub fn is_told(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Failure::Told(_)))
}

/// The error for scripts: `error` and `exit` always, `type` and `status` where a node gave them.
pub fn to_json(error: &anyhow::Error) -> Value {
    let mut value = json!({ "error": format!("{error:#}"), "exit": code(error) });
    let kind = match error.downcast_ref::<Failure>() {
        Some(Failure::Problem(problem)) => {
            value["status"] = problem.status.into();
            problem.kind.as_str()
        }
        Some(Failure::NotFound(_)) => "not-found",
        Some(Failure::Unreachable { .. }) => "unreachable",
        Some(Failure::Usage(_)) => "usage",
        Some(Failure::Untrusted(_)) => "untrusted",
        Some(Failure::Told(_)) => "told",
        None => "failed",
    };
    value["type"] = kind.into();
    value
}

/// For `main`.
pub fn exit(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(code(error))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn problem(status: u16) -> anyhow::Error {
        let problem = Problem {
            kind: "some-kind".to_owned(),
            title: String::new(),
            status,
            detail: "why".to_owned(),
            answered: None,
            needed: None,
        };
        Failure::Problem(Box::new(problem)).into()
    }

    #[test]
    fn each_status_has_its_exit_code_also_below_a_context() {
        for (status, expected) in [(404, 3), (412, 4), (503, 5), (400, 1), (401, 1), (500, 1), (507, 1)] {
            assert_eq!(code(&problem(status)), expected, "{status}");
            let wrapped = Err::<(), _>(problem(status)).context("put a file").unwrap_err();
            assert_eq!(code(&wrapped), expected, "{status} below a context");
        }
        assert_eq!(code(&anyhow::anyhow!("anything else")), 1);
    }

    #[test]
    fn a_reader_that_left_is_told_from_a_node_that_broke_off() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(reader_left(&anyhow::Error::from(broken).context("write")));
        let node = Failure::Unreachable { url: String::new(), reason: "Broken pipe".to_owned() };
        assert!(!reader_left(&node.into()));
    }

    #[test]
    fn an_error_in_json_names_its_type_and_exit_code() {
        let value = to_json(&problem(503));
        assert_eq!(value, json!({ "error": "why", "exit": 5, "status": 503, "type": "some-kind" }));
    }
}
