//! The items about a CA in the devices table.

use anyhow::{Context as _, Result};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use gatehouse::pki::CertificateId;
use gatehouse::store::item::{integer, is_true, string, text};
use gatehouse::{Item, Timestamp};

use crate::context::Context;

/// Reads an item about a CA; empty if there is none.
pub async fn item(context: &Context, id: &str, part: &str) -> Result<Item> {
    let table = context.names.of("devices");
    let get = context.dynamodb().get_item().table_name(&table).consistent_read(true);
    let found = get.key("id", string(format!("ca#{id}"))).key("part", string(part)).send().await;
    Ok(found.with_context(|| format!("failed to read table {table}"))?.item.unwrap_or_default())
}

/// Starts an update of an item about a CA.
pub fn update(context: &Context, id: &CertificateId, part: &str) -> UpdateItemFluentBuilder {
    let update = context.dynamodb().update_item().table_name(context.names.of("devices"));
    update.key("id", string(format!("ca#{id}"))).key("part", string(part))
}

/// Sends an update. Returns `false` if its condition does not hold.
pub async fn send(update: UpdateItemFluentBuilder) -> Result<bool> {
    match update.send().await {
        Ok(_) => Ok(true),
        Err(error) if error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception) => {
            Ok(false)
        }
        Err(error) => Err(error).context("failed to write the devices table"),
    }
}

/// The block of a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// When it was blocked.
    pub at: Option<Timestamp>,
    /// The operator's reason.
    pub reason: String,
}

impl Block {
    /// Reads the block in a CA's status; `None` if it is not blocked.
    pub fn read(status: &Item) -> Option<Self> {
        is_true(status, "blocked").then(|| Self {
            at: integer(status, "blockedAt").map(Timestamp::from_millis),
            reason: text(status, "blockReason").unwrap_or("no reason was given").to_owned(),
        })
    }
}
