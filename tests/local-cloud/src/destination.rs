//! A queue in another account that `forward` sends to, deployed there from `infra/forward-destination.yaml`.

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, QueueAttributeName};
use serde_json::{Value, json};

use crate::aws::Clients;
use crate::cloud::Cloud;
use crate::deploy;
use crate::isolation::{Account, Endpoint, REGION};
use crate::observer::QueueMessage;
use crate::tools;

/// The name of the stack in the queue's account.
const STACK: &str = "forward-destination";

/// A queue in another account of the local cloud.
#[derive(Debug, Clone)]
pub struct DestinationQueue {
    account: Account,
    /// The account's clients.
    pub clients: Clients,
    endpoint: Endpoint,
    /// The queue's name, without the suffix of a FIFO queue.
    name: String,
    is_fifo: bool,
}

impl DestinationQueue {
    /// Describes a queue that is not deployed yet.
    pub fn new(cloud: &Cloud, account: Account, name: &str, is_fifo: bool) -> Self {
        let clients = Clients::new(cloud.endpoint, &account);
        Self { account, clients, endpoint: cloud.endpoint, name: name.to_owned(), is_fifo }
    }

    /// Returns the account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Returns the queue's name.
    pub fn queue_name(&self) -> String {
        format!("{}{}", self.name, if self.is_fifo { ".fifo" } else { "" })
    }

    /// Returns the queue's URL.
    pub fn queue_url(&self) -> String {
        format!("{}/{}/{}", self.endpoint.url(), self.account.id(), self.queue_name())
    }

    /// Returns the queue's ARN.
    pub fn queue_arn(&self) -> String {
        format!("arn:aws:sqs:{REGION}:{}:{}", self.account.id(), self.queue_name())
    }

    /// Returns the sender's stack parameters for this queue. They also forward binary messages, in base64.
    pub fn parameters(&self) -> [(&'static str, String); 3] {
        [
            ("ForwardDestinationQueueUrl", self.queue_url()),
            ("ForwardDestinationQueueArns", self.queue_arn()),
            ("ForwardDestinationBinary", "base64".to_owned()),
        ]
    }

    /// Deploys the queue, which accepts messages from this role of the sender's account.
    pub async fn deploy(&self, cloud: &Cloud, sender: &Account, role: &str) -> Result<()> {
        let template = deploy::read(&tools::root().join("infra/forward-destination.yaml"))?;
        let parameters = [
            ("SenderAccountId", sender.id()),
            ("SenderRoleName", role),
            ("QueueName", &self.name),
            ("Fifo", if self.is_fifo { "true" } else { "false" }),
            // The local cloud uses plain HTTP.
            ("RequireTls", "false"),
        ];
        let deployment = deploy::deploy_stack(cloud, &self.account, &template, STACK, &parameters).await?;
        let (url, arn) = (deployment.output("QueueUrl")?, deployment.output("QueueArn")?);
        // The local cloud returns another host name.
        ensure!(url.ends_with(&format!("/{}/{}", self.account.id(), self.queue_name())), "unexpected queue URL {url}");
        ensure!(arn == self.queue_arn(), "unexpected queue ARN {arn}");
        self.change_policy(|policy| {
            let statements = policy.get_mut("Statement").and_then(Value::as_array_mut).into_iter().flatten();
            // The local cloud checks an action that AWS does not have: a batch needs `sqs:SendMessage` there.
            for action in statements.filter_map(|statement| statement.get_mut("Action")) {
                if *action == "sqs:SendMessage" {
                    *action = json!(["sqs:SendMessage", "sqs:SendMessageBatch"]);
                }
            }
        })
        .await
    }

    /// Creates a function in the account, and returns its ARN. The local cloud never invokes it from another account.
    pub async fn create_function(&self, cloud: &Cloud, name: &str) -> Result<String> {
        let allow =
            json!({"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"});
        let trust = json!({"Version": "2012-10-17", "Statement": [allow]}).to_string();
        let create_role = ["iam", "create-role", "--role-name", name, "--assume-role-policy-document", &trust];
        deploy::aws(cloud, &self.account, create_role).await?;
        let role = format!("arn:aws:iam::{}:role/{name}", self.account.id());
        let zip = format!("fileb://{}", tools::root().join("target/lambda/forward/bootstrap.zip").display());
        let create = ["lambda", "create-function", "--function-name", name, "--role", &role, "--zip-file", &zip];
        let create = create.into_iter().chain(["--runtime", "provided.al2023", "--handler", "bootstrap"]);
        deploy::aws(cloud, &self.account, create).await?;
        Ok(format!("arn:aws:lambda:{REGION}:{}:function:{name}", self.account.id()))
    }

    /// Changes the queue's policy.
    pub async fn change_policy(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let url = self.queue_url();
        let get = self.clients.sqs.get_queue_attributes().queue_url(&url);
        let found = get.attribute_names(QueueAttributeName::Policy).send().await?;
        let policy = found
            .attributes()
            .and_then(|all| all.get(&QueueAttributeName::Policy))
            .context("the queue has no policy")?;
        let mut policy = serde_json::from_str(policy).context("the queue's policy is not JSON")?;
        change(&mut policy);
        let set = self.clients.sqs.set_queue_attributes().queue_url(url);
        set.attributes(QueueAttributeName::Policy, policy.to_string()).send().await?;
        Ok(())
    }

    /// Receives and deletes up to ten messages. Waits a second if the queue is empty.
    pub async fn receive(&self) -> Result<Vec<QueueMessage>> {
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
        ensure!(deleted.failed().is_empty(), "failed to delete a message");
        Ok(received.messages().iter().map(|message| self.message(message)).collect())
    }

    fn message(&self, message: &Message) -> QueueMessage {
        let attributes = message.message_attributes().into_iter().flatten();
        let attributes = attributes.filter_map(|(name, value)| Some((name.clone(), value.string_value()?.to_owned())));
        QueueMessage {
            account: self.account.id().to_owned(),
            queue: self.queue_name(),
            body: message.body().unwrap_or_default().to_owned(),
            attributes: attributes.collect(),
        }
    }
}
