//! Draws one field of a thing's readings over time, the limit of a threshold, and the alarm's state.

use std::fmt::Write;

use serde_json::Value;

use crate::observer::Effect;
use crate::player::StepResult;
use crate::scenario::{Chart, Scenario};

/// Lines of the plot.
const LINES: u32 = 8;

/// A reading's value, and the state of the alarm from then on.
struct Reading<'a> {
    value: f64,
    state: &'a str,
}

/// Draws the readings in file order, one column each; the oldest are left out if they do not fit.
pub fn draw(chart: &Chart, scenario: &Scenario, results: &[StepResult], columns: usize) -> String {
    let readings = readings(chart, scenario, results);
    #[expect(clippy::cast_precision_loss, reason = "limits in scenarios have few digits")]
    let limit = chart.limit as f64;
    let values = || readings.iter().map(|reading| reading.value).chain([limit]);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let line = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.0 };
        let lines = f64::from(LINES - 1);
        (share * lines).round()
    };

    let field = chart.field.trim_start_matches('/');
    let label = values().chain([low, high]).map(|value| format!("{value:.0}").len()).max().unwrap_or_default();
    let label = label.max(field.len()).max(5);
    let room = columns.saturating_sub(label + 5);
    let width = (room / readings.len().max(1)).clamp(1, 3);
    let shown = || readings.iter().skip(readings.len().saturating_sub(room / width));

    let mut out = format!("\n  {field} of {}, with the limit of {} ({})\n", chart.thing, chart.threshold, chart.limit);
    for at in (0..LINES).rev().map(f64::from) {
        let is_limit = (line(limit) - at).abs() < 0.5;
        let value = low + (high - low) * at / f64::from(LINES - 1);
        let name = if is_limit { format!("{limit:.0}") } else { format!("{value:.0}") };
        let (axis, blank) = if is_limit { ('┼', "┄") } else { ('┤', " ") };
        let gap = blank.repeat(width - 1);
        let row: String = shown()
            .flat_map(|reading| [if (line(reading.value) - at).abs() < 0.5 { "●" } else { blank }, gap.as_str()])
            .collect();
        let _ = writeln!(out, "  {name:>label$} {axis}{}", row.trim_end_matches(' '));
    }
    let row: String = shown().map(|reading| mark(reading.state).repeat(width)).collect();
    let _ = writeln!(out, "  {:>label$}  {row}", "state");
    let _ = writeln!(out, "  {:>label$}  {} OK  {} ALARM", "", mark("OK"), mark("ALARM"));
    out
}

fn mark(state: &str) -> &'static str {
    match state {
        "ALARM" => "█",
        "STALE" => "?",
        _ => "░",
    }
}

fn readings<'a>(chart: &Chart, scenario: &Scenario, results: &'a [StepResult]) -> Vec<Reading<'a>> {
    let mut state = "OK";
    let of_thing = results.iter().filter(|result| result.thing == chart.thing);
    of_thing
        .filter_map(|result| {
            if let Some(Effect::Notified(notification)) = &result.effect
                && notification.attributes.get("threshold") == Some(&chart.threshold)
                && let Some(to) = notification.data.as_ref().and_then(|data| data.get("to").and_then(Value::as_str))
            {
                state = to;
            }
            let value = scenario.steps.get(result.step)?.number(&chart.field)?;
            Some(Reading { value, state })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::observer::Notification;
    use crate::scenario::{Expectation, Stored};
    use serde_json::json;

    fn scenario(values: &[u32]) -> Scenario {
        let step = |value: &u32| {
            json!({"what": "w", "thing": "house", "topic": "telemetry/house", "payload": {"lux": value},
                   "expect": {"stored": {"readings": 1}}})
        };
        let steps: Vec<_> = values.iter().map(step).collect();
        serde_json::from_value(json!({"about": "A test.", "steps": steps})).expect("a scenario")
    }

    fn result(step: usize, to: Option<&str>) -> StepResult {
        let notified = |to: &str| {
            Effect::Notified(Notification {
                topic: "alarms".to_owned(),
                message: "text".to_owned(),
                data: Some(json!({"to": to})),
                subject: None,
                attributes: BTreeMap::from([("threshold".to_owned(), "bright".to_owned())]),
            })
        };
        StepResult {
            scenario: String::new(),
            step,
            what: String::new(),
            thing: "house".to_owned(),
            topic: None,
            event_id: None,
            rule: None,
            function: None,
            effect: Some(to.map_or(Effect::Stored { readings: 1 }, notified)),
            denied: false,
            millis: None,
            expected: Expectation::Stored(Stored { readings: 1 }),
            problem: None,
        }
    }

    #[test]
    fn readings_are_drawn_above_the_alarm_state() {
        let chart = Chart { thing: "house".into(), field: "/lux".into(), threshold: "bright".into(), limit: 30 };
        let events = [result(0, None), result(1, Some("ALARM")), result(2, None), result(3, Some("OK"))];
        let drawn = draw(&chart, &scenario(&[0, 70, 40, 10]), &events, 80);
        let expected = "
  lux of house, with the limit of bright (30)
     70 ┤   ●
     60 ┤
     50 ┤
     40 ┤      ●
     30 ┼┄┄┄┄┄┄┄┄┄┄┄┄
     20 ┤
     10 ┤         ●
      0 ┤●
  state  ░░░██████░░░
         ░ OK  █ ALARM
";
        assert_eq!(drawn, expected, "{drawn}");
    }

    #[test]
    fn oldest_readings_that_do_not_fit_are_left_out() {
        let chart = Chart { thing: "house".into(), field: "/lux".into(), threshold: "bright".into(), limit: 30 };
        let values: Vec<u32> = (0..100).collect();
        let events: Vec<_> = (0..100).map(|step| result(step, None)).collect();
        let drawn = draw(&chart, &scenario(&values), &events, 80);
        assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
    }
}
