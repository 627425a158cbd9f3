//! Nothing outlives the command that started it.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use local_cloud::{supervisor, tools};

use crate::replay::replay;
use crate::stage::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    // A command that is killed cannot wait; its supervisor ends what is left a moment later.
    let cases = [
        ("interrupted", Signal::INT, Duration::ZERO),
        ("terminated", Signal::TERM, Duration::ZERO),
        ("killed with kill -9", Signal::KILL, Duration::from_secs(5)),
    ];
    let trial = |(how, signal, late): (&str, Signal, Duration)| {
        suite.trial(format!("nothing outlives a replay that is {how}"), async move |_| ended_by(signal, late))
    };
    let mut trials: Vec<_> = cases.into_iter().map(trial).collect();
    trials
        .push(suite.trial("nothing outlives a replay that is killed with kill -9 as it starts", async |_| starting()));
    trials.push(suite.trial("nothing outlives a replay whose parent is killed with kill -9", async |_| orphaned()));
    trials
}

fn starting() -> Result<()> {
    let mut watched = Watched::spawn(replay().stdout(Stdio::null()).stderr(Stdio::null()))?;
    let is_cli = |pid: Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("cloudformation")
    };
    watched.wait_for("the AWS CLI", is_cli)?;
    watched.end(Signal::KILL, Duration::from_secs(5))
}

/// As `make` runs it, when `make` is killed with `kill -9`.
fn orphaned() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = long_scenario(directory.path())?;
    // The shell stays, for something comes after.
    let mut shell = Command::new("sh");
    let program = replay();
    shell.arg("-c").arg("\"$0\" \"$1\"; exit 0").arg(program.get_program()).arg(&path);
    let mut watched = Watched::spawn(shell.stdout(Stdio::null()).stderr(Stdio::null()))?;
    watched.wait_for_a_function()?;
    watched.end(Signal::KILL, Duration::from_secs(10))
}

fn ended_by(signal: Signal, late: Duration) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = long_scenario(directory.path())?;
    let mut watched = Watched::spawn(replay().arg(&path).stdout(Stdio::null()).stderr(Stdio::null()))?;
    watched.wait_for_a_function()?;
    watched.end(signal, late)
}

/// A scenario that takes long, once it has woken a function.
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

/// A command whose descendants are remembered.
pub struct Watched {
    child: Child,
    pid: Pid,
    seen: BTreeSet<(i32, u64)>,
    scratch: BTreeSet<PathBuf>,
}

impl Watched {
    /// Starts it as a terminal would: in a process group of its own.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).stdin(Stdio::null()).spawn().context("cannot start the command")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("it has no process id")?;
        Ok(Self { child, pid, seen: BTreeSet::new(), scratch: BTreeSet::new() })
    }

    /// Runs it to its end, after which nothing of it may be left.
    pub fn run(command: &mut Command) -> Result<Output> {
        let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
        let mut watched = Self::spawn(command.stdout(out.reopen()?).stderr(err.reopen()?))?;
        let status = loop {
            if let Some(status) = watched.child.try_wait()? {
                break status;
            }
            watched.look();
            sleep(Duration::from_millis(100));
        };
        watched.none_left(Duration::ZERO)?;
        Ok(Output { status, stdout: std::fs::read(out.path())?, stderr: std::fs::read(err.path())? })
    }

    /// What it says, if that is piped.
    pub fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("its standard output is not piped")
    }

    /// The processes that came of it and are there now.
    pub fn descendants(&self) -> Vec<Pid> {
        supervisor::descendants(self.pid)
    }

    fn look(&mut self) {
        for pid in self.descendants() {
            self.seen.extend(supervisor::start_time(pid).map(|began| (pid.as_raw_nonzero().get(), began)));
            let home = supervisor::environment(pid).ok().and_then(|all| all.get("HOME").map(PathBuf::from));
            let is_scratch =
                |home: &PathBuf| home.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gatehouse-"));
            self.scratch.extend(home.filter(is_scratch));
        }
    }

    /// Waits until a function runs.
    pub fn wait_for_a_function(&mut self) -> Result<()> {
        self.wait_for("a function", |pid| {
            supervisor::environment(pid).is_ok_and(|all| all.contains_key("AWS_LAMBDA_RUNTIME_API"))
        })
    }

    /// Waits until there is such a process.
    fn wait_for(&mut self, what: &str, is_it: impl Fn(Pid) -> bool) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_mins(3) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if self.descendants().into_iter().any(&is_it) {
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        bail!("{what} does not run");
    }

    /// Ends it, after which nothing of it may be left for longer than `late`.
    pub fn end(mut self, signal: Signal, late: Duration) -> Result<()> {
        self.look();
        ensure!(self.seen.len() >= 2, "it has no server");
        ensure!(!self.scratch.is_empty(), "it has no directory of its own");
        if signal == Signal::INT {
            // Ctrl-C reaches the whole group.
            kill_process_group(self.pid, signal)?;
        } else {
            kill_process(self.pid, signal)?;
        }
        self.child.wait()?;
        self.none_left(late)
    }

    fn none_left(&self, late: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let is_left =
                |&&(pid, began): &&(i32, u64)| Pid::from_raw(pid).is_some_and(|pid| supervisor::start_time(pid) == Some(began));
            let left: Vec<_> = self.seen.iter().filter(is_left).map(|(pid, _)| pid).collect();
            let kept: Vec<_> = self.scratch.iter().filter(|scratch| scratch.exists()).collect();
            if left.is_empty() && kept.is_empty() {
                return Ok(());
            }
            ensure!(begin.elapsed() < late, "these processes outlived it: {left:?}, and these directories: {kept:?}");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind either.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A command that fails, or is killed, leaves the local cloud's log.
        for command in ["replay", "local"] {
            let left = tools::root().join(format!("target/local/{command}-{}", self.pid.as_raw_nonzero()));
            let _ = std::fs::remove_dir_all(left);
        }
    }
}
