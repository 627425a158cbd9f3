//! `/api/v1/scenarios`: the scenarios in `events/`, and recordings of observed events.

use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::App;
use super::commands::SentCommand;
use super::error::{ApiError, ApiResult};
use crate::observer::{Effect, EventPath, Notification};
use crate::scenario::{Scenario, shipped};
use crate::tools;

/// Maximum delay of a step, in milliseconds.
const MAX_DELAY_MILLIS: u64 = 900_000;

/// Shorter delays between two steps of a thing are omitted: a step waits for the previous one anyway.
const MIN_DELAY_MILLIS: u64 = 1_000;

/// Returns the directory of recordings.
fn directory() -> PathBuf {
    tools::root().join("target/scenarios")
}

/// Lists the scenarios.
pub async fn list() -> ApiResult<Json<Value>> {
    let mut listed = Vec::new();
    for (path, is_recording) in files()? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        listed.push(match Scenario::read(&path) {
            Ok(scenario) => json!({
                "name": name, "about": scenario.about, "steps": scenario.steps.len(), "recording": is_recording,
            }),
            Err(error) => json!({"name": name, "error": format!("{error:#}"), "recording": is_recording}),
        });
    }
    Ok(Json(json!({"scenarios": listed, "directory": "target/scenarios"})))
}

/// Returns the paths of the scenarios, and whether each is a recording.
fn files() -> Result<Vec<(PathBuf, bool)>> {
    let entries = std::fs::read_dir(directory()).into_iter().flatten().flatten();
    let mut recordings: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_json(path)).collect();
    recordings.sort();
    let all = recordings.into_iter().map(|path| (path, true)).chain(shipped()?.into_iter().map(|path| (path, false)));
    Ok(all.collect())
}

fn is_json(path: &FilePath) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// Reads a scenario by its name. A recording takes precedence over a shipped scenario with the same name.
pub fn read(name: &str) -> ApiResult<(Scenario, String)> {
    let is_it = |(path, _): &(PathBuf, bool)| path.file_stem().is_some_and(|stem| stem == name);
    let found = files()?.into_iter().find(is_it);
    let (path, _) = found.ok_or_else(|| ApiError::missing(format!("There is no scenario {name}.")))?;
    let scenario = Scenario::read(&path).map_err(|error| ApiError::invalid(format!("{error:#}")))?;
    Ok((scenario, std::fs::read_to_string(&path)?))
}

/// Returns a scenario's file.
pub async fn show(Path(name): Path<String>) -> ApiResult<Json<Box<RawValue>>> {
    let (_, text) = read(&name)?;
    Ok(Json(RawValue::from_string(text)?))
}

/// The recording to save.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The file's name, without `.json`.
    name: String,
    #[serde(default)]
    about: String,
    /// Milliseconds since 1970.
    since: u64,
}

/// Saves the events and commands since a time as a scenario.
pub async fn record(
    State(app): State<Arc<App>>,
    Json(recording): Json<Recording>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !(1..=64).contains(&recording.name.len()) || !recording.name.bytes().all(is_allowed) {
        return Err(ApiError::invalid("A name has 1 to 64 of the characters a-z A-Z 0-9 _ -"));
    }
    let is_wanted = |event: &&EventPath| event.message.at >= recording.since && is_of_device(event);
    let read = app.observer.read_journal(|journal| journal.events().filter(is_wanted).cloned().collect::<Vec<_>>());
    let events = read.unwrap_or_default();
    let mut steps: Vec<(u64, String, Value)> = Vec::new();
    let mut left_out = 0;
    for event in &events {
        let readings = if event.message.topic.starts_with("telemetry/") {
            app.readings_of_event(&event.thing(), &event.message.trace_id).await.len()
        } else {
            0
        };
        match step(event, readings) {
            Some(step) => steps.push((event.message.at, event.thing().into_owned(), step)),
            None => left_out += 1,
        }
    }
    let commands = app.commands.since(recording.since);
    let published: Vec<_> = steps.iter().map(|(at, thing, _)| (*at, thing.clone())).collect();
    for sent in &commands {
        let thing = following_thing(sent.at, &published);
        steps.extend(command(sent, thing).map(|step| (sent.at, thing.to_owned(), step)));
    }
    if steps.is_empty() {
        return Err(ApiError::conflict("Nothing that can be replayed has happened since then."));
    }
    let scenario = scenario(&recording.about, steps);
    let text = format!("{scenario:#}\n");
    // The recording must be playable.
    Scenario::parse(&text).context("the recording is not a valid scenario")?;
    std::fs::create_dir_all(directory())?;
    std::fs::write(directory().join(format!("{}.json", recording.name)), text)?;
    let file = format!("target/scenarios/{}.json", recording.name);
    Ok((StatusCode::CREATED, Json(json!({"file": file, "leftOut": left_out, "scenario": scenario}))))
}

