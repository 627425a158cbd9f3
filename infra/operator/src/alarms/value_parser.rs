//! How people name states and severities on the command line.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use gatehouse::{AlarmState, DataState, Severity};

/// Parses the state of an alarm.
pub fn alarm_state() -> impl TypedValueParser<Value = AlarmState> {
    one_of([
        (PossibleValue::new("active"), AlarmState::Active),
        (PossibleValue::new("latched"), AlarmState::Latched),
        (PossibleValue::new("acknowledged"), AlarmState::Acknowledged),
        (PossibleValue::new("snoozed").alias("snooze-disabled"), AlarmState::SnoozeDisabled),
        (PossibleValue::new("disabled"), AlarmState::Disabled),
        (PossibleValue::new("normal"), AlarmState::Normal),
    ])
}

/// Parses the state of the data. CLOSED is left out, because no record has it.
pub fn data_state() -> impl TypedValueParser<Value = DataState> {
    one_of([
        (PossibleValue::new("ok"), DataState::Ok),
        (PossibleValue::new("alarm"), DataState::Alarm),
        (PossibleValue::new("stale"), DataState::Stale),
    ])
}

/// Parses a severity.
pub fn severity() -> impl TypedValueParser<Value = Severity> {
    one_of(Severity::ALL.map(|severity| (PossibleValue::new(severity.as_str()), severity)))
}

fn one_of<T, const N: usize>(values: [(PossibleValue, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let names: Vec<_> = values.iter().map(|(name, _)| name.clone()).collect();
    PossibleValuesParser::new(names).try_map(move |typed| {
        values.iter().find(|(name, _)| name.matches(&typed, false)).map(|(_, value)| *value).ok_or("unknown")
    })
}
