//! Draws one field of a thing's readings over time, the limits of a rule, the alarm's state with its severity, and
//! operators' actions on it.

use std::fmt::Write;

use serde_json::Value;

use crate::observer::Effect;
use crate::player::StepResult;
use crate::scenario::{Action, Chart, OperatorAction, Scenario};

/// Height of the plot, in lines.
const LINES: u32 = 8;

/// A reading's value, and the state of the alarm from then on.
struct Reading<'a> {
    value: f64,
    /// The severity of the alarm, or the state of its condition if it has none.
    state: &'a str,
    /// An operator's action before the next reading.
    action: Option<&'a OperatorAction>,
}

/// The states, in the order of the legend.
const STATES: [&str; 8] = ["OK", "info", "warning", "minor", "major", "critical", "ALARM", "STALE"];

/// Draws the readings in file order, in up to three columns each. Omits the oldest if they do not fit.
pub fn draw(chart: &Chart, scenario: &Scenario, results: &[StepResult], columns: usize) -> String {
    let readings = readings(chart, scenario, results);
    #[expect(clippy::cast_precision_loss, reason = "limits in scenarios have few digits")]
    let limits: Vec<f64> =
        std::iter::once(&chart.limit).chain(&chart.other_limits).map(|limit| *limit as f64).collect();
    let values = || readings.iter().map(|reading| reading.value).chain(limits.iter().copied());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let line = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.0 };
        let lines = f64::from(LINES - 1);
        (share * lines).round()
    };

    let field = chart.field.trim_start_matches('/');
    let label = values().chain([low, high]).map(|value| format!("{value:.0}").len()).max().unwrap_or_default();
    let has_actions = readings.iter().any(|reading| reading.action.is_some());
    let label = label.max(field.len()).max(if has_actions { "operator".len() } else { "state".len() });
    let room = columns.saturating_sub(label + 5);
    let width = (room / readings.len().max(1)).clamp(1, 3);
    let shown = || readings.iter().skip(readings.len().saturating_sub(room / width));

    let numbers: Vec<_> = std::iter::once(&chart.limit).chain(&chart.other_limits).map(ToString::to_string).collect();
    let noun = if numbers.len() == 1 { "limit" } else { "limits" };
    let numbers = numbers.join(", ");
    let mut out = format!("\n  {field} of {}, with the {noun} of {} ({numbers})\n", chart.thing, chart.threshold);
    for at in (0..LINES).rev().map(f64::from) {
        let limit = limits.iter().find(|limit| (line(**limit) - at).abs() < 0.5);
        let value = low + (high - low) * at / f64::from(LINES - 1);
        let name = format!("{:.0}", limit.unwrap_or(&value));
        let (axis, blank) = if limit.is_some() { ('┼', "┄") } else { ('┤', " ") };
        let gap = blank.repeat(width - 1);
        let row: String = shown()
            .flat_map(|reading| [if (line(reading.value) - at).abs() < 0.5 { "●" } else { blank }, gap.as_str()])
            .collect();
        let _ = writeln!(out, "  {name:>label$} {axis}{}", row.trim_end_matches(' '));
    }
    let row: String = shown().map(|reading| mark(reading.state).repeat(width)).collect();
    let _ = writeln!(out, "  {:>label$}  {row}", "state");
    if has_actions {
        let mut row = String::new();
        for reading in shown() {
            let _ = write!(row, "{:<width$}", reading.action.map_or("", symbol));
        }
        let _ = writeln!(out, "  {:>label$}  {}", "operator", row.trim_end());
    }
    let _ = writeln!(out, "  {:>label$}  {}", "", legend(&readings));
    out
}

/// Returns the legend of the marks in the chart.
fn legend(readings: &[Reading<'_>]) -> String {
    let occurs = |state: &str| readings.iter().any(|reading| reading.state == state);
    let has_severity = readings.iter().any(|reading| !matches!(reading.state, "OK" | "ALARM" | "STALE" | "CLOSED"));
    let is_shown = |state: &str| state == "OK" || occurs(state) || (state == "ALARM" && !has_severity);
    let states = STATES.into_iter().filter(|state| is_shown(state)).map(|state| format!("{} {state}", mark(state)));
    let actions = readings.iter().filter_map(|reading| reading.action);
    let mut actions: Vec<_> =
        actions.map(|action| format!("{} {} by {}", symbol(action), action.action.field(), action.by)).collect();
    actions.dedup();
    states.chain(actions).collect::<Vec<_>>().join("  ")
}

fn mark(state: &str) -> &'static str {
    match state {
        "ALARM" | "critical" | "major" => "█",
        "minor" => "▓",
        "warning" | "info" => "▒",
        "STALE" => "?",
        _ => "░",
    }
}