/// Returns whether a device published it, rather than AWS IoT, a rule or the test client.
fn is_of_device(event: &EventPath) -> bool {
    let (client, topic) = (&event.message.client_id, &event.message.topic);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
    let is_thing = !client.is_empty() && client.bytes().all(is_allowed) && !client.starts_with("iotconsole-");
    is_thing && !topic.starts_with('$')
}

/// Returns the thing that published next after a command, because only the steps of the same thing are played in order.
fn following_thing(at: u64, published: &[(u64, String)]) -> &str {
    let next = published.iter().filter(|(its, _)| *its >= at).min_by_key(|(its, _)| *its);
    next.or_else(|| published.last()).map_or("operator", |(_, thing)| thing)
}

/// Returns a scenario with the steps in order of time, with the delays between the steps of each thing.
fn scenario(about: &str, mut steps: Vec<(u64, String, Value)>) -> Value {
    steps.sort_by_key(|(at, ..)| *at);
    let mut last: HashMap<String, u64> = HashMap::new();
    let steps = steps.into_iter().map(|(at, thing, mut step)| {
        let delay = last.insert(thing, at).map_or(0, |before| at.saturating_sub(before)).min(MAX_DELAY_MILLIS);
        if delay >= MIN_DELAY_MILLIS
            && let Some(step) = step.as_object_mut()
        {
            // In whole tenths of a second.
            step.insert("minIntervalSeconds".to_owned(), Value::from(delay / 100).as_f64().map(|n| n / 10.0).into());
        }
        step
    });
    let about = if about.is_empty() { "recorded in the console" } else { about };
    json!({"about": about, "steps": steps.collect::<Vec<_>>()})
}

/// Returns an event as a step that expects the event's outcome; `None` if a scenario cannot expect it.
fn step(event: &EventPath, readings: usize) -> Option<Value> {
    let mut step = json!({
        "what": format!("{} from {}", event.kind(), event.message.topic),
        "thing": event.thing(),
        "topic": event.message.topic,
        "expect": expectation(event, readings)?,
    });
    let (name, payload) = payload(&event.message.payload);
    step.as_object_mut()?.insert(name.to_owned(), payload);
    Some(step)
}

/// Returns a payload as a field of a step. JSON is text, too, to keep its whitespace and digits.
fn payload(bytes: &[u8]) -> (&'static str, Value) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("payloadText", text.into()),
        Err(_) => ("payloadBase64", BASE64_STANDARD.encode(bytes).into()),
    }
}

fn expectation(event: &EventPath, readings: usize) -> Option<Value> {
    let outcome = |is_it: fn(&Effect) -> bool| {
        event.functions.iter().filter_map(|path| path.outcome.as_ref()).find(|effect| is_it(effect))
    };
    if let Some((_, notification)) = event.notifications.first() {
        return Some(json!({"notification": expected(notification)}));
    }
    if let Some(Effect::Quarantined { reason, .. }) = event.functions.first().and_then(|path| path.outcome.as_ref()) {
        return Some(json!({"quarantine": {"reason": reason}}));
    }
    if outcome(|effect| matches!(effect, Effect::Suppressed)).is_some() {
        return Some(json!("suppressed"));
    }
    if readings > 0 {
        return Some(json!({"stored": {"readings": readings}}));
    }
    event.functions.is_empty().then(|| json!("nothing"))
}

/// Returns the expected notification. For a state change only attributes, because its text contains times.
fn expected(notification: &Notification) -> Value {
    let is_state_change = notification.data.as_ref().is_some_and(|data| data.get("transition").is_some());
    if !is_state_change {
        return json!({"message": notification.message});
    }
    let names = ["threshold", "thing", "from", "to"];
    let attributes = notification.attributes.iter().filter(|(name, _)| names.contains(&name.as_str()));
    json!({"attributes": attributes.collect::<HashMap<_, _>>()})
}

/// Returns a command as a step of a thing; `None` if the response has no outcome.
fn command(sent: &SentCommand, thing: &str) -> Option<Value> {
    let expect = match sent.response.get("outcome")?.as_str()? {
        "done" => json!("done"),
        "refused" => json!({"refused": {"reason": sent.response.get("reason")?}}),
        _ => return None,
    };
    let command = json!({"function": sent.command.function, "input": sent.command.input});
    Some(json!({
        "what": format!("an operator's command to {}", sent.command.function),
        "thing": thing,
        "command": command,
        "expect": expect,
    }))
}

#[cfg(test)]
mod tests;
