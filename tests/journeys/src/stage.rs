//! A deployment of Gatehouse in its own account.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{Environment, InvocationType};
use aws_sdk_sqs::types::QueueAttributeName;
use local_cloud::aws::Clients;
use local_cloud::cloud::Cloud;
use local_cloud::deploy::{self, Deployment};
use local_cloud::device::{Device, Identity, Published};
use local_cloud::fault_proxy::FaultProxy;
use local_cloud::isolation::Account;
use local_cloud::observer::{Effect, Notification, Observer};
use local_cloud::supervisor;
use rustix::process::Pid;
use serde_json::Value;
use tokio::time::sleep;

/// The timeout of a function behind a fault proxy: enough for a call that hangs until the function gives up, and for
/// the release of its claims.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(6);

/// Lambda makes three attempts. A busy machine needs more, because some of them time out.
const MAX_ATTEMPTS: usize = 10;

/// The maximum `maxReceiveCount` that SQS allows before it moves a message to the dead-letter queue.
const MAX_RECEIVES: u32 = 1000;

/// An item of a table.
pub type Item = HashMap<String, AttributeValue>;

/// A deployment of Gatehouse.
pub struct Stage {
    pub cloud: Arc<Cloud>,
    pub account: Account,
    pub clients: Clients,
    pub deployment: Deployment,
    pub observer: Observer,
}

impl Stage {
    /// Registers a device with the device policy.
    pub async fn device(&self, thing: &str) -> Result<Device> {
        self.device_with_policy(thing, "DevicePolicy").await
    }

    /// Registers a device with the policy that this stack output names.
    pub async fn device_with_policy(&self, thing: &str, output: &str) -> Result<Device> {
        let policy = self.deployment.output(output)?;
        Ok(Device::new(&self.cloud, Identity::register(&self.clients, thing, policy).await?))
    }

    /// Publishes a message, which AWS IoT must accept. Returns the event id.
    pub async fn publish(&self, device: &mut Device, topic: &str, payload: &[u8]) -> Result<String> {
        let before = self.observer.messages(0).len();
        let (_, published) = device.publish(topic, &[payload]).await?;
        ensure!(published == Published::Accepted, "AWS IoT denied a message on {topic}");
        let find = |observer: &Observer| {
            let mut new = observer.messages(before).into_iter();
            new.find(|message| message.topic == topic && message.payload == payload)
        };
        let message = self.observer.until(find).await;
        Ok(message.with_context(|| format!("a message on {topic} did not arrive"))?.trace_id)
    }

    /// Lists the processes of a function.
    pub fn processes(&self, function: &str) -> Result<Vec<Pid>> {
        let name = self.name(function)?;
        let is_of_function = |variables: BTreeMap<String, String>| {
            variables.get("AWS_LAMBDA_FUNCTION_NAME").is_some_and(|its_name| its_name == name)
        };
        let mut all = self.cloud.processes();
        all.retain(|pid| supervisor::environment(*pid).is_ok_and(is_of_function));
        Ok(all)
    }

    /// Invokes a function asynchronously, as AWS IoT does.
    pub async fn invoke_async(&self, function: &str, event: &Value) -> Result<()> {
        let invoke = self.clients.lambda.invoke().function_name(self.name(function)?);
        invoke.invocation_type(InvocationType::Event).payload(Blob::new(event.to_string())).send().await?;
        Ok(())
    }

    /// Invokes a function and returns its response. A function error is an error.
    pub async fn invoke(&self, function: &str, event: &Value) -> Result<Value> {
        self.invoke_with_text(function, &event.to_string()).await
    }

    /// Invokes a function with JSON text, which preserves how numbers are written.
    pub async fn invoke_with_text(&self, function: &str, event: &str) -> Result<Value> {
        let invoke = self.clients.lambda.invoke().function_name(self.name(function)?);
        let invoked = invoke.payload(Blob::new(event)).send().await?;
        let response =
            invoked.payload().map(|blob| String::from_utf8_lossy(blob.as_ref()).into_owned()).unwrap_or_default();
        ensure!(invoked.function_error().is_none(), "{function} failed: {response}");
        serde_json::from_str(&response).with_context(|| format!("{function} returned {response}"))
    }

    /// Invokes a function until it succeeds, as Lambda does asynchronously, but without a minute between the attempts.
    /// Returns the number of attempts.
    pub async fn invoke_until_done(&self, function: &str, event: &Value) -> Result<usize> {
        let mut attempt = 1;
        loop {
            match self.invoke(function, event).await {
                Ok(_) => return Ok(attempt),
                Err(error) => ensure!(attempt < MAX_ATTEMPTS, "{attempt} attempts failed: {error:#}"),
            }
            // By then, the claims of a killed process have expired.
            sleep(FUNCTION_TIMEOUT).await;
            attempt += 1;
        }
    }

    /// Changes a function's environment variables.
    pub async fn configure(&self, function: &str, change: impl FnOnce(&mut HashMap<String, String>)) -> Result<()> {
        let name = self.name(function)?;
        let found = self.clients.lambda.get_function_configuration().function_name(name).send().await?;
        let mut variables = found.environment().and_then(|all| all.variables()).cloned().unwrap_or_default();
        change(&mut variables);
        let environment = Environment::builder().set_variables(Some(variables)).build();
        self.clients.lambda.update_function_configuration().function_name(name).environment(environment).send().await?;
        Ok(())
    }

