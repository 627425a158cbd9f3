//! The programs `replay` and `local`, run as a user runs them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Returns the program `replay`.
pub fn replay() -> Result<Command> {
    Ok(Command::new(path("replay")?))
}

/// Returns the program `local`.
pub fn local() -> Result<Command> {
    Ok(Command::new(path("local")?))
}

/// Returns the path of a program of `local-cloud`, which cargo builds next to the directory of this test.
fn path(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(|deps| deps.parent()).context("this test is not in a target directory")?;
    let path = directory.join(name);
    ensure!(path.is_file(), "{} is missing; `cargo build -p local-cloud --bins` builds it", path.display());
    Ok(path)
}
