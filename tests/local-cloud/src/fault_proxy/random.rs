//! Faults that are injected at random.

use std::collections::BTreeSet;

use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Fault;
use super::protocol::Service;

/// Maximum number of ids to read from a request: a batch has at most 25 items, with several ids each.
const MAX_IDS: usize = 100;

/// A fault that is injected at random, for a time.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomFault {
    /// The service, one of [`super::SERVICES`]; `None` for all.
    pub service: Option<String>,
    /// The fault.
    pub fault: Fault,
    /// The probability per call, from 0 to 1.
    pub probability: f64,
    /// When it ends.
    pub until: Instant,
}

/// A call into which a fault was injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// The service.
    pub service: &'static str,
    /// The operation.
    pub operation: String,
    /// The fault.
    pub fault: Fault,
    /// The UUIDs in the request, which may be ids of events.
    pub ids: Vec<String>,
}

#[derive(Debug)]
pub(super) struct RandomFaults {
    pub(super) faults: Vec<RandomFault>,
    pub(super) strikes: mpsc::UnboundedSender<Strike>,
}

impl RandomFaults {
    /// Returns the fault to inject into a call, if any, and reports it.
    pub(super) fn strike(&self, service: Service, operation: &str, body: &Bytes) -> Option<Fault> {
        let now = Instant::now();
        let is_met = |fault: &&RandomFault| {
            fault.until > now
                && fault.service.as_ref().is_none_or(|name| name == service.name())
                && fastrand::f64() < fault.probability
        };
        let fault = self.faults.iter().find(is_met)?.fault;
        let ids = ids(&String::from_utf8_lossy(body));
        let strike = Strike { service: service.name(), operation: operation.to_owned(), fault, ids };
        // The receiver may have been dropped.
        let _ = self.strikes.send(strike);
        Some(fault)
    }
}

/// Returns the UUIDs in a text: the ids of events are UUIDs.
fn ids(text: &str) -> Vec<String> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let is_uuid = |word: &&str| word.len() == 36 && word.split('-').map(str::len).eq(GROUPS);
    let words = text.split(|c: char| !(c.is_ascii_hexdigit() || c == '-'));
    let found: BTreeSet<_> = words.filter(is_uuid).take(MAX_IDS).map(str::to_owned).collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_any_protocol() {
        let id = "f1e2d3c4-0000-4000-8000-000000000001";
        for text in [
            format!(r#"{{"Key":{{"id":{{"S":"gatehouse-button#{id}"}}}}}}"#),
            format!("Action=Publish&MessageAttributes.entry.1.Value.StringValue={id}&Version=2010-03-31"),
            format!(r#"{{"MessageBody":"{{\"traceId\":\"{id}\"}}"}}"#),
        ] {
            assert_eq!(ids(&text), [id], "{text}");
        }
        assert!(ids("no id, but 12345678-90").is_empty());
    }

    #[test]
    fn fault_strikes_its_service_only_and_ends() {
        let (strikes, mut reported) = mpsc::unbounded_channel();
        let fault =
            |until| RandomFault { service: Some("SNS".to_owned()), fault: Fault::Throttled, probability: 1.0, until };
        let later = Instant::now() + std::time::Duration::from_hours(1);
        let faults = RandomFaults { faults: vec![fault(later)], strikes: strikes.clone() };
        assert_eq!(faults.strike(Service::Sqs, "SendMessage", &Bytes::new()), None);
        assert_eq!(faults.strike(Service::Sns, "Publish", &Bytes::new()), Some(Fault::Throttled));
        assert_eq!(reported.try_recv().map(|strike| strike.operation), Ok("Publish".to_owned()));
        let ended = RandomFaults { faults: vec![fault(Instant::now())], strikes };
        assert_eq!(ended.strike(Service::Sns, "Publish", &Bytes::new()), None);
        assert!(reported.try_recv().is_err());
    }
}
