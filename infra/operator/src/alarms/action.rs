//! Operators' actions on alarms: acknowledge, snooze, disable, enable, reset.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use gatehouse::{AlarmState, Span};
use serde::Serialize;
use serde_json::{Value, json};

use crate::alarms::record::{DeviceAlarm, Filter};
use crate::alarms::{print_list, table};
use crate::context::Context;
use crate::invoke::{Invoked, invoke};
use crate::output::{self, escape_line};
use crate::pace::{Pace, PaceOptions};
use crate::status::{MissingError, Status, UsageError};

/// Maximum length of a note, in characters: notifications repeat it.
const MAX_NOTE_LENGTH: usize = 500;

/// Which alarms, by whom and why.
#[derive(Debug, Args)]
pub struct ActionArguments {
    /// Which alarms. With an exact --thing and a --rule it is this one alarm, whatever its state is.
    #[command(flatten)]
    filter: Filter,
    /// All alarms that the action applies to.
    #[arg(long)]
    all: bool,
    /// Who does it; by default the caller's identity in AWS, or else the name of the user.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Why, or what will be done.
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: Option<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// How fast.
    #[command(flatten)]
    pace: PaceOptions,
}

/// Which alarms, and for how long.
#[derive(Debug, Args)]
pub struct SnoozeArguments {
    /// Which alarms, by whom and why.
    #[command(flatten)]
    pub arguments: ActionArguments,
    /// For how long, such as `30 min`; at most 7 d.
    #[arg(long = "for", value_name = "DURATION", value_parser = snooze_duration)]
    pub duration: Span,
}

fn note(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if (1..=MAX_NOTE_LENGTH).contains(&length) {
        return Ok(text.to_owned());
    }
    Err(format!("it must be 1 to {MAX_NOTE_LENGTH} characters"))
}

fn snooze_duration(text: &str) -> Result<Span, String> {
    const MAX_SNOOZE: Span = Span::from_secs(7 * 86_400);
    let span: Span = text.parse().map_err(|error: gatehouse::ParseSpanError| error.to_string())?;
    if (Span::from_secs(1)..=MAX_SNOOZE).contains(&span) {
        return Ok(span);
    }
    Err("it must be from 1 s to 7 d".to_owned())
}

/// An operator's action on an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Record that somebody takes care of the alarm.
    Acknowledge,
    /// Silence it for a time.
    Snooze(Span),
    /// Silence it.
    Disable,
    /// End the silence.
    Enable,
    /// Set it to NORMAL.
    Reset,
}

impl Action {
    /// Returns the name of the command's field.
    fn field(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::Snooze(_) => "snooze",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Reset => "reset",
        }
    }

    /// Returns the action as the first word of a question.
    fn verb(self) -> &'static str {
        match self {
            Self::Acknowledge => "Acknowledge",
            Self::Snooze(_) => "Snooze",
            Self::Disable => "Disable",
            Self::Enable => "Enable",
            Self::Reset => "Reset",
        }
    }

    /// Returns whether the action changes an alarm in this state. The function has the final say.
    fn applies_to(self, state: AlarmState) -> bool {
        match self {
            Self::Acknowledge => matches!(state, AlarmState::Active | AlarmState::Latched),
            Self::Snooze(_) | Self::Disable => state != AlarmState::Disabled,
            Self::Enable => matches!(state, AlarmState::Disabled | AlarmState::SnoozeDisabled),
            Self::Reset => matches!(state, AlarmState::Active | AlarmState::Acknowledged | AlarmState::Latched),
        }
    }

    /// Builds the function's command for an alarm.
    fn command(self, thing: &str, rule: &str, by: &str, note: Option<&str>) -> Value {
        let mut fields = json!({"thing": thing, "rule": rule, "by": by});
        if let Some(fields) = fields.as_object_mut() {
            if let Some(note) = note {
                fields.insert("note".to_owned(), note.into());
            }
            if let Self::Snooze(duration) = self {
                fields.insert("for".to_owned(), duration.to_string().into());
            }
        }
        json!({ self.field(): fields })
    }
}

