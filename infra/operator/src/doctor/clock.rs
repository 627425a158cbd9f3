//! The clock of this machine, which the signatures of requests depend on.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use gatehouse::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::context::Context;
use crate::doctor::Findings;

/// AWS rejects signatures whose time is more than 5 minutes off.
const MAX_SECONDS: i64 = 300;
const WARNING_SECONDS: i64 = 60;

/// Records the header `Date` of any response, even of an error.
#[derive(Debug, Clone, Default)]
struct DateReader(Arc<Mutex<Option<String>>>);

impl Intercept for DateReader {
    fn name(&self) -> &'static str {
        "DateReader"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").map(ToOwned::to_owned);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

/// Compares this machine's clock with that of AWS.
pub async fn skew(context: &Context, findings: &mut Findings) -> Result<()> {
    let reader = DateReader::default();
    // A response that denies the call has a date, too.
    let sent = context.sqs().list_queues().max_results(1).customize().interceptor(reader.clone()).send().await;
    let now = Timestamp::now();
    let date = reader.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(date) = date else {
        sent.context("failed to reach SQS")?;
        anyhow::bail!("the response has no date");
    };
    report(seconds_ahead(now, &date).with_context(|| format!("failed to parse the date {date}"))?, findings);
    Ok(())
}

fn seconds_ahead(now: Timestamp, date: &str) -> Option<i64> {
    let date = OffsetDateTime::parse(date, &Rfc2822).ok()?;
    Some(i64::try_from(now.seconds()).ok()? - date.unix_timestamp())
}

fn report(ahead: i64, findings: &mut Findings) {
    let direction = if ahead < 0 { "behind" } else { "ahead of" };
    let text = format!("this machine's clock is {} s {direction} that of AWS", ahead.abs());
    let advice = "Synchronize this machine's clock. AWS rejects requests that are more than 5 minutes off.";
    match ahead.abs() {
        MAX_SECONDS.. => findings.problem(text, advice),
        WARNING_SECONDS.. => findings.warning(text, advice),
        _ => findings.ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn skew_is_a_warning_from_a_minute_and_a_problem_from_five() {
        let now = Timestamp::from_millis(1_764_421_445_000);
        for (date, ahead, level) in [
            ("Sat, 29 Nov 2025 13:04:05 GMT", 0, Level::Ok),
            ("Sat, 29 Nov 2025 13:05:35 GMT", -90, Level::Warning),
            ("Sat, 29 Nov 2025 12:58:05 GMT", 360, Level::Problem),
        ] {
            assert_eq!(seconds_ahead(now, date), Some(ahead), "{date}");
            let mut findings = Findings::new("clock");
            report(ahead, &mut findings);
            assert_eq!(findings.findings.first().map(|finding| finding.level), Some(level), "{date}");
        }
        assert_eq!(seconds_ahead(now, "yesterday"), None);
    }
}
