//! `gatehouse device`: everything that is known about a device.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aws_sdk_iot::operation::describe_thing::DescribeThingError;
use aws_sdk_iot::primitives::DateTime;
use aws_sdk_iotdataplane::operation::get_thing_shadow::GetThingShadowError;
use clap::Args;
use gatehouse::store::item::{integer, is_true, string, text};
use gatehouse::{Item, ThingName, ThingPattern, Timestamp};
use serde_json::Value;

use crate::context::Context;
use crate::findings::Findings;
use crate::output::utc;
use crate::quarantine::QuarantineTable;
use crate::selection::{PointInTime, Selection};
use crate::status::{Status, UsageError};
use crate::{alarms, dead_letters, logs};

/// The number of hexadecimal digits of a certificate's ID.
const CERTIFICATE_ID_LENGTH: usize = 64;

/// The arguments of `gatehouse device`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The thing's name, or the ID of a certificate that has no thing yet.
    thing: String,
    /// How far back logs are searched: `2 h`, `2026-11-29`, or `2026-11-29T13:00:00Z`.
    #[arg(long, default_value = "1 d")]
    since: PointInTime,
}

/// Runs the subcommand.
pub async fn run(arguments: Arguments, context: &Context) -> Result<Status> {
    let Arguments { thing, since: PointInTime(since) } = arguments;
    ThingName::new(thing.as_str()).map_err(|refusal| UsageError(format!("{thing}: {refusal}")))?;
    let mut findings = Findings::new(thing.as_str());
    let is_certificate = thing.len() == CERTIFICATE_ID_LENGTH && thing.bytes().all(|b| b.is_ascii_hexdigit());
    let mut certificates = BTreeSet::new();
    if is_certificate {
        certificates.insert(thing.clone());
    } else {
        registry(&thing, &mut certificates, &mut findings, context).await;
        records(&thing, &mut certificates, &mut findings, context).await;
        shadow(&thing, &mut findings, context).await;
    }
    for certificate in &certificates {
        describe_certificate(certificate, &mut findings, context).await;
    }

    let table = QuarantineTable::new(context);
    let selection = Selection { thing: ThingPattern::new(thing.as_str()), ..Selection::default() };
    let (alarms, refused, letters, lines) = tokio::join!(
        alarms::of_thing(&thing, context),
        table.list(&selection, &context.names),
        dead_letters::of_thing(&thing, context),
        logs::search("thing", &thing, since, context),
    );
    for alarm in findings.take("alarms table", alarms).unwrap_or_default() {
        findings.add("alarms table", Some(alarm.since), alarm.summary());
    }
    for event in findings.take("quarantine", refused).unwrap_or_default() {
        let text = format!("event {} was refused ({})", event.event_id, event.reason);
        findings.add(format!("quarantine of {}", event.function), Some(event.refused_at), text);
    }
    for letter in findings.take("dead letters", letters).unwrap_or_default() {
        let id = letter.event_id.as_deref().unwrap_or(&letter.message_id);
        let text = format!("dead letter {id}: {}", letter.error.as_deref().unwrap_or("no error is recorded"));
        findings.add(format!("dead letters of {}", letter.function), Some(letter.sent_at), text);
    }
    for line in lines.lines {
        let id = line.fields.get("eventId").and_then(Value::as_str).unwrap_or("-");
        findings.add(
            format!("log of {}", line.function),
            Some(line.at),
            format!("{id}: {}", logs::summary(&line.fields)),
        );
    }
    findings.notes.extend(lines.notes);
    findings.note(format!(
        "logs were searched since {} UTC; a batch of several events is logged without things",
        utc(since)
    ));
    findings.print(context.output)?;
    Ok(Status::Success)
}

