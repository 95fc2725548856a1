//! Tables, JSON, progress bars.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::exit;

/// Where results go: for people or for scripts.
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON for scripts, or text for people.
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a value as one line of JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let line = if self.json { serde_json::to_string(value)? } else { text(value) };
        if !line.is_empty() {
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(())
    }

    /// The same for a stream of results: off a terminal it is JSON unasked, for a program reads it.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn stream<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let json = self.json || !std::io::stdout().is_terminal();
        Self::new(json).print(value, text)
    }

    /// Says what went wrong, with its causes.
    pub fn error(&self, error: &anyhow::Error) {
        if self.json {
            complain(&exit::to_json(error).to_string());
        } else {
            complain(&format!("kepler: {error:#}"));
        }
    }

    /// Tells a person something beside the result; scripts are spared.
    pub fn note(&self, text: &str) {
        if !self.json {
            complain(&format!("kepler: {text}"));
        }
    }

    /// A bar over `total` bytes, or a counter where the total is unknown; silent off a terminal.
    pub fn progress(&self, label: &str, total: Option<u64>) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{msg:30!} {bar:30} {bytes:>10} / {total_bytes:10} {binary_bytes_per_sec:>12} {eta:>5}",
            ),
            None => (ProgressBar::no_length(), "{msg:30!} {spinner} {bytes:>10} {binary_bytes_per_sec:>12}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is ours"));
        bar.set_message(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// A line to standard error; nobody is left to be told if that is closed.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A table without lines.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    // Every cell is padded by a blank on both sides.
    text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect::<Vec<_>>().join("\n")
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

/// `1 chunk`, `2 chunks`.
pub fn count(number: u64, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}
