//! Turns a detector model into a rule, if it has the common shape: a normal state and an alarm state, with a threshold
//! in each direction that is debounced by a timer, by a counter, or not at all.
//!
//! [`debounce`](super::debounce) recognizes each direction. For any other shape, the import names the difference and
//! prints no rule: a rule that behaves almost like the detector would be worse than none.

use crate::alarms::import::actions;
use crate::alarms::import::debounce::{Direction, States};
use crate::alarms::import::model::{Action, DetectorModel};
use crate::alarms::import::notes::Notes;
use crate::alarms::import::rule::{Level, Rule};
use crate::alarms::import::{ImportOptions, key_note};

/// Returns the rule; `None` if the model does not have the shape.
pub fn rule(model: &DetectorModel, options: &ImportOptions, notes: &mut Notes) -> Option<Rule> {
    let (raise, clear) = match directions(model) {
        Ok(directions) => directions,
        Err(why) => {
            notes.lost("detectorModelDefinition", &why);
            return None;
        }
    };
    let configuration = &model.detector_model_configuration;
    if let Some(key) = &configuration.key {
        notes.changed("key", &key_note(key));
    }
    for (direction, name) in [(&raise, "raise"), (&clear, "clear")] {
        for note in &direction.notes {
            notes.changed(name, note);
        }
    }
    for action in effects(model) {
        actions::note(action, "detectorModelDefinition", notes);
    }
    Some(Rule {
        name: super::rule_name(&configuration.detector_model_name, notes),
        things: options.things.clone(),
        severities: [Level {
            severity: options.severity(None, notes),
            raise: raise.sustained,
            clear: Some(clear.sustained),
        }],
        latch: false,
        start_disabled: false,
    })
}

/// Returns how the alarm is raised, and how it is cleared; or why the model does not have the shape.
fn directions(model: &DetectorModel) -> Result<(Direction, Direction), String> {
    let mut states = States::new(model)?;
    let normal = model.detector_model_definition.initial_state_name.as_str();
    let raise = states.direction_from(normal)?;
    let clear = states.direction_from(&raise.target)?;
    if clear.target != normal {
        return Err(format!(
            "state {} leads to {} and not back to {normal}: a rule has two states",
            raise.target, clear.target
        ));
    }
    states.check_all_are_known()?;
    Ok((raise, clear))
}

/// Returns the actions that have an effect outside of the detector.
fn effects(model: &DetectorModel) -> impl Iterator<Item = &Action> {
    let states = model.detector_model_definition.states.iter();
    let actions = states.flat_map(|state| {
        let events = [&state.on_enter.events, &state.on_input.events, &state.on_exit.events].into_iter().flatten();
        let transitions = state.on_input.transition_events.iter().flat_map(|transition| &transition.actions);
        events.flat_map(|event| &event.actions).chain(transitions)
    });
    let is_internal = |name: &str| matches!(name, "setVariable" | "setTimer" | "clearTimer" | "resetTimer");
    actions.filter(move |action| !action.keys().any(|name| is_internal(name)))
}
