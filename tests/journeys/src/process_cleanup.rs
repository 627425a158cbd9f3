//! No process outlives the command that started it.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use local_cloud::{supervisor, tools};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;

use crate::programs::replay;
use crate::suite::Suite;

/// How long the supervisor of a killed command may take to kill its processes. It takes a second on an idle machine.
const SUPERVISOR_GRACE: Duration = Duration::from_mins(1);

/// How long a command may take to start the expected process. It takes seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_mins(15);

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    // A killed command cannot wait; its supervisor kills the remaining processes a moment later.
    let cases = [
        ("interrupted", Signal::INT, Duration::ZERO),
        ("terminated", Signal::TERM, Duration::ZERO),
        ("killed", Signal::KILL, SUPERVISOR_GRACE),
    ];
    let trial = |(how, signal, grace): (&str, Signal, Duration)| {
        suite.trial("replay", format!("no_process_outlives_a_replay_that_is_{how}"), move |_| async move {
            ended_by(signal, grace)
        })
    };
    let mut trials: Vec<_> = cases.into_iter().map(trial).collect();
    trials.push(
        suite.trial("replay", "no_process_outlives_a_replay_that_is_killed_while_it_starts", async |_| starting()),
    );
    trials.push(suite.trial("replay", "no_process_outlives_a_replay_whose_parent_is_killed", async |_| orphaned()));
    trials
}

fn starting() -> Result<()> {
    let mut watched = WatchedCommand::spawn(replay()?.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let is_cli = |pid: Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("cloudformation")
    };
    watched.wait_for("the AWS CLI", is_cli)?;
    watched.end(Signal::KILL, SUPERVISOR_GRACE)
}

/// Kills the parent of a replay, as if `make` were killed.
fn orphaned() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = long_scenario(directory.path())?;
    // With a second command, the shell does not replace itself with the first one.
    let mut shell = Command::new("sh");
    let program = replay()?;
    shell.arg("-c").arg("\"$0\" \"$1\"; exit 0").arg(program.get_program()).arg(&path);
    let mut watched = WatchedCommand::spawn(shell.stdout(Stdio::null()).stderr(Stdio::null()))?;
    watched.wait_for_a_function()?;
    watched.end(Signal::KILL, SUPERVISOR_GRACE)
}

fn ended_by(signal: Signal, grace: Duration) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = long_scenario(directory.path())?;
    let mut watched = WatchedCommand::spawn(replay()?.arg(&path).stdout(Stdio::null()).stderr(Stdio::null()))?;
    watched.wait_for_a_function()?;
    watched.end(signal, grace)
}

/// Writes a scenario that takes ten minutes after the first invocation.
fn long_scenario(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("long.json");
    let ring = |delay: u32| {
        json!({
            "what": "a ring",
            "thing": "door",
            "topic": "doorbell/door",
            "payload": {"msg": "hello"},
            "delaySeconds": delay,
            "expect": {"notification": {}},
        })
    };
    std::fs::write(&path, json!({"about": "a long scenario", "steps": [ring(0), ring(600)]}).to_string())?;
    Ok(path)
}

/// A running command whose descendants and scratch directories are tracked.
pub struct WatchedCommand {
    child: Child,
    pid: Pid,
    seen: BTreeSet<(i32, u64)>,
    scratch: BTreeSet<PathBuf>,
}

impl WatchedCommand {
    /// Starts a command as a terminal does, in its own process group.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).stdin(Stdio::null()).spawn().context("failed to start the command")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the command has no process id")?;
        Ok(Self { child, pid, seen: BTreeSet::new(), scratch: BTreeSet::new() })
    }

    /// Runs a command to its end and ensures that no process is left.
    pub fn run(command: &mut Command) -> Result<Output> {
        let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
        let mut watched = Self::spawn(command.stdout(out.reopen()?).stderr(err.reopen()?))?;
        let status = loop {
            if let Some(status) = watched.child.try_wait()? {
                break status;
            }
            watched.track();
            sleep(Duration::from_millis(100));
        };
        watched.ensure_none_left(Duration::ZERO)?;
        Ok(Output { status, stdout: std::fs::read(out.path())?, stderr: std::fs::read(err.path())? })
    }

    /// Takes its standard output, which must be piped.
    pub fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("standard output is not piped")
    }

    /// Lists its current descendants.
    pub fn descendants(&self) -> Vec<Pid> {
        supervisor::descendants(self.pid)
    }

    fn track(&mut self) {
        for pid in self.descendants() {
            self.seen.extend(supervisor::start_time(pid).map(|ticks| (pid.as_raw_nonzero().get(), ticks)));
            let home = supervisor::environment(pid).ok().and_then(|all| all.get("HOME").map(PathBuf::from));
            let is_scratch =
                |home: &PathBuf| home.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gatehouse-"));
            self.scratch.extend(home.filter(is_scratch));
        }
    }

    /// Waits until a function process runs.
    pub fn wait_for_a_function(&mut self) -> Result<()> {
        self.wait_for("a function", |pid| {
            supervisor::environment(pid).is_ok_and(|all| all.contains_key("AWS_LAMBDA_RUNTIME_API"))
        })
    }

    /// Waits until a descendant satisfies a condition.
    fn wait_for(&mut self, what: &str, is_it: impl Fn(Pid) -> bool) -> Result<()> {
        let started_at = Instant::now();
        while started_at.elapsed() < START_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                bail!("the command ended with {status}");
            }
            if self.descendants().into_iter().any(&is_it) {
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        bail!("{what} did not start");
    }

    /// Sends a signal and ensures that no process is left after the grace period.
    pub fn end(mut self, signal: Signal, grace: Duration) -> Result<()> {
        self.track();
        ensure!(self.seen.len() >= 2, "the command has no server");
        ensure!(!self.scratch.is_empty(), "the command has no scratch directory");
        if signal == Signal::INT {
            // Ctrl-C reaches the whole group.
            kill_process_group(self.pid, signal)?;
        } else {
            kill_process(self.pid, signal)?;
        }
        self.child.wait()?;
        self.ensure_none_left(grace)
    }

    fn ensure_none_left(&self, grace: Duration) -> Result<()> {
        let started_at = Instant::now();
        loop {
            let is_left = |&&(pid, ticks): &&(i32, u64)| {
                Pid::from_raw(pid).is_some_and(|pid| supervisor::start_time(pid) == Some(ticks))
            };
            let left: Vec<_> = self.seen.iter().filter(is_left).map(|(pid, _)| pid).collect();
            let directories: Vec<_> = self.scratch.iter().filter(|scratch| scratch.exists()).collect();
            if left.is_empty() && directories.is_empty() {
                return Ok(());
            }
            ensure!(started_at.elapsed() < grace, "processes {left:?} and directories {directories:?} are left");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for WatchedCommand {
    fn drop(&mut self) {
        // A failed test must not leave anything behind either.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A command that fails or is killed keeps the log of the local cloud.
        for command in ["replay", "local"] {
            let left = tools::root().join(format!("target/local/{command}-{}", self.pid.as_raw_nonzero()));
            let _ = std::fs::remove_dir_all(left);
        }
    }
}