fn symbol(action: &OperatorAction) -> &'static str {
    match action.action {
        Action::Acknowledge => "✓",
        Action::Snooze => "z",
        Action::Disable => "-",
        Action::Enable => "+",
        Action::Reset => "0",
    }
}

fn readings<'a>(chart: &Chart, scenario: &'a Scenario, results: &'a [StepResult]) -> Vec<Reading<'a>> {
    let mut readings = Vec::<Reading<'a>>::new();
    let mut state = "OK";
    for result in results.iter().filter(|result| result.thing == chart.thing) {
        let Some(step) = scenario.steps.get(result.step) else { continue };
        match &result.effect {
            Some(Effect::Notified(notification))
                if notification.attributes.get("threshold") == Some(&chart.threshold) =>
            {
                state = notification.data.as_ref().and_then(state_after).unwrap_or(state);
            }
            Some(Effect::Alarm(_)) => {
                if let (Some(action), Some(last)) = (step.operator_action(&chart.threshold), readings.last_mut()) {
                    last.action = Some(action);
                }
            }
            _ => {}
        }
        if let Some(value) = step.number(&chart.field) {
            readings.push(Reading { value, state, action: None });
        }
    }
    readings
}

/// Returns the severity of the alarm after a message, or the state of its condition.
fn state_after(data: &Value) -> Option<&str> {
    let field = |name: &str| data.get(name).and_then(Value::as_str);
    match (field("to"), field("severity")) {
        (Some("ALARM") | None, Some(severity)) => Some(severity),
        (to, _) => to,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::observer::Notification;
    use crate::scenario::{AlarmView, Expectation, Stored};
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
        let chart = Chart {
            thing: "house".into(),
            field: "/lux".into(),
            threshold: "bright".into(),
            limit: 30,
            other_limits: Vec::new(),
        };
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
    fn severities_and_actions_are_marked() {
        let chart = Chart {
            thing: "house".into(),
            field: "/lux".into(),
            threshold: "bright".into(),
            limit: 30,
            other_limits: vec![60],
        };
        let mut scenario = scenario(&[0, 40, 70, 10]);
        let action = json!({"what": "w", "thing": "house", "expect": {"alarm": {"state": "ACKNOWLEDGED"}},
                            "operator": {"action": "acknowledge", "rule": "bright", "by": "anna"}});
        scenario.steps.insert(3, serde_json::from_value(action).expect("a step"));
        let with = |step: usize, data: Value| {
            let mut event = result(step, Some("ALARM"));
            if let Some(Effect::Notified(notification)) = &mut event.effect {
                notification.data = Some(data);
            }
            event
        };
        let alarm = AlarmView { state: "ACKNOWLEDGED".to_owned(), severity: None };
        let events = [
            result(0, None),
            with(1, json!({"kind": "transition", "to": "ALARM", "severity": "warning"})),
            with(2, json!({"kind": "severity", "severity": "critical"})),
            StepResult { effect: Some(Effect::Alarm(alarm)), ..result(3, None) },
            with(4, json!({"kind": "transition", "to": "OK"})),
        ];
        let drawn = draw(&chart, &scenario, &events, 80);
        let expected = "
  lux of house, with the limits of bright (30, 60)
        70 ┤      ●
        60 ┼┄┄┄┄┄┄┄┄┄┄┄┄
        50 ┤
        40 ┤   ●
        30 ┼┄┄┄┄┄┄┄┄┄┄┄┄
        20 ┤
        10 ┤         ●
         0 ┤●
     state  ░░░▒▒▒███░░░
  operator        ✓
            ░ OK  ▒ warning  █ critical  ✓ acknowledge by anna
";
        assert_eq!(drawn, expected, "{drawn}");
    }

    #[test]
    fn oldest_readings_that_do_not_fit_are_left_out() {
        let chart = Chart {
            thing: "house".into(),
            field: "/lux".into(),
            threshold: "bright".into(),
            limit: 30,
            other_limits: Vec::new(),
        };
        let values: Vec<u32> = (0..100).collect();
        let events: Vec<_> = (0..100).map(|step| result(step, None)).collect();
        let drawn = draw(&chart, &scenario(&values), &events, 80);
        assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
    }
}
