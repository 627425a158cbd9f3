use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::ids::{EventId, ThingName};
use crate::event::payload;
use crate::event::timestamp::Timestamp;
use crate::runtime::outcome::Refusal;

/// One event as it arrived, before anything in it is trusted.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The JSON text, unchanged.
    pub text: &'a str,
    /// The SQS message id or the Lambda request id.
    pub delivery_id: &'a str,
    /// When SQS received it, or when the invocation started.
    pub delivered_at: Timestamp,
}

/// What a function takes as input.
pub trait Input: Sized {
    /// Parses the event in an envelope, and refuses it if it is not valid.
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal>;

    /// The event's id.
    fn id(&self) -> &EventId;

    /// The thing that the event is about, if there is one.
    fn thing(&self) -> Option<&ThingName> {
        None
    }
}

/// The prefix of the topic on which AWS IoT reports a new certificate. The thing is not known yet, so the rule sets the
/// envelope's `thing` to the certificate id.
const CERTIFICATE_TOPIC: &str = "$aws/events/certificates/registered/";

/// The id, topic, and thing or certificate under which an event is logged and quarantined, as far as they can be read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) id: String,
    pub(crate) thing: Option<String>,
    /// Set instead of `thing` if the event is about a certificate.
    pub(crate) certificate_id: Option<String>,
    pub(crate) topic: Option<String>,
}

impl Label {
    pub(crate) fn read(envelope: &Envelope<'_>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Loose<'a> {
            #[serde(borrow)]
            trace_id: Option<&'a RawValue>,
            #[serde(borrow)]
            thing: Option<&'a RawValue>,
            #[serde(borrow)]
            topic: Option<&'a RawValue>,
        }
        let text = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let loose: Loose = payload::valid_envelope(envelope.text).unwrap_or_default();
        let trace_id = text(loose.trace_id).filter(|id| EventId::new(id.as_str()).is_some());
        let (subject, topic) = (text(loose.thing), text(loose.topic));
        let is_certificate = topic.as_ref().is_some_and(|topic| topic.starts_with(CERTIFICATE_TOPIC));
        let (certificate_id, thing) = if is_certificate { (subject, None) } else { (None, subject) };
        Self { id: trace_id.unwrap_or_else(|| envelope.delivery_id.to_owned()), thing, certificate_id, topic }
    }
}
