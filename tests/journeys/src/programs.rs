//! The programs `replay`, `local` and `gatehouse`, to run them as a user does.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Returns the program `replay`.
pub fn replay() -> Result<Command> {
    Ok(Command::new(path("replay", "local-cloud")?))
}

/// Returns the program `local`.
pub fn local() -> Result<Command> {
    Ok(Command::new(path("local", "local-cloud")?))
}

/// Returns the path of the operator tool.
pub fn gatehouse() -> Result<PathBuf> {
    path("gatehouse", "operator")
}

/// Returns the path of a program of a package, which cargo builds next to the directory of this test.
fn path(name: &str, package: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(|deps| deps.parent()).context("this test is not in a target directory")?;
    let path = directory.join(name);
    ensure!(path.is_file(), "{} is missing; `cargo build -p {package} --bins` builds it", path.display());
    Ok(path)
}
