//! What the programs of this crate have in common: they start the same way, and however they end, nothing they started
//! outlives them.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::getppid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::tools;

/// Runs a program until it is done or is told to end (Ctrl-C, SIGTERM, SIGHUP, or the end of the program that started
/// it); then all that it holds is dropped, the local cloud too.
pub fn run<F: Future<Output = Result<ExitCode>>>(work: impl FnOnce() -> F) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            result = work() => result.unwrap_or_else(|error| {
                eprintln!("\nerror: {error:#}");
                ExitCode::FAILURE
            }),
            code = told_to_end() => code,
        }
    })
}

/// Waits until this process is told to end; the exit code that a shell gives such an end.
pub async fn told_to_end() -> ExitCode {
    let listen = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => signals.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = listen(SignalKind::interrupt()) => ExitCode::from(128 + 2),
        _ = listen(SignalKind::terminate()) => ExitCode::from(128 + 15),
        _ = listen(SignalKind::hangup()) => ExitCode::from(128 + 1),
        () = orphaned() => ExitCode::from(128 + 1),
    }
}

/// Waits for the end of the process that started this one: a `make` that is killed tells its children nothing.
async fn orphaned() {
    let parent = getppid();
    while getppid() == parent {
        sleep(Duration::from_millis(500)).await;
    }
}

/// A directory of this run's own under `target/local`, for what a person may want to look at. It goes with the value.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    is_kept: bool,
}

impl Directory {
    /// Makes it.
    pub fn new(command: &str) -> Result<Self> {
        let path = tools::root().join(format!("target/local/{command}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, is_kept: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there for good.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
