//! The programs that the local commands run, and how to install missing ones.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_owned()
}

/// Returns the Python interpreter that has MiniStack.
pub fn cloud_python() -> Result<PathBuf> {
    tool("cloud/bin/python3")
}

/// Returns the AWS CLI.
pub fn aws() -> Result<PathBuf> {
    tool("aws/bin/aws")
}

/// Returns cargo-lambda.
pub fn cargo_lambda() -> Result<PathBuf> {
    tool("build/bin/cargo-lambda")
}

/// Returns the Python interpreter that has the AWS IoT Device SDK, which `make test` installs.
pub fn device_sdk() -> Result<PathBuf> {
    tool("device-sdk/bin/python")
}

/// Returns the Python interpreter that has Selenium, which `make test` installs.
pub fn browser_python() -> Result<PathBuf> {
    tool("browser/bin/python")
}

/// `GATEHOUSE_TOOLS` overrides the directory in which `make` installs the tools.
fn tool(path: &str) -> Result<PathBuf> {
    let tools = std::env::var_os("GATEHOUSE_TOOLS").map_or_else(|| root().join(".tools"), PathBuf::from);
    let program = tools.join(path);
    ensure!(program.is_file(), "{} is missing; `make replay` installs it", program.display());
    Ok(program)
}

/// Lists the functions: the crates in `functions/` that are programs.
pub fn functions() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("functions"))? {
        let entry = entry?;
        if entry.path().join("src/main.rs").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Fails if the zip of a function is missing.
pub fn require_zips() -> Result<()> {
    for function in functions()? {
        let zip = root().join(format!("target/lambda/{function}/bootstrap.zip"));
        if !zip.is_file() {
            bail!("{} is missing; `make build` builds it", zip.display());
        }
    }
    Ok(())
}
