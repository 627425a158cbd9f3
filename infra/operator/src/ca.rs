//! `gatehouse ca`: the CAs that are registered with AWS IoT, and what the devices table says of them.

use anyhow::{Context as _, Result};
use clap::Subcommand;
use gatehouse::store::item::{integer, is_true, string, text};
use gatehouse::{Item, Timestamp};
use serde::Serialize;

use crate::context::Context;
use crate::output::{self, Output, escape_line, utc};
use crate::status::Status;

/// The arguments of `gatehouse ca`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the registered CAs: whether they are active or blocked, when they expire, and which CRL is published.
    List,
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
    /// When its certificate expires, by AWS IoT or by the devices table.
    pub expires_at: Option<Timestamp>,
    /// Whether the table has its expiry, for the alarm that warns of it.
    pub is_expiry_recorded: bool,
    /// Why it is blocked; `None` if it is not.
    pub block_reason: Option<String>,
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
        Command::List => {
            let cas = list(context).await?;
            if cas.is_empty() && context.output == Output::Text {
                eprintln!("No CA is registered.");
            }
            context.output.print(&cas, || table(&cas))?;
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
        let recorded = integer(&item(context, &id, "certificate").await?, "notAfter").map(Timestamp::from_millis);
        let table = item(context, &id, "status").await?;
        cas.push(Ca {
            status: ca.status.map_or_else(String::new, |status| status.as_str().to_owned()),
            auto_registration: described
                .and_then(|found| found.auto_registration_status)
                .map(|status| status.as_str() == "ENABLE"),
            expires_at: validity.and_then(|millis| u64::try_from(millis).ok()).map(Timestamp::from_millis).or(recorded),
            is_expiry_recorded: recorded.is_some(),
            block_reason: block_reason(&table),
            crl: published_crl(&table),
            id,
        });
    }
    Ok(cas)
}

/// Reads an item about a CA; empty if there is none.
async fn item(context: &Context, id: &str, part: &str) -> Result<Item> {
    let table = context.names.of("devices");
    let get = context.dynamodb().get_item().table_name(&table).consistent_read(true);
    let found = get.key("id", string(format!("ca#{id}"))).key("part", string(part)).send().await;
    Ok(found.with_context(|| format!("failed to read table {table}"))?.item.unwrap_or_default())
}

fn block_reason(item: &Item) -> Option<String> {
    is_true(item, "blocked").then(|| text(item, "blockReason").unwrap_or("no reason was given").to_owned())
}

fn published_crl(item: &Item) -> Option<PublishedCrl> {
    let digits = text(item, "crlNumber")?.trim_start_matches('0');
    Some(PublishedCrl {
        number: if digits.is_empty() { "0" } else { digits }.to_owned(),
        next_update: integer(item, "crlNextUpdate").map(Timestamp::from_millis),
    })
}

fn table(cas: &[Ca]) -> String {
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
    use gatehouse::store::item::number;

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
        assert_eq!(block_reason(&status).as_deref(), Some("its key leaked"));
        assert_eq!((block_reason(&Item::new()), published_crl(&Item::new())), (None, None));
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
            crl: None,
        };
        let text = table(&[ca]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("automatic") && text.contains("2025-11-29 13:04:05"), "{text}");
    }
}
