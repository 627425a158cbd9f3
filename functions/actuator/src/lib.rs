//! Sends devices the commands that alarms trigger: a desired state for a device's shadow, or codes to an infrared
//! gateway.
//!
//! The alarm topic publishes a [`Transition`] whenever an alarm changes its state. The operator's document,
//! [`Actions`], lists which transition triggers which [`DeviceCommand`]. The topic also carries changes of an alarm's
//! severity and operators' actions; these trigger only actions of the corresponding kind. Transitions may arrive late,
//! repeatedly and out of order, so each device has a [`CommandRecord`] with its last command and the transition that
//! triggered it:
//!
//! 1. The record decides ([`CommandRecord::decide`]): a transition that was handled before, or is older than the newest
//!    one, sends no command; a command that differs from the last one must wait for a minimum interval.
//! 2. The record is written before the command is sent, so that no other invocation commands the device meanwhile.
//! 3. The command is sent.
//! 4. The record is written again, so that the same transition does not send the command twice.
//!
//! A command that comes too soon is delayed: its transition is stored in the record, so that an older one cannot
//! overtake it, and the function sends the transition to its own queue, to be delivered again once the interval is
//! over.
//!
//! If the process dies, or a response is lost, between steps 3 and 4, the command is sent again. Setting the same
//! desired state twice changes nothing; infrared codes are sent twice.

mod actions;
mod desired_json;
mod device_command;
mod dispatch;
mod gateway;
mod gateway_failure;
mod handler;
mod infrared;
mod input;
mod shadows;

pub use actions::{Action, Actions};
pub use desired_json::DesiredJson;
pub use device_command::{DesiredState, DeviceCommand};
pub use dispatch::{CommandRecord, Dispatch, DispatchStage, TransitionOrder};
pub use gateway::{GatewayError, send_codes};
pub use handler::ActuatorHandler;
pub use infrared::{Infrared, InfraredCode};
pub use input::{ActuatorInput, Transition};
pub use shadows::{ShadowError, Shadows};
