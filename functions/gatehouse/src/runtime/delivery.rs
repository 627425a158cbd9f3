use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::Level;

use crate::event::envelope::{Envelope, Input, Label};
use crate::event::strict_json::Object;
use crate::event::timestamp::Timestamp;
use crate::runtime::handler::{BatchHandler, Outcomes};
use crate::runtime::invocation::Invocation;
use crate::runtime::metrics;
use crate::runtime::outcome::{Failure, Outcome, Refusal, error_chain};
use crate::store::quarantine::{Quarantine, QuarantineError};

/// How many refused events are written to quarantine concurrently.
const MAX_QUARANTINE_WRITES: usize = 8;

/// Time left to hand the response to Lambda after everything else.
const RESPONSE_RESERVE: Duration = Duration::from_millis(200);

/// A function: its name, its handler, and the quarantine for refused events.
#[derive(Debug)]
pub struct Function<H> {
    name: String,
    handler: H,
    quarantine: Quarantine,
}

/// The function's error for a bare event that must be retried. AWS Lambda retries it, then sends it to the function's
/// `OnFailure` destination.
#[derive(Debug, thiserror::Error)]
#[error("the event could not be handled and must be retried: {0}")]
pub struct RetryError(String);

impl From<RetryError> for Diagnostic {
    fn from(error: RetryError) -> Self {
        Self { error_type: "Retry".to_owned(), error_message: error.to_string() }
    }
}

/// What Lambda passes to the function: a batch that SQS delivered, or a bare event.
///
/// Deserialized straight from Lambda's buffer: a batch may be megabytes, and two or three copies of it would dominate
/// the function's memory use.
#[derive(Debug)]
pub(crate) enum Delivery {
    Batch(Vec<SqsRecord>),
    Bare(Box<RawValue>),
}

impl<'de> Deserialize<'de> for Delivery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(<&RawValue>::deserialize(deserializer)?))
    }
}

