//! How people are notified: repeats, quiet hours, and custom texts.

use std::time::Duration;

use gatehouse::{Severity, Span, Timestamp};

const DAY: u64 = 24 * 60;

/// A rule's policy. The default is one notification per transition, at any time, in the standard text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NotifyPolicy {
    /// How often the notification is repeated while the alarm is ACTIVE.
    pub repeat: Option<Span>,
    /// How often it is repeated for individual severities, in place of `repeat`.
    pub repeat_by_severity: Vec<(Severity, Span)>,
    /// When people are not notified.
    pub quiet_hours: Option<QuietHours>,
    /// The text of notifications of an alarm that is on.
    pub text: Option<Template>,
}

/// A daily period in which people are not notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuietHours {
    /// When they begin and end, in minutes after local midnight. They include midnight if they begin later than they
    /// end.
    from: u64,
    to: u64,
    /// How far local time is ahead of UTC, in minutes, plus a day to keep it positive.
    offset: u64,
    /// The severities for which people are notified nevertheless.
    pub except: Vec<Severity>,
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

/// A part of a template. Indexes are into the rule's fields and overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// The thing's name.
    Thing,
    /// The rule's name.
    Rule,
    /// The severity.
    Severity,
    /// A field of the reading.
    Field(usize),
    /// The thing's value for an override.
    Override(usize),
}

impl NotifyPolicy {
    /// Returns how often the notification of an alarm with this severity is repeated.
    pub fn repeat(&self, severity: Severity) -> Option<Duration> {
        let own = self.repeat_by_severity.iter().find(|(of, _)| *of == severity).map(|(_, repeat)| *repeat);
        own.or(self.repeat).map(Span::duration)
    }

    /// Returns when the current quiet hours end; `None` if people may be notified of this severity at this time.
    pub fn quiet_until(&self, severity: Option<Severity>, at: Timestamp) -> Option<Timestamp> {
        let quiet = self.quiet_hours.as_ref()?;
        let is_exempt = severity.is_some_and(|severity| quiet.except.contains(&severity));
        if is_exempt { None } else { quiet.until(at) }
    }
}

impl QuietHours {
    /// Parses quiet hours between two times such as `22:00`, at an offset from UTC such as `+01:00`; `None` if any of
    /// the three is invalid.
    pub fn parse(from: &str, to: &str, offset: &str, except: Vec<Severity>) -> Option<Self> {
        let sign = offset.chars().next()?;
        let minutes = clock_time(offset.strip_prefix(['+', '-'])?).filter(|minutes| *minutes < 15 * 60)?;
        let offset = if sign == '-' { DAY - minutes } else { DAY + minutes };
        Some(Self { from: clock_time(from)?, to: clock_time(to)?, offset, except })
    }

    /// Whether they begin and end at the same time.
    pub fn are_empty(&self) -> bool {
        self.from == self.to
    }

    /// Returns when they end, if this time is within them.
    fn until(&self, at: Timestamp) -> Option<Timestamp> {
        let minute = at.seconds() / 60;
        let local = (minute + self.offset) % DAY;
        // Minutes since they began, and how long they last.
        let (since, length) = ((local + DAY - self.from) % DAY, (self.to + DAY - self.from) % DAY);
        (since < length).then(|| Timestamp::from_millis((minute + length - since) * 60_000))
    }
}

/// Parses a time such as `06:30` to minutes after midnight.
fn clock_time(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str, limit: u64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|number| is_number && *number < limit)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2025-11-21T00:00:00Z.
    const MIDNIGHT: u64 = 1_763_683_200_000;
    const MINUTE: u64 = 60_000;

    fn quiet(from: &str, to: &str, offset: &str) -> QuietHours {
        QuietHours::parse(from, to, offset, vec![]).expect("quiet hours")
    }

    /// When the quiet hours that include this time of day end, in minutes after midnight.
    fn end(hours: &QuietHours, minute: u64) -> Option<u64> {
        let until = hours.until(Timestamp::from_millis(MIDNIGHT + minute * MINUTE + 1))?;
        Some((until.millis() - MIDNIGHT) / MINUTE)
    }

    #[test]
    fn quiet_hours_may_include_midnight() {
        let hours = quiet("22:00", "06:00", "+00:00");
        assert_eq!(end(&hours, 21 * 60 + 59), None);
        assert_eq!(end(&hours, 22 * 60), Some(30 * 60));
        assert_eq!(end(&hours, 23 * 60), Some(30 * 60));
        assert_eq!(end(&hours, 0), Some(6 * 60));
        assert_eq!(end(&hours, 5 * 60 + 59), Some(6 * 60));
        assert_eq!(end(&hours, 6 * 60), None);
    }

    #[test]
    fn offset_moves_them() {
        // 22:00 local time is 21:00 UTC.
        let hours = quiet("22:00", "06:00", "+01:00");
        assert_eq!((end(&hours, 20 * 60 + 59), end(&hours, 21 * 60)), (None, Some(29 * 60)));
        let hours = quiet("12:00", "13:30", "-05:30");
        assert_eq!((end(&hours, 17 * 60 + 29), end(&hours, 17 * 60 + 30)), (None, Some(19 * 60)));
    }

    #[test]
    fn other_forms_are_rejected() {
        for (from, to, offset) in [
            ("22", "06:00", "+00:00"),
            ("22:00", "24:00", "+00:00"),
            ("22:00", "06:60", "+00:00"),
            ("22:00", "6:00", "+00:00"),
            ("22:00", "06:00", "01:00"),
            ("22:00", "06:00", "+15:00"),
            ("+2:00", "06:00", "+01:00"),
            ("22:00", "06:00", ""),
        ] {
            assert_eq!(QuietHours::parse(from, to, offset, vec![]), None, "{from} {to} {offset}");
        }
    }
}
