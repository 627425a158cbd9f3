//! Blocks a CA and revokes every certificate that it signed; or revokes only those on its revocation list; or blocks
//! and revokes one certificate.
//!
//! The target is *blocked* first: `jitr` checks for the block just before and just after it activates a certificate.
//! Then the certificates are revoked in a sweep, and in a second one once every admission that was in progress must
//! have ended. So if an admission activates a certificate meanwhile, one of the two functions undoes it.
//!
//! A revoked certificate can no longer connect, but AWS IoT lets its open sessions continue for minutes. So the
//! function ends the session under the thing's name after each revocation: see [`Sessions`].
//!
//! One command starts one [*run*](run::RevocationRun), which may take many invocations: each hands the remaining work
//! over to the next one through the function's own queue. [`run_record`] explains why no work is lost.

pub mod certificate_record;
pub mod command;
pub mod decision;
mod handler;
pub mod report;
pub mod run;
pub mod run_record;
mod sessions;
mod step;

pub use handler::RevokeHandler;
pub use sessions::Sessions;
