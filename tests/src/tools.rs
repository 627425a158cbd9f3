//! Where the programs are that the local commands run, and what to do where one is missing.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

/// The repository.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The Python in which the local cloud's server is installed.
pub fn cloud_python() -> Result<PathBuf> {
    tool("cloud/bin/python3")
}

/// The AWS CLI.
pub fn aws() -> Result<PathBuf> {
    tool("aws/bin/aws")
}

/// cargo-lambda.
pub fn cargo_lambda() -> Result<PathBuf> {
    tool("build/bin/cargo-lambda")
}

/// Python with the AWS IoT Device SDK, which `make test` installs.
pub fn device_sdk() -> Result<PathBuf> {
    tool("device-sdk/bin/python")
}

/// `GATEHOUSE_TOOLS` stands in for the directory that `make` installs the tools in.
fn tool(path: &str) -> Result<PathBuf> {
    let tools = std::env::var_os("GATEHOUSE_TOOLS").map_or_else(|| root().join(".tools"), PathBuf::from);
    let program = tools.join(path);
    ensure!(program.is_file(), "{} is missing; `make replay` installs it", program.display());
    Ok(program)
}

/// The names of the functions: the crates in `functions/` that are programs.
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

/// Fails, and names the fix, where a function has not been built as it ships.
pub fn require_zips() -> Result<()> {
    for function in functions()? {
        let zip = root().join(format!("target/lambda/{function}/bootstrap.zip"));
        if !zip.is_file() {
            bail!("{} is missing; `make build` builds it", zip.display());
        }
    }
    Ok(())
}
