use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::call::Call;
use crate::event::{Envelope, Input, Label};
use crate::handler::{Answers, Bulk};
use crate::metrics;
use crate::outcome::{BoxError, Failure, Refusal, chain};
use crate::quarantine::Quarantine;
use crate::timestamp::Timestamp;

/// How many refused events are written to quarantine at the same time.
const QUARANTINED_AT_ONCE: usize = 8;

/// What is left to hand the answer to Lambda once everything else is over.
const TO_ANSWER: Duration = Duration::from_millis(200);

/// A function: its name, its handler, and the quarantine for what the handler refuses.
#[derive(Debug)]
pub struct Function<H> {
    name: String,
    handler: H,
    quarantine: Quarantine,
}

/// The function's error for a bare event that is to be retried: AWS Lambda retries it, then hands it to the function's
/// `OnFailure` destination.
#[derive(Debug, thiserror::Error)]
#[error("this event is to be retried: {0}")]
pub struct Retry(String);

/// What Lambda hands over: a batch that SQS delivered, or a bare event.
///
/// Read from Lambda's own bytes, which are gone by the time that it is handled: a batch may be megabytes, and two or
/// three of it at once are most of the memory that a function needs.
#[derive(Debug)]
pub(crate) enum Delivery {
    Batch(Vec<SqsRecord>),
    Bare(Box<RawValue>),
}

impl<'de> Deserialize<'de> for Delivery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::read(<&RawValue>::deserialize(deserializer)?))
    }
}

