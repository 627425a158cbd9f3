//! The dead-letter queues of a deployment.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName, QueueAttributeName,
};

use crate::context::Context;
use crate::dead_letters::letter::{DeadLetter, RawLetter};
use crate::names::{FUNCTIONS, Names};

/// Visibility timeout of a received message. It is made visible again earlier, unless the process dies.
pub const VISIBILITY: Duration = Duration::from_mins(2);

/// How long a receive call waits for messages. Without waiting, SQS queries only a subset of its servers.
const WAIT_SECONDS: i32 = 1;

/// Maximum number of messages per call.
pub const BATCH: usize = 10;

/// A dead-letter queue.
#[derive(Debug, Clone)]
pub struct DeadLetterQueue {
    client: Client,
    /// The queue's name.
    pub name: String,
    url: String,
    /// The function that it belongs to.
    pub function: &'static str,
    /// Whether it belongs to the function's rules.
    pub is_of_rule: bool,
}

/// The approximate number of messages in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that can be received.
    pub visible: usize,
    /// Messages that are hidden, because somebody has received them.
    pub in_flight: usize,
}

/// A received message, which is hidden from other processes until its visibility timeout.
#[derive(Debug, Clone)]
pub struct Received {
    /// The parsed message.
    pub letter: DeadLetter,
    /// The message's body.
    pub body: String,
    receipt: String,
    since: Instant,
}

impl Received {
    /// Returns whether it is certain to stay hidden from other processes for this long.
    pub fn is_ours(&self, needed: Duration) -> bool {
        self.since.elapsed() + needed < VISIBILITY
    }
}

/// Returns the dead-letter queues of these functions, or of all, in alphabetical order.
pub async fn discover(context: &Context, functions: &[&'static str]) -> Result<Vec<DeadLetterQueue>> {
    let client = context.sqs();
    let prefix = context.names.of("");
    let list = client.list_queues().queue_name_prefix(&prefix).max_results(1000);
    let urls = list.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let urls = urls.context("failed to list the queues")?;
    let mut queues: Vec<_> = urls
        .into_iter()
        .filter_map(|url| {
            let name = url.rsplit('/').next()?.to_owned();
            let (function, is_of_rule) = owner(&name, &context.names)?;
            Some(DeadLetterQueue { client: client.clone(), name, url, function, is_of_rule })
        })
        .filter(|queue| functions.is_empty() || functions.contains(&queue.function))
        .collect();
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    queues.dedup_by(|a, b| a.name == b.name);
    Ok(queues)
}

/// Returns the function that a dead-letter queue belongs to, and whether it belongs to the function's rules.
fn owner(queue: &str, names: &Names) -> Option<(&'static str, bool)> {
    let owner = names.suffix(queue)?.strip_suffix("-dlq")?;
    let (owner, is_of_rule) = owner.strip_suffix("-rule").map_or((owner, false), |owner| (owner, true));
    let function = FUNCTIONS.into_iter().find(|function| *function == owner)?;
    Some((function, is_of_rule))
}

impl DeadLetterQueue {
    /// Returns how many messages it has.
    pub async fn depth(&self) -> Result<Depth> {
        depth(&self.client, &self.url).await
    }

    /// Receives up to `count` messages, at most 10.
    pub async fn receive(&self, count: usize, names: &Names) -> Result<Vec<Received>> {
        let received_at = Instant::now();
        let receive = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(count.clamp(1, BATCH))?)
            .visibility_timeout(i32::try_from(VISIBILITY.as_secs())?)
            .wait_time_seconds(WAIT_SECONDS)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        let received = receive.send().await.with_context(|| format!("failed to receive from {}", self.name))?;
        let messages = received.messages.unwrap_or_default().into_iter();
        Ok(messages.filter_map(|message| self.received(message, received_at, names)).collect())
    }

    fn received(&self, message: Message, received_at: Instant, names: &Names) -> Option<Received> {
        let sent_at = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::SentTimestamp));
        let sent_at = sent_at.and_then(|millis| millis.parse().ok()).unwrap_or_default();
        let attributes: BTreeMap<_, _> = message
            .message_attributes()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.string_value()?.to_owned())))
            .collect();
        let raw = RawLetter {
            function: self.function,
            is_of_rule: self.is_of_rule,
            message_id: message.message_id?,
            sent_at,
            attributes,
            body: message.body.unwrap_or_default(),
        };
        let letter = DeadLetter::recognize(&raw, names);
        Some(Received { letter, body: raw.body, receipt: message.receipt_handle?, since: received_at })
    }

    /// Deletes a message.
    pub async fn delete(&self, received: &Received) -> Result<()> {
        let delete = self.client.delete_message().queue_url(&self.url).receipt_handle(&received.receipt);
        delete.send().await.with_context(|| format!("failed to delete a message from {}", self.name))?;
        Ok(())
    }

    /// Makes messages visible to other processes again. If that fails, they become visible at their timeout.
    pub async fn hand_back(&self, messages: &[Received]) {
        for batch in messages.chunks(BATCH) {
            let entries = batch.iter().enumerate().map(|(index, message)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(&message.receipt)
                    .visibility_timeout(0)
                    .build()
            });
            let Ok(entries) = entries.collect::<Result<Vec<_>, _>>() else { continue };
            let change = self.client.change_message_visibility_batch().queue_url(&self.url);
            if let Err(error) = change.set_entries(Some(entries)).send().await {
                let error = anyhow::Error::from(error);
                let (name, seconds) = (&self.name, VISIBILITY.as_secs());
                eprintln!("warning: messages of {name} stay hidden for up to {seconds} s: {error:#}");
                return;
            }
        }
    }

    /// Receives about `limit` messages, and makes them visible again. Misses those that other processes have received.
    pub async fn peek(&self, names: &Names, limit: usize) -> Result<Vec<Received>> {
        let mut seen: Vec<Received> = Vec::new();
        let mut ids = HashSet::new();
        let result = loop {
            if seen.len() >= limit {
                break Ok(());
            }
            match self.receive(BATCH, names).await {
                // A large queue shows its first messages again before its last ones have been received.
                Ok(messages) => {
                    let mut is_at_end = true;
                    for message in messages {
                        is_at_end &= !ids.insert(message.letter.message_id.clone());
                        seen.push(message);
                    }
                    if is_at_end {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.hand_back(&seen).await;
        result?;
        seen.retain(|message| ids.remove(&message.letter.message_id));
        Ok(seen)
    }
}

/// Returns how many messages a queue has.
pub async fn depth(client: &Client, url: &str) -> Result<Depth> {
    let get = client.get_queue_attributes().queue_url(url);
    let get = get.attribute_names(QueueAttributeName::ApproximateNumberOfMessages);
    let get = get.attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
    let found = get.send().await.with_context(|| format!("failed to read the attributes of {url}"))?;
    let number = |name| found.attributes().and_then(|all| all.get(&name)).and_then(|text| text.parse().ok());
    Ok(Depth {
        visible: number(QueueAttributeName::ApproximateNumberOfMessages).unwrap_or_default(),
        in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_names_tell_their_owner() {
        let names = Names::new("gatehouse");
        assert_eq!(owner("gatehouse-button-dlq", &names), Some(("button", false)));
        assert_eq!(owner("gatehouse-shadow-rule-dlq", &names), Some(("shadow", true)));
        for other in ["gatehouse-button", "gatehouse-2-button-dlq", "gatehouse-lamp-dlq", "weather-dlq"] {
            assert_eq!(owner(other, &names), None, "{other}");
        }
    }
}
