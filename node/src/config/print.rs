//! `--print-config`: every setting with its value and source.

use super::Source;

/// One setting as it is printed; the value of a secret never gets here.
#[derive(Clone, Debug)]
pub struct Setting {
    pub variable: &'static str,
    pub value: String,
    pub source: Source,
}

/// One line a setting: `NAME=value  # source`.
pub fn describe(settings: &[Setting]) -> String {
    let assignments: Vec<String> = settings.iter().map(|s| format!("{}={}", s.variable, s.value)).collect();
    let width = assignments.iter().map(|a| a.chars().count()).max().unwrap_or(0).min(60);
    let mut out = String::new();
    for (assignment, setting) in assignments.iter().zip(settings) {
        let source = match setting.source {
            Source::Flag => "flag",
            Source::Environment => "environment",
            Source::Default => "default",
        };
        out.push_str(&format!("{assignment:width$}  # {source}\n"));
    }
    out
}
