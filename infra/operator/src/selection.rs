//! The options that select events, and points in time as operators write them.

use std::str::FromStr;

use clap::Args;
use gatehouse::{Span, ThingName, ThingPattern, Timestamp};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use crate::names::Names;
use crate::pace::PaceOptions;
use crate::status::{MissingError, UsageError};

/// Which events.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Only events of this function (may be repeated).
    #[arg(long, value_name = "FUNCTION")]
    pub function: Vec<String>,
    /// Only events with this reason or kind (may be repeated).
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Only events of this thing; `*` matches any characters.
    #[arg(long, value_name = "THING", value_parser = thing_pattern)]
    pub thing: Option<ThingPattern>,
    /// Only since this time: `2 h` ago, `2026-11-29`, or `2026-11-29T13:00:00Z`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<PointInTime>,
    /// Only before this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<PointInTime>,
}

/// Which events, and how fast.
#[derive(Debug, Args)]
pub struct Batch {
    /// IDs of events, or of messages.
    pub ids: Vec<String>,
    /// Further conditions.
    #[command(flatten)]
    pub selection: Selection,
    /// All events.
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// How fast.
    #[command(flatten)]
    pub pace: PaceOptions,
}

impl Batch {
    /// Returns an error if no events are selected: selecting all of them needs `--all`.
    pub fn check(&self) -> Result<(), UsageError> {
        if self.ids.is_empty() && self.selection.is_empty() && !self.all {
            let why = "name IDs, select events with options such as --function, or use --all";
            return Err(UsageError(why.to_owned()));
        }
        Ok(())
    }
}

/// The properties that a [`Selection`] matches.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The reason code, or the kind of dead letter.
    pub reason: &'a str,
    /// The thing, if it is known.
    pub thing: Option<&'a str>,
    /// When it was refused, or became a dead letter.
    pub at: Timestamp,
}

impl Selection {
    /// Returns whether there is no option.
    pub fn is_empty(&self) -> bool {
        let Self { function, reason, thing, since, until } = self;
        function.is_empty() && reason.is_empty() && thing.is_none() && since.is_none() && until.is_none()
    }

    /// Returns the selected functions; empty for all. An unknown function is an error.
    pub fn functions(&self, names: &Names) -> Result<Vec<&'static str>, MissingError> {
        self.function.iter().map(|name| names.function(name)).collect()
    }

    /// Returns whether the options, except `function`, select this.
    pub fn matches(&self, subject: Subject<'_>) -> bool {
        let Self { function: _, reason, thing, since, until } = self;
        let has_thing = |pattern: &ThingPattern| {
            subject.thing.and_then(|name| ThingName::new(name).ok()).is_some_and(|name| pattern.matches(&name))
        };
        (reason.is_empty() || reason.iter().any(|reason| reason == subject.reason))
            && thing.as_ref().is_none_or(has_thing)
            && since.is_none_or(|since| subject.at >= since.0)
            && until.is_none_or(|until| subject.at < until.0)
    }
}

/// Parses a pattern of thing names.
pub fn thing_pattern(text: &str) -> Result<ThingPattern, &'static str> {
    ThingPattern::new(text).ok_or("it must be 1 to 128 of the characters a-z A-Z 0-9 : _ - and *")
}

/// A time, written as a duration before now, as a date, or as a date and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointInTime(pub Timestamp);

/// The text is not a [`PointInTime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a time must be a duration before now such as `2 h`, a date such as 2026-11-29, or one with time such as 2026-11-29T13:00:00Z"
)]
pub struct ParsePointInTimeError;

impl FromStr for PointInTime {
    type Err = ParsePointInTimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(span) = text.parse::<Span>() {
            return Ok(Self(Timestamp::now().minus(span.duration())));
        }
        let date = || Date::parse(text, format_description!("[year]-[month]-[day]")).map(time::Date::midnight);
        let time = OffsetDateTime::parse(text, &Rfc3339).or_else(|_| date().map(time::PrimitiveDateTime::assume_utc));
        let millis = time.map_err(|_| ParsePointInTimeError)?.unix_timestamp_nanos() / 1_000_000;
        Ok(Self(Timestamp::from_millis(u64::try_from(millis).map_err(|_| ParsePointInTimeError)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parse() {
        let time = |text: &str| text.parse::<PointInTime>().expect("a time").0.millis();
        assert_eq!(time("2025-11-29T13:04:05.123Z"), 1_764_421_445_123);
        assert_eq!(time("2025-11-29T14:04:05+01:00"), 1_764_421_445_000);
        assert_eq!(time("2025-11-29"), 1_764_374_400_000);
        let ago = Timestamp::now().millis() - time("2 h");
        assert!((7_200_000..7_210_000).contains(&ago), "{ago}");
        assert_eq!("yesterday".parse::<PointInTime>(), Err(ParsePointInTimeError));
    }

    #[test]
    fn options_select_together() {
        let at = |millis| Some(PointInTime(Timestamp::from_millis(millis)));
        let selection = Selection {
            reason: vec!["not-json".to_owned()],
            thing: ThingPattern::new("lux-*"),
            since: at(10),
            until: at(20),
            ..Selection::default()
        };
        let subject = |reason, thing, millis| Subject { reason, thing, at: Timestamp::from_millis(millis) };
        assert!(selection.matches(subject("not-json", Some("lux-1"), 10)));
        assert!(!selection.matches(subject("not-json", Some("lux-1"), 20)));
        assert!(!selection.matches(subject("not-json", Some("lux-1"), 9)));
        assert!(!selection.matches(subject("not-json", Some("door"), 15)));
        assert!(!selection.matches(subject("not-json", None, 15)));
        assert!(!selection.matches(subject("wrong-type", Some("lux-1"), 15)));
        assert!(Selection::default().matches(subject("wrong-type", None, 15)));
    }
}