impl Delivery {
    fn parse(text: &RawValue) -> Self {
        match serde_json::from_str(text.get()) {
            Ok(Object(SqsBatch { records })) if records.iter().all(|record| record.0.is_complete()) => {
                Self::Batch(records.into_iter().map(|Object(record)| record).collect())
            }
            _ => Self::Bare(text.to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SqsBatch {
    records: Vec<Object<SqsRecord>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SqsRecord {
    #[serde(rename = "eventSource", deserialize_with = "is_sqs")]
    is_from_sqs: bool,
    message_id: String,
    body: String,
    #[serde(default)]
    attributes: Object<SqsAttributes>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SqsAttributes {
    /// Milliseconds since the epoch, as text.
    sent_timestamp: Option<String>,
}

fn is_sqs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Cow::<str>::deserialize(deserializer)? == "aws:sqs")
}

impl SqsRecord {
    /// Whether the record can be reported as failed by its id: an empty or unknown `itemIdentifier` in the response
    /// would fail the whole batch, or delete other messages.
    fn is_complete(&self) -> bool {
        self.is_from_sqs && !self.message_id.is_empty()
    }

    fn envelope(&self, invocation: &Invocation) -> Envelope<'_> {
        let sent = self.attributes.0.sent_timestamp.as_deref().and_then(|millis| millis.parse().ok());
        Envelope {
            text: &self.body,
            delivery_id: &self.message_id,
            delivered_at: sent.map_or_else(|| invocation.now(), Timestamp::from_millis),
        }
    }
}

impl<H: BatchHandler> Function<H> {
    /// Assembles a function.
    pub fn new(name: impl Into<String>, handler: H, quarantine: Quarantine) -> Self {
        Self { name: name.into(), handler, quarantine }
    }

    /// Handles one delivery; each event in it gets its own outcome.
    ///
    /// The response to a batch lists the ids of the messages to be retried (`ReportBatchItemFailures`); the response to
    /// a bare event names its outcome, or is the error [`RetryError`].
    pub async fn invoke(&self, delivery: &RawValue, invocation: &Invocation) -> Result<Value, RetryError> {
        self.handle(&Delivery::parse(delivery), invocation).await
    }

    pub(crate) async fn handle(&self, delivery: &Delivery, invocation: &Invocation) -> Result<Value, RetryError> {
        match delivery {
            Delivery::Batch(records) => Ok(self.handle_batch(records, invocation).await),
            Delivery::Bare(event) => self.handle_bare(event, invocation).await,
        }
    }

    async fn handle_batch(&self, records: &[SqsRecord], invocation: &Invocation) -> Value {
        let envelopes: Vec<_> = records.iter().map(|record| record.envelope(invocation)).collect();
        let outcomes = self.settle(&envelopes, invocation).await;
        let retried = records.iter().zip(outcomes).filter(|(_, outcome)| matches!(outcome, Err(Failure::Retry(_))));
        let failures: Vec<_> = retried.map(|(record, _)| json!({"itemIdentifier": record.message_id})).collect();
        json!({"batchItemFailures": failures})
    }

    async fn handle_bare(&self, event: &RawValue, invocation: &Invocation) -> Result<Value, RetryError> {
        let (delivery_id, delivered_at) = (invocation.request_id(), invocation.now());
        let envelope = Envelope { text: event.get(), delivery_id, delivered_at };
        match self.settle(&[envelope], invocation).await.pop() {
            Some(Ok(())) => Ok(json!({"outcome": "done"})),
            Some(Err(Failure::Refused(Refusal { code, why }))) => {
                Ok(json!({"outcome": "refused", "reason": code, "why": why}))
            }
            Some(Err(Failure::Retry(cause))) => Err(RetryError(error_chain(cause.as_ref()))),
            None => Err(RetryError("it has no outcome".to_owned())),
        }
    }

    /// Handles events, quarantines refused ones, and writes logs and metrics. Returns one outcome per envelope, in
    /// order.
    async fn settle(&self, envelopes: &[Envelope<'_>], invocation: &Invocation) -> Vec<Outcome> {
        // Boxed, because the large future would otherwise be copied on the stack, touching new pages.
        let mut outcomes = Box::pin(self.run_handler(envelopes, invocation)).await;
        let failed = outcomes.iter_mut().zip(envelopes).filter(|(outcome, _)| outcome.is_err());
        stream::iter(failed)
            .for_each_concurrent(MAX_QUARANTINE_WRITES, async |(outcome, envelope)| {
                let label = Label::read(envelope);
                if let Err(Failure::Refused(refusal)) = &*outcome
                    && let Err(error) = self.quarantine(envelope, &label, refusal, invocation).await
                {
                    *outcome = Err(error.into());
                }
                log_outcome(&label, outcome, invocation);
            })
            .await;
        // Off by default: at volume, log ingestion is the largest cost.
        if tracing::enabled!(Level::DEBUG) {
            let done = envelopes.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
            done.for_each(|(envelope, outcome)| log_outcome(&Label::read(envelope), outcome, invocation));
        }
        self.report(envelopes, &outcomes, invocation);
        outcomes
    }

    async fn run_handler(&self, envelopes: &[Envelope<'_>], invocation: &Invocation) -> Vec<Outcome> {
        let mut inputs = Vec::with_capacity(envelopes.len());
        let opened: Vec<Result<(), Refusal>> =
            envelopes.iter().map(|envelope| H::Input::open(envelope).map(|input| inputs.push(input))).collect();

        let mut outcomes = Outcomes::new(inputs.len());
        let handled = AssertUnwindSafe(self.handler.handle_batch(&inputs, &mut outcomes, invocation)).catch_unwind();
        match timeout(invocation.time_left(), handled).await {
            Ok(Ok(())) => {}
            Ok(Err(_panic)) => tracing::error!(requestId = invocation.request_id(), "the handler panicked"),
            Err(_elapsed) => {
                tracing::error!(requestId = invocation.request_id(), "timed out before every event was handled");
            }
        }

        let mut outcomes = outcomes.into_vec().into_iter();
        let missing = || Err(Failure::retry("it has no outcome"));
        let outcome = |opened: Result<(), Refusal>| match opened {
            Ok(()) => outcomes.next().unwrap_or_else(missing),
            Err(refusal) => Err(refusal.into()),
        };
        opened.into_iter().map(outcome).collect()
    }

    async fn quarantine(
        &self,
        envelope: &Envelope<'_>,
        label: &Label,
        refusal: &Refusal,
        invocation: &Invocation,
    ) -> Result<(), QuarantineError> {
        let put = self.quarantine.put(envelope, label, refusal, invocation);
        // Leaves time to respond: without a response, events of this batch that are done would be delivered again.
        let limit = invocation.deadline().minus(RESPONSE_RESERVE).since(invocation.now());
        timeout(limit, put).await.unwrap_or(Err(QuarantineError::Timeout))
    }

    /// Writes one log line and one metric record for the whole delivery, because log ingestion is the largest cost at
    /// volume.
    fn report(&self, envelopes: &[Envelope<'_>], outcomes: &[Outcome], invocation: &Invocation) {
        let (mut done, mut refused, mut retried) = (0_u64, 0_u64, 0_u64);
        for outcome in outcomes {
            *match outcome {
                Ok(()) => &mut done,
                Err(Failure::Refused(_)) => &mut refused,
                Err(Failure::Retry(_)) => &mut retried,
            } += 1;
        }
        let single = if let [envelope] = envelopes { Label::read(envelope) } else { Label::default() };
        let Label { id, thing, certificate_id, .. } = single;
        let event_id = (!id.is_empty()).then_some(id);
        let request_id = invocation.request_id();
        let cold_start = invocation.is_cold_start().then_some(true);
        tracing::info!(
            requestId = request_id,
            eventId = event_id,
            thing,
            certificateId = certificate_id,
            coldStart = cold_start,
            done,
            refused,
            retried,
            "batch"
        );

        let mut counts = invocation.counts();
        counts.extend([("Done", done), ("Refused", refused), ("Retried", retried)]);
        let texts = [
            ("requestId", Some(request_id.to_owned())),
            ("eventId", event_id),
            ("thing", thing),
            ("certificateId", certificate_id),
        ];
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?))));
        let properties = texts.chain(cold_start.map(|is_cold| ("coldStart", is_cold.into())));
        println!("{}", metrics::record(&self.name, invocation.now(), &counts, properties));
    }
}

/// Logs one event's outcome, at DEBUG if it is done.
fn log_outcome(label: &Label, outcome: &Outcome, invocation: &Invocation) {
    let Label { id, thing, certificate_id, .. } = label;
    let (request_id, certificate_id) = (invocation.request_id(), certificate_id.as_deref());
    match outcome {
        Ok(()) => {
            tracing::debug!(requestId = request_id, eventId = id, thing, certificateId = certificate_id, "done");
        }
        Err(Failure::Refused(Refusal { code, why })) => tracing::warn!(
            requestId = request_id,
            eventId = id,
            thing,
            certificateId = certificate_id,
            reason = code,
            why = &**why,
            "refused"
        ),
        Err(Failure::Retry(cause)) => tracing::warn!(
            requestId = request_id,
            eventId = id,
            thing,
            certificateId = certificate_id,
            error = error_chain(cause.as_ref()),
            "retry"
        ),
    }
}
