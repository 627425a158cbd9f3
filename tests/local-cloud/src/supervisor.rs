//! The supervisor: a process that runs a program for a command, and kills it with all its descendants when the command
//! ends.
//!
//! It is the same executable as the command. It holds one end of a pipe; the command holds the other and writes
//! nothing. However the command ends (by returning, a panic, a signal, even `kill -9`), the kernel closes the pipe, and
//! the supervisor kills the program and its descendants. As a child subreaper it adopts each orphan among them, so it
//! misses none, whatever process group or session they moved to.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

/// The first argument that turns a program of this crate into the supervisor.
const SUPERVISE: &str = "__supervise";

/// How long a process may take to handle SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the supervisor if this process was started as one, and returns `None` otherwise. Every `main` that starts
/// programs must call it first.
pub fn main() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != SUPERVISE {
        return None;
    }
    let (Some(scratch), Some(program)) = (args.next(), args.next()) else {
        return Some(ExitCode::FAILURE);
    };
    let ended = supervise(&program, args);
    remove(Path::new(&scratch));
    Some(ended.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    }))
}

/// Returns a command that runs `program` under a supervisor. Closing the command's standard input, a pipe, kills the
/// program. The environment of `program` must be complete.
pub fn command(program: &Command) -> Result<Command> {
    supervised(program, Path::new(""))
}

fn supervised(program: &Command, scratch: &Path) -> Result<Command> {
    let mut supervisor = Command::new(std::env::current_exe().context("failed to find the path of this executable")?);
    supervisor.arg(SUPERVISE).arg(scratch).arg(program.get_program()).args(program.get_args());
    supervisor.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = program.get_current_dir() {
        supervisor.current_dir(directory);
    }
    // Ctrl-C in a terminal must not reach the supervisor, which ends after the command.
    supervisor.stdin(Stdio::piped()).process_group(0);
    Ok(supervisor)
}

/// A supervised server. Dropping it kills the server.
#[derive(Debug)]
pub struct Supervisor {
    process: Child,
}

impl Supervisor {
    /// Starts `server`, whose environment must be complete. Its output goes to `log`, or else to this process's output.
    /// Removes `scratch` once the server has ended.
    pub fn start(server: &Command, scratch: &Path, log: Option<&File>) -> Result<Self> {
        let mut supervisor = supervised(server, scratch)?;
        if let Some(log) = log {
            supervisor.stdout(log.try_clone()?).stderr(log.try_clone()?);
        }
        let process = supervisor.spawn().context("failed to start the supervisor")?;
        Ok(Self { process })
    }

    /// Returns the exit status if the server has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Returns the supervisor's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills the server and waits until none of its processes is left.
    pub fn stop(&mut self) {
        drop(self.process.stdin.take());
        if let Err(error) = self.process.wait() {
            eprintln!("failed to wait for the supervisor: {error}");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop();
    }
}

fn supervise(program: &OsString, args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    set_child_subreaper(Some(getpid())).context("failed to become a child subreaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
            bail!("failed to listen for signals");
        };
        // The program must not hold the pipe.
        let started = tokio::process::Command::new(program).args(args).stdin(Stdio::null()).spawn();
        let mut started = started.with_context(|| format!("failed to start {}", program.display()))?;
        let mut pipe = [0_u8; 1];
        let mut stdin = tokio::io::stdin();
        let status = tokio::select! {
            status = started.wait() => Some(status?),
            _ = stdin.read(&mut pipe) => None,
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            _ = hangup.recv() => None,
        };
        kill_all().await;
        let code = status.and_then(|status| u8::try_from(status.code()?).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    });
    // The thread that reads standard input cannot be interrupted.
    runtime.shutdown_background();
    code
}

fn remove(scratch: &Path) {
    if scratch.as_os_str().is_empty() {
        return;
    }
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("failed to remove {}: {error}", scratch.display());
        }
        _ => {}
    }
}

/// Terminates every descendant of this process, and kills those that are left after the grace period.
async fn kill_all() {
    let started_at = Instant::now();
    let mut terminated = Vec::new();
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let left = descendants(getpid());
        if left.is_empty() {
            return;
        }
        for pid in left {
            if started_at.elapsed() >= GRACE {
                let _ = kill_process(pid, Signal::KILL);
            } else if !terminated.contains(&pid) {
                let _ = kill_process(pid, Signal::TERM);
                terminated.push(pid);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Lists the descendants of `root`, breadth first.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let all: Vec<(Pid, Pid)> = processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|(_, its_parent)| *its_parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// Lists all visible processes.
pub fn processes() -> impl Iterator<Item = Pid> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

fn parent(pid: Pid) -> Option<Pid> {
    Pid::from_raw(status(pid)?.get(1)?.parse().ok()?)
}

/// Returns when a process started, in clock ticks since boot, or `None` once it has ended. Together with the process id
/// it is unique.
pub fn start_time(pid: Pid) -> Option<u64> {
    let status = status(pid)?;
    let has_ended = matches!(status.first()?.as_str(), "Z" | "X");
    if has_ended { None } else { status.get(19)?.parse().ok() }
}

/// Returns the fields of `/proc/<pid>/stat` from the third on, the state.
fn status(pid: Pid) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // `pid (name) state parent …`: the name may contain any character, even `)`.
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.split_whitespace().map(str::to_owned).collect())
}

/// Returns the environment that a process was started with.
pub fn environment(pid: Pid) -> Result<BTreeMap<String, String>> {
    let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
    let bytes = std::fs::read(&path).with_context(|| format!("failed to read {path}"))?;
    let all = bytes.split(|byte| *byte == 0).filter_map(|one| {
        let (name, value) = std::str::from_utf8(one).ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Ok(all.collect())
}
