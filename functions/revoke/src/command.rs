//! The commands of `revoke`: those from operators, and its own to continue a run.

use std::fmt;

use gatehouse::pki::CertificateId;
use gatehouse::{EventId, Refusal};
use serde::{Deserialize, Serialize};

/// The maximum length of a reason in characters: it is stored in the record of every certificate.
const MAX_REASON_CHARS: usize = 256;

/// A command as it arrives, before it is validated.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RevocationCommand {
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

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationTarget {
    /// The certificates of a CA.
    Ca(CertificateId),
    /// One certificate.
    Certificate(CertificateId),
}

/// As text for people.
impl fmt::Display for RevocationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca(ca) => write!(f, "CA {ca}"),
            Self::Certificate(certificate) => write!(f, "Certificate {certificate}"),
        }
    }
}

/// What an operator requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationRequest {
    /// Revoke only what is on the CA's published CRL, and do not block the CA.
    pub only_listed: bool,
    /// Change nothing, and report what would be changed.
    pub dry_run: bool,
    /// The operator's reason.
    pub reason: Option<String>,
}

/// What a valid command makes the function do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandKind {
    /// Start a run.
    Start(RevocationRequest),
    /// Continue a run.
    Continue {
        /// The run's id: that of the command that started it.
        run_id: EventId,
        /// The step to work on, counted from 1.
        step: u64,
    },
}

impl RevocationCommand {
    /// The command to continue a run.
    pub fn continuation(target: &RevocationTarget, run_id: &str, step: u64) -> Self {
        let (ca, certificate) = match target {
            RevocationTarget::Ca(ca) => (Some(ca.to_string()), None),
            RevocationTarget::Certificate(certificate) => (None, Some(certificate.to_string())),
        };
        Self {
            ca_certificate_id: ca,
            certificate_id: certificate,
            run: Some(run_id.to_owned()),
            step: Some(step),
            ..Self::default()
        }
    }

    /// Validates the command; returns its target and what to do.
    ///
    /// Refused with `bad-order` if its fields cannot be combined, and with `invalid-value` if one has an invalid value.
    pub fn parse(&self) -> Result<(RevocationTarget, CommandKind), Refusal> {
        let target = match (&self.ca_certificate_id, &self.certificate_id) {
            (Some(ca), None) => RevocationTarget::Ca(id("caCertificateId", ca)?),
            (None, Some(certificate)) => RevocationTarget::Certificate(id("certificateId", certificate)?),
            _ => return Err(bad_command("A command must have exactly one of `caCertificateId` and `certificateId`.")),
        };
        let kind = match (&self.run, self.step) {
            (None, None) => CommandKind::Start(self.request(&target)?),
            (Some(run), Some(step)) if self.has_only_ids() => CommandKind::Continue { run_id: run_id(run)?, step },
            _ => {
                return Err(bad_command(
                    "Fields `run` and `step` must appear together, and with no other field but the id.",
                ));
            }
        };
        Ok((target, kind))
    }

    fn has_only_ids(&self) -> bool {
        self.crl.is_none() && self.reason.is_none() && self.dry_run.is_none()
    }

    fn request(&self, target: &RevocationTarget) -> Result<RevocationRequest, Refusal> {
        let only_listed = self.crl.unwrap_or(false);
        if only_listed && matches!(target, RevocationTarget::Certificate(_)) {
            return Err(bad_command("Field `crl` can only be combined with `caCertificateId`."));
        }
        let is_valid = |reason: &String| (1..=MAX_REASON_CHARS).contains(&reason.chars().count());
        if self.reason.as_ref().is_some_and(|reason| !is_valid(reason)) {
            let why = format!("Field `reason` must have 1 to {MAX_REASON_CHARS} characters.");
            return Err(Refusal::new("invalid-value", why));
        }
        Ok(RevocationRequest { only_listed, dry_run: self.dry_run.unwrap_or(false), reason: self.reason.clone() })
    }
}

fn bad_command(why: &'static str) -> Refusal {
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

    fn parse(text: &str) -> Result<(RevocationTarget, CommandKind), Refusal> {
        let text = text.replace("ID", &"aB".repeat(32));
        serde_json::from_str::<RevocationCommand>(&text).expect("known fields").parse()
    }

    fn id() -> CertificateId {
        CertificateId::new(&"ab".repeat(32)).expect("an id")
    }

    #[test]
    fn command_names_its_target_and_request() {
        let (ca, certificate) = (RevocationTarget::Ca(id()), RevocationTarget::Certificate(id()));
        let start = |only_listed, dry_run, reason: Option<&str>| {
            CommandKind::Start(RevocationRequest { only_listed, dry_run, reason: reason.map(str::to_owned) })
        };
        for (text, target, kind) in [
            (r#"{"caCertificateId": "ID"}"#, &ca, start(false, false, None)),
            (r#"{"caCertificateId": "ID", "reason": "lost"}"#, &ca, start(false, false, Some("lost"))),
            (r#"{"caCertificateId": "ID", "dryRun": true}"#, &ca, start(false, true, None)),
            (r#"{"caCertificateId": "ID", "crl": true}"#, &ca, start(true, false, None)),
            (r#"{"certificateId": "ID", "crl": false}"#, &certificate, start(false, false, None)),
        ] {
            assert_eq!(parse(text), Ok((target.clone(), kind)), "{text}");
        }
    }

    #[test]
    fn continuation_can_be_parsed_again() {
        for target in [RevocationTarget::Ca(id()), RevocationTarget::Certificate(id())] {
            let text =
                serde_json::to_string(&RevocationCommand::continuation(&target, "run-1", 7)).expect("serializes");
            let kind = CommandKind::Continue { run_id: EventId::new("run-1").expect("an id"), step: 7 };
            assert_eq!(parse(&text), Ok((target, kind)), "{text}");
        }
    }

    #[test]
    fn invalid_values_and_combinations_are_refused() {
        let long = "x".repeat(MAX_REASON_CHARS + 1);
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
            assert_eq!(parse(text).map_err(|refusal| refusal.code), Err(code), "{text}");
        }
    }
}
