//! The keeper: a small process of its own that runs a program and lets nothing of it outlive the command that asked for
//! it.
//!
//! It is this same program, started again. It holds one end of a pipe; the command holds the other and writes nothing.
//! However the command ends (it returns, panics, is interrupted, is killed with `kill -9`), the system closes the pipe,
//! and the keeper ends the program and every process that came of it. As a "child subreaper" it is the parent of each
//! orphan among them, so that none is missed, whatever process group or session it moved to.

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

/// The first argument that makes a program of this crate the keeper.
const KEEP: &str = "__keep";

/// How long a process has to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(1);

/// Must be called first in every `main` that starts anything: does the keeper's work when this process was started as
/// one, and returns `None` otherwise.
pub fn main() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != KEEP {
        return None;
    }
    let (Some(scratch), Some(program)) = (args.next(), args.next()) else {
        return Some(ExitCode::FAILURE);
    };
    let ended = keep(&program, args);
    remove(Path::new(&scratch));
    Some(ended.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    }))
}

/// The command that runs `program`, which names its whole environment, under a keeper. Its standard input is a pipe: the
/// program ends when that is closed. It ends as the program does.
pub fn command(program: &Command) -> Result<Command> {
    keeping(program, Path::new(""))
}

fn keeping(program: &Command, scratch: &Path) -> Result<Command> {
    let mut keeper = Command::new(std::env::current_exe().context("this program's own path")?);
    keeper.arg(KEEP).arg(scratch).arg(program.get_program()).args(program.get_args());
    keeper.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = program.get_current_dir() {
        keeper.current_dir(directory);
    }
    // Out of reach of a terminal's Ctrl-C: the keeper ends after the command, not with it.
    keeper.stdin(Stdio::piped()).process_group(0);
    Ok(keeper)
}

/// A server that ends with this value.
#[derive(Debug)]
pub struct Keeper {
    keeper: Child,
}

impl Keeper {
    /// Starts `server`, which names its whole environment. What it writes goes to `log`, or to where this program
    /// writes. `scratch` is removed once everything has ended.
    pub fn start(server: &Command, scratch: &Path, log: Option<&File>) -> Result<Self> {
        let mut keeper = keeping(server, scratch)?;
        if let Some(log) = log {
            keeper.stdout(log.try_clone()?).stderr(log.try_clone()?);
        }
        let keeper = keeper.spawn().context("cannot start the keeper")?;
        Ok(Self { keeper })
    }

    /// `Some` once the server has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.keeper.try_wait().ok().flatten()
    }

    /// The keeper's process id.
    pub fn id(&self) -> u32 {
        self.keeper.id()
    }

    /// Ends the server and waits until no process of it is left.
    pub fn stop(&mut self) {
        drop(self.keeper.stdin.take());
        if let Err(error) = self.keeper.wait() {
            eprintln!("cannot wait for the local cloud to end: {error}");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keep(program: &OsString, args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    set_child_subreaper(Some(getpid())).context("cannot become a child subreaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let told_to_end = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = told_to_end else {
            bail!("the keeper cannot listen for signals");
        };
        // Its own standard input is the pipe, which the program must not hold.
        let started = tokio::process::Command::new(program).args(args).stdin(Stdio::null()).spawn();
        let mut started = started.with_context(|| format!("cannot start {}", program.display()))?;
        let mut pipe = [0_u8; 1];
        let mut stdin = tokio::io::stdin();
        let status = tokio::select! {
            status = started.wait() => Some(status?),
            _ = stdin.read(&mut pipe) => None,
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            _ = hangup.recv() => None,
        };
        end_all().await;
        let code = status.and_then(|status| u8::try_from(status.code()?).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    });
    // The read of standard input runs on a thread that cannot be interrupted.
    runtime.shutdown_background();
    code
}

fn remove(scratch: &Path) {
    if scratch.as_os_str().is_empty() {
        return;
    }
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("cannot remove {}: {error}", scratch.display());
        }
        _ => {}
    }
}

/// Ends every descendant of this process, politely at first.
async fn end_all() {
    let begin = Instant::now();
    let mut told = Vec::new();
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let left = descendants(getpid());
        if left.is_empty() {
            return;
        }
        for pid in left {
            if begin.elapsed() >= GRACE {
                let _ = kill_process(pid, Signal::KILL);
            } else if !told.contains(&pid) {
                let _ = kill_process(pid, Signal::TERM);
                told.push(pid);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Every process below `root`, the nearest first.
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

/// Every process that this one may see.
pub fn processes() -> impl Iterator<Item = Pid> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

fn parent(pid: Pid) -> Option<Pid> {
    Pid::from_raw(status(pid)?.get(1)?.parse().ok()?)
}

/// When a process began, in the system's ticks; none once it has ended. With its id it names one process for good.
pub fn began(pid: Pid) -> Option<u64> {
    let status = status(pid)?;
    let has_ended = matches!(status.first()?.as_str(), "Z" | "X");
    if has_ended { None } else { status.get(19)?.parse().ok() }
}

/// What `/proc` says of a process after its id and name, its state first.
fn status(pid: Pid) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // `pid (name) state parent …`: the name may hold anything, a `)` too.
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.split_whitespace().map(str::to_owned).collect())
}

/// The variables that a process was started with.
pub fn variables(pid: Pid) -> Result<BTreeMap<String, String>> {
    let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    let all = bytes.split(|byte| *byte == 0).filter_map(|one| {
        let (name, value) = std::str::from_utf8(one).ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Ok(all.collect())
}
