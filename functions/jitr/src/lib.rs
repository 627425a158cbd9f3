//! `$aws/events/certificates/registered/+`: validates a new device's certificate, then admits or rejects it.
//!
//! When a device presents an unknown certificate that a registered CA signed, AWS IoT closes the connection, registers
//! the certificate as `PENDING_ACTIVATION`, and publishes this event. *Admitting* the device lets it connect from then
//! on: the function creates its thing, attaches the certificate to the thing and the device policy to the certificate,
//! and activates the certificate **last**. The process may die between any two steps; the event is then delivered
//! again, and every step can be repeated.
//!
//! Everything that an admission depends on (the certificate, its CA, the CA's block and its revocation list) is checked
//! first, again just before the activation, and once more just after it: an activation that is no longer allowed is
//! undone. So `revoke` only has to block a CA before it revokes: either the last check sees the block, or the
//! certificate was active before it, and the sweep of `revoke` finds the certificate.
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
