//! What tests share: the local cloud, and a way to a deployment of their own in it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{Environment, InvocationType};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::{Failed, Trial};
use rustix::process::Pid;
use serde_json::{Value, json};
use local_cloud::aws::Clients;
use local_cloud::cloud::Cloud;
use local_cloud::cli::RunDirectory;
use local_cloud::deploy::{self, Deployment};
use local_cloud::device::{Device, Identity, Published};
use local_cloud::fault_proxy::{FaultProxy, SERVICES};
use local_cloud::isolation::Account;
use local_cloud::supervisor;
use local_cloud::observer::{self, Effect, Observer, Notification};
use local_cloud::progress::Progress;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long an effect may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The time-out of a function behind a fault proxy, in seconds. In it a call may hang until the function gives it up, and
/// what was claimed be given back.
const TIMEOUT: i32 = 6;

/// The pause before Lambda tries an asynchronous invocation again, which doubles each time. In AWS it is a minute; like
/// there, it is longer than such a function's time-out, so that the claim of a process that died has expired.
const RETRY_PAUSE: &str = "7";

/// What all tests share.
pub struct Suite {
    runtime: Runtime,
    log: PathBuf,
    directory: Mutex<Option<RunDirectory>>,
    cloud: OnceCell<Arc<Cloud>>,
    accounts: AtomicU64,
}

