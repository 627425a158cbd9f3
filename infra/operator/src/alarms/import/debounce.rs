//! Recognizes how a detector model leaves a state: at once, when a timer elapses, or when a counter reaches its limit.

use gatehouse::Span;

use crate::alarms::import::controls::{
    Step, conjuncts, count, is_control, names, set_timer, set_variable, step, variable_of, variables,
};
use crate::alarms::import::expression::{Comparison, Expression};
use crate::alarms::import::model::{DetectorModel, State, Transition};
use crate::alarms::import::rule::{Condition, Count, Sustained};

/// Maximum number of readings that a rule can count.
const MAX_COUNT: u64 = 32;

/// How a state is left.
#[derive(Debug)]
pub struct Direction {
    /// The condition, and how long or how often it must hold.
    pub sustained: Sustained,
    /// The state that follows.
    pub target: String,
    /// How the rule differs from the detector.
    pub notes: Vec<String>,
}

/// The states of a model, and which of them the rule covers.
#[derive(Debug)]
pub struct States<'a> {
    all: &'a [State],
    known: Vec<&'a str>,
    /// The input whose messages all conditions read.
    input: Option<String>,
    /// Whether later conditions see the new value of a variable that an event sets; `None` if the model does not say.
    is_serial: Option<bool>,
}

/// The trigger of a transition: a condition, and the timer or counter that debounces it.
enum Trigger {
    Plain(Condition),
    Timer(String, Option<Condition>),
    Counter { variable: String, op: Comparison, limit: u64, when: Option<Condition> },
}

impl<'a> States<'a> {
    /// Reads the states of a model. Fails if its evaluation method is unknown.
    pub fn new(model: &'a DetectorModel) -> Result<Self, String> {
        let is_serial = match model.detector_model_configuration.evaluation_method.as_deref() {
            Some("SERIAL") => Some(true),
            Some("BATCH") => Some(false),
            Some(other) => return Err(format!("the evaluation method {other} is unknown")),
            None => None,
        };
        let all = &model.detector_model_definition.states;
        Ok(Self { all, known: Vec::new(), input: None, is_serial })
    }

    /// Fails if the rule does not cover a state.
    pub fn check_all_are_known(&self) -> Result<(), String> {
        let unknown = self.all.iter().find(|state| !self.known.contains(&state.state_name.as_str()));
        unknown.map_or(Ok(()), |state| {
            Err(format!("state {} is neither the normal state, nor the alarm state, nor a delay", state.state_name))
        })
    }

