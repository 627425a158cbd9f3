//! `$aws/events/certificates/registered/+`: validates a new device's certificate, then admits or rejects it.
//!
//! When a device presents a certificate that AWS IoT does not know, but that a registered CA signed, AWS IoT closes the
//! connection, registers the certificate as `PENDING_ACTIVATION`, and publishes this event. *Admitting* the device lets
//! it connect from then on: its thing is created, the certificate is attached to the thing and gets the device policy,
//! and is activated, **last**. The process may die between any two steps; the event is then delivered again, and every
//! step can be repeated.
//!
//! Everything that an admission depends on (the certificate, its CA, the CA's block and its revocation list) is checked
//! first, again just before the activation, and once more just after it: an activation that is no longer allowed is
//! taken back. So whoever blocks a CA only has to write the block first. Either the last check sees it, or the
//! certificate was active before, and `revoke` finds it in its sweep.
//!
//! *Rejecting* a device sets its certificate's status to `REVOKED` or `INACTIVE`, so that the device stops causing
//! events, and notifies people once. The decision is stored before it takes effect, so that a retry cannot decide
//! differently.
//!
//! Two invocations never work on the same certificate: see [`admission_record`]. Two certificates never hold the same
//! thing name: see [`claims`].

mod admission;
pub mod admission_record;
pub mod certificate;
pub mod claims;
pub mod event;
pub mod expiry;
mod handler;
mod notification;
pub mod rejection;
mod rejection_record;

pub use handler::{DESCRIBES_PER_SECOND, JitrHandler};
