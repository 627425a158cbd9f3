//! Tests the command line. It also makes `cargo test --workspace` build the program, which the journeys run.

#![allow(clippy::expect_used, reason = "a helper of tests may panic")]

use std::process::{Command, Output};

fn gatehouse(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatehouse"));
    command.env_clear().env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
    command.args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn help_lists_subcommands_options_and_exit_codes() {
    let output = gatehouse(&["--help"]);
    assert!(output.status.success(), "{output:?}");
    let help = text(&output.stdout);
    for part in ["quarantine", "--prefix", "--stack", "--endpoint-url", "--json", "Exit codes: 0 success"] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = gatehouse(&["completions", shell]);
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).contains("quarantine"), "{shell}");
    }
}

#[test]
fn invalid_usage_ends_with_two() {
    for arguments in [&["quarantine"][..], &["quarantine", "list", "--since", "yesterday"], &["unknown"]] {
        assert_eq!(gatehouse(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let output = gatehouse(&["--region", "eu-west-1", "quarantine", "resend"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("--all"), "{output:?}");
}

#[test]
fn missing_region_is_an_error() {
    let output = gatehouse(&["quarantine", "list"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("no region is configured"), "{output:?}");
}

#[test]
fn unknown_function_ends_with_five() {
    let output = gatehouse(&["--region", "eu-west-1", "quarantine", "list", "--function", "lamp"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(text(&output.stderr).contains("the functions are actuator, alarm"), "{output:?}");
}
