//! Answers that come line by line and may not end.

use anyhow::Result;
use futures::StreamExt as _;
use reqwest::Response;

use crate::client::Client;

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 20;

/// Hands on each line of an answer, without its end, until the answer ends.
///
/// # Errors
/// The answer broke off, a line is endless, or `each` failed.
pub async fn each(
    client: &Client,
    response: Response,
    mut each: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut stream = response.bytes_stream();
    let mut rest = Vec::new();
    while let Some(piece) = stream.next().await {
        rest.extend_from_slice(&piece.map_err(|error| client.unreachable(&error))?);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            each(String::from_utf8_lossy(&line).trim_end())?;
        }
        anyhow::ensure!(rest.len() < MAX_LINE, "the node sent an endless line");
    }
    Ok(())
}
