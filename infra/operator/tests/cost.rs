//! Tests `gatehouse cost`: the examples in docs/cost.md are its output.

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of tests may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn gatehouse(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatehouse"));
    command.env_clear().args(arguments.split_whitespace());
    command.output().expect("the program runs")
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

#[test]
fn examples_in_the_guide_are_what_the_program_prints() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cost.md");
    let guide = fs::read_to_string(guide).expect("docs/cost.md");
    // Each example is a block with the command, and the next block has its output.
    let blocks: Vec<&str> = guide.split("```").skip(1).step_by(2).collect();
    let mut examples = 0;
    for pair in blocks.windows(2) {
        let [command, expected] = pair else { panic!("windows of two") };
        let Some(command) = command.trim().lines().last().and_then(|line| line.strip_prefix("gatehouse cost")) else {
            continue;
        };
        let expected = expected.strip_prefix("text\n").unwrap_or_else(|| panic!("no output after: {command}"));
        let output = gatehouse(&format!("cost{command}"));
        assert_eq!(stdout(&output), expected, "gatehouse cost{command}");
        examples += 1;
    }
    assert!(examples >= 2, "{examples} examples");
}

#[test]
fn json_has_every_item_and_sums_that_agree() {
    let output = gatehouse("cost --devices 10000 --thresholds 2 --clicks-per-day 50 --region eu-west-1 --json");
    let report: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    let sum = |values: &mut dyn Iterator<Item = &Value>| values.filter_map(Value::as_f64).sum::<f64>();
    let total = report["totalUsd"].as_f64().expect("a number");
    let lines = report["lines"].as_array().expect("lines");
    for sum in [
        sum(&mut lines.iter().map(|line| &line["usd"])),
        sum(&mut report["byService"].as_object().expect("an object").values()),
        sum(&mut report["byCapability"].as_object().expect("an object").values()),
    ] {
        assert!((sum - total).abs() < 1e-6, "{sum} is not {total}");
    }
    assert_eq!(report["region"], "eu-west-1");
}

#[test]
fn unknown_region_and_invalid_numbers_are_usage_errors() {
    for arguments in ["cost --region mars-1", "cost --devices -1", "cost --memory 64", "cost --arch mips"] {
        assert_eq!(gatehouse(arguments).status.code(), Some(2), "{arguments}");
    }
}