/// Looks up the thing, and the certificates attached to it.
async fn registry(thing: &str, certificates: &mut BTreeSet<String>, findings: &mut Findings, context: &Context) {
    let client = context.iot();
    match client.describe_thing().thing_name(thing).send().await {
        Ok(_) => findings.add("AWS IoT", None, "the thing is registered"),
        Err(error) if error.as_service_error().is_some_and(DescribeThingError::is_resource_not_found_exception) => {
            findings.add("AWS IoT", None, "no such thing is registered");
            return;
        }
        Err(error) => findings.note(format!("AWS IoT: {:#}", anyhow::Error::from(error))),
    }
    let principals = client.list_thing_principals().thing_name(thing).into_paginator().items().send();
    let principals = principals.collect::<Result<Vec<String>, _>>().await.context("failed to list its certificates");
    let principals = findings.take("AWS IoT", principals).unwrap_or_default();
    if principals.is_empty() {
        findings.add("AWS IoT", None, "no certificate is attached to the thing");
    }
    certificates.extend(principals.iter().filter_map(|arn| Some(arn.split_once("cert/")?.1.to_owned())));
}

/// Looks up a certificate in AWS IoT, and the record of its admission.
async fn describe_certificate(certificate: &str, findings: &mut Findings, context: &Context) {
    let described = context.iot().describe_certificate().certificate_id(certificate).send().await;
    let described = described.with_context(|| format!("failed to read certificate {certificate}"));
    if let Some(description) = findings.take("AWS IoT", described).and_then(|found| found.certificate_description) {
        let status = description.status().map_or("unknown", |status| status.as_str());
        let until = description.validity().and_then(|validity| validity.not_after()).map(DateTime::secs);
        let until = until.and_then(|seconds| u64::try_from(seconds).ok());
        let until = until.map(|seconds| utc(Timestamp::from_millis(seconds.saturating_mul(1000))));
        let until = until.map_or_else(String::new, |until| format!(", valid until {until}"));
        findings.add("AWS IoT", None, format!("certificate {certificate} is {status}{until}"));
    }
    let record = get(&format!("certificate#{certificate}"), "admission", context).await;
    if let Some(Some(item)) = findings.take("devices table", record) {
        let at = integer(&item, "updatedAt").map(Timestamp::from_millis);
        findings.add("devices table", at, admission(certificate, &item));
    }
}

/// Describes the record of a certificate's admission, in current terms: names in the table are older.
fn admission(certificate: &str, item: &Item) -> String {
    let state = match text(item, "state") {
        Some("refused") => "was rejected",
        Some("refusing") => "is being rejected",
        Some("admitted") => "was admitted",
        Some("admitting") => "is being admitted",
        Some("found-active") => "was found active: somebody else had activated it",
        Some("revoked") => "was revoked",
        _ => "has no decision yet",
    };
    let reason = text(item, "reason").zip(text(item, "why"));
    let reason = reason.map_or_else(String::new, |(reason, why)| format!(" ({reason}): {why}"));
    let blocked = if is_true(item, "blocked") { "; an operator has blocked it" } else { "" };
    format!("certificate {certificate} {state}{reason}{blocked}")
}

async fn get(pk: &str, sk: &str, context: &Context) -> Result<Option<Item>> {
    let table = context.names.of("devices");
    let get = context.dynamodb().get_item().table_name(&table).consistent_read(true);
    let found = get.key("id", string(pk)).key("part", string(sk)).send().await;
    Ok(found.with_context(|| format!("failed to read table {table}"))?.item)
}

/// Looks up the thing's records in the devices table.
async fn records(thing: &str, certificates: &mut BTreeSet<String>, findings: &mut Findings, context: &Context) {
    let table = context.names.of("devices");
    let query = context.dynamodb().query().table_name(&table).consistent_read(true);
    let query = query.key_condition_expression("id = :id");
    let query = query.expression_attribute_values(":id", string(format!("thing#{thing}")));
    let items = query.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let items = items.with_context(|| format!("failed to read table {table}"));
    for item in findings.take("devices table", items).unwrap_or_default() {
        match text(&item, "part").unwrap_or_default() {
            "name" => {
                let holder = text(&item, "certificateId").unwrap_or("unknown");
                certificates.extend(text(&item, "certificateId").map(ToOwned::to_owned));
                findings.add("devices table", None, format!("the name belongs to certificate {holder}"));
            }
            "rejection" => {
                certificates.extend(text(&item, "certificateId").map(ToOwned::to_owned));
                findings.add(
                    "devices table",
                    integer(&item, "rejectedAt").map(Timestamp::from_millis),
                    rejection(&item),
                );
            }
            "presence" => {
                let (at, text) = presence(&item);
                findings.add("devices table", at, text);
            }
            part => {
                if let Some(shadow) = part.strip_prefix("shadow#") {
                    let at = integer(&item, "timestamp").map(|seconds| Timestamp::from_millis(seconds * 1000));
                    let name = if shadow.is_empty() { "classic shadow".to_owned() } else { format!("shadow {shadow}") };
                    let version = integer(&item, "shadowVersion").unwrap_or_default();
                    let deleted = if is_true(&item, "deleted") { ", deleted" } else { "" };
                    findings.add("devices table", at, format!("{name}: version {version}{deleted}"));
                }
            }
        }
    }
}

