//! cargo-lambda's emulator for the deployed functions: rebuilds them when the code changes, and runs each with its
//! environment in the local cloud.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_lambda::primitives::Blob;
use tokio::time::{Instant, sleep};

use crate::aws::Clients;
use crate::cloud::Cloud;
use crate::isolation::{self, Account, Inherit};
use crate::supervisor::{self, Supervisor};
use crate::tools;

/// Starts the emulator on this port of 127.0.0.1. It ends when the returned value is dropped.
///
/// `functions` are pairs of a crate name and a deployed name.
pub async fn start(
    cloud: &Cloud,
    account: &Account,
    clients: &Clients,
    functions: &[(String, String)],
    port: u16,
    directory: &Path,
) -> Result<Supervisor> {
    let mut script =
        "#!/bin/sh\n# Runs a function with the environment of the deployed one.\ncase ${1##*/} in\n".to_owned();
    for (program, deployed) in functions {
        let environment = deployed_environment(cloud, clients, deployed).await?;
        let _ = writeln!(script, "{program})");
        for (name, value) in environment {
            let _ = writeln!(script, "  export {name}={}", quote(&value));
        }
        let _ = writeln!(script, "  ;;");
    }
    // The emulator sets this for functions that process several events concurrently in one process.
    script.push_str("esac\nunset AWS_LAMBDA_MAX_CONCURRENCY\nexec \"$@\"\n");
    let runner = directory.join("run-as-deployed");
    std::fs::write(&runner, script).with_context(|| format!("failed to write {}", runner.display()))?;
    // It contains credentials, although only those of the local cloud.
    std::fs::set_permissions(&runner, std::fs::Permissions::from_mode(0o700))?;

    let mut command =
        isolation::command(tools::cargo_lambda()?, Inherit::Toolchain, cloud.endpoint, account, directory);
    // Containers often have no IPv6.
    command.current_dir(tools::root()).args(["lambda", "watch", "--invoke-address", "127.0.0.1", "--invoke-port"]);
    command.arg(port.to_string()).env(runner_variable()?, &runner);
    Supervisor::start(&command, Path::new(""), None)
}

/// Returns the variable that names the program with which cargo runs executables.
fn runner_variable() -> Result<String> {
    let output = std::process::Command::new("rustc").arg("-vV").output().context("failed to run rustc")?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = output.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not print its host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_ascii_uppercase()))
}

/// Returns the environment of a deployed function, read from its process.
async fn deployed_environment(cloud: &Cloud, clients: &Clients, function: &str) -> Result<BTreeMap<String, String>> {
    // Every function accepts an empty SQS batch. It starts a process and does nothing else.
    let empty_batch = Blob::new(br#"{"Records":[]}"#);
    let invoked = clients.lambda.invoke().function_name(function).payload(empty_batch).send().await?;
    ensure!(invoked.function_error().is_none(), "{function} fails to start; see {}", cloud.log.display());
    let deadline = Instant::now() + Duration::from_mins(5);
    loop {
        let is_of_function = |all: &BTreeMap<_, _>| {
            let name: Option<&String> = all.get("AWS_LAMBDA_FUNCTION_NAME");
            all.contains_key("AWS_LAMBDA_RUNTIME_API") && name.is_some_and(|name| name == function)
        };
        let found =
            cloud.processes().into_iter().filter_map(|pid| supervisor::environment(pid).ok()).find(is_of_function);
        if let Some(mut environment) = found {
            // These are specific to that process or to this machine.
            let own = ["AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "PATH", "HOME", "TMPDIR"];
            environment.retain(|name, _| !own.contains(&name.as_str()));
            return Ok(environment);
        }
        ensure!(Instant::now() < deadline, "failed to find a process of {function}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Quotes a text as one word of a shell command.
pub fn quote(text: &str) -> String {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:=,@%+".contains(&b));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_word_is_read_back_by_a_shell() {
        for text in ["", "plain", "two words", "it's", r#"{"a":"$b"}"#, "a\nb"] {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(text))).output();
            assert_eq!(String::from_utf8_lossy(&output.expect("sh runs").stdout), text);
        }
    }
}