    /// Finds a state, and marks it as covered.
    fn state(&mut self, name: &str) -> Result<&'a State, String> {
        let state = self.all.iter().find(|state| state.state_name == name);
        let state = state.ok_or_else(|| format!("state {name} does not exist"))?;
        self.known.push(&state.state_name);
        Ok(state)
    }

    /// Returns how the model leaves a state, up to the next state that is not a mere delay.
    pub fn direction_from(&mut self, name: &str) -> Result<Direction, String> {
        let state = self.state(name)?;
        let [transition] = state.on_input.transition_events.as_slice() else {
            let number = state.on_input.transition_events.len();
            return Err(format!("state {name} has {number} transitions; a rule's state has one"));
        };
        match self.trigger(&transition.condition, &place(name, &transition.event_name))? {
            Trigger::Plain(when) => self.at_once_or_delayed(state, transition, when),
            Trigger::Timer(timer, when) => self.timer(state, transition, &timer, when),
            Trigger::Counter { variable, op, limit, when } => {
                self.counter(state, transition, &variable, (op, limit), when)
            }
        }
    }

    fn at_once_or_delayed(
        &mut self,
        state: &State,
        transition: &Transition,
        when: Condition,
    ) -> Result<Direction, String> {
        let target = transition.next_state.as_str();
        let next = self.all.iter().find(|next| next.state_name == target);
        let entering = next.into_iter().flat_map(|next| next.on_enter.events.iter().flat_map(|event| &event.actions));
        let timers: Vec<_> = transition.actions.iter().chain(entering).filter_map(set_timer).collect();
        let (Some((timer, seconds)), Some(next)) = (timers.first(), next) else {
            return Ok(Direction { sustained: Sustained::at_once(when), target: target.to_owned(), notes: Vec::new() });
        };
        let is_delay = next.on_input.transition_events.iter().any(|event| event.condition.contains("timeout("));
        if !is_delay {
            return Err(format!("state {target} starts the timer {timer}, which does not delay a transition"));
        }
        let seconds = seconds.clone()?;
        // The delaying state ends when the timer elapses, or goes back when the condition no longer holds.
        self.state(target)?;
        let (mut elapsed, mut back) = (None, None);
        for event in &next.on_input.transition_events {
            match self.trigger(&event.condition, &place(target, &event.event_name))? {
                Trigger::Timer(of, None) if of == *timer => elapsed = Some(event.next_state.clone()),
                Trigger::Timer(of, Some(still)) if of == *timer && still == when => {
                    elapsed = Some(event.next_state.clone());
                }
                Trigger::Plain(no_longer) if no_longer == when.negated() && event.next_state == state.state_name => {
                    back = Some(());
                }
                _ => return Err(format!("{} does not belong to a delay", place(target, &event.event_name))),
            }
        }
        match (elapsed, back) {
            (Some(elapsed), Some(())) if next.on_input.transition_events.len() == 2 => {
                Ok(sustained_for(when, seconds, elapsed))
            }
            _ => Err(format!("state {target} must be left when {timer} elapses, and when its condition is over")),
        }
    }

    /// Recognizes a timer that events of the state itself start and clear.
    fn timer(
        &mut self,
        state: &State,
        transition: &Transition,
        timer: &str,
        when: Option<Condition>,
    ) -> Result<Direction, String> {
        let name = &state.state_name;
        let (mut start, mut clear) = (None, None);
        for event in &state.on_input.events {
            let (event_place, condition) =
                (place(name, &event.event_name), event.condition.as_deref().unwrap_or("true"));
            let starts = event.actions.iter().filter_map(set_timer).find(|(of, _)| *of == timer);
            if let Some((_, seconds)) = starts {
                let (condition, guard) = self.guarded(condition, &event_place)?;
                // Otherwise each reading restarts the timer, and it elapses only when readings stop.
                let is_guarded = guard.is_some_and(|guard| variables(event).any(|(variable, _)| variable == guard));
                if !is_guarded {
                    return Err(format!("{event_place} starts the timer {timer} again with each reading"));
                }
                start = Some((condition, seconds?));
            } else if event.actions.iter().any(|action| names(action, "clearTimer", "timerName") == Some(timer)) {
                clear = Some(self.guarded(condition, &event_place)?.0);
            } else if event.actions.iter().any(is_control) {
                return Err(format!("{event_place} does not belong to the timer {timer}"));
            }
        }
        let (Some((condition, seconds)), Some(clear)) = (start, clear) else {
            return Err(format!("state {name} must start the timer {timer}, and clear it when the condition is over"));
        };
        if clear != condition.negated() || when.is_some_and(|when| when != condition) {
            return Err(format!(
                "the timer {timer} of state {name} is started, used and cleared by different conditions"
            ));
        }
        Ok(sustained_for(condition, seconds, transition.next_state.clone()))
    }

    /// Recognizes a variable that counts readings, up from 0 to the limit or down from a number to 0.
    fn counter(
        &mut self,
        state: &State,
        transition: &Transition,
        variable: &str,
        (op, limit): (Comparison, u64),
        when: Option<Condition>,
    ) -> Result<Direction, String> {
        let name = &state.state_name;
        let (mut counted, mut reset) = (None, None);
        for event in &state.on_input.events {
            let event_place = place(name, &event.event_name);
            let Some((_, value)) = variables(event).find(|(of, _)| *of == variable) else {
                if event.actions.iter().any(is_control) {
                    return Err(format!("{event_place} does not belong to the counter {variable}"));
                }
                continue;
            };
            let condition = self.condition(event.condition.as_deref().unwrap_or("true"), &event_place)?;
            match step(value, variable) {
                Some(Step::By(by)) if counted.is_none() => counted = Some((condition, by)),
                Some(Step::To(to)) if reset.is_none() => reset = Some((condition, to)),
                _ => {
                    return Err(format!(
                        "{event_place} sets {variable} to `{value}`, which is not a count of readings"
                    ));
                }
            }
        }
        let (Some((condition, by)), Some((other, from))) = (counted, reset) else {
            return Err(format!(
                "state {name} must count readings in {variable}, and start again when the condition is over"
            ));
        };
        if other != condition.negated() || when.is_some_and(|when| when != condition) {
            return Err(format!(
                "the counter {variable} of state {name} is counted, used and reset by different conditions"
            ));
        }
        let number = match (by, op, from) {
            (1, Comparison::GreaterOrEqual | Comparison::Equal, 0) => limit,
            (1, Comparison::Greater, 0) => limit.saturating_add(1),
            (-1, Comparison::LessOrEqual | Comparison::Equal, from) if limit == 0 => from,
            (-1, Comparison::Less, from) if limit == 1 => from,
            _ => return Err(format!("the counter {variable} of state {name} does not count readings from or to 0")),
        };
        let number = match self.is_serial {
            Some(true) => number,
            // The transition sees the value from before this reading.
            Some(false) => number.saturating_add(1),
            None => {
                return Err(format!("without `evaluationMethod` it is unknown when the counter {variable} is seen"));
            }
        };
        if number > MAX_COUNT {
            return Err(format!("the counter {variable} counts {number} readings; rules count up to {MAX_COUNT}"));
        }
        self.check_start(state, variable, from)?;
        let sustained = Sustained { when: condition, for_duration: None, count: Some(Count { n: number, of: number }) };
        let mut notes = Vec::new();
        if self.is_serial == Some(false) {
            notes.push(format!(
                "the evaluation method BATCH shows {variable} one reading late, so {number} readings are needed"
            ));
        }
        Ok(Direction { sustained, target: transition.next_state.clone(), notes })
    }

    /// Fails unless the counter has this value when the state is entered.
    fn check_start(&self, state: &State, variable: &str, from: u64) -> Result<(), String> {
        let name = &state.state_name;
        let entering = state.on_enter.events.iter().flat_map(variables);
        let into = self.all.iter().flat_map(|other| &other.on_input.transition_events);
        let into = into
            .filter(|transition| transition.next_state == *name)
            .flat_map(|transition| transition.actions.iter().filter_map(set_variable));
        // `$variable.v + n` equals n, because a finished countdown is at 0.
        let is_start = |value: &str| match step(value, variable) {
            Some(Step::To(to)) => to == from,
            Some(Step::By(by)) => u64::try_from(by) == Ok(from) && from > 0,
            None => false,
        };
        let starts: Vec<_> = entering.chain(into).filter(|(of, _)| *of == variable).collect();
        if !starts.is_empty() && starts.iter().all(|(_, value)| is_start(value)) {
            return Ok(());
        }
        Err(format!("the counter {variable} does not have the value {from} whenever state {name} is entered"))
    }

    fn condition(&mut self, text: &str, place: &str) -> Result<Condition, String> {
        let expression = Expression::parse(text).map_err(|error| format!("{place}: {error}"))?;
        Condition::of(&expression, &mut self.input).map_err(|why| format!("{place}: {why}"))
    }

    /// Splits `C && guard`, where the guard depends on one variable. Returns `C` and that variable.
    fn guarded(&mut self, text: &str, place: &str) -> Result<(Condition, Option<String>), String> {
        let expression = Expression::parse(text).map_err(|error| format!("{place}: {error}"))?;
        let (mut rest, mut guard) = (Vec::new(), None);
        for part in conjuncts(&expression) {
            match variable_of(part) {
                Some(variable) if guard.is_none() => guard = Some(variable.to_owned()),
                Some(_) => return Err(format!("{place}: it depends on several variables")),
                None => rest.push(part),
            }
        }
        let condition = self.all(&rest, place)?;
        Ok((condition.ok_or_else(|| format!("{place}: it does not depend on the reading"))?, guard))
    }

    fn all(&mut self, parts: &[&Expression], place: &str) -> Result<Option<Condition>, String> {
        let parts = parts.iter().map(|part| Condition::of(part, &mut self.input));
        let mut parts = parts.collect::<Result<Vec<_>, _>>().map_err(|why| format!("{place}: {why}"))?;
        Ok(if parts.len() > 1 { Some(Condition::All { all: parts }) } else { parts.pop() })
    }

    fn trigger(&mut self, text: &str, place: &str) -> Result<Trigger, String> {
        let expression = Expression::parse(text).map_err(|error| format!("{place}: {error}"))?;
        let (mut rest, mut timer, mut counter) = (Vec::new(), None, None);
        for part in conjuncts(&expression) {
            match part {
                Expression::Timeout(name) if timer.is_none() => timer = Some(name.clone()),
                _ => match count(part) {
                    Some(count) if counter.is_none() => counter = Some(count),
                    Some(_) => return Err(format!("{place}: it depends on several counters")),
                    None => rest.push(part),
                },
            }
        }
        let when = self.all(&rest, place)?;
        match (timer, counter, when) {
            (None, None, Some(when)) => Ok(Trigger::Plain(when)),
            (Some(timer), None, when) => Ok(Trigger::Timer(timer, when)),
            (None, Some((variable, op, limit)), when) => Ok(Trigger::Counter { variable, op, limit, when }),
            _ => Err(format!("{place}: a rule has either a duration or a count")),
        }
    }
}

fn place(state: &str, event: &str) -> String {
    format!("event {event} of state {state}")
}

fn sustained_for(when: Condition, seconds: u64, target: String) -> Direction {
    let sustained = Sustained { when, for_duration: Some(Span::from_secs(seconds)), count: None };
    let note = "a timer elapses by itself; a rule decides with the first reading after the duration";
    Direction { sustained, target, notes: vec![note.to_owned()] }
}