/// Describes the record of the last rejection of a certificate that names the thing.
fn rejection(item: &Item) -> String {
    let get = |name| text(item, name).unwrap_or("unknown");
    format!("last rejection: certificate {} ({}): {}", get("certificateId"), get("reason"), get("why"))
}

fn presence(item: &Item) -> (Option<Timestamp>, String) {
    let at = integer(item, "since").map(Timestamp::from_millis);
    if at.is_none() {
        return (None, "no connection is recorded, only rejected attempts".to_owned());
    }
    let state = if is_true(item, "connected") {
        format!("connected from {}", text(item, "ipAddress").unwrap_or("an unknown address"))
    } else {
        format!("disconnected ({})", text(item, "disconnectReason").unwrap_or("no reason is recorded"))
    };
    let offline = integer(item, "awaySince").map_or_else(String::new, |since| {
        format!("; announced as offline since {}", utc(Timestamp::from_millis(since)))
    });
    (at, state + &offline)
}

/// Looks up the current version of the classic shadow, which may be newer than the recorded one.
async fn shadow(thing: &str, findings: &mut Findings, context: &Context) {
    match context.iot_data().get_thing_shadow().thing_name(thing).send().await {
        Ok(found) => {
            let document = found.payload().and_then(|payload| serde_json::from_slice::<Value>(payload.as_ref()).ok());
            let version = document.and_then(|document| document.get("version").and_then(Value::as_u64));
            let text = version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
            findings.add("AWS IoT", None, format!("classic shadow: version {text}"));
        }
        Err(error) if error.as_service_error().is_some_and(GetThingShadowError::is_resource_not_found_exception) => {
            findings.add("AWS IoT", None, "it has no classic shadow");
        }
        Err(error) => findings.note(format!("shadow: {:#}", anyhow::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::AttributeValue;
    use gatehouse::store::item::number;

    fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
        attributes.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn rejection_is_described_with_its_reason() {
        let item = item([
            ("state", string("refused")),
            ("reason", string("crl-revoked")),
            ("why", string("The CRL lists it.")),
            ("blocked", AttributeValue::Bool(true)),
        ]);
        let text = admission("c", &item);
        assert_eq!(text, "certificate c was rejected (crl-revoked): The CRL lists it.; an operator has blocked it");
    }

    #[test]
    fn last_rejection_is_described_with_its_certificate() {
        let item = item([
            ("certificateId", string("c")),
            ("reason", string("name-taken")),
            ("why", string("Another certificate is active for this thing name.")),
        ]);
        let expected = "last rejection: certificate c (name-taken): Another certificate is active for this thing name.";
        assert_eq!(rejection(&item), expected);
    }

    #[test]
    fn presence_is_described() {
        let connected = item([("connected", AttributeValue::Bool(true)), ("since", number(5))]);
        assert_eq!(
            presence(&connected),
            (Some(Timestamp::from_millis(5)), "connected from an unknown address".to_owned())
        );
        let away = item([
            ("connected", AttributeValue::Bool(false)),
            ("since", number(5)),
            ("disconnectReason", string("CONNECTION_LOST")),
            ("awaySince", number(5)),
        ]);
        assert!(presence(&away).1.contains("announced as offline since 1970-01-01"));
        assert_eq!(presence(&item([])).0, None);
    }
}
