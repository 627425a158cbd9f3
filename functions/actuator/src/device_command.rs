//! What an action sends to a device.

use gatehouse::ValidationError;
use serde::de::{self, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};

use crate::desired_json::DesiredJson;
use crate::infrared::Infrared;

/// AWS IoT's limits for a shadow's desired state: its size in bytes, and its nesting depth. (The AWS page on error
/// messages still says 6 levels.) <https://docs.aws.amazon.com/general/latest/gr/iot-core.html#device-shadow-limits>
const MAX_DESIRED_STATE: usize = 8 * 1024;
const MAX_DESIRED_LEVELS: usize = 8;

/// A command that a device receives.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DeviceCommand {
    /// A desired state for the device's shadow.
    Shadow(DesiredState),
    /// Codes that an infrared gateway sends to the device.
    Infrared(Infrared),
}

/// A desired state for a device shadow. A device that is offline receives it when it reconnects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredState {
    /// The name of a named shadow; `None` for the classic shadow.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The desired state. Fields that it does not contain stay unchanged.
    pub desired: DesiredJson,
}

/// Deserializes a field that may be absent, but not null.
pub(crate) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for DeviceCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Kinds {
            #[serde(default, deserialize_with = "not_null")]
            shadow: Option<DesiredState>,
            #[serde(default, deserialize_with = "not_null")]
            infrared: Option<Infrared>,
        }
        match Kinds::deserialize(deserializer)? {
            Kinds { shadow: Some(shadow), infrared: None } => Ok(Self::Shadow(shadow)),
            Kinds { shadow: None, infrared: Some(infrared) } => Ok(Self::Infrared(infrared)),
            _ => Err(de::Error::invalid_value(Unexpected::Map, &"exactly one of `shadow` and `infrared`")),
        }
    }
}

impl DeviceCommand {
    /// Returns the command as JSON, the same text for equal commands, with numbers as the operator wrote them; `None`
    /// if it cannot be serialized.
    pub fn to_json(&self) -> Option<String> {
        let json = serde_json::value::to_raw_value(self).ok()?;
        Some(DesiredJson::new(&json)?.as_str().to_owned())
    }

    pub(crate) fn validate(&self, path: &str) -> Result<(), ValidationError> {
        match self {
            Self::Shadow(shadow) => shadow.validate(&format!("{path}.shadow")),
            Self::Infrared(infrared) => infrared.validate(&format!("{path}.infrared")),
        }
    }
}

impl DesiredState {
    fn validate(&self, path: &str) -> Result<(), ValidationError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'$' | b':' | b'_' | b'-');
        let is_name = |name: &String| (1..=64).contains(&name.len()) && name.bytes().all(allowed);
        if !self.name.as_ref().is_none_or(is_name) {
            let why = "It must be 1 to 64 of the characters a-z A-Z 0-9 $ : _ -.";
            return Err(ValidationError::new(format!("{path}.name"), why));
        }
        if self.desired.levels() > MAX_DESIRED_LEVELS {
            let why = format!("It has {} levels; a shadow has at most {MAX_DESIRED_LEVELS}.", self.desired.levels());
            return Err(ValidationError::new(format!("{path}.desired"), why));
        }
        if self.desired.is_empty() || self.desired.as_str().len() > MAX_DESIRED_STATE {
            let why = format!("It must have at least one field, and at most {MAX_DESIRED_STATE} bytes.");
            return Err(ValidationError::new(format!("{path}.desired"), why));
        }
        Ok(())
    }
}
