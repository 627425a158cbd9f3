//! The topic rules of an account and the functions that they invoke.

use anyhow::Result;
use aws_sdk_iot::types::Action;
use aws_sdk_lambda::types::EventSourceMappingConfiguration;

use super::PREFIX;
use crate::aws::Clients;

/// A topic rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The rule's name.
    pub name: String,
    /// The topic filter in its SQL.
    pub filter: String,
    /// The function that it invokes, directly or through a queue.
    pub function: Option<String>,
    /// The URL of the queue between the rule and the function, if there is one.
    pub queue: Option<String>,
    /// All functions that receive its events, including [`Self::function`].
    pub targets: Vec<RuleTarget>,
    /// Its SQL.
    pub sql: String,
    /// The role of its error action.
    pub(super) role: Option<String>,
}

/// A function that receives a rule's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTarget {
    /// The function's name.
    pub function: String,
    /// The URL of the queue between the rule and the function, if there is one.
    pub queue: Option<String>,
}

impl Rule {
    /// Returns whether the rule matches a topic.
    pub fn matches(&self, topic: &str) -> bool {
        filter_matches(&self.filter, topic)
    }

    /// Returns whether the rule invokes its function without a queue between them.
    pub(super) fn invokes_directly(&self) -> bool {
        self.function.is_some() && self.queue.is_none()
    }
}

/// Lists the account's rules.
pub(super) async fn list(clients: &Clients) -> Result<Vec<Rule>> {
    let triggers = queue_triggers(clients).await?;
    let mut rules = Vec::new();
    for listed in clients.iot.list_topic_rules().send().await?.rules() {
        let Some(name) = listed.rule_name().filter(|name| !name.starts_with(PREFIX)) else { continue };
        let found = clients.iot.get_topic_rule().rule_name(name).send().await?;
        let Some(rule) = found.rule() else { continue };
        let target = |action: &Action| {
            if let Some(lambda) = action.lambda() {
                let function = lambda.function_arn().split(':').nth(6)?.to_owned();
                return Some(RuleTarget { function, queue: None });
            }
            let url = action.sqs()?.queue_url();
            let (_, function) = triggers.iter().find(|(arn, _)| is_same_queue(arn, url))?;
            Some(RuleTarget { function: function.clone(), queue: Some(url.to_owned()) })
        };
        let mut targets: Vec<_> = rule.actions().iter().filter_map(target).collect();
        // Functions that are invoked directly come first.
        targets.sort_by_key(|target| target.queue.is_some());
        let first = targets.first().cloned();
        let sql = rule.sql().unwrap_or_default();
        rules.push(Rule {
            role: rule.error_action().and_then(|action| Some(action.sqs()?.role_arn().to_owned())),
            name: name.to_owned(),
            filter: from_clause(sql).unwrap_or_default().to_owned(),
            sql: sql.to_owned(),
            function: first.as_ref().map(|target| target.function.clone()),
            queue: first.and_then(|target| target.queue),
            targets,
        });
    }
    Ok(rules)
}

/// Lists the queues that trigger functions: the queue's ARN and the function's name.
async fn queue_triggers(clients: &Clients) -> Result<Vec<(String, String)>> {
    let mappings = clients.lambda.list_event_source_mappings().into_paginator().items().send();
    let mappings: Vec<_> = mappings.collect::<Result<_, _>>().await?;
    let pair = |mapping: &EventSourceMappingConfiguration| {
        let function = mapping.function_arn()?.split(':').nth(6)?;
        Some((mapping.event_source_arn()?.to_owned(), function.to_owned()))
    };
    Ok(mappings.iter().filter_map(pair).collect())
}

/// Returns whether an ARN and a URL name the same queue.
pub(super) fn is_same_queue(arn: &str, url: &str) -> bool {
    let mut of_arn = arn.rsplit(':');
    let mut of_url = url.rsplit('/');
    arn.contains(":sqs:") && (of_arn.next(), of_arn.next()) == (of_url.next(), of_url.next())
}

/// Returns the topic filter in a rule's SQL.
pub(super) fn from_clause(sql: &str) -> Option<&str> {
    let at = sql.to_ascii_uppercase().rfind("FROM '")?;
    sql.get(at + "FROM '".len()..)?.split('\'').next()
}

/// Returns whether an MQTT topic filter matches a topic. A wildcard does not match a first level that starts with `$`.
pub(super) fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['#', '+']) {
        return false;
    }
    let mut levels = topic.split('/');
    let mut wanted = filter.split('/');
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(want), Some(level)) if want == level => {}
            _ => return false,
        }
    }
}
