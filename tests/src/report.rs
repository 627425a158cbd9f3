//! Tells what was played: to people, in 80 columns, and to machines.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use serde_json::{Value, json};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::chart;
use crate::observe::Effect;
use crate::partner::Forwarded;
use crate::play::Played;
use crate::scenario::{Expect, Kept, Scenario};

const WIDTH: usize = 80;

/// Marks that are coloured only where a person sees them.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// For standard output.
    pub fn stdout() -> Self {
        Self {
            colour: std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Without colour.
    pub fn plain() -> Self {
        Self { colour: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// A scenario's messages, for people.
pub fn scenario(scenario: &Scenario, played: &[Played], style: Style) -> String {
    let mut out = format!("\n{}\n", style.strong(&fit(&format!("{}: {}", scenario.name, scenario.about), WIDTH)));
    for played in played {
        out.push_str(&event(played, style));
    }
    if let Some(chart) = &scenario.chart {
        out.push_str(&chart::draw(chart, scenario, played, WIDTH));
    }
    out
}

/// One message, for people: what it was and how long it took, then the way that it went.
pub fn event(played: &Played, style: Style) -> String {
    let time = played.millis.map(|millis| format!("{millis} ms")).unwrap_or_default();
    let mark = if played.wrong.is_none() { style.good("✓") } else { style.bad("✗") };
    let room = WIDTH - 2 - width(&time) - 1;
    let what = fit(&played.what, room);
    let gap = " ".repeat(room - width(&what) + 1);
    let mut out = format!("{mark} {what}{gap}{}\n", style.faint(&time));

    let way: Vec<&str> = [played.rule.as_deref(), played.function.as_deref()].into_iter().flatten().collect();
    let way = if !way.is_empty() {
        way.join(" → ")
    } else if matches!(played.expected, Expect::Desired(_) | Expect::Held(_)) {
        "shadow".to_owned()
    } else {
        played.topic.as_deref().unwrap_or("connection").to_owned()
    };
    for line in wrap(&format!("{way} → {}", outcome(played)), WIDTH - 4) {
        let _ = writeln!(out, "{}", style.faint(&format!("    {line}")));
    }
    if let Some(wrong) = &played.wrong {
        for line in wrap(&format!("expected {}; but {wrong}", expectation(&played.expected)), WIDTH - 4) {
            let _ = writeln!(out, "{}", style.bad(&format!("    {line}")));
        }
    }
    out
}

fn outcome(played: &Played) -> String {
    if played.denied {
        return "turned away by AWS IoT".to_owned();
    }
    played.effect.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

fn expectation(expected: &Expect) -> String {
    match expected {
        Expect::Notification(notification) => {
            let mut parts = Vec::new();
            parts.extend(notification.message.as_ref().map(|message| format!("message {message:?}")));
            parts.extend(notification.subject.as_ref().map(|subject| format!("subject {subject:?}")));
            parts.extend(attributes(&notification.attributes));
            let with = if parts.is_empty() { "" } else { " with " };
            format!("a notification{with}{}", parts.join(", "))
        }
        Expect::Quarantine(quarantine) => format!("quarantine with reason {:?}", quarantine.reason),
        Expect::Quieted => "to be let go for another's sake".to_owned(),
        Expect::Nothing => "nothing".to_owned(),
        Expect::Denied => "to be turned away by AWS IoT".to_owned(),
        Expect::Admitted => "to be admitted".to_owned(),
        Expect::TurnedAway(turned_away) => format!("to be turned away with reason {:?}", turned_away.reason),
        Expect::Kept(Kept { readings: 1 }) => "to be kept".to_owned(),
        Expect::Kept(Kept { readings }) => format!("{readings} readings to be kept"),
        Expect::Done => "to be carried out".to_owned(),
        Expect::Refused(refused) => format!("to be refused with reason {:?}", refused.reason),
        Expect::Desired(state) => format!("desired state {state}"),
        Expect::Forwarded(forward) => {
            let parts = attributes(&forward.attributes);
            let with = if parts.is_empty() { "" } else { " with " };
            format!("to be in the partner's queue{with}{}", parts.join(", "))
        }
        Expect::Connected => "to be known to be connected".to_owned(),
        Expect::Disconnected => "to be known to be disconnected".to_owned(),
        Expect::Held(held) => format!("to be held: {held}"),
    }
}

fn attributes(all: &BTreeMap<String, String>) -> Vec<String> {
    all.iter().map(|(name, value)| format!("attribute {name} {value:?}")).collect()
}

/// The last lines, for people.
pub fn summary(played: &[Played], took: Duration, style: Style) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for played in played {
        *counts.entry(kind(played)).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let messages = played.iter().filter(|played| !is_connection(played));
    let mut millis: Vec<_> = messages.filter_map(|played| played.millis).collect();
    millis.sort_unstable();
    let median = millis.get(millis.len() / 2).map(|median| format!("{median} ms from publish to effect (median), "));
    let counts = format!("{} events: {}.", played.len(), counts.join(", "));
    let mut out = format!("\n{}\n", wrap(&counts, WIDTH).join("\n"));
    let _ = writeln!(out, "{}{:.0} s in all.", median.unwrap_or_default(), took.as_secs_f64());
    let wrong: Vec<_> = played.iter().filter(|played| played.wrong.is_some()).collect();
    if wrong.is_empty() {
        let _ = writeln!(out, "{}", style.good("All came as expected."));
    } else {
        let _ =
            writeln!(out, "{}", style.bad(&format!("{} of {} did not come as expected:", wrong.len(), played.len())));
        for played in wrong {
            let step = format!("{} steps[{}] ({})", played.scenario, played.step, played.what);
            let _ = writeln!(out, "{}", style.bad(&format!("  {step}: expected {}", expectation(&played.expected))));
        }
    }
    out
}

/// Whether it is a connection, or a connection's end, that came to something, and not a message.
fn is_connection(played: &Played) -> bool {
    let is_of_presence = played.topic.as_ref().is_some_and(|topic| topic.starts_with("$aws/events/presence/"));
    is_of_presence || matches!(played.effect, Some(Effect::Admitted { .. } | Effect::TurnedAway { .. } | Effect::LetIn))
}

fn kind(played: &Played) -> &'static str {
    match &played.effect {
        _ if played.denied => "turned away",
        None => "without effect",
        Some(Effect::Told(_)) => "told",
        Some(Effect::Quarantined { .. }) => "quarantined",
        Some(Effect::Quieted) => "let go",
        Some(Effect::Duplicate) => "done before",
        Some(Effect::Admitted { .. }) => "admitted",
        Some(Effect::TurnedAway { .. }) => "not admitted",
        Some(Effect::LetIn) => "let in",
        Some(Effect::Done) => "done",
        Some(Effect::Kept { .. }) => "kept",
        Some(Effect::Refused { .. }) => "refused",
        Some(Effect::Desired(_)) => "seen in a shadow",
        Some(Effect::Forwarded(_)) => "forwarded",
        Some(Effect::Connected) => "known to be connected",
        Some(Effect::Disconnected) => "known to be disconnected",
        Some(Effect::Held(_)) => "held of a shadow",
        Some(Effect::HandedBack { .. }) => "handed back",
    }
}

/// All of it, for machines.
pub fn json(played: &[Played], took: Duration) -> Value {
    let events: Vec<_> = played
        .iter()
        .map(|played| {
            let effect = match &played.effect {
                None => json!({"kind": if played.denied { "denied" } else { "nothing" }}),
                Some(Effect::Told(told)) => json!({
                    "kind": "notification",
                    "topic": told.topic,
                    "message": told.message,
                    "data": told.data,
                    "subject": told.subject,
                    "attributes": told.attributes,
                }),
                Some(Effect::Quarantined { reason, why }) => {
                    json!({"kind": "quarantine", "reason": reason, "why": why})
                }
                Some(Effect::Quieted) => json!({"kind": "quieted"}),
                Some(Effect::Duplicate) => json!({"kind": "duplicate"}),
                Some(Effect::Admitted { thing }) => json!({"kind": "admitted", "thing": thing}),
                Some(Effect::TurnedAway { reason, why }) => {
                    json!({"kind": "turnedAway", "reason": reason, "why": why})
                }
                Some(Effect::LetIn) => json!({"kind": "letIn"}),
                Some(Effect::Done) => json!({"kind": "done"}),
                Some(Effect::Kept { readings }) => json!({"kind": "kept", "readings": readings}),
                Some(Effect::Refused { reason, why }) => json!({"kind": "refused", "reason": reason, "why": why}),
                Some(Effect::Desired(state)) => json!({"kind": "desired", "state": state}),
                Some(Effect::Forwarded(Forwarded { account, queue, body, attributes })) => {
                    json!({"kind": "forwarded", "account": account, "queue": queue, "body": body, "attributes": attributes})
                }
                Some(Effect::Connected) => json!({"kind": "connected"}),
                Some(Effect::Disconnected) => json!({"kind": "disconnected"}),
                Some(Effect::Held(held)) => json!({"kind": "held", "state": held}),
                Some(Effect::HandedBack { error }) => json!({"kind": "handedBack", "error": error}),
            };
            json!({
                "scenario": played.scenario,
                "step": played.step,
                "what": played.what,
                "thing": played.thing,
                "topic": played.topic,
                "eventId": played.event_id,
                "rule": played.rule,
                "function": played.function,
                "effect": effect,
                "millis": played.millis,
                "expected": played.expected,
                "ok": played.wrong.is_none(),
                "wrong": played.wrong,
            })
        })
        .collect();
    let failed = played.iter().filter(|played| played.wrong.is_some()).count();
    json!({"ok": failed == 0, "total": played.len(), "failed": failed, "seconds": took.as_secs_f64(), "events": events})
}

fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// Cut to so many columns, at a character.
fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    for character in text.chars() {
        if width(&cut) + character.width().unwrap_or(0) >= columns {
            break;
        }
        cut.push(character);
    }
    cut + "…"
}

/// In lines of so many columns, broken between words where there are any.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && width(&line) + 1 + width(word) > columns {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            while width(&line) > columns {
                let rest = fit(&line, columns).trim_end_matches('…').len();
                let rest = line.split_off(rest);
                lines.push(std::mem::replace(&mut line, rest));
            }
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(effect: Option<Effect>, expected: Expect) -> Played {
        Played {
            scenario: "admission".to_owned(),
            step: 0,
            what: "a doorbell that is new".to_owned(),
            thing: "new-door".to_owned(),
            topic: None,
            event_id: None,
            rule: effect.as_ref().map(|_| "gatehouse_jitr".to_owned()),
            function: effect.as_ref().map(|_| "gatehouse-jitr".to_owned()),
            denied: effect.is_none(),
            millis: Some(812),
            effect,
            expected,
            wrong: None,
        }
    }

    #[test]
    fn a_connection_is_told_by_what_became_of_the_device() {
        let admitted = connection(Some(Effect::Admitted { thing: "new-door".to_owned() }), Expect::Admitted);
        let why = "The common name must be 1 to 128 of the characters a-z A-Z 0-9 : _ -.".to_owned();
        let reason = "bad-thing-name".to_owned();
        let expected = Expect::TurnedAway(crate::scenario::TurnedAway { reason: reason.clone() });
        let turned_away = connection(Some(Effect::TurnedAway { reason, why }), expected);
        let denied = connection(None, Expect::Denied);
        let all = [admitted, turned_away, denied];
        let said = all.iter().map(|played| event(played, Style::plain())).collect::<Vec<_>>().concat();
        for part in [
            "gatehouse_jitr → gatehouse-jitr → admitted as new-door",
            "→ turned away: bad-thing-name.",
            "connection → turned away by AWS IoT",
        ] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
        assert!(said.lines().all(|line| width(line) <= WIDTH), "{said}");
        let summary = summary(&all, Duration::from_secs(1), Style::plain());
        assert!(summary.contains("3 events: 1 admitted, 1 not admitted, 1 turned away."), "{summary}");
        let json = json(&all, Duration::from_secs(1));
        let kinds: Vec<_> = (0..3).map(|at| json.pointer(&format!("/events/{at}/effect/kind")).cloned()).collect();
        assert_eq!(kinds, [Some(json!("admitted")), Some(json!("turnedAway")), Some(json!("denied"))]);
        assert_eq!(json.pointer("/events/1/effect/reason"), Some(&json!("bad-thing-name")));
        assert_eq!(json.pointer("/events/1/expected/turnedAway/reason"), Some(&json!("bad-thing-name")));
    }

    #[test]
    fn a_text_is_cut_to_columns_as_a_terminal_counts_them() {
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("🔔🔔🔔", 5), "🔔🔔…");
    }

    #[test]
    fn a_text_is_wrapped_between_words_and_a_long_word_within() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a abcdefgh", 4), ["a", "abc", "def", "gh"]);
        assert_eq!(wrap("one\ntwo", 20), ["one", "two"]);
        assert_eq!(wrap("", 20), Vec::<String>::new());
    }
}
