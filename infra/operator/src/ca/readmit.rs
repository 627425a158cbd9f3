//! `gatehouse ca readmit`: readmits a certificate that was rejected or revoked by mistake.
//!
//! Setting its status is not enough: the record of the decision remains, and a certificate that was never admitted has
//! neither thing nor policy. So this deletes the record, and the certificate from AWS IoT. The next time the device
//! connects, its certificate is new, and everything is checked again.

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_iot::operation::describe_certificate::DescribeCertificateError;
use aws_sdk_iot::types::CertificateStatus;
use clap::Args;
use gatehouse::Item;
use gatehouse::pki::CertificateId;
use gatehouse::store::item::{integer, is_true, number, string, text};

use crate::context::Context;
use crate::output::{self, escape_line};
use crate::status::{MissingError, Status, UsageError};

/// The arguments of `gatehouse ca readmit`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The `certificateId`s, as the notification of the rejection and `gatehouse device` print them.
    #[arg(value_name = "CERTIFICATE_ID", required = true, value_parser = super::certificate_id)]
    certificates: Vec<CertificateId>,
    /// Also if an operator blocked or revoked it.
    #[arg(long)]
    lift_block: bool,
    /// Only check whether that is possible.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Deletes the decisions about certificates, so that their devices are checked again.
pub async fn run(arguments: &Arguments, context: &Context) -> Result<Status> {
    let question = format!("Let {} certificates be checked again as if they were new?", arguments.certificates.len());
    if !arguments.dry_run && !arguments.yes && !output::confirm(&question)? {
        return Err(UsageError("nothing was changed; confirm with --yes".to_owned()).into());
    }
    for id in &arguments.certificates {
        readmit(id, arguments, context).await.with_context(|| format!("certificate {id}"))?;
    }
    Ok(Status::Success)
}

async fn readmit(id: &CertificateId, arguments: &Arguments, context: &Context) -> Result<()> {
    let (iot, dynamodb, table) = (context.iot(), context.dynamodb(), context.names.of("devices"));
    let (pk, sk) = (string(format!("certificate#{id}")), string("admission"));
    let get =
        dynamodb.get_item().table_name(&table).consistent_read(true).key("id", pk.clone()).key("part", sk.clone());
    let record = get.send().await.with_context(|| format!("failed to read table {table}"))?.item;
    let registered = match iot.describe_certificate().certificate_id(id.as_str()).send().await {
        Ok(found) => found.certificate_description,
        Err(error)
            if error.as_service_error().is_some_and(DescribeCertificateError::is_resource_not_found_exception) =>
        {
            None
        }
        Err(error) => return Err(error).context("failed to describe it"),
    };
    if registered.is_none() && record.is_none() {
        return Err(MissingError("neither AWS IoT nor the devices table knows it".to_owned()).into());
    }
    check(registered.as_ref().and_then(|found| found.status.as_ref()), record.as_ref(), arguments.lift_block)?;
    if arguments.dry_run {
        eprintln!("{id}: it can be readmitted; nothing was changed");
        return Ok(());
    }

    // The record first: without it, the registered certificate still cannot connect. The condition fails if somebody
    // blocked the certificate meanwhile, or a function changed its record.
    let delete = dynamodb.delete_item().table_name(&table).key("id", pk).key("part", sk);
    let delete = delete.expression_attribute_names("#version", "version");
    let delete = match record.as_ref().and_then(|record| integer(record, "version")) {
        Some(version) => {
            delete.condition_expression("#version = :version").expression_attribute_values(":version", number(version))
        }
        None => delete.condition_expression("attribute_not_exists(#version)"),
    };
    match delete.send().await {
        Ok(_) => {}
        Err(error) if error.as_service_error().is_some_and(DeleteItemError::is_conditional_check_failed_exception) => {
            bail!("its record was changed meanwhile; nothing was done, try again")
        }
        Err(error) => return Err(error).with_context(|| format!("failed to write table {table}")),
    }
    if let Some(arn) = registered.and_then(|found| found.certificate_arn) {
        let things = iot.list_principal_things().principal(&arn).send().await.context("failed to list its things")?;
        for thing in things.things() {
            let detach = iot.detach_thing_principal().thing_name(thing).principal(&arn);
            detach.send().await.with_context(|| format!("failed to detach it from thing {thing}"))?;
        }
        let policies = iot.list_attached_policies().target(&arn).send().await.context("failed to list its policies")?;
        for policy in policies.policies() {
            let name = policy.policy_name().unwrap_or_default();
            let detach = iot.detach_policy().policy_name(name).target(&arn).send().await;
            detach.with_context(|| format!("failed to detach policy {name}"))?;
        }
        let delete = iot.delete_certificate().certificate_id(id.as_str()).send().await;
        delete.context("failed to delete it from AWS IoT")?;
    }
    eprintln!(
        "{id}: what was decided is forgotten. The next time the device connects, sending its CA's certificate as well, it \
         is checked again. If nothing has changed, it is rejected again."
    );
    Ok(())
}

/// Checks that a certificate can be readmitted: it is not in use, and no operator rejected it on purpose.
fn check(status: Option<&CertificateStatus>, record: Option<&Item>, lift_block: bool) -> Result<()> {
    ensure!(status != Some(&CertificateStatus::Active), "it is ACTIVE: there is nothing to readmit");
    let state = record.and_then(|record| text(record, "state"));
    let is_unfinished = matches!(state, Some("admitting" | "refusing"));
    ensure!(!is_unfinished, "its admission has not finished; try again in a few minutes");
    let is_blocked = record.is_some_and(|record| is_true(record, "blocked"));
    let why = record.and_then(|record| text(record, "why")).unwrap_or("no reason was given");
    ensure!(
        lift_block || !(is_blocked || state == Some("revoked")),
        "an operator blocked or revoked it ({}); use --lift-block if that was a mistake",
        escape_line(why)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::AttributeValue;

    fn record(state: &str) -> Item {
        Item::from([("state".to_owned(), string(state))])
    }

    #[test]
    fn rejected_certificate_may_be_readmitted() {
        for status in [CertificateStatus::Revoked, CertificateStatus::Inactive] {
            assert!(check(Some(&status), Some(&record("refused")), false).is_ok());
        }
        assert!(check(None, Some(&record("refused")), false).is_ok());
        assert!(check(Some(&CertificateStatus::Inactive), None, false).is_ok());
    }

    #[test]
    fn active_or_busy_certificate_is_left_alone() {
        assert!(check(Some(&CertificateStatus::Active), Some(&record("admitted")), true).is_err());
        assert!(check(Some(&CertificateStatus::Inactive), Some(&record("refusing")), true).is_err());
    }

    #[test]
    fn what_an_operator_revoked_needs_the_operators_word() {
        let mut blocked = record("refused");
        blocked.insert("blocked".to_owned(), AttributeValue::Bool(true));
        for record in [blocked, record("revoked")] {
            let error = check(Some(&CertificateStatus::Revoked), Some(&record), false).expect_err("refused");
            assert!(error.to_string().contains("--lift-block"), "{error}");
            assert!(check(Some(&CertificateStatus::Revoked), Some(&record), true).is_ok());
        }
    }
}
