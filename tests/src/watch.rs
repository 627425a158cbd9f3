//! cargo-lambda's own emulator for functions of the deployed stack: rebuilds as the code changes, and runs each
//! function in the environment that it has in the local cloud, with its role's credentials.

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
use crate::keeper::{self, Keeper};
use crate::tools;

/// Starts the emulator on `port` of 127.0.0.1; it ends with the value.
///
/// `functions` are the crates' names and what each is called where it is deployed.
pub async fn start(
    cloud: &Cloud,
    account: &Account,
    clients: &Clients,
    functions: &[(String, String)],
    port: u16,
    directory: &Path,
) -> Result<Keeper> {
    let mut script =
        "#!/bin/sh\n# Runs a function's program in the environment of the deployed function.\ncase ${1##*/} in\n"
            .to_owned();
    for (program, deployed) in functions {
        let environment = environment(cloud, clients, deployed).await?;
        let _ = writeln!(script, "{program})");
        for (name, value) in environment {
            let _ = writeln!(script, "  export {name}={}", quote(&value));
        }
        let _ = writeln!(script, "  ;;");
    }
    // The emulator sets it for functions that take several events at once, which these do not.
    script.push_str("esac\nunset AWS_LAMBDA_MAX_CONCURRENCY\nexec \"$@\"\n");
    let runner = directory.join("run-as-deployed");
    std::fs::write(&runner, script).with_context(|| format!("cannot write {}", runner.display()))?;
    // It holds credentials, if only of the local cloud.
    std::fs::set_permissions(&runner, std::fs::Permissions::from_mode(0o700))?;

    let mut command =
        isolation::command(tools::cargo_lambda()?, Inherit::Toolchain, cloud.endpoint, account, directory);
    // A container often has no IPv6.
    command.current_dir(tools::root()).args(["lambda", "watch", "--invoke-address", "127.0.0.1", "--invoke-port"]);
    command.arg(port.to_string()).env(runner_variable()?, &runner);
    Keeper::start(&command, Path::new(""), None)
}

/// What cargo asks for a program to run the built programs with.
fn runner_variable() -> Result<String> {
    let said = std::process::Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_ascii_uppercase()))
}

/// The variables that a deployed function runs with, read from a process of it.
async fn environment(cloud: &Cloud, clients: &Clients, function: &str) -> Result<BTreeMap<String, String>> {
    // An SQS batch of no messages: every function takes it, and it does nothing but start a process.
    let nothing = Blob::new(br#"{"Records":[]}"#);
    let invoked = clients.lambda.invoke().function_name(function).payload(nothing).send().await?;
    ensure!(invoked.function_error().is_none(), "{function} does not start; see {}", cloud.log.display());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let of_function = |all: &BTreeMap<_, _>| {
            let name: Option<&String> = all.get("AWS_LAMBDA_FUNCTION_NAME");
            all.contains_key("AWS_LAMBDA_RUNTIME_API") && name.is_some_and(|name| name == function)
        };
        let found = cloud.processes().into_iter().filter_map(|pid| keeper::variables(pid).ok()).find(of_function);
        if let Some(mut environment) = found {
            // These belong to that one process, or to this machine.
            let own = ["AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "PATH", "HOME", "TMPDIR"];
            environment.retain(|name, _| !own.contains(&name.as_str()));
            return Ok(environment);
        }
        ensure!(Instant::now() < deadline, "found no process of {function}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// As one word of a shell's command line.
pub fn quote(text: &str) -> String {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:=,@%+".contains(&b));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_is_read_back_by_a_shell() {
        for text in ["", "plain", "two words", "it's", r#"{"a":"$b"}"#, "a\nb"] {
            let said = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(text))).output();
            assert_eq!(String::from_utf8_lossy(&said.expect("sh runs").stdout), text);
        }
    }
}