/// An alarm, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    thing: String,
    rule: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    selected: usize,
    done: usize,
    refused: usize,
    failed: usize,
    not_begun: usize,
    results: Vec<ActionResult>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActionResult {
    thing: String,
    rule: String,
    /// `done`, or what went wrong.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Sends the command for each selected alarm.
pub async fn run(action: Action, arguments: &ActionArguments, context: &Context) -> Result<Status> {
    let (filter, pace) = (&arguments.filter, &arguments.pace);
    if filter.is_empty() && !arguments.all {
        let why = "select alarms with options such as --thing and --rule, or use --all";
        return Err(UsageError(why.to_owned()).into());
    }
    let named = filter.exact_thing().zip(filter.rule.clone());
    let named = named.filter(|_| filter.state.is_empty() && filter.severity.is_empty());
    let targets = if let (Some((thing, rule)), false) = (named, pace.dry_run) {
        vec![Target { thing: thing.to_string(), rule }]
    } else {
        let alarms = select(action, filter, context).await?;
        if pace.dry_run {
            print_list(&alarms, context.output)?;
            return Ok(Status::Success);
        }
        if alarms.is_empty() {
            return Err(MissingError(format!("there is no such alarm to {}", action.field())).into());
        }
        let question = format!("{} {} alarms?", action.verb(), alarms.len());
        if alarms.len() > 1 && !arguments.yes && !output::confirm(&question)? {
            return Err(UsageError("nothing was changed; confirm with --yes".to_owned()).into());
        }
        alarms.into_iter().map(|DeviceAlarm { thing, rule, .. }| Target { thing, rule }).collect()
    };
    let by = match &arguments.by {
        Some(by) => by.clone(),
        None => caller(context).await?,
    };
    send(action, targets, &by, arguments, context).await
}

/// Returns the selected alarms that the action can change. With an exact thing name, this includes NORMAL alarms.
async fn select(action: Action, filter: &Filter, context: &Context) -> Result<Vec<DeviceAlarm>> {
    let include_normal = filter.include_normal || filter.exact_thing().is_some();
    let mut alarms = table::select(&Filter { include_normal, ..filter.clone() }, context).await?;
    alarms.retain(|alarm| action.applies_to(alarm.alarm_state));
    Ok(alarms)
}

async fn send(
    action: Action,
    targets: Vec<Target>,
    by: &str,
    arguments: &ActionArguments,
    context: &Context,
) -> Result<Status> {
    let (lambda, function) = (context.lambda(), context.names.of("alarm"));
    let selected = targets.len();
    let pace = Pace::start(&arguments.pace, selected)?;
    let results = pace
        .for_each(targets, async |Target { thing, rule }| {
            let command = action.command(&thing, &rule, by, arguments.note.as_deref());
            let invoked = invoke(&lambda, &function, &command.to_string()).await;
            let (result, reason, why) = match invoked {
                Ok(Invoked::Done) => ("done", None, None),
                Ok(Invoked::Refused { reason, why }) => ("refused", Some(reason), Some(why)),
                Ok(Invoked::Failed(error)) => ("failed", None, Some(error)),
                Err(error) => ("failed", None, Some(format!("{error:#}"))),
            };
            ActionResult { thing, rule, result, reason, why }
        })
        .await;
    let count = |wanted: &str| results.iter().filter(|result| result.result == wanted).count();
    let report = Report {
        selected,
        done: count("done"),
        refused: count("refused"),
        failed: count("failed"),
        not_begun: selected.saturating_sub(results.len()),
        results,
    };
    context.output.print(&report, || report.text())?;
    Ok(report.status(pace.is_interrupted()))
}

impl Report {
    fn status(&self, is_interrupted: bool) -> Status {
        if is_interrupted && self.not_begun > 0 {
            Status::Interrupted
        } else if self.failed > 0 {
            Status::NotAccepted
        } else if self.refused > 0 {
            Status::RefusedAgain
        } else {
            Status::Success
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for ActionResult { thing, rule, result, reason, why } in &self.results {
            let Some(why) = why else { continue };
            let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
            let _ = writeln!(text, "{}", escape_line(&format!("{rule} of {thing}: {result}{reason}: {why}")));
        }
        let Self { selected, done, refused, failed, not_begun, .. } = self;
        let _ = write!(text, "{selected} selected: {done} done, {refused} refused, {failed} failed");
        if *not_begun > 0 {
            let _ = write!(text, ", {not_begun} not begun; run it again to continue");
        }
        text
    }
}

/// Returns the last part of the caller's ARN, such as `assumed-role/Operator/anna`, or else the user of this machine.
async fn caller(context: &Context) -> Result<String> {
    let identity = context.sts().get_caller_identity().send().await;
    let named = identity.ok().and_then(|identity| identity.arn().and_then(identity_of).map(str::to_owned));
    let variable = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = || ["USER", "LOGNAME"].into_iter().find_map(variable);
    let why = "it is unknown who does it: use --by NAME";
    Ok(named.or_else(user).ok_or_else(|| UsageError(why.to_owned()))?)
}

fn identity_of(arn: &str) -> Option<&str> {
    arn.rsplit(':').next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 5] =
        [Action::Acknowledge, Action::Snooze(Span::from_secs(1800)), Action::Disable, Action::Enable, Action::Reset];

    #[test]
    fn command_has_one_field_with_its_arguments() {
        let command = Action::Snooze(Span::from_secs(1800)).command("lux-1", "too-bright", "anna", Some("cleaning"));
        let fields = json!({"thing": "lux-1", "rule": "too-bright", "by": "anna", "note": "cleaning", "for": "30 min"});
        assert_eq!(command, json!({"snooze": fields}));
        let command = Action::Acknowledge.command("lux-1", "too-bright", "anna", None);
        assert_eq!(command, json!({"acknowledge": {"thing": "lux-1", "rule": "too-bright", "by": "anna"}}));
    }

    #[test]
    fn action_is_offered_where_it_changes_something() {
        let fields = |state| {
            let fields = ACTIONS.into_iter().filter(|action| action.applies_to(state)).map(Action::field);
            fields.collect::<Vec<_>>()
        };
        assert_eq!(fields(AlarmState::Active), ["acknowledge", "snooze", "disable", "reset"]);
        assert_eq!(fields(AlarmState::Acknowledged), ["snooze", "disable", "reset"]);
        assert_eq!(fields(AlarmState::Latched), ["acknowledge", "snooze", "disable", "reset"]);
        assert_eq!(fields(AlarmState::SnoozeDisabled), ["snooze", "disable", "enable"]);
        assert_eq!(fields(AlarmState::Disabled), ["enable"]);
        assert_eq!(fields(AlarmState::Normal), ["snooze", "disable"]);
    }

    #[test]
    fn snooze_lasts_from_a_second_to_a_week() {
        assert_eq!(snooze_duration("7 d"), Ok(Span::from_secs(7 * 86_400)));
        for text in ["0 s", "8 d", "soon", "30"] {
            assert!(snooze_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn identity_is_what_the_arn_names() {
        let arn = "arn:aws:sts::123456789012:assumed-role/Operator/anna";
        assert_eq!(identity_of(arn), Some("assumed-role/Operator/anna"));
        assert_eq!(identity_of("arn:aws:iam::123456789012:root"), Some("root"));
        assert_eq!(identity_of(""), None);
    }

    #[test]
    fn worst_result_decides_the_exit_code() {
        let report = |done, refused, failed, not_begun| Report {
            selected: done + refused + failed + not_begun,
            done,
            refused,
            failed,
            not_begun,
            results: Vec::new(),
        };
        assert_eq!(report(2, 0, 0, 0).status(true), Status::Success);
        assert_eq!(report(2, 1, 0, 0).status(false), Status::RefusedAgain);
        assert_eq!(report(2, 1, 1, 0).status(false), Status::NotAccepted);
        assert_eq!(report(2, 1, 1, 1).status(true), Status::Interrupted);
    }

    #[test]
    fn refusal_is_printed_with_its_reason() {
        let refused = ActionResult {
            thing: "lux-1".to_owned(),
            rule: "too-bright".to_owned(),
            result: "refused",
            reason: Some("invalid-action".to_owned()),
            why: Some("The alarm is NORMAL.".to_owned()),
        };
        let report = Report { selected: 1, done: 0, refused: 1, failed: 0, not_begun: 0, results: vec![refused] };
        let expected = "too-bright of lux-1: refused (invalid-action): The alarm is NORMAL.\n\
                        1 selected: 0 done, 1 refused, 0 failed";
        assert_eq!(report.text(), expected);
    }
}
