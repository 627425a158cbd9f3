//! Values that a rule computes from earlier readings in constant space: a rate of change, or the minimum, maximum or
//! mean over a window.

use std::time::Duration;

use gatehouse::{Span, Timestamp};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The number of parts of a window. Values expire one whole part at a time, so a window covers 90 to 100 % of its
/// length.
const PARTS: u64 = 10;

/// A value that is computed from a field of this reading and earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    /// The field, by its index in the rule.
    pub field: usize,
    /// How it is computed.
    pub kind: OperandKind,
}

/// How an operand is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperandKind {
    /// The change since the previous reading, per this duration.
    Change(Span),
    /// The minimum, maximum or mean over this duration.
    Window(Statistic, Span),
}

/// What is computed over a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Statistic {
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The mean of all values.
    Mean,
}

/// The stored state of an operand. Its size does not grow with the number of readings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OperandState {
    /// For a change: the newest value, and the newest one with an earlier time of receipt, each with that time.
    #[serde(default, rename = "v", skip_serializing_if = "Vec::is_empty")]
    values: Vec<(u64, Exact)>,
    /// For a window: the times of the first and newest readings since the last gap as long as the window.
    #[serde(default, rename = "s", skip_serializing_if = "Option::is_none")]
    span: Option<(u64, u64)>,
    /// For a window: its parts, each with its number since 1970, the count of its values, and their sum, minimum or
    /// maximum.
    #[serde(default, rename = "p", skip_serializing_if = "Vec::is_empty")]
    parts: Vec<(u64, u64, Exact)>,
}

/// A float, serialized as a decimal text that parses back to the same float.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Exact(f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(Error::custom)
    }
}

impl OperandKind {
    /// The duration that it covers.
    pub fn length(self) -> Duration {
        match self {
            Self::Change(length) | Self::Window(_, length) => length.duration(),
        }
    }

    fn part_length(self) -> u64 {
        (u64::try_from(self.length().as_millis()).unwrap_or(u64::MAX) / PARTS).max(1)
    }
}

impl OperandState {
    /// Adds a value that was received at this time, which must not be earlier than that of the previous value.
    pub fn add(&mut self, kind: OperandKind, at: Timestamp, value: f64) {
        let now = at.millis();
        match kind {
            OperandKind::Change(_) => {
                if self.values.first().is_some_and(|(newest, _)| *newest == now) {
                    self.values.drain(..1);
                }
                self.values.truncate(1);
                self.values.insert(0, (now, Exact(value)));
            }
            OperandKind::Window(statistic, length) => {
                let length = u64::try_from(length.duration().as_millis()).unwrap_or(u64::MAX);
                let began = self.span.filter(|(_, newest)| now.saturating_sub(*newest) < length);
                if began.is_none() {
                    self.parts.clear();
                }
                self.span = Some((began.map_or(now, |(began, _)| began), now));
                let part = now / kind.part_length();
                self.parts.retain(|(other, ..)| other + PARTS > part);
                match self.parts.last_mut() {
                    Some((last, count, Exact(kept))) if *last == part => {
                        *count += 1;
                        *kept = match statistic {
                            Statistic::Min => kept.min(value),
                            Statistic::Max => kept.max(value),
                            Statistic::Mean => *kept + value,
                        };
                    }
                    _ => self.parts.push((part, 1, Exact(value))),
                }
            }
        }
    }

    /// The operand's value after the newest reading; `None` while there are too few readings.
    pub fn value(&self, kind: OperandKind) -> Option<f64> {
        match kind {
            OperandKind::Change(per) => {
                let [(at, Exact(value)), (earlier_at, Exact(earlier)), ..] = self.values[..] else { return None };
                let elapsed = Duration::from_millis(at.saturating_sub(earlier_at));
                Some((value - earlier) / elapsed.as_secs_f64() * per.duration().as_secs_f64())
                    .filter(|change| change.is_finite())
            }
            OperandKind::Window(statistic, _) => {
                let (began, newest) = self.span?;
                // The readings must cover the window, except for its oldest part.
                if newest.saturating_sub(began) < kind.part_length() * (PARTS - 1) {
                    return None;
                }
                let kept = self.parts.iter().map(|(_, _, Exact(kept))| *kept);
                match statistic {
                    Statistic::Min => kept.reduce(f64::min),
                    Statistic::Max => kept.reduce(f64::max),
                    Statistic::Mean => {
                        let count: u64 = self.parts.iter().map(|(_, count, _)| *count).sum();
                        let count = u32::try_from(count).map(f64::from).ok()?;
                        Some(kept.sum::<f64>() / count)
                    }
                }
            }
        }
    }
}