impl Suite {
    pub fn new() -> Result<Self> {
        let directory = RunDirectory::new("tests")?;
        Ok(Self {
            runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
            log: directory.path().join("cloud.log"),
            directory: Mutex::new(Some(directory)),
            cloud: OnceCell::new(),
            accounts: AtomicU64::new(0),
        })
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A test with this sentence as its name.
    pub fn trial<F>(
        self: &Arc<Self>,
        name: impl Into<String>,
        test: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) -> Trial
    where
        F: Future<Output = Result<()>>,
    {
        let suite = Arc::clone(self);
        let run = move || {
            let result = suite.runtime.block_on(test(Arc::clone(&suite)));
            result.map_err(|error| Failed::from(format!("{error:#}")))
        };
        Trial::test(name, run)
    }

    /// The local cloud, started when the first test needs it.
    pub async fn cloud(&self) -> Result<&Arc<Cloud>> {
        let start = async || {
            let settings = [("LAMBDA_ASYNC_RETRY_BASE_SECONDS", RETRY_PAUSE)];
            Ok(Arc::new(Cloud::start(&self.log, &settings).await?))
        };
        self.cloud.get_or_try_init(start).await
    }

    /// Everything deployed in an account of its own, under names of its own.
    pub async fn stage(&self) -> Result<Stage> {
        self.stage_with(&[]).await
    }

    /// The same, with these parameters.
    pub async fn stage_with(&self, parameters: &[(&str, &str)]) -> Result<Stage> {
        let cloud = self.cloud().await?;
        let number = self.accounts.fetch_add(1, Ordering::Relaxed);
        let account = Account::new(format!("{:012}", 200_000_000_000 + number))?;
        // MiniStack, asked to change a function, ends the processes of all functions of that name, whatever the account.
        let prefix = format!("gatehouse-{number}");
        let deployment = deploy::deploy_gatehouse(cloud, &account, &prefix, parameters, Progress::silent()).await?;
        let clients = Clients::new(cloud.endpoint, &account);
        let observer = Observer::start(&clients).await?;
        Ok(Stage { cloud: Arc::clone(cloud), account, clients, deployment, observer })
    }

    /// Ends the local cloud. Without it a test's process would leave that to the supervisor, a moment later.
    pub fn end(&self) {
        if let Some(cloud) = self.cloud.get() {
            cloud.stop();
        }
        self.directory.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A deployment of a test's own.
pub struct Stage {
    pub cloud: Arc<Cloud>,
    pub account: Account,
    pub clients: Clients,
    pub deployment: Deployment,
    pub observer: Observer,
}

impl Stage {
    /// A new device.
    pub async fn device(&self, thing: &str) -> Result<Device> {
        let policy = self.deployment.output("DevicePolicy")?;
        Ok(Device::new(&self.cloud, Identity::register(&self.clients, thing, policy).await?))
    }

    /// Publishes a message, which AWS IoT must take; the event's id.
    pub async fn publish(&self, device: &mut Device, topic: &str, payload: &[u8]) -> Result<String> {
        let before = self.observer.messages(0).len();
        let (_, published) = device.publish(topic, &[payload]).await?;
        ensure!(published == Published::Accepted, "AWS IoT turned away a message on {topic}");
        let look = |observer: &Observer| {
            let mut new = observer.messages(before).into_iter();
            new.find(|arrived| arrived.topic == topic && arrived.payload == payload)
        };
        let arrived = self.observer.until(Instant::now() + LIMIT, look).await;
        Ok(arrived.with_context(|| format!("a message on {topic} did not arrive"))?.trace_id)
    }

    /// The processes of a function of this deployment.
    pub fn processes(&self, function: &str) -> Result<Vec<Pid>> {
        let name = self.name(function)?;
        let is_it = |variables: BTreeMap<String, String>| {
            variables.get("AWS_LAMBDA_FUNCTION_NAME").is_some_and(|its_name| its_name == name)
        };
        let mut all = self.cloud.processes();
        all.retain(|pid| supervisor::environment(*pid).is_ok_and(is_it));
        Ok(all)
    }

    /// Hands an event to Lambda as AWS IoT does: without waiting, to be retried.
    pub async fn invoke_later(&self, function: &str, event: &Value) -> Result<()> {
        let invoke = self.clients.lambda.invoke().function_name(self.name(function)?);
        invoke.invocation_type(InvocationType::Event).payload(Blob::new(event.to_string())).send().await?;
        Ok(())
    }

    /// Invokes a function and waits for its answer; an error of the function is an error.
    pub async fn invoke(&self, function: &str, event: &Value) -> Result<Value> {
        self.invoke_with(function, &event.to_string()).await
    }

    /// Invokes a function with a text, numbers as they are written, and waits for its answer.
    pub async fn invoke_with(&self, function: &str, event: &str) -> Result<Value> {
        let invoke = self.clients.lambda.invoke().function_name(self.name(function)?);
        let invoked = invoke.payload(Blob::new(event)).send().await?;
        let answer =
            invoked.payload().map(|blob| String::from_utf8_lossy(blob.as_ref()).into_owned()).unwrap_or_default();
        ensure!(invoked.function_error().is_none(), "{function} failed: {answer}");
        serde_json::from_str(&answer).with_context(|| format!("{function} answered {answer}"))
    }

    /// Changes the variables of a function's environment.
    pub async fn configure(&self, function: &str, change: impl FnOnce(&mut HashMap<String, String>)) -> Result<()> {
        let name = self.name(function)?;
        let found = self.clients.lambda.get_function_configuration().function_name(name).send().await?;
        let mut variables = found.environment().and_then(|all| all.variables()).cloned().unwrap_or_default();
        change(&mut variables);
        let environment = Environment::builder().set_variables(Some(variables)).build();
        self.clients.lambda.update_function_configuration().function_name(name).environment(environment).send().await?;
        Ok(())
    }

    /// Puts a function behind a proxy, with a time-out that is over before Lambda's first retry, as it is in AWS.
    pub async fn put_behind(&self, proxy: &FaultProxy, function: &str) -> Result<()> {
        let redirect = |variables: &mut HashMap<String, String>| {
            let services = SERVICES.map(|service| (format!("AWS_ENDPOINT_URL_{service}"), proxy.url()));
            variables.extend(services);
        };
        self.configure(function, redirect).await?;
        let update = self.clients.lambda.update_function_configuration().function_name(self.name(function)?);
        update.timeout(TIMEOUT).send().await?;
        Ok(())
    }

    /// Takes a function's queue away from it, so that nothing wakes it but the test.
    pub async fn unplug(&self, function: &str) -> Result<()> {
        let lambda = &self.clients.lambda;
        let found = lambda.list_event_source_mappings().function_name(self.name(function)?).send().await?;
        for mapping in found.event_source_mappings() {
            lambda.delete_event_source_mapping().set_uuid(mapping.uuid.clone()).send().await?;
        }
        Ok(())
    }

    /// What a function is called where it is deployed.
    pub fn name(&self, function: &str) -> Result<&str> {
        self.output(function, "Function")
    }

    /// An output of a function's own, such as `JitrQueueUrl`.
    pub fn output(&self, function: &str, what: &str) -> Result<&str> {
        let (first, rest) = function.split_at_checked(1).context("a function without a name")?;
        self.deployment.output(&format!("{}{rest}{what}", first.to_ascii_uppercase()))
    }

    /// What was told of an event.
    pub fn told(&self, event_id: &str) -> Vec<Notification> {
        let effects = self.observer.effects(event_id).into_iter();
        effects.filter_map(|timed| if let Effect::Notified(told) = timed.effect { Some(told) } else { None }).collect()
    }

    /// Waits until a function reports that an event is done, so many times, and for what it told to arrive.
    pub async fn done(&self, event_id: &str, times: usize) -> Result<()> {
        let done = |observer: &Observer| {
            let done = observer.invocation_counts(event_id).iter().filter(|record| record.done == 1).count();
            (done >= times).then_some(())
        };
        let found = self.observer.until(Instant::now() + LIMIT, done).await;
        found.with_context(|| format!("{event_id} is not done {times} times in {LIMIT:?}"))?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }
}

/// A click as the rule hands it over.
pub fn click(event_id: &str, thing: &str) -> Value {
    device_event(
        event_id,
        thing,
        &format!("iotbutton/{thing}"),
        json!({"serialNumber": thing, "batteryVoltage": "2000mV", "clickType": "SINGLE"}).to_string().as_bytes(),
    )
}

/// A ring as the rule hands it over.
pub fn ring(event_id: &str, thing: &str) -> Value {
    let payload = json!({"msg": "Somebody is at the door!"}).to_string();
    device_event(event_id, thing, &format!("doorbell/{thing}"), payload.as_bytes())
}

/// Any event as a rule hands it over.
pub fn device_event(event_id: &str, thing: &str, topic: &str, payload: &[u8]) -> Value {
    json!({
        "payloadBase64": BASE64_STANDARD.encode(payload),
        "thing": thing,
        "topic": topic,
        "clientId": thing,
        "principal": "0000000000000000000000000000000000000000000000000000000000000000",
        "traceId": event_id,
        "receivedAt": observer::now(),
    })
}
