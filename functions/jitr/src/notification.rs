//! The notifications that people receive.

use gatehouse::pki::CertificateId;
use gatehouse::{Attribute, Notification, ThingName};
use iot_registry::CertificateStatus;

use crate::certificate::DeviceCertificate;
use crate::event::Registration;
use crate::rejection::Rejection;

/// Returns the notification of a rejected certificate, which now has this status. `certificate` is `None` if the
/// certificate could not be parsed.
pub(crate) fn rejected(
    ids: &Registration,
    event_id: &str,
    rejection: &Rejection,
    status: &CertificateStatus,
    certificate: Option<&DeviceCertificate>,
) -> Notification {
    let Registration { certificate: id, ca } = ids;
    let Rejection { code, why, .. } = rejection;
    let mut attributes = vec![
        ("reason", Attribute::Text(code.clone())),
        ("certificateId", Attribute::Text(id.to_string())),
        ("caCertificateId", Attribute::Text(ca.to_string())),
        ("eventId", Attribute::Text(event_id.to_owned())),
    ];
    let thing = certificate.and_then(DeviceCertificate::thing_name);
    // "Names", because the certificate does not prove that it belongs to the thing.
    let naming = thing.as_ref().map(|thing| format!(" that names thing {thing}")).unwrap_or_default();
    attributes.extend(thing.map(|thing| ("thing", Attribute::Text(thing.to_string()))));
    Notification {
        subject: format!("Device rejected: {code}"),
        message: format!("A certificate{naming} was rejected and is now {status}. {why}\nCertificate: {id}\nCA: {ca}"),
        data: None,
        attributes,
    }
}

/// Returns the notification of a device's new certificate.
pub(crate) fn rotated(thing: &ThingName, old: &CertificateId, new: &CertificateId, event_id: &str) -> Notification {
    Notification {
        subject: "A device has a new certificate".to_owned(),
        message: format!(
            "Thing {thing} has a new certificate. The old one was left active: deactivate it once the device uses the \
             new one.\nNew: {new}\nOld: {old}"
        ),
        data: None,
        attributes: vec![
            ("thing", Attribute::Text(thing.to_string())),
            ("certificateId", Attribute::Text(new.to_string())),
            ("eventId", Attribute::Text(event_id.to_owned())),
        ],
    }
}
