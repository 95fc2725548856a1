//! What went wrong, as an exit code.

use std::process::ExitCode;

use kepler_protocol::api::Problem;

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
    /// The node served bytes that are not what their CID says.
    #[error("the node's answer cannot be trusted: {0}; ask another node with --node")]
    Untrusted(String),
}

/// 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed, 5 unavailable.
pub fn code(error: &anyhow::Error) -> ExitCode {
    let code = match error.downcast_ref::<Failure>() {
        Some(Failure::Problem(problem)) => match problem.status {
            404 => 3,
            412 => 4,
            503 => 5,
            _ => 1,
        },
        Some(Failure::Unreachable { .. }) => 5,
        Some(Failure::Usage(_)) => 2,
        Some(Failure::Untrusted(_)) | None => 1,
    };
    ExitCode::from(code)
}
