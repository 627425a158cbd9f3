//! `/api/v1/devices`: the registry, and the state of a device.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iot::types::CertificateStatus;
use aws_sdk_iotdataplane::primitives::Blob;
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::App;
use super::commands::Command;
use super::error::{ApiError, ApiResult};
use super::items::{Item, json as item_json, text};

/// Maximum number of things to list, rounded up to a page.
const MAX_THINGS: usize = 500;

/// Maximum number of readings to return.
const MAX_READINGS: i32 = 200;

/// The actions that operators can perform on an alarm.
const ACTIONS: [&str; 5] = ["acknowledge", "snooze", "disable", "enable", "reset"];

/// Lists the things, and whether each is connected.
pub async fn list(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    let mut names = Vec::new();
    let mut next = None;
    loop {
        let page = app.clients.iot.list_things().max_results(250).set_next_token(next).send().await?;
        names.extend(page.things().iter().filter_map(|thing| thing.thing_name.clone()));
        next = page.next_token;
        if next.is_none() || names.len() >= MAX_THINGS {
            break;
        }
    }
    names.retain(|name| !name.starts_with("iotconsole-"));
    names.sort();
    let (presence, own) = (presence(&app).await, app.publishers.things().await);
    let things = names.into_iter().map(|name| {
        let connected = presence.get(&name);
        json!({"thing": name, "connected": connected, "canPublish": own.contains(&name)})
    });
    Ok(Json(json!({"devices": things.collect::<Vec<_>>()})))
}

/// Returns the things that are recorded as connected (`true`) or disconnected.
async fn presence(app: &App) -> HashMap<String, bool> {
    let scan = app.clients.dynamodb.scan().table_name(app.table("devices")).filter_expression("part = :part");
    let scan = scan.expression_attribute_values(":part", AttributeValue::S("presence".to_owned()));
    let items = scan.send().await.ok().and_then(|found| found.items).unwrap_or_default();
    let record = |item: &Item| {
        let thing = text(item, "id")?.strip_prefix("thing#")?.to_owned();
        Some((thing, *item.get("connected")?.as_bool().ok()?))
    };
    items.iter().filter_map(record).collect()
}

/// Returns a device's certificates, presence, shadows, readings and alarms.
pub async fn show(State(app): State<Arc<App>>, Path(thing): Path<String>) -> ApiResult<Json<Value>> {
    let of_thing = format!("thing#{thing}");
    let (certificates, shadows, readings, alarms, presence) = tokio::join!(
        certificates(&app, &thing),
        shadows(&app, &thing),
        readings(&app, &thing),
        app.items("alarms", &of_thing, "threshold#"),
        app.items("devices", &of_thing, "presence"),
    );
    Ok(Json(json!({
        "thing": thing,
        "certificates": certificates?,
        "presence": presence.first().map(item_json),
        "shadows": shadows?,
        "readings": readings,
        "alarms": alarms.iter().map(alarm).collect::<Vec<_>>(),
        "canPublish": app.publishers.things().await.contains(&thing),
    })))
}

async fn certificates(app: &App, thing: &str) -> Result<Vec<Value>> {
    let found = app.clients.iot.list_thing_principals().thing_name(thing).send().await;
    // A device that connects for the first time has no thing yet.
    let Ok(found) = found else { return Ok(Vec::new()) };
    let mut certificates = Vec::new();
    for principal in found.principals() {
        let Some((_, id)) = principal.split_once("cert/") else { continue };
        let found = app.clients.iot.describe_certificate().certificate_id(id).send().await?;
        let status = found.certificate_description().and_then(|certificate| certificate.status());
        certificates.push(json!({"id": id, "status": status.map(CertificateStatus::as_str)}));
    }
    Ok(certificates)
}

/// Returns the classic shadow and the named ones from AWS IoT.
async fn shadows(app: &App, thing: &str) -> Result<Vec<Value>> {
    let list = app.clients.iot_data.list_named_shadows_for_thing().thing_name(thing).send().await;
    let named = list.ok().and_then(|found| found.results).unwrap_or_default();
    let mut shadows = Vec::new();
    for name in std::iter::once(None).chain(named.into_iter().map(Some)) {
        let get = app.clients.iot_data.get_thing_shadow().thing_name(thing).set_shadow_name(name.clone());
        let Some(document) = get.send().await.ok().and_then(|found| found.payload) else { continue };
        let document: Value = serde_json::from_slice(document.as_ref())?;
        shadows.push(json!({"name": name, "document": document}));
    }
    Ok(shadows)
}

