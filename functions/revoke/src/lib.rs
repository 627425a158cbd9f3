//! Blocks a CA and revokes every certificate that it signed, or only those on its revocation list; or blocks and revokes
//! one certificate.
//!
//! Whatever is to be revoked is *blocked* first: `jitr` reads the block just before and just after it activates a
//! certificate. Then it is revoked, and swept once more when no admission that was under way at the time can still be
//! running. So whatever an admission activates meanwhile is taken back by one of the two functions.
//!
//! A revoked certificate cannot connect any more, but AWS IoT lets a session that it has opened go on for minutes. So each
//! revocation is followed by the end of the session under the thing's name: see [`Sessions`].
//!
//! One command starts one [*run*](run::RevocationRun), which may take many invocations: each hands what is left over to
//! the next one, through the function's own queue. See [`run_record`] for why none is lost on the way.

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
