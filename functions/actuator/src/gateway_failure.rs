//! The notification about a gateway that keeps failing.

use std::time::Duration;

use gatehouse::{Attribute, Notification, ThingName};

use crate::gateway::GatewayError;
use crate::infrared::Infrared;
use crate::input::Transition;

/// A gateway that failed to send its device's command.
pub(crate) struct GatewayFailure<'a> {
    pub(crate) device: &'a ThingName,
    pub(crate) infrared: &'a Infrared,
    pub(crate) transition: &'a Transition,
    pub(crate) error: &'a GatewayError,
    /// How long it has been failing.
    pub(crate) duration: Duration,
}

impl GatewayFailure<'_> {
    pub(crate) fn notification(&self) -> Notification {
        let Self { device, infrared: Infrared { host, port, .. }, transition, error, duration } = self;
        let Transition { threshold, thing, to, .. } = transition;
        let to = to.map_or_else(String::new, |to| format!(" {to}"));
        let minutes = duration.as_secs() / 60;
        Notification {
            subject: format!("Gateway of {device} fails"),
            message: format!(
                "The infrared gateway {host}:{port} has been failing for {minutes} min: {error}. {device} has not \
                 received the command for {threshold}{to} of {thing}. The command is retried a few times, then kept \
                 in the dead-letter queue."
            ),
            data: None,
            attributes: vec![
                ("device", Attribute::Text(device.to_string())),
                ("error", Attribute::Text(error.class().to_owned())),
            ],
        }
    }
}
