//! What an operator, or the function itself, asks for.

use gatehouse::{CertificateId, Refusal};
use serde::{Deserialize, Serialize};

/// An order, as it comes in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// A CA, all of whose certificates are revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificate_id: Option<String>,
    /// Or one device's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_id: Option<String>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only says what would be revoked.
    #[serde(default)]
    pub dry_run: bool,
    /// With a CA: only the certificates on its published revocation list. The CA itself stays in use.
    #[serde(default)]
    pub crl: bool,
    /// The run that this goes on with; none begins a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// How often the run has been handed on.
    #[serde(default)]
    pub step: u64,
}

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Everything that a CA signed; the CA is shut first.
    Authority(CertificateId),
    /// What is on a CA's published revocation list.
    Listed(CertificateId),
    /// One certificate.
    Certificate(CertificateId),
}

impl Order {
    /// What the order is about. Refused with `invalid-value` where that is not exactly one thing.
    pub fn target(&self) -> Result<Target, Refusal> {
        let id = |name: &str, text: &str| {
            let why = || format!("Field `{name}` must be 64 hexadecimal digits.");
            CertificateId::new(text).ok_or_else(|| Refusal::new("invalid-value", why()))
        };
        match (&self.ca_certificate_id, &self.certificate_id) {
            (Some(ca), None) if self.crl => Ok(Target::Listed(id("caCertificateId", ca)?)),
            (Some(ca), None) => Ok(Target::Authority(id("caCertificateId", ca)?)),
            (None, Some(certificate)) if !self.crl => Ok(Target::Certificate(id("certificateId", certificate)?)),
            _ => {
                let why = "There must be exactly one of the fields `caCertificateId` and `certificateId`, \
                           and `crl` only with the first.";
                Err(Refusal::new("invalid-value", why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Result<Target, String> {
        serde_json::from_str::<Order>(text).map_err(|e| e.to_string())?.target().map_err(|refusal| refusal.why.into())
    }

    #[test]
    fn an_order_is_about_exactly_one_thing() {
        let id = "AB".repeat(32);
        let lower = CertificateId::new(&id).unwrap();
        assert_eq!(order(&format!(r#"{{"caCertificateId":"{id}"}}"#)), Ok(Target::Authority(lower.clone())));
        assert_eq!(order(&format!(r#"{{"caCertificateId":"{id}","crl":true}}"#)), Ok(Target::Listed(lower.clone())));
        assert_eq!(order(&format!(r#"{{"certificateId":"{id}","dryRun":true}}"#)), Ok(Target::Certificate(lower)));
        for wrong in [
            "{}".to_owned(),
            format!(r#"{{"caCertificateId":"{id}","certificateId":"{id}"}}"#),
            format!(r#"{{"certificateId":"{id}","crl":true}}"#),
            r#"{"caCertificateId":"*"}"#.to_owned(),
            format!(r#"{{"caCertificateId":"{id}","dryrun":true}}"#),
        ] {
            assert!(order(&wrong).is_err(), "{wrong}");
        }
    }
}
