//! What the command line does where no node answers: help, usage, keys, completions, exit codes.

use std::process::Output;

use assert_cmd::Command;

/// A port on which nobody listens: it was bound just now, and is free again.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

fn kepler(args: &[&str]) -> Output {
    let mut command = Command::cargo_bin("kepler").expect("built");
    command.env_remove("KEPLER_URL").env_remove("KEPLER_TOKEN").args(args);
    command.output().expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn every_verb_has_help_and_the_main_help_names_the_exit_codes() {
    let main = kepler(&["--help"]);
    assert_eq!(main.status.code(), Some(0));
    assert!(text(&main.stdout).contains("3 not found"), "{}", text(&main.stdout));
    for verb in [
        "put",
        "get",
        "cat",
        "ls",
        "rm",
        "stat",
        "cp",
        "mv",
        "locate",
        "health",
        "verify",
        "scrub",
        "repair",
        "events",
        "dev",
        "completions",
    ] {
        let help = kepler(&[verb, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{verb}");
        assert!(text(&help.stdout).contains("Example"), "{verb} --help has no example");
        assert!(!text(&help.stdout).contains('\u{1b}'), "{verb} --help is coloured off a terminal");
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_json_where_asked() {
    for args in [
        &["put", "only-one"][..],
        &["frobnicate"],
        &["get"],
        &["rm", "-r", "a", "--version", "v"],
        &["scrub", "--pause", "--resume"],
        &["repair", "--bandwidth", "0"],
        &["repair", "--bandwidth", "fast"],
        &["cluster", "forget"],
        &["cluster", "forget", "No Node"],
        &["locate", "a", "--if-down", ""],
        &["events", "--type", "membr"],
    ] {
        assert_eq!(kepler(args).status.code(), Some(2), "{args:?}");
    }
    let bad_name = kepler(&["--json", "get", "a//b"]);
    assert_eq!(bad_name.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&bad_name.stderr).expect("an error in JSON");
    assert_eq!((error["type"].as_str(), error["exit"].as_u64()), (Some("usage"), Some(2)), "{error}");
    let bad_flag = kepler(&["--json", "ls", "--no-such-flag"]);
    let error: serde_json::Value = serde_json::from_slice(&bad_flag.stderr).expect("an error in JSON");
    assert!(error["error"].as_str().is_some_and(|e| e.contains("--no-such-flag")), "{error}");
    assert_eq!(bad_flag.status.code(), Some(2));
}

#[test]
fn a_node_that_is_not_there_is_exit_code_5_and_the_error_says_what_to_set() {
    let url = nobody();
    for verb in [
        &["ls"][..],
        &["get", "a", "-"],
        &["stat", "a"],
        &["cluster", "status"],
        &["cluster", "leave"],
        &["cluster", "forget", "--lost", "a", "b"],
        &["health"],
        &["verify", "--all"],
        &["scrub"],
        &["repair", "--all", "--bandwidth", "2.5"],
        &["locate", "a", "--if-down", "b"],
        &["events"],
    ] {
        let out = kepler(&[&["--node", &url], verb].concat());
        assert_eq!(out.status.code(), Some(5), "{verb:?}");
        assert!(text(&out.stderr).contains("KEPLER_URL"), "{}", text(&out.stderr));
        assert!(out.stdout.is_empty());
    }
    let out = kepler(&["--json", "--node", &url, "ls"]);
    let error: serde_json::Value = serde_json::from_slice(&out.stderr).expect("an error in JSON");
    assert_eq!((error["type"].as_str(), error["exit"].as_u64()), (Some("unreachable"), Some(5)), "{error}");
}

#[test]
fn keys_completions_and_versions_need_no_node_and_no_valid_address() {
    let run = |args: &[&str]| {
        let mut command = Command::cargo_bin("kepler").expect("built");
        command.env("KEPLER_URL", "nonsense").args(args).output().expect("it runs")
    };
    let (one, other) = (run(&["key", "generate"]), run(&["key", "generate"]));
    let key = text(&one.stdout).trim();
    assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
    assert_ne!(one.stdout, other.stdout, "two keys are the same");
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&run(&["completions", shell]).stdout).contains("kepler"), "{shell}");
    }
    assert!(text(&run(&["version"]).stdout).starts_with("kepler "));
    assert_eq!(run(&["ls"]).status.code(), Some(2));
}
