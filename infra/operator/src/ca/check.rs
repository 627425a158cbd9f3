//! `gatehouse ca check`: whether admission can use a CA and its CRL. Needs neither AWS nor credentials.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use gatehouse::Timestamp;

use super::crl;
use super::files::{CaFile, CaName, day};
use crate::status::Status;

/// The arguments of `gatehouse ca check`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    ca: CaName,
    /// Certificate of the CA in PEM, instead of --name.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// A CRL of the CA, in DER or PEM.
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
}

/// Checks a CA, and a CRL if there is one. Prints the ID of the CA.
pub fn run(arguments: &Arguments) -> Result<Status> {
    let ca = CaFile::choose(arguments.certificate.as_deref(), &arguments.ca)?;
    let now = Timestamp::now();
    ca.check(now)?;
    eprintln!("{} can be registered; it is valid until {}.", ca.title, day(ca.certificate.not_after));
    if let Some(file) = &arguments.crl {
        let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        let crl = crl::check(&bytes, &ca, now)?;
        eprintln!("{} can be published.", crl::describe(&crl, &ca));
    }
    println!("{}", ca.id);
    Ok(Status::Success)
}
