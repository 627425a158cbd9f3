//! `GET /api/v1/topology`: the deployed resources and their connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::App;
use super::error::ApiResult;
use crate::deploy::{self, Resource};

/// The types of resources to show, and the name of each kind.
const TYPES: [(&str, &str); 5] = [
    ("AWS::IoT::TopicRule", "rule"),
    ("AWS::SQS::Queue", "queue"),
    ("AWS::Lambda::Function", "function"),
    ("AWS::DynamoDB::Table", "table"),
    ("AWS::SNS::Topic", "topic"),
];

/// Returns the nodes and the edges between them.
pub async fn show(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    let resources = deploy::resources(&app.cloud, &app.account, &app.deployment.stack).await?;
    let edges = edges(&app, &resources).await?;
    let rules = &app.observer.rules;
    let nodes = resources.iter().filter_map(|resource| {
        let name = resource.name();
        let filter = rules.iter().find(|rule| rule.name == name).map(|rule| rule.filter.as_str());
        Some(json!({"kind": kind(resource)?, "name": name, "filter": filter, "template": resource.template}))
    });
    let nodes: Vec<_> = nodes.collect();
    let edges: Vec<_> = edges.into_iter().map(|(from, to)| json!({"from": from, "to": to})).collect();
    Ok(Json(json!({"nodes": nodes, "edges": edges})))
}

fn kind(resource: &Resource) -> Option<&'static str> {
    TYPES.iter().find(|(name, _)| *name == resource.kind).map(|(_, word)| *word)
}

/// Returns a node's name in an edge. It includes the kind, because names are unique per kind only.
fn node(resource: &Resource) -> Option<String> {
    Some(format!("{} {}", kind(resource)?, resource.name()))
}

/// Returns the connections: the targets of rules, queues and topics, and the resources in functions' variables.
async fn edges(app: &App, resources: &[Resource]) -> Result<BTreeSet<(String, String)>> {
    // By kind and name: the last part of an ARN or URL is the name.
    let nodes: BTreeMap<String, String> = resources
        .iter()
        .filter_map(|resource| Some((format!("{} {}", kind(resource)?, resource.name()), node(resource)?)))
        .collect();
    let find = |kind: &str, reference: &str| {
        let name = reference.rsplit(['/', ':']).next().unwrap_or_default();
        nodes.get(&format!("{kind} {name}")).cloned()
    };
    let mut edges = BTreeSet::new();
    for rule in app.observer.rules.iter() {
        let Some(from) = find("rule", &rule.name) else { continue };
        for target in &rule.targets {
            let to = match &target.queue {
                Some(url) => find("queue", url),
                None => find("function", &target.function),
            };
            edges.extend(to.map(|to| (from.clone(), to)));
        }
    }
    let mappings = app.clients.lambda.list_event_source_mappings().into_paginator().items().send();
    for mapping in mappings.collect::<Result<Vec<_>, _>>().await? {
        let queue = mapping.event_source_arn().and_then(|arn| find("queue", arn));
        edges.extend(queue.zip(mapping.function_arn().and_then(|arn| find("function", arn))));
    }
    let subscriptions = app.clients.sns.list_subscriptions().into_paginator().items().send();
    for subscription in subscriptions.collect::<Result<Vec<_>, _>>().await? {
        let topic = subscription.topic_arn().and_then(|arn| find("topic", arn));
        edges.extend(topic.zip(subscription.endpoint().and_then(|arn| find("queue", arn))));
    }
    for resource in resources.iter().filter(|resource| kind(resource) == Some("function")) {
        let (name, Some(from)) = (resource.name(), node(resource)) else { continue };
        let found = app.clients.lambda.get_function_configuration().function_name(name).send().await?;
        let variables = found.environment().and_then(|all| all.variables());
        for (variable, value) in variables.into_iter().flatten() {
            let kind = match variable.as_str() {
                name if name.ends_with("_TABLE") => "table",
                name if name.ends_with("_TOPIC_ARN") || name.contains("TOPIC") => "topic",
                name if name.ends_with("_QUEUE_URL") || name.contains("QUEUE") => "queue",
                _ => continue,
            };
            edges.extend(find(kind, value).map(|to| (from.clone(), to)));
        }
    }
    Ok(edges)
}
