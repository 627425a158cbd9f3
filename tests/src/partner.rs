//! The partner's account: the receiver's side of what `forward` passes on, from the shipped template.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, QueueAttributeName};
use serde_json::{Value, json};

use crate::aws::Clients;
use crate::cloud::Cloud;
use crate::deploy;
use crate::isolation::{Account, Endpoint, REGION};
use crate::tools;

/// What the queue is called, but for a FIFO queue's ending.
const NAME: &str = "weather";

/// Another account of the local cloud, with a queue for what is forwarded.
#[derive(Debug, Clone)]
pub struct Partner {
    account: Account,
    /// The account's clients.
    pub clients: Clients,
    endpoint: Endpoint,
    is_fifo: bool,
}

/// A message that was forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The queue's account.
    pub account: String,
    /// The queue's name.
    pub queue: String,
    /// The message's body.
    pub body: String,
    /// The message's attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Partner {
    /// An account in which nothing is deployed yet.
    pub fn new(cloud: &Cloud, account: Account, is_fifo: bool) -> Self {
        Self { clients: Clients::new(cloud.endpoint, &account), account, endpoint: cloud.endpoint, is_fifo }
    }

    /// The account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The queue's name.
    pub fn queue_name(&self) -> String {
        format!("{NAME}{}", if self.is_fifo { ".fifo" } else { "" })
    }

    /// The queue's URL.
    pub fn queue_url(&self) -> String {
        format!("{}/{}/{}", self.endpoint.url(), self.account.id(), self.queue_name())
    }

    /// The queue's ARN.
    pub fn queue_arn(&self) -> String {
        format!("arn:aws:sqs:{REGION}:{}:{}", self.account.id(), self.queue_name())
    }

    /// The sender's parameters that name the queue, which takes pictures too.
    pub fn parameters(&self) -> [(&'static str, String); 3] {
        [
            ("ForwardDestinationQueueUrl", self.queue_url()),
            ("ForwardDestinationQueueArns", self.queue_arn()),
            ("ForwardDestinationBinary", "base64".to_owned()),
        ]
    }

    /// Deploys the queue, which admits this role of the sender's account.
    pub async fn deploy(&self, cloud: &Cloud, sender: &Account, role: &str) -> Result<()> {
        let template = tools::root().join("infra/forward-destination.yaml");
        let parameters = [
            ("SenderAccountId", sender.id()),
            ("SenderRoleName", role),
            ("QueueName", NAME),
            ("Fifo", if self.is_fifo { "true" } else { "false" }),
            // The local cloud speaks plain HTTP.
            ("RequireTls", "false"),
        ];
        let deployment = deploy::deploy(cloud, &self.account, &template, "forecast-corp", &parameters).await?;
        let (url, arn) = (deployment.output("QueueUrl")?, deployment.output("QueueArn")?);
        // The local cloud calls itself by another name there.
        ensure!(url.ends_with(&format!("/{}/{}", self.account.id(), self.queue_name())), "the queue's URL is {url}");
        ensure!(arn == self.queue_arn(), "the queue's ARN is {arn}");
        self.change_policy(|policy| {
            let statements = policy.get_mut("Statement").and_then(Value::as_array_mut).into_iter().flatten();
            // The local cloud checks an action that AWS does not know: sending a batch is `sqs:SendMessage`.
            for action in statements.filter_map(|statement| statement.get_mut("Action")) {
                if *action == "sqs:SendMessage" {
                    *action = json!(["sqs:SendMessage", "sqs:SendMessageBatch"]);
                }
            }
        })
        .await
    }

    /// Makes a function, which the local cloud never invokes for another account; its ARN.
    pub async fn make_function(&self, cloud: &Cloud, name: &str) -> Result<String> {
        let allow =
            json!({"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"});
        let trust = json!({"Version": "2012-10-17", "Statement": [allow]}).to_string();
        let make_role = ["iam", "create-role", "--role-name", name, "--assume-role-policy-document", &trust];
        deploy::aws(cloud, &self.account, make_role).await?;
        let role = format!("arn:aws:iam::{}:role/{name}", self.account.id());
        let zip = format!("fileb://{}", tools::root().join("target/lambda/forward/bootstrap.zip").display());
        let make = ["lambda", "create-function", "--function-name", name, "--role", &role, "--zip-file", &zip];
        let make = make.into_iter().chain(["--runtime", "provided.al2023", "--handler", "bootstrap"]);
        deploy::aws(cloud, &self.account, make).await?;
        Ok(format!("arn:aws:lambda:{REGION}:{}:function:{name}", self.account.id()))
    }

    /// Changes the queue's policy.
    pub async fn change_policy(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let url = self.queue_url();
        let asked = self.clients.sqs.get_queue_attributes().queue_url(&url);
        let found = asked.attribute_names(QueueAttributeName::Policy).send().await?;
        let policy = found.attributes().and_then(|all| all.get(&QueueAttributeName::Policy)).context("no policy")?;
        let mut policy = serde_json::from_str(policy).context("the queue's policy is not JSON")?;
        change(&mut policy);
        let set = self.clients.sqs.set_queue_attributes().queue_url(url);
        set.attributes(QueueAttributeName::Policy, policy.to_string()).send().await?;
        Ok(())
    }

    /// Takes out of the queue what it has now, ten at most; waits a second where it has nothing.
    pub async fn receive(&self) -> Result<Vec<Forwarded>> {
        let url = self.queue_url();
        let receive = self.clients.sqs.receive_message().queue_url(&url).max_number_of_messages(10);
        let received = receive.message_attribute_names("All").wait_time_seconds(1).send().await?;
        if received.messages().is_empty() {
            return Ok(Vec::new());
        }
        let mut delete = self.clients.sqs.delete_message_batch().queue_url(&url);
        for (id, message) in received.messages().iter().enumerate() {
            let handle = message.receipt_handle.clone();
            let entry = DeleteMessageBatchRequestEntry::builder().id(id.to_string()).set_receipt_handle(handle);
            delete = delete.entries(entry.build()?);
        }
        let deleted = delete.send().await?;
        ensure!(deleted.failed().is_empty(), "a message was not deleted");
        Ok(received.messages().iter().map(|message| self.forwarded(message)).collect())
    }

    fn forwarded(&self, message: &Message) -> Forwarded {
        let attributes = message.message_attributes().into_iter().flatten();
        let attributes = attributes.filter_map(|(name, value)| Some((name.clone(), value.string_value()?.to_owned())));
        Forwarded {
            account: self.account.id().to_owned(),
            queue: self.queue_name(),
            body: message.body().unwrap_or_default().to_owned(),
            attributes: attributes.collect(),
        }
    }
}
