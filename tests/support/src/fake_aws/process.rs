use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region};
use aws_types::SdkConfig;
use gatehouse::{BatchHandler, Environment, Function, Invocation, Quarantine, Timestamp};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::connection::{Connection, Life};
use super::fault::FaultPlan;
use super::{FakeAws, Fault, MAX_RECEIVES, State, signature};

/// One process of the function.
pub struct Process {
    /// The account.
    pub aws: FakeAws,
    /// Its number, from 1.
    pub number: usize,
    environment: Vec<(&'static str, String)>,
    life: Arc<Life>,
}

/// The result of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The function's response or error; `None` if the process died.
    pub response: Option<Result<Value, String>>,
    /// The metrics that were counted.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Delivered {
    /// Returns whether a bare event is done.
    pub fn is_done(&self) -> bool {
        self.response == Some(Ok(json!({"outcome": "done"})))
    }

    /// Returns whether the whole delivery is made again, because the process died or a bare event must be retried.
    pub fn is_retried(&self) -> bool {
        matches!(self.response, None | Some(Err(_)))
    }

    /// The reason code and the sentence of a bare event's refusal.
    pub fn refusal(&self) -> Option<(&str, &str)> {
        let response = self.response.as_ref()?.as_ref().ok()?;
        Some((response["reason"].as_str()?, response["why"].as_str()?))
    }

    /// Returns the reason code of a bare event's refusal, or `retried` or `not refused`.
    pub fn refusal_code(&self) -> &str {
        match (self.refusal(), self.is_retried()) {
            (Some((code, _)), _) => code,
            (None, true) => "retried",
            (None, false) => "not refused",
        }
    }

    /// Returns the ids of a batch's messages that are delivered again; `None` if the process died, because then all
    /// are.
    pub fn retried_messages(&self) -> Option<Vec<&str>> {
        let response = self.response.as_ref()?.as_ref().expect("a batch has a response");
        let failures = response["batchItemFailures"].as_array().expect("the response is a batch's");
        Some(failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect())
    }

    /// How often something was counted.
    pub fn count(&self, metric: &str) -> u64 {
        self.counts.get(metric).copied().unwrap_or_default()
    }
}

impl Process {
    pub(super) fn new(aws: FakeAws, number: usize) -> Self {
        Self { aws, number, environment: Vec::new(), life: Arc::default() }
    }

    /// Sets an environment variable of this process.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Makes this call fail, counted from 1 over the calls of this process.
    #[must_use]
    pub fn fail(self, call: usize, fault: Fault) -> Self {
        self.plan().numbered.insert(call, fault);
        self
    }

    /// Makes every call of this name or operation fail.
    #[must_use]
    pub fn fail_each(self, name: &str, fault: Fault) -> Self {
        self.plan().always.insert(name.to_owned(), fault);
        self
    }

    /// Changes something just before this call of the process is served.
    #[must_use]
    pub fn change(self, call: usize, change: impl FnOnce(&mut State) + Send + 'static) -> Self {
        self.plan().changes.insert(call, Box::new(change));
        self
    }

    /// Another process with the same environment.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { environment: self.environment.clone(), ..self.aws.process() }
    }

    /// How many calls it has made.
    pub fn call_count(&self) -> usize {
        self.plan().calls
    }

    /// The process's environment variables.
    pub fn environment(&self) -> Environment {
        let shared = self.aws.state().settings.environment.clone();
        shared.into_iter().chain(self.environment.iter().cloned()).collect()
    }

    /// A configuration for SDK clients of this process.
    pub fn sdk_config(&self) -> SdkConfig {
        let credentials = Credentials::new("id", signature::SECRET, None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(self.connection().http_client())
            .build()
    }

    /// A DynamoDB client.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.sdk_config())
    }

    /// An SNS client.
    pub fn sns(&self) -> aws_sdk_sns::Client {
        aws_sdk_sns::Client::new(&self.sdk_config())
    }

    /// An SQS client.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.sdk_config())
    }

    /// A client of AWS IoT's registry.
    pub fn iot(&self) -> aws_sdk_iot::Client {
        aws_sdk_iot::Client::new(&self.sdk_config())
    }

    /// A client of AWS IoT's data plane.
    pub fn iot_data(&self) -> aws_sdk_iotdataplane::Client {
        aws_sdk_iotdataplane::Client::new(&self.sdk_config())
    }

    /// Passes a delivery to the function in this process, at this time.
    pub async fn deliver_to<H: BatchHandler>(&self, handler: H, delivery: &Value, now: Timestamp) -> Delivered {
        let (name, timeout) = {
            let mut state = self.aws.state();
            state.clock = Some((now, Instant::now()));
            (state.settings.function, state.settings.timeout)
        };
        let quarantine = Quarantine::from_environment(&self.environment(), self.dynamodb(), name).unwrap();
        let function = Function::new(name, handler, quarantine);
        let invocation = Invocation::new(format!("request-{}", self.number), now, now.plus(timeout));
        let delivery = to_raw_value(delivery).unwrap();
        let response = tokio::select! {
            response = function.invoke(&delivery, &invocation) => Some(response.map_err(|error| error.to_string())),
            () = self.life.ended() => None,
        };
        self.aws.state().finished.insert(self.number);
        self.aws.0.served.notify_waiters();
        self.aws.assert_no_violations();
        Delivered { response, counts: invocation.counts() }
    }

    /// Passes a bare event to this process and, like the queue, to further processes until it is no longer retried.
    /// Returns the last delivery's result and time. For tests with a paused clock.
    pub async fn deliver_until_done<H: BatchHandler>(
        self,
        handler: impl Fn(&Self) -> H,
        event: &Value,
        mut now: Timestamp,
    ) -> (Delivered, Timestamp) {
        let visibility_timeout = self.aws.state().settings.visibility_timeout;
        let mut process = self;
        for _ in 0..MAX_RECEIVES {
            let delivered = process.deliver_to(handler(&process), event, now).await;
            if !delivered.is_retried() {
                return (delivered, now);
            }
            now = now.plus(visibility_timeout);
            sleep(visibility_timeout).await;
            process = process.another();
        }
        panic!("the event failed {MAX_RECEIVES} times");
    }

    fn connection(&self) -> Connection {
        Connection { aws: self.aws.clone(), number: self.number, life: Arc::clone(&self.life) }
    }

    fn plan(&self) -> MutexGuard<'_, FaultPlan> {
        self.life.plan()
    }
}
