//! What a click says, and what is said of it.

use std::fmt;

use gatehouse::{Attribute, Notification, Refusal, ThingName};
use regex_lite::Regex;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected};

/// What an AWS IoT button publishes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Click {
    /// The device's serial number (DSN), which is also its thing name.
    pub serial_number: String,
    /// What the battery delivers.
    pub battery_voltage: Millivolts,
    /// How it was pressed.
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
    /// For more than a second and a half.
    Long,
}

impl ClickType {
    /// The word that the button uses.
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

/// What the operator wants of buttons.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Below this the notification says that the battery is low; 0 for never.
    pub low_battery: Millivolts,
    /// What a serial number must match as a whole.
    pub serial_number: Regex,
}

/// What subscribers are told of a click of the button that AWS IoT knows as `thing`.
pub fn notification(click: &Click, thing: &ThingName, rules: &Rules) -> Result<Notification, Refusal> {
    let Click { serial_number, battery_voltage, click_type } = click;
    if serial_number != thing.as_str() {
        let why = "Field `serialNumber` is not the name of the thing that published it.";
        return Err(Refusal::new("serial-number-mismatch", why));
    }
    if !rules.serial_number.is_match(serial_number) {
        let why = "Field `serialNumber` does not match the pattern of the serial numbers that are allowed.";
        return Err(Refusal::new("serial-number-not-allowed", why));
    }
    let click_type = click_type.as_str();
    let low_battery =
        if *battery_voltage < rules.low_battery { format!("\nBattery low: {battery_voltage}") } else { String::new() };
    Ok(Notification {
        subject: format!("{click_type} click of button {serial_number}"),
        message: format!("Received {click_type} message from button ID: {serial_number}{low_battery}"),
        data: None,
        attributes: vec![
            ("clickType", Attribute::Text(click_type.to_owned())),
            ("thing", Attribute::Text(thing.to_string())),
            ("batteryVoltage", Attribute::Number(battery_voltage.0.into())),
        ],
    })
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

    fn rules(pattern: &str) -> Rules {
        Rules { low_battery: Millivolts(1200), serial_number: Regex::new(pattern).expect("a valid pattern") }
    }

    fn thing(name: &str) -> ThingName {
        ThingName::new(name).expect("a valid name")
    }

    #[test]
    fn a_click_is_told_in_the_words_of_the_button_tutorial() {
        let notification =
            notification(&click("G030JF055364XVRB", 2000), &thing("G030JF055364XVRB"), &rules(".*")).unwrap();
        assert_eq!(notification.message, "Received SINGLE message from button ID: G030JF055364XVRB");
        assert_eq!(notification.subject, "SINGLE click of button G030JF055364XVRB");
    }

    #[test]
    fn a_battery_below_the_level_is_told_and_one_at_the_level_is_not() {
        let told = |millivolts| notification(&click("a", millivolts), &thing("a"), &rules(".*")).unwrap().message;
        assert_eq!(told(1199), "Received SINGLE message from button ID: a\nBattery low: 1199 mV");
        assert_eq!(told(1200), "Received SINGLE message from button ID: a");
    }

    #[test]
    fn a_serial_number_that_is_not_the_publishing_things_name_is_refused() {
        let refusal = notification(&click("G030JF055364XVRB", 2000), &thing("other"), &rules(".*")).unwrap_err();
        assert_eq!(refusal.code, "serial-number-mismatch");
    }

    #[test]
    fn a_serial_number_that_the_operator_does_not_allow_is_refused() {
        let refusal = notification(&click("X1", 2000), &thing("X1"), &rules("^(?:G030.*)$")).unwrap_err();
        assert_eq!(refusal.code, "serial-number-not-allowed");
    }

    #[test]
    fn both_spellings_of_the_voltage_are_read() {
        for text in [r#""2000mV""#, r#""2000 mV""#] {
            assert_eq!(serde_json::from_str::<Millivolts>(text).unwrap(), Millivolts(2000), "{text}");
        }
    }

    #[test]
    fn what_is_no_voltage_in_millivolts_is_not_read() {
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
        fn every_voltage_that_is_written_is_read_back(millivolts: u32, spaces in " {0,3}") {
            let text = format!("\"{millivolts}{spaces}mV\"");
            prop_assert_eq!(serde_json::from_str::<Millivolts>(&text).unwrap(), Millivolts(millivolts));
        }
    }
}
