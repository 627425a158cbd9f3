//! No local command reaches a real account, whatever the user's environment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::{supervisor, tools};
use rustix::process::Signal;

use crate::process_cleanup::WatchedCommand;
use crate::programs::{local, replay};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("replay", "reaches_no_real_account", async |_| replay_is_isolated()),
        suite.trial("replay", "local_cloud_and_watched_functions_reach_no_real_account", async |_| local_is_isolated()),
        suite.trial("replay", "make_removes_every_aws_variable", async |_| make_is_isolated()),
    ]
}

/// The environment of a user with a real account, in which everything that leads to the account is a trap.
struct Machine {
    directory: tempfile::TempDir,
    trap: String,
    caught: Arc<AtomicUsize>,
}

impl Machine {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let trap = format!("http://{}", listener.local_addr()?);
        let caught = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&caught);
        std::thread::spawn(move || {
            for _connection in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let machine = Self { directory, trap, caught };
        let aws = machine.path("home/.aws");
        std::fs::create_dir_all(&aws)?;
        let process = format!("credential_process = touch {}", machine.path("asked").display());
        for profile in ["default", "profile prod"] {
            let text = format!("[{profile}]\nregion = eu-west-1\nendpoint_url = {}\n{process}\n", machine.trap);
            let config = aws.join("config");
            let before = std::fs::read_to_string(&config).unwrap_or_default();
            std::fs::write(&config, before + &text)?;
        }
        std::fs::write(aws.join("credentials"), "[prod]\naws_access_key_id = real\naws_secret_access_key = real\n")?;
        machine.tool("cloud/bin/python3", &format!("exec {} \"$@\"", quoted(&tools::cloud_python()?)))?;
        machine.tool("aws/bin/aws", &format!("exec {} \"$@\"", quoted(&tools::aws()?)))?;
        machine.tool("build/bin/cargo-lambda", "exec sleep 600")?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds a program that records its environment before it runs a command.
    fn tool(&self, name: &str, work: &str) -> Result<()> {
        let path = self.path("tools").join(name);
        std::fs::create_dir_all(path.parent().context("the path has no parent")?)?;
        let record = quoted(&self.path("record"));
        let partial = quoted(&self.path("partial"));
        // Moved once it is complete, because a test may be waiting for it.
        let record = format!(
            "mkdir -p {record}; tr '\\0' '\\n' </proc/$$/environ >{partial}.$$; mv {partial}.$$ {record}/{}.$$",
            name.replace('/', "-")
        );
        std::fs::write(&path, format!("#!/bin/sh\n{record}\n{work}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Sets the environment of a command.
    fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"] {
            command.env(name, "real");
        }
        for name in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"] {
            command.env(name, "prod");
        }
        for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
            command.env(name, self.path("home/.aws/config"));
        }
        for name in [
            "AWS_ENDPOINT_URL",
            "AWS_ENDPOINT_URL_CLOUDFORMATION",
            "AWS_ENDPOINT_URL_DYNAMODB",
            "AWS_ENDPOINT_URL_IOT",
            "AWS_ENDPOINT_URL_S3",
            "AWS_ENDPOINT_URL_SNS",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ] {
            command.env(name, &self.trap);
        }
        command.env("HOME", self.path("home")).env("AWS_REGION", "eu-west-1").env("GATEHOUSE_TOOLS", self.path("tools"))
    }

    /// Ensures that nothing tried to reach the real account.
    fn ensure_untouched(&self) -> Result<()> {
        let caught = self.caught.load(Ordering::Relaxed);
        ensure!(caught == 0, "{caught} connections reached the trap");
        ensure!(!self.path("asked").exists(), "the credential process ran");
        Ok(())
    }

    /// Returns the recorded environments of a tool.
    fn recorded(&self, tool: &str) -> Result<Vec<BTreeMap<String, String>>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.path("record"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().contains(tool) {
                let text = std::fs::read_to_string(entry.path())?;
                let pairs = text.lines().filter_map(|line| line.split_once('='));
                found.push(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
            }
        }
        ensure!(!found.is_empty(), "{tool} did not run");
        Ok(found)
    }

    /// Ensures that an environment leads only to the local cloud.
    fn ensure_isolated(&self, what: &str, environment: &BTreeMap<String, String>) -> Result<()> {
        for (name, value) in environment {
            let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
            // The toolchain may need its proxy to download crates.
            if what.contains("cargo-lambda") && (is_proxy || name == "HOME" || name == "GATEHOUSE_TOOLS") {
                continue;
            }
            ensure!(!is_proxy, "{what} has {name}");
            let leads_out = value == "real" || value == "prod" || value == "eu-west-1" || value.contains(&self.trap);
            let leads_home = value.contains(&*self.path("home").to_string_lossy());
            ensure!(!leads_out && !leads_home, "{what} has {name}={value}");
        }
        let get = |name: &str| environment.get(name).map(String::as_str).unwrap_or_default();
        ensure!(get("AWS_ENDPOINT_URL").starts_with("http://127.0.0.1:"), "{what} has no local endpoint");
        ensure!(get("AWS_CONFIG_FILE") == "/dev/null", "{what} may read the AWS configuration");
        ensure!(get("AWS_SHARED_CREDENTIALS_FILE") == "/dev/null", "{what} may read credentials");
        ensure!(get("AWS_EC2_METADATA_DISABLED") == "true", "{what} may use the instance metadata service");
        ensure!(get("AWS_REGION") == "us-east-1", "{what} has no local region");
        if what.contains("cargo-lambda") {
            ensure!(get("NO_PROXY").contains("127.0.0.1"), "{what} uses a proxy for the local cloud");
        }
        Ok(())
    }
}