/// Returns the newest readings, oldest first.
async fn readings(app: &App, thing: &str) -> Vec<Value> {
    let query =
        app.clients.dynamodb.query().table_name(app.table("telemetry")).consistent_read(true).scan_index_forward(false);
    let query = query.key_condition_expression("thing = :thing").limit(MAX_READINGS);
    let query = query.expression_attribute_values(":thing", AttributeValue::S(thing.to_owned()));
    let items = query.send().await.ok().and_then(|found| found.items).unwrap_or_default();
    let reading = |item: &Item| {
        let at: u64 = text(item, "at")?.split('#').next()?.parse().ok()?;
        Some(json!({"at": at, "item": item_json(item)}))
    };
    items.iter().rev().filter_map(reading).collect()
}

/// Returns the record of an alarm. Parses its definition, which the record contains as text.
fn alarm(item: &Item) -> Value {
    let mut record = item_json(item);
    let definition = text(item, "definition").and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(record) = record.as_object_mut() {
        let rule = text(item, "part").and_then(|part| part.strip_prefix("threshold#"));
        record.insert("rule".to_owned(), rule.into());
        record.insert("definition".to_owned(), definition.into());
    }
    record
}

/// The desired state of a shadow.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// The shadow's name; `None` for the classic one.
    name: Option<String>,
    desired: Value,
}

/// Sets the desired state of a shadow. `null` removes a field.
pub async fn update_shadow(
    State(app): State<Arc<App>>,
    Path(thing): Path<String>,
    Json(Desired { name, desired }): Json<Desired>,
) -> ApiResult<Json<Value>> {
    if !desired.is_object() && !desired.is_null() {
        return Err(ApiError::invalid("The desired state must be a JSON object."));
    }
    let payload = Blob::new(json!({"state": {"desired": desired}}).to_string());
    let update = app.clients.iot_data.update_thing_shadow().thing_name(&thing).set_shadow_name(name).payload(payload);
    let updated = update.send().await?;
    let document = updated.payload().map(|document| serde_json::from_slice::<Value>(document.as_ref()));
    Ok(Json(document.transpose()?.unwrap_or_default()))
}

/// An operator's action on an alarm.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlarmAction {
    action: String,
    by: String,
    note: Option<String>,
    /// How long to snooze, such as `30 min`.
    #[serde(rename = "for")]
    duration: Option<String>,
}

/// Sends an action to `alarm`.
pub async fn alarm_action(
    State(app): State<Arc<App>>,
    Path((thing, rule)): Path<(String, String)>,
    Json(action): Json<AlarmAction>,
) -> ApiResult<Json<Value>> {
    let input = action.input(&thing, &rule)?;
    Ok(Json(app.command(Command { function: "alarm".to_owned(), input }).await?))
}

impl AlarmAction {
    fn input(self, thing: &str, rule: &str) -> ApiResult<Value> {
        if !ACTIONS.contains(&self.action.as_str()) {
            return Err(ApiError::invalid(format!("The actions are {}.", ACTIONS.join(", "))));
        }
        let fields = [("note", self.note), ("for", self.duration)];
        let mut details =
            fields.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))).collect::<Map<_, _>>();
        let required = [("thing", thing.to_owned()), ("rule", rule.to_owned()), ("by", self.by)];
        details.extend(required.map(|(name, text)| (name.to_owned(), text.into())));
        Ok(Map::from_iter([(self.action, Value::Object(details))]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_action_becomes_a_command() {
        let action: AlarmAction =
            serde_json::from_value(json!({"action": "snooze", "by": "me", "for": "30 min"})).expect("an action");
        let input = action.input("house", "too-hot").expect("a command");
        assert_eq!(input, json!({"snooze": {"thing": "house", "rule": "too-hot", "by": "me", "for": "30 min"}}));
        let unknown: AlarmAction = serde_json::from_value(json!({"action": "check", "by": "me"})).expect("an action");
        assert!(unknown.input("house", "too-hot").is_err());
    }

    #[test]
    fn definition_of_an_alarm_is_json() {
        let attribute = |text: &str| AttributeValue::S(text.to_owned());
        let item = Item::from([
            ("part".to_owned(), attribute("threshold#bright")),
            ("definition".to_owned(), attribute(r#"{"field":"/lux"}"#)),
        ]);
        let alarm = alarm(&item);
        assert_eq!((&alarm["rule"], &alarm["definition"]["field"]), (&json!("bright"), &json!("/lux")));
    }
}
