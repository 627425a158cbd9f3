//! Tests the help of the programs. It also makes `cargo test --workspace` build both programs, which the journeys run.

#![allow(clippy::expect_used, reason = "a helper of tests may panic")]

use std::process::Command;

fn help(program: &str) -> String {
    let output = Command::new(program).arg("--help").output().expect("the program runs");
    assert!(output.status.success(), "{program} ended with {}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn replay_documents_its_options() {
    let help = help(env!("CARGO_BIN_EXE_replay"));
    for part in ["[FILES]", "--json", "Exits with 0"] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
}

#[test]
fn local_documents_its_options() {
    let help = help(env!("CARGO_BIN_EXE_local"));
    for part in ["--watch", "--invoke-port"] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
}
