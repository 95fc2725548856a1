//! `kepler node` and `kepler dev` with a program beside them that only pretends to be a node.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use assert_cmd::Command;
use tempfile::TempDir;

/// A program just written cannot be run while another thread's fork still holds it open.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// A copy of `kepler` with this script beside it as `kepler-node`.
fn beside(script: &str) -> (MutexGuard<'static, ()>, TempDir, PathBuf) {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("kepler");
    std::fs::copy(assert_cmd::cargo::cargo_bin("kepler"), &program).expect("copied");
    let node = folder.path().join("kepler-node");
    std::fs::write(&node, script).expect("written");
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o755)).expect("executable");
    (alone, folder, program)
}

#[test]
fn the_node_verb_hands_its_flags_on() {
    let (_alone, _folder, program) = beside("#!/bin/sh\necho \"$@\"\nexit 7\n");
    let out = Command::new(&program)
        .args(["node", "--node-id", "node-x", "--print-config", "--help"])
        .output()
        .expect("it runs");
    assert_eq!(text(&out.stdout), "--node-id node-x --print-config --help\n");
    assert_eq!(out.status.code(), Some(7));
}

#[test]
fn a_dev_cluster_whose_node_does_not_start_ends_with_its_log() {
    let (_alone, folder, program) = beside("#!/bin/sh\necho the disk is on fire\nexit 1\n");
    let out = Command::new(&program)
        .args(["dev", "--http-port", "16001", "--dir"])
        .arg(folder.path().join("data"))
        .output()
        .expect("it runs");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("the disk is on fire"), "{}", text(&out.stderr));
    let high = Command::new(&program).args(["dev", "--http-port", "65000"]).output().expect("it runs");
    assert_eq!(high.status.code(), Some(2), "{}", text(&high.stderr));
}
