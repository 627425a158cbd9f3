//! A button's click: its validation and its notification.

use std::fmt;

use gatehouse::{Attribute, EventId, Notification, Refusal, ThingName};
use regex_lite::Regex;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected};

/// What an AWS IoT button publishes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Click {
    /// The device's serial number (DSN), which is also its thing name.
    pub serial_number: String,
    /// The battery's voltage.
    pub battery_voltage: Millivolts,
    /// How the button was pressed.
    pub click_type: ClickType,
}

/// How a button was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ClickType {
    /// Once.
    Single,
    /// Twice in quick succession.
    Double,
    /// For more than 1.5 seconds.
    Long,
}

impl ClickType {
    /// The value that the button sends.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "SINGLE",
            Self::Double => "DOUBLE",
            Self::Long => "LONG",
        }
    }
}

/// A voltage in millivolts, written `2000mV` or `2000 mV`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millivolts(pub u32);

impl<'de> Deserialize<'de> for Millivolts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_suffix("mV").map(str::trim_end).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let millivolts = digits.and_then(|digits| digits.parse().ok());
        millivolts
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Other("text"), &"millivolts, such as \"2000mV\""))
    }
}

impl fmt::Display for Millivolts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mV", self.0)
    }
}

impl Click {
    /// Checks that the serial number is allowed, and is the name of the thing that published the click.
    ///
    /// Refused with `serial-number-mismatch` or `serial-number-not-allowed`.
    pub fn check_serial_number(&self, thing: &ThingName, allowed: &Regex) -> Result<(), Refusal> {
        if self.serial_number != thing.as_str() {
            let why = "Field `serialNumber` must be the name of the thing that published the click.";
            return Err(Refusal::new("serial-number-mismatch", why));
        }
        if !allowed.is_match(&self.serial_number) {
            let why = "Field `serialNumber` must match the pattern of allowed serial numbers.";
            return Err(Refusal::new("serial-number-not-allowed", why));
        }
        Ok(())
    }

    /// Returns the notification of this click, which mentions the battery if its voltage is below `low_battery`.
    pub fn notification(&self, event_id: &EventId, low_battery: Millivolts) -> Notification {
        let Self { serial_number, battery_voltage, click_type } = self;
        let click_type = click_type.as_str();
        let is_low = *battery_voltage < low_battery;
        let battery = if is_low { format!("\nBattery low: {battery_voltage}") } else { String::new() };
        Notification {
            subject: format!("{click_type} click of button {serial_number}"),
            message: format!("Received {click_type} message from button ID: {serial_number}{battery}"),
            data: None,
            attributes: vec![
                ("clickType", Attribute::Text(click_type.to_owned())),
                ("thing", Attribute::Text(serial_number.clone())),
                ("batteryVoltage", Attribute::Number(battery_voltage.0.into())),
                ("eventId", Attribute::Text(event_id.to_string())),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn click(serial_number: &str, millivolts: u32) -> Click {
        Click {
            serial_number: serial_number.to_owned(),
            battery_voltage: Millivolts(millivolts),
            click_type: ClickType::Single,
        }
    }

    fn notification(click: &Click) -> Notification {
        click.notification(&EventId::new("e-1").unwrap(), Millivolts(1200))
    }

    fn refusal_code(serial_number: &str, thing: &str, pattern: &str) -> &'static str {
        let (thing, pattern) = (ThingName::new(thing).unwrap(), Regex::new(pattern).unwrap());
        click(serial_number, 2000).check_serial_number(&thing, &pattern).unwrap_err().code
    }

    #[test]
    fn message_is_worded_as_in_the_aws_button_tutorial() {
        let notification = notification(&click("G030JF055364XVRB", 2000));
        assert_eq!(notification.message, "Received SINGLE message from button ID: G030JF055364XVRB");
        assert_eq!(notification.subject, "SINGLE click of button G030JF055364XVRB");
    }

    #[test]
    fn low_battery_is_mentioned_only_below_the_limit() {
        let message = |millivolts| notification(&click("a", millivolts)).message;
        assert_eq!(message(1199), "Received SINGLE message from button ID: a\nBattery low: 1199 mV");
        assert_eq!(message(1200), "Received SINGLE message from button ID: a");
    }

    #[test]
    fn serial_number_of_another_thing_is_refused() {
        assert_eq!(refusal_code("G030JF055364XVRB", "other", ".*"), "serial-number-mismatch");
    }

    #[test]
    fn serial_number_that_is_not_allowed_is_refused() {
        assert_eq!(refusal_code("X1", "X1", "^(?:G030.*)$"), "serial-number-not-allowed");
    }

    #[test]
    fn both_spellings_of_the_voltage_are_parsed() {
        for text in [r#""2000mV""#, r#""2000 mV""#] {
            assert_eq!(serde_json::from_str::<Millivolts>(text).unwrap(), Millivolts(2000), "{text}");
        }
    }

    #[test]
    fn invalid_voltages_are_refused() {
        for text in [
            r#""""#,
            r#""mV""#,
            r#"" mV""#,
            r#""2000""#,
            r#""2V""#,
            r#""-1mV""#,
            r#""+1mV""#,
            r#""1e3mV""#,
            r#""4294967296mV""#,
            "2000",
        ] {
            assert!(serde_json::from_str::<Millivolts>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_valid_voltage_is_parsed(millivolts: u32, spaces in " {0,3}") {
            let text = format!("\"{millivolts}{spaces}mV\"");
            prop_assert_eq!(serde_json::from_str::<Millivolts>(&text).unwrap(), Millivolts(millivolts));
        }
    }
}