    /// Puts a function behind a fault proxy, with [`FUNCTION_TIMEOUT`].
    pub async fn put_behind(&self, proxy: &FaultProxy, function: &str) -> Result<()> {
        self.configure(function, |variables| proxy.redirect(variables)).await?;
        self.set_timeout(function, FUNCTION_TIMEOUT).await?;
        // On a busy machine the function also times out without a fault.
        if let Ok(queue) = self.output(function, "QueueUrl") {
            let name = QueueAttributeName::RedrivePolicy;
            let get = self.clients.sqs.get_queue_attributes().queue_url(queue).attribute_names(name.clone());
            let found = get.send().await?;
            let policy =
                found.attributes().and_then(|all| all.get(&name)).context("the queue has no redrive policy")?;
            let mut policy: Value = serde_json::from_str(policy)?;
            let fields = policy.as_object_mut().context("the redrive policy is not an object")?;
            fields.insert("maxReceiveCount".to_owned(), MAX_RECEIVES.into());
            self.clients.set_queue_attribute(queue, name, &policy.to_string()).await?;
        }
        Ok(())
    }

    /// Sets a function's timeout. The local cloud extends it, unless the function's environment sets the timeout of
    /// calls.
    pub async fn set_timeout(&self, function: &str, timeout: Duration) -> Result<()> {
        let update = self.clients.lambda.update_function_configuration().function_name(self.name(function)?);
        update.timeout(i32::try_from(timeout.as_secs())?).send().await?;
        Ok(())
    }

    /// Sets the visibility timeout of a function's queue, in seconds.
    pub async fn redeliver_after(&self, function: &str, seconds: u32) -> Result<()> {
        let queue = self.output(function, "QueueUrl")?;
        self.clients.set_queue_attribute(queue, QueueAttributeName::VisibilityTimeout, &seconds.to_string()).await
    }

    /// Returns how many messages a queue has, including those in flight and delayed ones. `output` names its URL.
    pub async fn queue_length(&self, output: &str) -> Result<u64> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let get = self.clients.sqs.get_queue_attributes().queue_url(self.deployment.output(output)?);
        let found = get.set_attribute_names(Some(names.to_vec())).send().await?;
        let number = |name| -> Result<u64> {
            Ok(found.attributes().and_then(|all| all.get(name)).context("the queue has no length")?.parse()?)
        };
        names.iter().map(number).sum()
    }

    /// Waits until a queue has at most this many messages, and until the effects of all others have been observed.
    /// `output` names its URL.
    pub async fn queue_shrinks_to(&self, output: &str, length: u64) -> Result<()> {
        let mut last = 0;
        let is_reached = self.observer.poll(async || {
            last = self.queue_length(output).await?;
            Ok((last <= length).then_some(()))
        });
        let is_reached = is_reached.await?;
        is_reached.with_context(|| format!("the queue {output} has {last} messages"))?;
        self.observer.catch_up().await
    }

    /// Waits until a thing's record in the devices table satisfies a condition.
    pub async fn record(&self, thing: &str, sort_key: &str, condition: impl Fn(&Item) -> bool) -> Result<Item> {
        let mut last = None;
        let found = self.observer.poll(async || {
            let get = self.clients.dynamodb.get_item().table_name(self.deployment.output("DevicesTable")?);
            let get = get.key("id", AttributeValue::S(format!("thing#{thing}")));
            let get = get.key("part", AttributeValue::S(sort_key.to_owned()));
            last = get.consistent_read(true).send().await?.item;
            Ok(last.clone().filter(&condition))
        });
        found.await?.with_context(|| format!("the record {sort_key} of {thing} is {last:?}"))
    }

    /// Returns a function's deployed name.
    pub fn name(&self, function: &str) -> Result<&str> {
        self.output(function, "Function")
    }

    /// Returns a stack output of a function, such as `JitrQueueUrl`.
    pub fn output(&self, function: &str, what: &str) -> Result<&str> {
        let (first, rest) = function.split_at_checked(1).context("the function has no name")?;
        self.deployment.output(&format!("{}{rest}{what}", first.to_ascii_uppercase()))
    }

    /// Returns the notifications about an event.
    pub fn notifications(&self, event_id: &str) -> Vec<Notification> {
        // Topics deliver them, regardless of the function that published them.
        let effects = self.observer.effects(event_id, "").into_iter();
        let notified = |effect| if let Effect::Notified(notification) = effect { Some(notification) } else { None };
        effects.filter_map(|timed| notified(timed.effect)).collect()
    }

    /// Waits until a function has reported an event as done this many times. By then, its notifications have been
    /// observed.
    pub async fn done(&self, function: &str, event_id: &str, times: usize) -> Result<()> {
        let name = self.name(function)?;
        let is_done = |observer: &Observer| {
            let done = observer.invocation_counts(event_id, name).iter().filter(|counts| counts.done == 1).count();
            (done >= times).then_some(())
        };
        let found = self.observer.until(is_done).await;
        found.with_context(|| format!("{function} did not report {event_id} as done {times} times"))
    }
}

impl Drop for Stage {
    /// Deletes the stack, whose processes and triggers would slow down the local cloud until the suite ends.
    fn drop(&mut self) {
        let (cloud, account, stack) = (Arc::clone(&self.cloud), self.account.clone(), self.deployment.stack.clone());
        tokio::spawn(async move { deploy::delete_stack(&cloud, &account, &stack).await });
    }
}

/// Returns a text attribute of an item.
pub fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// Returns whether a boolean attribute of an item is true.
pub fn is_true(item: &Item, name: &str) -> bool {
    item.get(name) == Some(&AttributeValue::Bool(true))
}
