//! `iotbutton/+`: one click, one notification.
//!
//! The function parses a click, refuses it if its serial number is not acceptable, and publishes it to an Amazon SNS
//! topic. The click is claimed in the idempotency table before it is published and marked as completed afterwards, so
//! that a retry does not publish it twice. Only a process that dies in between makes the retry publish it again.

mod click;
mod handler;

pub use click::{Click, ClickType, Millivolts};
pub use handler::ButtonHandler;
