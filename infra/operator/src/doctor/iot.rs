//! AWS IoT: rules, their logs, and CAs.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_sdk_iot::types::LogLevel;
use gatehouse::Timestamp;

use crate::ca::{self, Ca};
use crate::context::Context;
use crate::doctor::Findings;
use crate::output::utc;

/// Remaining validity of a CA from which on `doctor` warns.
const EXPIRES_SOON: Duration = Duration::from_hours(30 * 24);

/// Checks that the deployment's rules are enabled.
pub async fn rules(context: &Context, findings: &mut Findings) -> Result<()> {
    let rules = context.iot().list_topic_rules().into_paginator().items().send();
    let rules = rules.collect::<Result<Vec<_>, _>>().await.context("failed to list the rules")?;
    let mut number = 0;
    for rule in rules {
        let name = rule.rule_name.unwrap_or_default();
        if context.names.rule_suffix(&name).is_none() {
            continue;
        }
        number += 1;
        if rule.rule_disabled == Some(true) {
            findings.problem(
                format!("rule {name} is disabled: its messages are lost"),
                "Enable the rule: aws iot enable-topic-rule --rule-name …",
            );
        }
    }
    if number == 0 {
        findings.problem("there are no rules", "Deploy the stack, or check --prefix and --region.");
    }
    findings.or_ok(format!("{number} rules are enabled"));
    Ok(())
}

/// Checks that AWS IoT writes logs, which show errors in a rule's SQL.
pub async fn logging(context: &Context, findings: &mut Findings) -> Result<()> {
    let options = context.iot().get_v2_logging_options().send().await.context("failed to read the logging options")?;
    let is_off = options.disable_all_logs
        || options.role_arn.as_deref().unwrap_or_default().is_empty()
        || options.default_log_level == Some(LogLevel::Disabled);
    if is_off {
        findings.warning(
            "AWS IoT writes no logs: why a rule or a connection failed cannot be found out",
            "Enable logging at level ERROR: aws iot set-v2-logging-options.",
        );
    }
    findings.or_ok("AWS IoT writes logs");
    Ok(())
}

/// Checks that no CA or CRL expires soon.
pub async fn cas(context: &Context, findings: &mut Findings) -> Result<()> {
    let cas = ca::list(context).await?;
    for ca in &cas {
        check_ca(ca, Timestamp::now(), findings);
    }
    findings.or_ok(match cas.len() {
        0 => "no CA is registered".to_owned(),
        number => format!("of {number} CAs, no active one expires within 30 days, and no CRL of one within 10"),
    });
    Ok(())
}

fn check_ca(ca: &Ca, now: Timestamp, findings: &mut Findings) {
    let id = &ca.id;
    if ca.status != "ACTIVE" {
        return;
    }
    if let Some(reason) = &ca.block_reason {
        findings.problem(
            format!("CA {id} is blocked but active: {reason}"),
            "Deactivate the CA with gatehouse ca deactivate, or lift the block with gatehouse ca register --lift-block.",
        );
        return;
    }
    if let Some(problem) = &ca.problem {
        findings.problem(
            format!("CA {id} cannot be used: {problem}"),
            "Create and register another CA, which gatehouse ca check accepts: its devices are rejected.",
        );
    }
    let soon = now.plus(EXPIRES_SOON);
    let renew_ca = "Create and register a new CA, and issue certificates of it: docs/admission.md.";
    match ca.expires_at {
        Some(at) if at <= now => findings.problem(format!("CA {id} expired at {} UTC", utc(at)), renew_ca),
        Some(at) if at <= soon => findings.warning(format!("CA {id} expires at {} UTC", utc(at)), renew_ca),
        Some(_) => {}
        None => findings.warning(
            format!("it is unknown when CA {id} expires"),
            "Register the CA with gatehouse ca register, which records its expiry.",
        ),
    }
    let renew_crl = "Publish a new CRL: gatehouse ca publish-crl. jitr admits no device of a CA whose CRL has expired.";
    match ca.crl.as_ref().and_then(|crl| crl.next_update) {
        Some(at) if at <= now => findings.problem(format!("the CRL of CA {id} expired at {} UTC", utc(at)), renew_crl),
        // CRLs are short-lived: a third of the usual 30 days is enough warning.
        Some(at) if at <= now.plus(EXPIRES_SOON / 3) => {
            findings.warning(format!("the CRL of CA {id} expires at {} UTC", utc(at)), renew_crl);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::PublishedCrl;
    use crate::doctor::Level;

    #[test]
    fn expiry_is_a_warning_before_and_a_problem_after() {
        let now = Timestamp::from_millis(1_764_421_445_000);
        let days = |days: u64| Duration::from_hours(24 * days);
        let level = |change: &dyn Fn(&mut Ca)| {
            let mut ca = Ca {
                id: "ab".to_owned(),
                status: "ACTIVE".to_owned(),
                auto_registration: Some(true),
                expires_at: Some(now.plus(days(300))),
                is_expiry_recorded: true,
                block_reason: None,
                problem: None,
                crl: None,
            };
            change(&mut ca);
            let mut findings = Findings::new("CAs");
            check_ca(&ca, now, &mut findings);
            findings.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
        };
        let crl = |at| Some(PublishedCrl { number: "1".to_owned(), next_update: Some(at) });
        assert_eq!(level(&|_| ()), Level::Ok);
        assert_eq!(level(&|ca| ca.expires_at = Some(now.plus(days(29)))), Level::Warning);
        assert_eq!(level(&|ca| ca.expires_at = Some(now.minus(days(1)))), Level::Problem);
        assert_eq!(level(&|ca| ca.expires_at = None), Level::Warning);
        assert_eq!(level(&|ca| ca.problem = Some("it has name constraints".to_owned())), Level::Problem);
        assert_eq!(level(&|ca| ca.crl = crl(now.plus(days(29)))), Level::Ok);
        assert_eq!(level(&|ca| ca.crl = crl(now.plus(days(9)))), Level::Warning);
        assert_eq!(level(&|ca| ca.crl = crl(now)), Level::Problem);
        assert_eq!(level(&|ca| ca.block_reason = Some("leaked".to_owned())), Level::Problem);
        let inactive = |ca: &mut Ca| {
            ca.status = "INACTIVE".to_owned();
            ca.expires_at = Some(now);
        };
        assert_eq!(level(&inactive), Level::Ok);
    }
}
