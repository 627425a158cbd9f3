//! Reads and removes refused events in the quarantine table.

use anyhow::{Context as _, Result};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use gatehouse::store::item::{number, string, text};
use gatehouse::{Item, Timestamp};

use crate::context::Context;
use crate::names::{FUNCTIONS, Names};
use crate::quarantine::{RefusedEvent, RefusedEventSummary};
use crate::selection::{Selection, Subject};

/// The projection for lists: everything except the event, which may be large.
const SUMMARY: &str = "#function, eventId, reason, thing, refusedAt";

/// The quarantine table.
#[derive(Debug, Clone)]
pub struct QuarantineTable {
    client: Client,
    name: String,
}

impl QuarantineTable {
    /// The deployment's quarantine table.
    pub fn new(context: &Context) -> Self {
        Self { client: context.dynamodb(), name: context.names.of("quarantine") }
    }

    /// Returns the selected events, oldest first. An unknown function is an error.
    pub async fn list(&self, selection: &Selection, names: &Names) -> Result<Vec<RefusedEventSummary>> {
        let functions = selection.functions(names)?;
        let mut items = Vec::new();
        if functions.is_empty() {
            items = self.scan().await?;
        } else {
            for function in functions {
                items.extend(self.query(&names.of(function)).await?);
            }
        }
        let mut events: Vec<_> = items.iter().filter_map(RefusedEventSummary::parse).collect();
        events.retain(|event| {
            let RefusedEventSummary { reason, thing, refused_at, .. } = event;
            selection.matches(Subject { reason, thing: thing.as_deref(), at: *refused_at })
        });
        events.sort_by(|a, b| (a.refused_at, &a.event_id).cmp(&(b.refused_at, &b.event_id)));
        events.dedup();
        Ok(events)
    }

    async fn scan(&self) -> Result<Vec<Item>> {
        let scan = self.client.scan().table_name(&self.name).consistent_read(true);
        let scan = scan.projection_expression(SUMMARY).expression_attribute_names("#function", "function");
        let items = scan.into_paginator().items().send().collect::<Result<_, _>>().await;
        items.with_context(|| format!("failed to read table {}", self.name))
    }

    async fn query(&self, function: &str) -> Result<Vec<Item>> {
        let query = self.client.query().table_name(&self.name).consistent_read(true);
        let query = query.key_condition_expression("#function = :function").projection_expression(SUMMARY);
        let query = query.expression_attribute_names("#function", "function");
        let query = query.expression_attribute_values(":function", string(function));
        let items = query.into_paginator().items().send().collect::<Result<_, _>>().await;
        items.with_context(|| format!("failed to read table {}", self.name))
    }

    /// Returns the events with this ID that one function, or any, refused.
    pub async fn find(
        &self,
        event_id: &str,
        function: Option<&'static str>,
        names: &Names,
    ) -> Result<Vec<RefusedEvent>> {
        let mut events = Vec::new();
        for function in FUNCTIONS.into_iter().filter(|name| function.is_none_or(|function| function == *name)) {
            events.extend(self.get(&names.of(function), event_id).await?);
        }
        Ok(events)
    }

    /// Reads an event. `function` is the full name of the function that refused it.
    pub async fn get(&self, function: &str, event_id: &str) -> Result<Option<RefusedEvent>> {
        let get = self.client.get_item().table_name(&self.name).consistent_read(true);
        let found = get.key("function", string(function)).key("eventId", string(event_id)).send().await;
        let found = found.with_context(|| format!("failed to read table {}", self.name))?;
        Ok(found.item.as_ref().and_then(RefusedEvent::parse))
    }

    /// Returns the ID of another copy of an event, refused since `refused_at`.
    pub async fn newer_copy(&self, function: &str, event: &str, refused_at: Timestamp) -> Result<Option<String>> {
        let query = self.client.query().table_name(&self.name).consistent_read(true);
        let query = query.key_condition_expression("#function = :function").projection_expression("eventId");
        let query = query.filter_expression("#event = :event AND refusedAt > :refused_at");
        let query = query.expression_attribute_names("#function", "function");
        let query = query.expression_attribute_names("#event", "event");
        let query = query.expression_attribute_values(":function", string(function));
        let query = query.expression_attribute_values(":event", string(event));
        let query = query.expression_attribute_values(":refused_at", number(refused_at.millis()));
        let items = query.into_paginator().items().send().collect::<Result<Vec<Item>, _>>().await;
        let items = items.with_context(|| format!("failed to read table {}", self.name))?;
        Ok(items.iter().find_map(|item| text(item, "eventId").map(ToOwned::to_owned)))
    }

    /// Removes an event, unless it was refused again since `refused_at`. Returns whether it was removed.
    pub async fn remove(&self, function: &str, event_id: &str, refused_at: Timestamp) -> Result<bool> {
        let delete = self.client.delete_item().table_name(&self.name);
        let delete = delete.key("function", string(function)).key("eventId", string(event_id));
        let delete = delete.condition_expression("refusedAt = :refused_at");
        let deleted = delete.expression_attribute_values(":refused_at", number(refused_at.millis())).send().await;
        match deleted {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
            {
                Ok(false)
            }
            Err(error) => Err(error).with_context(|| format!("failed to remove {event_id} from table {}", self.name)),
        }
    }
}