fn quoted(path: &Path) -> String {
    local_cloud::emulator::quote(&path.to_string_lossy())
}

fn replay_is_isolated() -> Result<()> {
    let machine = Machine::new()?;
    let scenario = machine.path("one.json");
    let step = r#"{"what": "a ring", "thing": "door", "topic": "doorbell/door", "payload": {"msg": "hello"},
                   "expect": {"notification": {"message": "hello"}}}"#;
    std::fs::write(&scenario, format!(r#"{{"about": "one ring", "steps": [{step}]}}"#))?;
    let output = WatchedCommand::run(machine.on(replay()?.arg(&scenario)))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "replay failed: {}{errors}", String::from_utf8_lossy(&output.stdout));
    machine.ensure_untouched()?;
    for tool in ["python3", "aws"] {
        for environment in machine.recorded(&format!("bin-{tool}"))? {
            machine.ensure_isolated(tool, &environment)?;
        }
    }
    Ok(())
}

fn local_is_isolated() -> Result<()> {
    let machine = Machine::new()?;
    let mut watched =
        WatchedCommand::spawn(machine.on(local()?.arg("--watch").stdout(Stdio::piped()).stderr(Stdio::null())))?;
    let mut lines = BufReader::new(watched.stdout()?).lines().map_while(Result::ok);
    ensure!(lines.any(|line| line.contains("Ctrl-C")), "local did not start");
    // All current processes, including those of functions.
    let mut functions = 0;
    for pid in watched.descendants() {
        let Ok(environment) = supervisor::environment(pid) else { continue };
        // The environment of an ending process is empty.
        if environment.is_empty() {
            continue;
        }
        let function = environment.get("AWS_LAMBDA_FUNCTION_NAME").cloned();
        functions += usize::from(function.is_some());
        let is_tool = environment.contains_key("GATEHOUSE_TOOLS");
        let what = function.unwrap_or_else(|| if is_tool { "cargo-lambda" } else { "a process" }.to_owned());
        machine.ensure_isolated(&what, &environment)?;
    }
    ensure!(functions >= 2, "{functions} functions are running");
    let started_at = Instant::now();
    while machine.recorded("cargo-lambda").is_err() && started_at.elapsed() < Duration::from_mins(5) {
        std::thread::sleep(Duration::from_millis(50));
    }
    for environment in machine.recorded("cargo-lambda")? {
        machine.ensure_isolated("cargo-lambda", &environment)?;
    }
    watched.end(Signal::TERM, Duration::ZERO)?;
    machine.ensure_untouched()
}

fn make_is_isolated() -> Result<()> {
    let machine = Machine::new()?;
    let mut make = Command::new("make");
    make.current_dir(tools::root()).args(["--silent", "--no-print-directory", "--eval"]);
    make.args(["print-environment: ; @env", "print-environment"]);
    // The options of a `make` that runs these tests are not for this one.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
    make.env("AWS_ENDPOINT_URL_A_FUTURE_SERVICE", &machine.trap);
    let output = machine.on(&mut make).output()?;
    let environment = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "make failed: {}", String::from_utf8_lossy(&output.stderr));
    let left: BTreeSet<_> = environment.lines().filter(|line| line.starts_with("AWS_")).collect();
    let expected =
        ["AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true"];
    ensure!(left == BTreeSet::from(expected), "these variables are left: {left:?}");
    Ok(())
}