impl Delivery {
    fn read(text: &RawValue) -> Self {
        match serde_json::from_str(text.get()) {
            Ok(SqsBatch { records }) if records.iter().all(SqsRecord::is_complete) => Self::Batch(records),
            _ => Self::Bare(text.to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SqsBatch {
    records: Vec<SqsRecord>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SqsRecord {
    #[serde(rename = "eventSource", deserialize_with = "is_sqs")]
    is_from_sqs: bool,
    message_id: String,
    body: String,
    #[serde(default)]
    attributes: SqsAttributes,
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
    /// Only what can be handed back by its id may be taken as a batch: an empty or unknown `itemIdentifier` in the
    /// answer would fail or delete other messages.
    fn is_complete(&self) -> bool {
        self.is_from_sqs && !self.message_id.is_empty()
    }

    fn envelope(&self, call: &Call) -> Envelope<'_> {
        let sent = self.attributes.sent_timestamp.as_deref().and_then(|millis| millis.parse().ok());
        Envelope {
            text: &self.body,
            delivery_id: &self.message_id,
            delivered_at: sent.map_or_else(|| call.now(), Timestamp::from_millis),
        }
    }
}

impl<H: Bulk> Function<H> {
    /// Puts a function together.
    pub fn new(name: impl Into<String>, handler: H, quarantine: Quarantine) -> Self {
        Self { name: name.into(), handler, quarantine }
    }

    /// Takes one delivery and gives each event in it its own fate.
    ///
    /// A batch is answered with the ids of the messages that are to be retried
    /// (`ReportBatchItemFailures`); a bare event with what became of it, or with the error [`Retry`].
    pub async fn invoke(&self, delivery: &RawValue, call: &Call) -> Result<Value, Retry> {
        self.take(&Delivery::read(delivery), call).await
    }

    pub(crate) async fn take(&self, delivery: &Delivery, call: &Call) -> Result<Value, Retry> {
        let event = match delivery {
            Delivery::Batch(records) => {
                let envelopes: Vec<_> = records.iter().map(|record| record.envelope(call)).collect();
                let fates = self.settle(&envelopes, call).await;
                let retried = records.iter().zip(fates).filter(|(_, fate)| matches!(fate, Err(Failure::Retry(_))));
                let failures: Vec<_> =
                    retried.map(|(record, _)| json!({"itemIdentifier": record.message_id})).collect();
                return Ok(json!({"batchItemFailures": failures}));
            }
            Delivery::Bare(event) => event,
        };
        let envelope = Envelope { text: event.get(), delivery_id: call.request_id(), delivered_at: call.now() };
        match self.settle(&[envelope], call).await.pop() {
            Some(Ok(())) => Ok(json!({"outcome": "done"})),
            Some(Err(Failure::Refused(Refusal { code, why }))) => {
                Ok(json!({"outcome": "refused", "reason": code, "why": why}))
            }
            Some(Err(Failure::Retry(cause))) => Err(Retry(chain(cause.as_ref()))),
            None => Err(Retry("it has no answer".to_owned())),
        }
    }

    /// Handles events, quarantines those that were refused, and reports. One fate an envelope, in their order.
    async fn settle(&self, envelopes: &[Envelope<'_>], call: &Call) -> Vec<Result<(), Failure>> {
        let mut fates = self.handle(envelopes, call).await;
        let failed = fates.iter_mut().zip(envelopes).filter(|(fate, _)| fate.is_err());
        stream::iter(failed)
            .for_each_concurrent(QUARANTINED_AT_ONCE, async |(fate, envelope)| {
                let label = Label::read(envelope);
                if let Err(Failure::Refused(refusal)) = &*fate
                    && let Err(error) = self.quarantine(envelope, &label, refusal, call).await
                {
                    *fate = Err(Failure::Retry(error));
                }
                report_failure(&label, fate, call);
            })
            .await;
        self.report(envelopes, &fates, call);
        fates
    }

    async fn handle(&self, envelopes: &[Envelope<'_>], call: &Call) -> Vec<Result<(), Failure>> {
        let mut inputs = Vec::with_capacity(envelopes.len());
        let opened: Vec<Result<(), Refusal>> =
            envelopes.iter().map(|envelope| H::Input::open(envelope).map(|input| inputs.push(input))).collect();

        let mut answers = Answers::new(inputs.len());
        let handled = AssertUnwindSafe(self.handler.handle_all(&inputs, &mut answers, call)).catch_unwind();
        match timeout(call.time_left(), handled).await {
            Ok(Ok(())) => {}
            Ok(Err(_panic)) => tracing::error!(requestId = call.request_id(), "the handler panicked"),
            Err(_elapsed) => tracing::error!(requestId = call.request_id(), "time ran out before all was handled"),
        }

        let mut answers = answers.into_vec().into_iter();
        let unanswered = || Err(Failure::retry("it has no answer"));
        let fate = |opened: Result<(), Refusal>| match opened {
            Ok(()) => answers.next().unwrap_or_else(unanswered),
            Err(refusal) => Err(refusal.into()),
        };
        opened.into_iter().map(fate).collect()
    }

    async fn quarantine(
        &self,
        envelope: &Envelope<'_>,
        label: &Label,
        refusal: &Refusal,
        call: &Call,
    ) -> Result<(), BoxError> {
        let now = call.now();
        let put = self.quarantine.put(label, envelope.text, refusal, call.request_id(), envelope.delivered_at, now);
        // An answer must still go out: without it, what was done in this batch would come back as well.
        timeout(call.deadline().minus(TO_ANSWER).since(now), put).await?
    }

    /// One log line and one metric record for the whole delivery: log ingestion is what costs most at volume.
    fn report(&self, envelopes: &[Envelope<'_>], fates: &[Result<(), Failure>], call: &Call) {
        let (mut done, mut refused, mut retried) = (0_u64, 0_u64, 0_u64);
        for fate in fates {
            *match fate {
                Ok(()) => &mut done,
                Err(Failure::Refused(_)) => &mut refused,
                Err(Failure::Retry(_)) => &mut retried,
            } += 1;
        }
        let single = if let [envelope] = envelopes { Label::read(envelope) } else { Label::default() };
        let event_id = (!single.id.is_empty()).then_some(single.id);
        let request_id = call.request_id();
        let thing = single.thing;
        tracing::info!(requestId = request_id, eventId = event_id, thing, done, refused, retried, "batch");

        let mut counts = call.counted();
        counts.extend([("Done", done), ("Refused", refused), ("Retried", retried)]);
        let properties = [("requestId", Some(request_id.to_owned())), ("eventId", event_id), ("thing", thing)];
        let properties = properties.into_iter().filter_map(|(name, value)| Some((name, value?)));
        println!("{}", metrics::record(&self.name, call.now(), &counts, properties));
    }
}

fn report_failure(label: &Label, fate: &Result<(), Failure>, call: &Call) {
    let Label { id, thing, .. } = label;
    let request_id = call.request_id();
    match fate {
        Ok(()) => {}
        Err(Failure::Refused(Refusal { code, why })) => {
            tracing::warn!(requestId = request_id, eventId = id, thing, reason = code, why = &**why, "refused");
        }
        Err(Failure::Retry(cause)) => {
            let error = chain(cause.as_ref());
            tracing::warn!(requestId = request_id, eventId = id, thing, error, "retry");
        }
    }
}
