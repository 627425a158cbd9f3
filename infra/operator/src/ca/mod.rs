//! `gatehouse ca`: certificate authorities, their certificates and revocation lists. Everything is parsed with the
//! functions' own code before it is registered or published.

pub mod check;
pub mod crl;
pub mod files;
pub mod index;
pub mod issue;
pub mod readmit;
pub mod registration;
pub mod table;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use gatehouse::pki::{CaCertificate, CertificateId};
use gatehouse::store::item::{integer, text};
use gatehouse::{Item, Timestamp};
use serde::Serialize;

use self::table::Block;

use crate::context::Context;
use crate::output::{self, Output, escape_line, utc};
use crate::status::Status;

/// The arguments of `gatehouse ca`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the registered CAs: whether they are active or blocked, when they expire, and which CRL is published.
    List,
    /// Create a CA for devices' certificates, in a directory of this machine.
    ///
    /// The private key is not encrypted. It has mode 600, and is never written where Git could commit it. That is
    /// sufficient for a sample or a small fleet. Keep the key of a large fleet in hardware, and see `register --help`.
    Create(issue::CreateArguments),
    /// Register a CA with AWS IoT, or set a registered one active, so that devices with its certificates are admitted.
    Register(registration::RegisterArguments),
    /// Issue a device's certificate.
    ///
    /// Writes NAME.key, NAME.crt and NAME.chain.pem. The device presents the chain: its certificate, followed by that of
    /// the CA, by which AWS IoT recognizes a new device. An existing certificate is left unchanged.
    Issue(issue::IssueArguments),
    /// Publish a CA's revocation list (CRL), and revoke active certificates on it.
    ///
    /// A new CRL replaces the old one atomically. A CRL expires: after its next update is due, no device of the CA is
    /// admitted until a new one is published. Run this at least once a month. Without --revoke it creates a new CRL if
    /// half the lifetime of the last one is over, and otherwise publishes the last one again.
    ///
    /// Exits with 4 if the CRL is published, but active certificates on it were not revoked. Repeating it is safe.
    PublishCrl(crl::Arguments),
    /// Set a CA inactive, so that no new device is admitted. `register` reverts this.
    Deactivate(registration::DeactivateArguments),
    /// Check that a CA, and a CRL of it, can be used. Needs neither AWS nor credentials.
    Check(check::Arguments),
    /// Let devices that were rejected or revoked by mistake be checked again.
    Readmit(readmit::Arguments),
}

impl Command {
    /// Runs the subcommands that need neither credentials nor a region; `None` for the others.
    pub fn run_offline(&self) -> Option<Result<Status>> {
        match self {
            Self::Create(arguments) => Some(issue::create(arguments)),
            Self::Issue(arguments) => Some(issue::issue(arguments)),
            Self::Check(arguments) => Some(check::run(arguments)),
            _ => None,
        }
    }
}

/// A CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ca {
    /// Its `caCertificateId`.
    pub id: String,
    /// Its status in AWS IoT.
    pub status: String,
    /// Whether AWS IoT registers certificates that it signed when they are first presented.
    pub auto_registration: Option<bool>,
    /// When its certificate expires, from AWS IoT or else from the devices table.
    pub expires_at: Option<Timestamp>,
    /// Whether the devices table has its expiry, which the expiry alarm needs.
    pub is_expiry_recorded: bool,
    /// Why it is blocked; `None` if it is not.
    pub block_reason: Option<String>,
    /// Why the certificate cannot be used to admit devices; `None` if it can.
    pub problem: Option<String>,
    /// The published CRL.
    pub crl: Option<PublishedCrl>,
}

/// A published CRL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedCrl {
    /// Its number, as hexadecimal digits without leading zeros.
    pub number: String,
    /// When the next one is due.
    pub next_update: Option<Timestamp>,
}

