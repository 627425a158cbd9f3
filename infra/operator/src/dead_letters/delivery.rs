//! Sends the events of dead letters to the targets that did not receive them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::context::Context;
use crate::dead_letters::letter::{DeadLetter, Target, uploaded_document};
use crate::dead_letters::queue::{DeadLetterQueue, Received};
use crate::documents;
use crate::invoke::{Invoked, invoke};

/// Minimum remaining visibility timeout of a message before its event is sent.
const NEEDED: Duration = Duration::from_secs(40);

/// Sends events, each once per target.
#[derive(Debug)]
pub struct Delivery {
    context: Context,
    lambda: aws_sdk_lambda::Client,
    sqs: aws_sdk_sqs::Client,
    /// Which targets have accepted a message's event. A standard queue can redeliver a message, even a deleted one.
    accepted: Mutex<HashMap<String, HashSet<Target>>>,
    urls: Mutex<HashMap<&'static str, String>>,
}

/// The result for a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Delivered {
    /// All targets accepted the event, and the message was deleted.
    Accepted,
    /// The function refused the event. It is in quarantine now, and the message was deleted.
    Refused {
        /// The reason in one sentence.
        why: String,
    },
    /// A target did not accept the event. The message stays in the queue.
    Failed {
        /// What failed.
        error: String,
    },
    /// The event cannot be sent. The message stays in the queue.
    LeftAlone {
        /// Why, in one sentence.
        problem: String,
    },
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => f.write_str("accepted"),
            Self::Refused { why } => write!(f, "refused, now in quarantine: {why}"),
            Self::Failed { error } => write!(f, "failed: {error}"),
            Self::LeftAlone { problem } => write!(f, "left alone: {problem}"),
        }
    }
}

impl Delivery {
    /// Creates a delivery with this context's clients.
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            lambda: context.lambda(),
            sqs: context.sqs_without_retries(),
            accepted: Mutex::default(),
            urls: Mutex::default(),
        }
    }

    /// Sends a dead letter's event to its targets, and deletes the message once all have accepted it.
    ///
    /// Returns `None` if too little of the visibility timeout is left: the message will be received again.
    pub async fn deliver(&self, queue: &DeadLetterQueue, message: &Received) -> Option<Delivered> {
        let result = self.try_deliver(queue, message).await;
        result.unwrap_or_else(|error| Some(Delivered::Failed { error: format!("{error:#}") }))
    }

    async fn try_deliver(&self, queue: &DeadLetterQueue, message: &Received) -> Result<Option<Delivered>> {
        let letter = &message.letter;
        let event = match sendable(letter) {
            Ok(event) => event,
            Err(problem) => return Ok(Some(Delivered::LeftAlone { problem })),
        };
        if let Some(problem) = self.superseded(letter, event).await? {
            return Ok(Some(Delivered::LeftAlone { problem }));
        }
        let mut refused = None;
        for target in &letter.targets {
            if self.has_accepted(&letter.message_id, target).await {
                continue;
            }
            if !message.is_ours(NEEDED) {
                return Ok(None);
            }
            match self.send(target, event).await? {
                Invoked::Done => {}
                Invoked::Refused { reason: _, why } => refused = Some(why),
                Invoked::Failed(error) => return Ok(Some(Delivered::Failed { error })),
            }
            self.accepted.lock().await.entry(letter.message_id.clone()).or_default().insert(target.clone());
        }
        queue.delete(message).await.context("the event was accepted; resend it again to delete the message")?;
        Ok(Some(refused.map_or(Delivered::Accepted, |why| Delivered::Refused { why })))
    }

    async fn has_accepted(&self, message_id: &str, target: &Target) -> bool {
        self.accepted.lock().await.get(message_id).is_some_and(|targets| targets.contains(target))
    }

    /// Returns why an event must not be sent, if it uploads a document and a later one is in force.
    async fn superseded(&self, letter: &DeadLetter, event: &str) -> Result<Option<String>> {
        let Some(kind) = uploaded_document(event) else { return Ok(None) };
        let current = documents::current(&self.context, kind).await?;
        let is_superseded = current.is_some_and(|current| current.given_at > letter.sent_at);
        Ok(is_superseded
            .then(|| format!("A later document of {kind} is in force; upload it again if you want this one.")))
    }

    async fn send(&self, target: &Target, event: &str) -> Result<Invoked> {
        match target {
            Target::Function(function) => invoke(&self.lambda, &self.context.names.of(function), event).await,
            Target::Queue(function) => {
                let url = self.queue_url(function).await?;
                let sent = self.sqs.send_message().queue_url(url).message_body(event).send().await;
                sent.with_context(|| format!("failed to send to queue {}", self.context.names.of(function)))?;
                Ok(Invoked::Done)
            }
            // Asynchronously, as the rule does.
            Target::ForeignFunction(arn) => {
                let invoke = self.lambda.invoke().function_name(arn).invocation_type(InvocationType::Event);
                let invoked = invoke.payload(Blob::new(event)).send().await;
                invoked.with_context(|| format!("failed to invoke {arn}"))?;
                Ok(Invoked::Done)
            }
        }
    }

    async fn queue_url(&self, function: &'static str) -> Result<String> {
        let mut urls = self.urls.lock().await;
        if let Some(url) = urls.get(function) {
            return Ok(url.clone());
        }
        let name = self.context.names.of(function);
        let found = self.sqs.get_queue_url().queue_name(&name).send().await;
        let found = found.with_context(|| format!("failed to find queue {name}"))?;
        let url = found.queue_url.with_context(|| format!("queue {name} has no URL"))?;
        urls.insert(function, url.clone());
        Ok(url)
    }
}

/// Returns a dead letter's event, or why it cannot be sent.
pub fn sendable(letter: &DeadLetter) -> Result<&str, String> {
    match (&letter.problem, &letter.event) {
        (None, Some(event)) => Ok(event),
        (problem, _) => Err(problem.clone().unwrap_or_else(|| "It has no event.".to_owned())),
    }
}
