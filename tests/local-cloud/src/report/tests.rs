use std::time::Duration;

use serde_json::json;

use super::layout::width;
use super::text::WIDTH;
use super::*;
use crate::observer::Effect;
use crate::scenario::{Expectation, Reason};

fn connection(effect: Option<Effect>, expected: Expectation) -> StepResult {
    StepResult {
        scenario: "admission".to_owned(),
        step: 0,
        what: "a new doorbell".to_owned(),
        thing: "new-door".to_owned(),
        topic: None,
        event_id: None,
        rule: effect.as_ref().map(|_| "gatehouse_jitr".to_owned()),
        function: effect.as_ref().map(|_| "gatehouse-jitr".to_owned()),
        denied: effect.is_none(),
        millis: Some(812),
        effect,
        expected,
        problem: None,
    }
}

#[test]
fn connection_is_reported_by_its_outcome() {
    let admitted = connection(Some(Effect::Admitted { thing: "new-door".to_owned() }), Expectation::Admitted);
    let why = "The common name must be 1 to 128 of the characters a-z A-Z 0-9 : _ -.".to_owned();
    let reason = "bad-thing-name".to_owned();
    let expected = Expectation::Rejected(Reason { reason: reason.clone() });
    let rejected = connection(Some(Effect::Rejected { reason, why }), expected);
    let denied = connection(None, Expectation::Denied);
    let all = [admitted, rejected, denied];
    let text = all.iter().map(|result| event(result, Style::plain())).collect::<Vec<_>>().concat();
    for part in [
        "gatehouse_jitr → gatehouse-jitr → admitted as new-door",
        "→ rejected, bad-thing-name:",
        "connection → denied by AWS IoT",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.lines().all(|line| width(line) <= WIDTH), "{text}");
    let summary = summary(&all, Duration::from_secs(1), Style::plain());
    assert!(summary.contains("3 events: 1 admitted, 1 denied by AWS IoT, 1 rejected."), "{summary}");
    let json = json(&all, Duration::from_secs(1));
    let kinds: Vec<_> = (0..3).map(|at| json.pointer(&format!("/events/{at}/effect/kind")).cloned()).collect();
    assert_eq!(kinds, [Some(json!("admitted")), Some(json!("rejected")), Some(json!("denied"))]);
    assert_eq!(json.pointer("/events/1/effect/reason"), Some(&json!("bad-thing-name")));
    assert_eq!(json.pointer("/events/1/expected/rejected/reason"), Some(&json!("bad-thing-name")));
}