/// Runs the subcommand.
pub async fn run(command: Command, context: &Context) -> Result<Status> {
    match command {
        Command::Create(arguments) => issue::create(&arguments),
        Command::Issue(arguments) => issue::issue(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Register(arguments) => registration::register(&arguments, context).await,
        Command::PublishCrl(arguments) => crl::publish(&arguments, context).await,
        Command::Deactivate(arguments) => registration::deactivate(&arguments, context).await,
        Command::Readmit(arguments) => readmit::run(&arguments, context).await,
        Command::List => {
            let cas = list(context).await?;
            if cas.is_empty() && context.output == Output::Text {
                eprintln!("No CA is registered.");
            }
            context.output.print(&cas, || text_of(&cas))?;
            Ok(Status::Success)
        }
    }
}

/// Returns the registered CAs.
pub async fn list(context: &Context) -> Result<Vec<Ca>> {
    let iot = context.iot();
    let pages = iot.list_ca_certificates().page_size(250).into_paginator().items().send();
    let registered = pages.collect::<Result<Vec<_>, _>>().await.context("failed to list the CAs")?;
    let mut cas = Vec::new();
    for ca in registered {
        let Some(id) = ca.certificate_id else { continue };
        let described = iot.describe_ca_certificate().certificate_id(&id).send().await;
        let described = described.with_context(|| format!("failed to describe CA {id}"))?.certificate_description;
        let validity = described.as_ref().and_then(|found| found.validity()?.not_after()?.to_millis().ok());
        let problem = described.as_ref().and_then(|found| problem(found.certificate_pem()?));
        let recorded = table::item(context, &id, "certificate").await?;
        let recorded = integer(&recorded, "notAfter").map(Timestamp::from_millis);
        let status = table::item(context, &id, "status").await?;
        cas.push(Ca {
            status: ca.status.map_or_else(String::new, |status| status.as_str().to_owned()),
            auto_registration: described
                .and_then(|found| found.auto_registration_status)
                .map(|status| status.as_str() == "ENABLE"),
            expires_at: validity.and_then(|millis| u64::try_from(millis).ok()).map(Timestamp::from_millis).or(recorded),
            is_expiry_recorded: recorded.is_some(),
            problem,
            block_reason: Block::read(&status).map(|block| block.reason),
            crl: published_crl(&status),
            id,
        });
    }
    Ok(cas)
}

fn certificate_id(text: &str) -> Result<CertificateId, &'static str> {
    CertificateId::new(text).ok_or("it must be 64 hexadecimal digits")
}

/// Returns why `jitr` cannot use a CA; `None` if it can.
fn problem(pem: &str) -> Option<String> {
    let check = || {
        let ca = CaCertificate::from_pem(pem)?;
        ca.check_usage()?;
        Ok::<_, anyhow::Error>(ca.check_key()?)
    };
    check().err().map(|error| error.to_string())
}

/// Strips leading zeros from a CRL number.
pub fn readable_number(digits: &str) -> &str {
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() { "0" } else { digits }
}

fn published_crl(item: &Item) -> Option<PublishedCrl> {
    Some(PublishedCrl {
        number: readable_number(text(item, "crlNumber")?).to_owned(),
        next_update: integer(item, "crlNextUpdate").map(Timestamp::from_millis),
    })
}

fn text_of(cas: &[Ca]) -> String {
    if cas.is_empty() {
        return String::new();
    }
    let mut table =
        output::table(["CA", "STATUS", "REGISTRATION", "EXPIRES (UTC)", "CRL", "NEXT CRL (UTC)", "BLOCKED"]);
    for ca in cas {
        let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), utc);
        let registration = match ca.auto_registration {
            Some(true) => "automatic",
            Some(false) => "disabled",
            None => "-",
        };
        let crl = ca.crl.as_ref();
        let cells = [
            ca.id.as_str(),
            &ca.status,
            registration,
            &time(ca.expires_at),
            crl.map_or("-", |crl| &crl.number),
            &time(crl.and_then(|crl| crl.next_update)),
            ca.block_reason.as_deref().unwrap_or("-"),
        ];
        table.add_row(cells.map(escape_line));
    }
    output::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::AttributeValue;
    use gatehouse::store::item::{number, string};

    #[test]
    fn crl_and_block_are_read_from_the_status() {
        let status = Item::from([
            ("crlNumber".to_owned(), string(format!("{:0>40}", "1a"))),
            ("crlNextUpdate".to_owned(), number(1_764_421_445_000)),
            ("blocked".to_owned(), AttributeValue::Bool(true)),
            ("blockReason".to_owned(), string("its key leaked")),
        ]);
        let crl = published_crl(&status).expect("a CRL");
        assert_eq!(crl.number, "1a");
        assert_eq!(crl.next_update, Some(Timestamp::from_millis(1_764_421_445_000)));
        assert_eq!(Block::read(&status).map(|block| block.reason).as_deref(), Some("its key leaked"));
        assert_eq!((Block::read(&Item::new()), published_crl(&Item::new())), (None, None));
    }

    #[test]
    fn list_has_a_row_for_each_ca() {
        let ca = Ca {
            id: "ab".repeat(32),
            status: "ACTIVE".to_owned(),
            auto_registration: Some(true),
            expires_at: Some(Timestamp::from_millis(1_764_421_445_000)),
            is_expiry_recorded: true,
            block_reason: None,
            problem: None,
            crl: None,
        };
        let text = text_of(&[ca]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("automatic") && text.contains("2025-11-29 13:04:05"), "{text}");
    }
}
