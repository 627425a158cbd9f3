//! Common parts of the command-line programs: startup, signals, and the directory for their files.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::getppid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::tools;

/// Runs a program until it completes, a signal arrives (Ctrl-C, SIGTERM, SIGHUP), or its parent process ends. Then
/// everything is dropped, including the local cloud.
pub fn run<F: Future<Output = Result<ExitCode>>>(program: impl FnOnce() -> F) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            result = program() => result.unwrap_or_else(|error| {
                eprintln!("\nerror: {error:#}");
                ExitCode::FAILURE
            }),
            code = shutdown_signal() => code,
        }
    })
}

/// Waits for a signal or the end of the parent process. Returns the conventional exit code.
pub async fn shutdown_signal() -> ExitCode {
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

/// Waits until the parent process ends: a `make` that is killed does not signal its children.
async fn orphaned() {
    let parent = getppid();
    while getppid() == parent {
        sleep(Duration::from_millis(500)).await;
    }
}

/// A directory under `target/local` for the files of one run. It is removed when dropped, unless it is kept.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    is_kept: bool,
}

impl RunDirectory {
    /// Creates the directory.
    pub fn new(command: &str) -> Result<Self> {
        let path = tools::root().join(format!("target/local/{command}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self { path, is_kept: false })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("failed to remove {}: {error}", self.path.display());
        }
    }
}
