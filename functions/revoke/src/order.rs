//! What `revoke` is asked to do: by an operator, or by itself to go on.

use std::fmt;

use gatehouse::{CertificateId, EventId, Refusal};
use serde::{Deserialize, Serialize};

/// The longest reason that is taken, in characters: it stands in the record of every certificate.
const LONGEST_REASON: usize = 256;

/// An order as it arrives, before anything in it is believed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Order {
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_certificate_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crl: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
}

/// Whom an order is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The certificates of a CA.
    CaCertificate(CertificateId),
    /// One certificate.
    Certificate(CertificateId),
}

/// In words.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaCertificate(ca) => write!(f, "CA {ca}"),
            Self::Certificate(certificate) => write!(f, "Certificate {certificate}"),
        }
    }
}

/// What is to be done about the subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Only what stands on the CA's published CRL; the CA itself is left as it is.
    pub only_listed: bool,
    /// Change nothing, and tell what would be changed.
    pub dry_run: bool,
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// An order that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Begin a run.
    Begin(Job),
    /// Go on with one.
    GoOn {
        /// The run: the id of the event that began it.
        run: EventId,
        /// Which of its steps is due, counted from 1.
        step: u64,
    },
}

impl Order {
    /// The order to go on with a run.
    pub fn go_on(subject: &Subject, run: &str, step: u64) -> Self {
        let (ca, certificate) = match subject {
            Subject::CaCertificate(ca) => (Some(ca.to_string()), None),
            Subject::Certificate(certificate) => (None, Some(certificate.to_string())),
        };
        Self {
            ca_certificate_id: ca,
            certificate_id: certificate,
            run: Some(run.to_owned()),
            step: Some(step),
            ..Self::default()
        }
    }

    /// Whom the order is about, and what is to be done.
    ///
    /// Refused with `bad-order` where its fields do not go together, and with `invalid-value` where one of them is not
    /// what it should be.
    pub fn read(&self) -> Result<(Subject, Task), Refusal> {
        let subject = match (&self.ca_certificate_id, &self.certificate_id) {
            (Some(ca), None) => Subject::CaCertificate(id("caCertificateId", ca)?),
            (None, Some(certificate)) => Subject::Certificate(id("certificateId", certificate)?),
            _ => return Err(bad("An order names exactly one of `caCertificateId` and `certificateId`.")),
        };
        let task = match (&self.run, self.step) {
            (None, None) => Task::Begin(self.job(&subject)?),
            (Some(run), Some(step)) if self.is_bare() => Task::GoOn { run: run_id(run)?, step },
            _ => return Err(bad("The fields `run` and `step` go together, and with nothing but the id.")),
        };
        Ok((subject, task))
    }

    fn is_bare(&self) -> bool {
        self.crl.is_none() && self.reason.is_none() && self.dry_run.is_none()
    }

    fn job(&self, subject: &Subject) -> Result<Job, Refusal> {
        let only_listed = self.crl.unwrap_or(false);
        if only_listed && matches!(subject, Subject::Certificate(_)) {
            return Err(bad("Field `crl` goes with `caCertificateId` only."));
        }
        let is_good = |reason: &String| (1..=LONGEST_REASON).contains(&reason.chars().count());
        if self.reason.as_ref().is_some_and(|reason| !is_good(reason)) {
            let why = format!("Field `reason` must have 1 to {LONGEST_REASON} characters.");
            return Err(Refusal::new("invalid-value", why));
        }
        Ok(Job { only_listed, dry_run: self.dry_run.unwrap_or(false), reason: self.reason.clone() })
    }
}

fn bad(why: &'static str) -> Refusal {
    Refusal::new("bad-order", why)
}

fn id(field: &str, text: &str) -> Result<CertificateId, Refusal> {
    let why = || format!("Field `{field}` must be 64 hexadecimal digits.");
    CertificateId::new(text).ok_or_else(|| Refusal::new("invalid-value", why()))
}

fn run_id(text: &str) -> Result<EventId, Refusal> {
    let why = "Field `run` must be 1 to 128 printable ASCII characters.";
    EventId::new(text).ok_or_else(|| Refusal::new("invalid-value", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Subject, Task), Refusal> {
        let text = text.replace("ID", &"aB".repeat(32));
        serde_json::from_str::<Order>(&text).expect("known fields").read()
    }

    fn id() -> CertificateId {
        CertificateId::new(&"ab".repeat(32)).expect("an id")
    }

    #[test]
    fn an_order_names_its_subject_and_what_is_to_be_done() {
        let (ca, certificate) = (Subject::CaCertificate(id()), Subject::Certificate(id()));
        let job = |only_listed, dry_run, reason: Option<&str>| {
            Task::Begin(Job { only_listed, dry_run, reason: reason.map(str::to_owned) })
        };
        for (text, subject, task) in [
            (r#"{"caCertificateId": "ID"}"#, &ca, job(false, false, None)),
            (r#"{"caCertificateId": "ID", "reason": "lost"}"#, &ca, job(false, false, Some("lost"))),
            (r#"{"caCertificateId": "ID", "dryRun": true}"#, &ca, job(false, true, None)),
            (r#"{"caCertificateId": "ID", "crl": true}"#, &ca, job(true, false, None)),
            (r#"{"certificateId": "ID", "crl": false}"#, &certificate, job(false, false, None)),
        ] {
            assert_eq!(read(text), Ok((subject.clone(), task)), "{text}");
        }
    }

    #[test]
    fn the_order_to_go_on_is_read_back_as_what_it_is() {
        for subject in [Subject::CaCertificate(id()), Subject::Certificate(id())] {
            let text = serde_json::to_string(&Order::go_on(&subject, "run-1", 7)).expect("serialises");
            let task = Task::GoOn { run: EventId::new("run-1").expect("an id"), step: 7 };
            assert_eq!(read(&text), Ok((subject, task)), "{text}");
        }
    }

    #[test]
    fn what_does_not_go_together_or_is_not_what_it_should_be_is_refused() {
        let long = "x".repeat(LONGEST_REASON + 1);
        for (text, code) in [
            ("{}", "bad-order"),
            (r#"{"reason": "lost"}"#, "bad-order"),
            (r#"{"caCertificateId": "ID", "certificateId": "ID"}"#, "bad-order"),
            (r#"{"certificateId": "ID", "crl": true}"#, "bad-order"),
            (r#"{"caCertificateId": "ID", "run": "run-1"}"#, "bad-order"),
            (r#"{"caCertificateId": "ID", "step": 2}"#, "bad-order"),
            (r#"{"caCertificateId": "ID", "run": "run-1", "step": 2, "dryRun": true}"#, "bad-order"),
            (r#"{"caCertificateId": "*"}"#, "invalid-value"),
            (r#"{"certificateId": "ID0"}"#, "invalid-value"),
            (r#"{"caCertificateId": "ID", "reason": ""}"#, "invalid-value"),
            (r#"{"caCertificateId": "ID", "run": "", "step": 2}"#, "invalid-value"),
            (&format!(r#"{{"caCertificateId": "ID", "reason": "{long}"}}"#), "invalid-value"),
        ] {
            assert_eq!(read(text).map_err(|refusal| refusal.code), Err(code), "{text}");
        }
    }
}
