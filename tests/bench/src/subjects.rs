//! What is measured. A new function is one more row of [`FUNCTIONS`].

use std::{
    cell::Cell,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{
    aws::{ACCOUNT, Call, FakeAws, REGION},
    dynamodb::{ALARMS_TABLE, DEVICES_TABLE, TELEMETRY_TABLE},
    greenhouse::{Batch, DESTINATION, Size, thresholds},
    iot::{Device, NOBODY, Registry},
    sandbox::which,
    sqs,
};

/// A function that ships, and what one event of its does.
#[derive(Debug)]
pub struct Function {
    /// Its crate's and its zip's name.
    pub name: &'static str,
    /// Variables that not every function has.
    environment: &'static [(&'static str, &'static str)],
    /// Makes an event, no two alike.
    event: fn(&Turn) -> Result<Made>,
    /// Whether each event is about a device of its own, which knocks.
    wants_devices: bool,
    /// In what else it is written.
    peers: &'static [Peer],
    /// The batches in which it is compared with them; where there are none, it is compared by single events.
    pub batches: &'static [Size],
    /// What must be known to compare it with them.
    note: Option<&'static str>,
}

/// An event, and what it must come to.
type Made = (Value, Expected);

/// What an event must come to.
#[derive(Debug)]
enum Expected {
    /// These calls, in order.
    Calls(Vec<Effect>),
    /// Every reading of the batch is kept, once.
    Stored(Batch),
    /// Every thing of the batch is held against its threshold, and its state written once.
    Judged(Batch),
    /// Every message of the batch is sent to the destination, once.
    Forwarded(Batch),
}

/// What an event is made from.
struct Turn<'a> {
    /// Which of the subject's events it is.
    n: usize,
    /// How big it is, for a function that takes batches.
    size: Size,
    /// In milliseconds since 1970.
    received_at: u64,
    /// Who gets it.
    peer: Peer,
    /// Whether it is the process's first.
    is_first: bool,
    /// Whose devices knock.
    registry: &'a Registry,
}

/// Every function, in the order of the tables.
pub const FUNCTIONS: &[Function] = &[BUTTON, DOORBELL, JITR, TELEMETRY, ALARM, FORWARD, PRESENCE, SHADOW];

const BUTTON: Function = Function {
    name: "button",
    environment: &[],
    event: |turn| {
        let payload = json!({
            "serialNumber": "G030JF055364XVRB", "batteryVoltage": "2000mV", "clickType": "SINGLE",
        });
        let effects = vec![
            Effect::new("PutItem", IDEMPOTENCY_TABLE, [turn.trace_id()]),
            Effect::new(
                "Publish",
                &topic_arn("button"),
                [
                    "Received SINGLE message from button ID: G030JF055364XVRB".to_owned(),
                    "=clickType\n".to_owned(),
                    "=batteryVoltage\n".to_owned(),
                    "=2000\n".to_owned(),
                ],
            ),
            Effect::new("UpdateItem", IDEMPOTENCY_TABLE, [turn.trace_id(), "COMPLETED".to_owned()]),
        ];
        Ok((turn.device_event("iotbutton", "G030JF055364XVRB", &payload), Expected::Calls(effects)))
    },
    wants_devices: false,
    peers: &[Peer::Python, Peer::Node],
    batches: &[],
    note: None,
};

const DOORBELL: Function = Function {
    name: "doorbell",
    environment: &[],
    event: |turn| {
        let payload = json!({ "msg": "Somebody is at the door!", "ts": "1468958915.41" });
        let thing = format!("door-{}", turn.n);
        let event = turn.device_event("doorbell", &thing, &payload);
        let effects = vec![
            Effect::new("GetItem", IDEMPOTENCY_TABLE, [thing.clone()]),
            Effect::new("PutItem", IDEMPOTENCY_TABLE, [thing.clone()]),
            Effect::new(
                "Publish",
                &topic_arn("doorbell"),
                ["Message=Somebody is at the door!\n".to_owned(), "=Transactional\n".to_owned()],
            ),
            Effect::new("PutItem", IDEMPOTENCY_TABLE, [thing]),
        ];
        Ok((event, Expected::Calls(effects)))
    },
    wants_devices: false,
    peers: &[],
    batches: &[],
    note: None,
};

const JITR: Function = Function {
    name: "jitr",
    environment: &[("DEVICES_TABLE", DEVICES_TABLE), ("ACCOUNT_ID", ACCOUNT), ("DEVICE_POLICY", DEVICE_POLICY)],
    event: |turn| {
        let device = turn.registry.next()?;
        let effects = match turn.peer {
            Peer::Node => let_in_unseen(&device),
            _ => admitted(&device, turn.is_first),
        };
        Ok((turn.registered_event(&device), Expected::Calls(effects)))
    },
    wants_devices: true,
    peers: &[Peer::Node],
    batches: &[],
    note: Some(
        "jitr's node peer is the sample that is usually copied, and not the same: it makes\n\
         3 calls and checks nothing. jitr makes 21, one more in a process's first event,\n\
         and verifies the certificate.",
    ),
};

const TELEMETRY: Function = Function {
    name: "telemetry",
    environment: &[
        ("TELEMETRY_TABLE", TELEMETRY_TABLE),
        ("RETENTION_DAYS", "365"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ],
    event: |turn| Ok((turn.batch().delivery("telemetry"), Expected::Stored(turn.batch()))),
    wants_devices: false,
    peers: &[Peer::Python, Peer::Node],
    batches: &[
        Size::ONE,
        Size::of(10),
        Size::of(100),
        Size::of(1000),
        Size { messages: 1000, each: 10 },
        Size::of(10_000),
    ],
    note: None,
};

const ALARM: Function = Function {
    name: "alarm",
    environment: &[("ALARMS_TABLE", ALARMS_TABLE)],
    event: |turn| Ok((turn.batch().delivery("alarm"), Expected::Judged(turn.batch()))),
    wants_devices: false,
    peers: &[Peer::Python, Peer::Node],
    batches: &[Size::of(1000)],
    note: None,
};

const FORWARD: Function = Function {
    name: "forward",
    environment: &[("DEVICES_TABLE", DEVICES_TABLE), ("DESTINATION_TOPICS", "telemetry/+")],
    event: |turn| Ok((turn.batch().delivery("forward"), Expected::Forwarded(turn.batch()))),
    wants_devices: false,
    peers: &[Peer::Python, Peer::Node],
    // As many as one call sends, and as many as the template hands over at once.
    batches: &[Size::of(10), Size::of(100)],
    note: None,
};

const PRESENCE: Function = Function {
    name: "presence",
    environment: &[("DEVICES_TABLE", DEVICES_TABLE)],
    event: |turn| {
        let thing = format!("device-{}", turn.n);
        let payload = json!({
            "clientId": thing,
            "timestamp": turn.received_at,
            "eventType": "disconnected",
            "clientInitiatedDisconnect": false,
            "disconnectReason": "CONNECTION_LOST",
            "sessionIdentifier": "a4666d2a-7d84-4ae5-8037-e3aa4b3dd7d5",
            "principalIdentifier": "5f29a6cf2bb0c4cf7a39c4f0a2b9d9d9cb2d9cc5c0a8be0f21a3f4d4e1b1a0c7",
            "versionNumber": 7,
        });
        let topic = format!("$aws/events/presence/disconnected/{thing}");
        let record = format!("\"thing#{thing}\"");
        let check = format!("\\\"thing\\\":\\\"{thing}\\\"");
        let effects = vec![
            Effect::new("GetItem", DEVICES_TABLE, [record.clone()]),
            Effect::new("PutItem", DEVICES_TABLE, [record, "CONNECTION_LOST".to_owned()]),
            Effect::new("SendMessage", &queue("presence"), [check, "\"DelaySeconds\":300".to_owned()]),
        ];
        Ok((turn.message_of_aws("presence", &thing, &topic, &payload), Expected::Calls(effects)))
    },
    wants_devices: false,
    peers: &[],
    batches: &[],
    note: None,
};

const SHADOW: Function = Function {
    name: "shadow",
    environment: &[("DEVICES_TABLE", DEVICES_TABLE)],
    event: |turn| {
        let thing = format!("lamp-{}", turn.n);
        let document = |version: usize, power: &str| {
            let at = json!({ "timestamp": turn.received_at / 1000 });
            json!({
                "state": {
                    "desired": { "power": "on", "brightness": 80 },
                    "reported": { "power": power, "brightness": 80, "firmware": "2.4.1" },
                },
                "metadata": {
                    "desired": { "power": at, "brightness": at },
                    "reported": { "power": at, "brightness": at, "firmware": at },
                },
                "version": version,
            })
        };
        let payload = json!({
            "previous": document(turn.n + 1, "off"),
            "current": document(turn.n + 2, "on"),
            "timestamp": turn.received_at / 1000,
        });
        let topic = format!("$aws/things/{thing}/shadow/update/documents");
        let record = format!("\"thing#{thing}\"");
        let reported = "{\\\"brightness\\\":80,\\\"firmware\\\":\\\"2.4.1\\\",\\\"power\\\":\\\"on\\\"}";
        let effects = vec![
            Effect::new("GetItem", DEVICES_TABLE, [record.clone(), "\"shadow#\"".to_owned()]),
            Effect::new("PutItem", DEVICES_TABLE, [record, "\"shadow#\"".to_owned(), reported.to_owned()]),
        ];
        Ok((turn.message_of_aws("shadow", &thing, &topic, &payload), Expected::Calls(effects)))
    },
    wants_devices: false,
    peers: &[],
    batches: &[],
    note: None,
};

/// What `jitr` does for a device that nothing speaks against.
fn admitted(device: &Device, is_first: bool) -> Vec<Effect> {
    let Device { thing, certificate, serial, ca } = device;
    let table = |operation, key: String, mentions: &[&str]| {
        Effect::new(operation, DEVICES_TABLE, [key].into_iter().chain(mentions.iter().map(|it| (*it).to_owned())))
    };
    let iot = |operation, target: &str, mentions: &[&str]| {
        Effect::new(operation, target, mentions.iter().map(|it| (*it).to_owned()))
    };
    let record = |operation, mentions: &[&str]| table(operation, format!("\"certificate#{certificate}\""), mentions);
    let status = || iot("DescribeCertificate", certificate, &[]);
    let authority = || {
        let standing = table("GetItem", format!("\"ca#{ca}\""), &["\"status\""]);
        [iot("DescribeCACertificate", ca, &[]), standing]
    };

    let mut effects = vec![record("GetItem", &[]), status(), record("UpdateItem", &["\"admitting\""])];
    effects.extend(authority());
    if is_first {
        effects.push(table("PutItem", format!("\"ca#{ca}\""), &["notAfter"]));
    }
    effects.extend([
        // Under the digest of what the CA signed, by which another certificate of the same would be known.
        table("PutItem", "\"signed\"".to_owned(), &[certificate]),
        table("PutItem", format!("\"thing#{thing}\""), &[certificate]),
        iot("ListThingPrincipals", thing, &[]),
        iot("CreateThing", thing, &[serial, ca, certificate]),
        iot("AttachThingPrincipal", thing, &[&device.arn()]),
        iot("AttachPolicy", DEVICE_POLICY, &[&device.arn()]),
    ]);
    // It looks at everything again just before the activation, and just after.
    let again = || authority().into_iter().chain([record("GetItem", &[]), status()]);
    effects.extend(again());
    effects.push(iot("UpdateCertificate", certificate, &["newStatus=ACTIVE"]));
    effects.extend(again());
    effects.push(record("UpdateItem", &["\"admitted\"", thing, serial]));
    effects
}

/// What the usual sample does for any device.
fn let_in_unseen(device: &Device) -> Vec<Effect> {
    let policy = format!("Policy_{}", device.certificate);
    vec![
        Effect::new("CreatePolicy", &policy, ["iot:*".to_owned()]),
        Effect::new("AttachPolicy", &policy, [device.arn()]),
        Effect::new("UpdateCertificate", &device.certificate, ["newStatus=ACTIVE".to_owned()]),
    ]
}

const PREFIX: &str = "gatehouse";
const QUARANTINE_TABLE: &str = "gatehouse-quarantine";
const IDEMPOTENCY_TABLE: &str = "gatehouse-idempotency";
const DEVICE_POLICY: &str = "gatehouse-device";

/// The name of the queue that wakes a function.
fn queue(function: &str) -> String {
    format!("{PREFIX}-{function}")
}

fn topic_arn(function: &str) -> String {
    format!("arn:aws:sns:{REGION}:{ACCOUNT}:{PREFIX}-{function}")
}

impl Turn<'_> {
    fn batch(&self) -> Batch {
        Batch::new(self.size, self.n, self.received_at, self.peer.name())
    }

    fn trace_id(&self) -> String {
        format!("6f1c1d0c-7c5b-4c1e-9a3e-{:012x}", self.n)
    }

    /// What the rules make of a published message.
    fn device_event(&self, topic: &str, thing: &str, payload: &Value) -> Value {
        json!({
            "payloadBase64": STANDARD.encode(payload.to_string()),
            "thing": thing,
            "topic": format!("{topic}/{thing}"),
            "clientId": thing,
            "principal": "5f29a6cf2bb0c4cf7a39c4f0a2b9d9d9cb2d9cc5c0a8be0f21a3f4d4e1b1a0c7",
            "traceId": self.trace_id(),
            "receivedAt": self.received_at,
        })
    }

    /// What a rule makes of a message that AWS IoT itself published.
    fn aws_event(&self, thing: &str, topic: &str, payload: &Value) -> Value {
        json!({
            "payload": payload,
            "thing": thing,
            "topic": topic,
            "traceId": self.trace_id(),
            "receivedAt": self.received_at,
        })
    }

    /// The same, as it comes out of the function's queue.
    fn message_of_aws(&self, function: &str, thing: &str, topic: &str, payload: &Value) -> Value {
        let body = self.aws_event(thing, topic, payload);
        let id = self.trace_id().replacen("-7c5b-", "-b21e-", 1);
        sqs::delivery(&[sqs::record(function, &id, self.received_at + 20, &body)])
    }

    /// AWS IoT's message about a new certificate.
    fn registered_event(&self, device: &Device) -> Value {
        let payload = json!({
            "certificateId": device.certificate,
            "caCertificateId": device.ca,
            "timestamp": self.received_at,
            "certificateStatus": "PENDING_ACTIVATION",
            "awsAccountId": ACCOUNT,
            "certificateRegistrationTimestamp": self.received_at.to_string(),
        });
        let topic = format!("$aws/events/certificates/registered/{}", device.ca);
        self.aws_event(&device.certificate, &topic, &payload)
    }
}

/// A call that must come, and what its body must mention.
#[derive(Debug)]
pub struct Effect {
    operation: &'static str,
    target: String,
    mentions: Vec<String>,
}

impl Effect {
    fn new(operation: &'static str, target: &str, mentions: impl IntoIterator<Item = String>) -> Self {
        Self { operation, target: target.to_owned(), mentions: mentions.into_iter().collect() }
    }
}

/// One event of a benchmark and what must come of it.
#[derive(Debug)]
pub struct BenchEvent {
    /// The Lambda request id.
    pub request_id: String,
    /// The function's input.
    pub body: String,
    /// Whether it is what SQS hands over.
    is_delivery: bool,
    expected: Expected,
}

impl BenchEvent {
    /// Whether `answer` and `calls` are what the event must come to. What a function does to warm its connections may
    /// still be under way and does not count.
    pub fn check(&self, answer: &str, calls: &[Call]) -> Result<()> {
        let is_warming = |call: &&Call| {
            matches!(
                (call.operation.as_str(), call.target.as_str()),
                ("GetTopicAttributes" | "GetQueueAttributes", _)
                    | ("GetItem", QUARANTINE_TABLE)
                    | ("DescribeCertificate", NOBODY)
            )
        };
        let calls: Vec<&Call> = calls.iter().filter(|call| !is_warming(call)).collect();
        if self.is_delivery {
            let answer: Value = serde_json::from_str(answer)?;
            ensure!(answer == json!({ "batchItemFailures": [] }), "answered {answer}");
        }
        match &self.expected {
            Expected::Calls(effects) => in_order(effects, &calls),
            Expected::Stored(batch) => batch.is_kept(&calls),
            Expected::Judged(batch) => batch.is_judged(&calls),
            Expected::Forwarded(batch) => batch.is_forwarded(&calls),
        }
    }
}

/// Whether `calls` are these effects, all of them and no others.
fn in_order(effects: &[Effect], calls: &[&Call]) -> Result<()> {
    let as_expected = calls.len() == effects.len()
        && calls.iter().zip(effects).all(|(call, effect)| {
            call.operation == effect.operation
                && call.target == effect.target
                && effect.mentions.iter().all(|text| call.body.contains(text))
        });
    if as_expected {
        return Ok(());
    }
    let expected: Vec<String> = effects
        .iter()
        .map(|effect| format!("  {} {} {:?}\n", effect.operation, effect.target, effect.mentions))
        .collect();
    let came: Vec<String> = calls
        .iter()
        .map(|call| format!("  {} {} {}\n", call.operation, call.target, call.body.escape_debug()))
        .collect();
    bail!("\nExpected:\n{}Came:\n{}", expected.concat(), came.concat())
}

/// In what a subject is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A function of ours.
    Rust,
    /// The floor.
    Empty,
    /// The AWS SDK for JavaScript.
    Node,
    /// boto3.
    Python,
}

impl Peer {
    /// As in `bench.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Empty => "empty",
            Self::Node => "node",
            Self::Python => "python",
        }
    }
}

/// Something to measure.
#[derive(Debug)]
pub struct Subject {
    /// `None` is the empty function.
    function: Option<&'static Function>,
    /// In what it is written.
    pub peer: Peer,
    /// What is executed.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// `/var/task`
    pub task_root: PathBuf,
    /// The size of what is deployed.
    pub zip_bytes: u64,
    environment: Vec<(&'static str, String)>,
    events: Cell<usize>,
    newest: Cell<u64>,
}

impl Subject {
    /// For people.
    pub fn name(&self) -> String {
        format!("{} ({})", self.function_name(), self.peer.name())
    }

    /// The function's name, `empty` for the empty one.
    pub fn function_name(&self) -> &'static str {
        self.function.map_or("empty", |function| function.name)
    }

    /// The function's ARN.
    pub fn arn(&self) -> String {
        format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{PREFIX}-{}", self.function_name())
    }

    /// Whether each of its events is about a device of its own.
    pub fn wants_devices(&self) -> bool {
        self.function.is_some_and(|function| function.wants_devices)
    }

    /// The batches in which it is compared with its peers.
    pub fn batches(&self) -> &'static [Size] {
        self.function.map(|function| function.batches).unwrap_or_default()
    }

    /// Whether it is measured by single events: a peer may be there for the batches alone.
    pub fn takes_single_events(&self) -> bool {
        self.batches().is_empty() || self.peer == Peer::Rust
    }

    /// An event that it has not seen. It may do more in a process's first.
    pub fn next_event(&self, size: Size, registry: &Registry, is_first: bool) -> Result<BenchEvent> {
        let n = self.events.replace(self.events.get() + 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // No event's readings are older than those of the one before.
        let received_at = u64::try_from(now.as_millis())?.max(self.newest.get());
        self.newest.set(received_at + u64::try_from(size.messages)?);
        let turn = Turn { n, size, received_at, peer: self.peer, is_first, registry };
        let (event, expected) = (self.function.unwrap_or(&BUTTON).event)(&turn)?;
        Ok(BenchEvent {
            request_id: format!("8476a536-e9f4-11e8-9739-{n:012x}"),
            is_delivery: self.function.is_some() && event.get("Records").is_some(),
            body: event.to_string(),
            expected: if self.function.is_some() { expected } else { Expected::Calls(Vec::new()) },
        })
    }
}

/// What every subject finds around it.
#[derive(Debug)]
pub struct World {
    /// The fake AWS.
    pub aws: FakeAws,
    /// A directory for as long as the bench runs.
    pub dir: TempDir,
}

impl World {
    /// A fake AWS, in which the thresholds have been put, and an empty directory.
    pub async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("gatehouse-bench-").tempdir()?;
        let aws = FakeAws::start(dir.path()).await?;
        aws.tables.put_alarm_item(&thresholds())?;
        Ok(Self { aws, dir })
    }

    /// The whole environment, nothing inherited.
    pub fn environment(&self, subject: &Subject) -> Vec<(&'static str, String)> {
        let function = subject.function_name();
        let mut environment = vec![
            ("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            ("AWS_SESSION_TOKEN", "AQoDYXdzEJr".repeat(60)),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.aws.dynamodb.clone()),
            ("AWS_ENDPOINT_URL_SNS", self.aws.sns.clone()),
            ("AWS_ENDPOINT_URL_SQS", self.aws.sqs.clone()),
            ("AWS_ENDPOINT_URL_IOT", self.aws.iot.clone()),
            ("AWS_LAMBDA_FUNCTION_NAME", format!("{PREFIX}-{function}")),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{PREFIX}-{function}")),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/21/[$LATEST]bench".to_owned()),
            ("LAMBDA_TASK_ROOT", subject.task_root.display().to_string()),
            ("LANG", "en_US.UTF-8".to_owned()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("TZ", ":UTC".to_owned()),
            ("QUARANTINE_TABLE", QUARANTINE_TABLE.to_owned()),
            ("IDEMPOTENCY_TABLE", IDEMPOTENCY_TABLE.to_owned()),
            ("TOPIC_ARN", topic_arn(function)),
            ("QUEUE_URL", format!("{}/{ACCOUNT}/{}", self.aws.sqs, queue(function))),
            ("DESTINATION_QUEUE_URL", format!("{}/222222222222/{DESTINATION}", self.aws.sqs)),
        ];
        let trust = match subject.peer {
            Peer::Rust | Peer::Empty => "SSL_CERT_FILE",
            Peer::Node => "NODE_EXTRA_CA_CERTS",
            Peer::Python => "AWS_CA_BUNDLE",
        };
        environment.push((trust, self.aws.ca.display().to_string()));
        let own = subject.function.map(|function| function.environment).unwrap_or_default();
        environment.extend(own.iter().map(|(name, value)| (*name, (*value).to_owned())));
        environment.extend(subject.environment.iter().cloned());
        environment
    }

    /// The subjects there are, and what must be known of them: which are missing, which are not quite alike.
    pub fn subjects(
        &self,
        root: &Path,
        zips: &Path,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Subject>, Vec<String>)> {
        let mut subjects = vec![self.native(None, &root.join("target/peers/lambda/empty"))?];
        let mut notes = Vec::new();
        for function in FUNCTIONS.iter().filter(|function| wanted(function.name)) {
            subjects.push(self.native(Some(function), &zips.join(function.name))?);
            for peer in function.peers {
                let subject = match peer {
                    Peer::Python => self.python(root, function)?,
                    Peer::Node => self.node(root, function)?,
                    Peer::Rust | Peer::Empty => continue,
                };
                match subject {
                    Ok(subject) => subjects.push(subject),
                    Err(why) => notes.push(why),
                }
            }
            notes.extend(function.note.map(str::to_owned));
        }
        Ok((subjects, notes))
    }

    fn task_root(&self, function: &str, peer: Peer) -> Result<PathBuf> {
        let dir = self.dir.path().join(format!("{function}-{}", peer.name()));
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// A function as it is deployed: its `bootstrap`, out of the zip.
    fn native(&self, function: Option<&'static Function>, dir: &Path) -> Result<Subject> {
        let peer = if function.is_some() { Peer::Rust } else { Peer::Empty };
        let zip = dir.join("bootstrap.zip");
        let file =
            fs::File::open(&zip).with_context(|| format!("cannot read {} (`make bench` builds it)", zip.display()))?;
        let zip_bytes = file.metadata()?.len();
        let task_root = self.task_root(function.map_or("empty", |it| it.name), peer)?;
        ZipArchive::new(file)
            .and_then(|mut archive| archive.extract(&task_root))
            .with_context(|| format!("cannot unpack {}", zip.display()))?;
        Ok(Subject {
            function,
            peer,
            program: task_root.join("bootstrap"),
            arguments: Vec::new(),
            task_root,
            zip_bytes,
            environment: Vec::new(),
            events: Cell::default(),
            newest: Cell::default(),
        })
    }

    /// `tests/bench/peers/python`, run by AWS's own runtime client. boto3 is in Lambda's image, so that the zip is the
    /// handler alone.
    fn python(&self, root: &Path, function: &'static Function) -> Result<Result<Subject, String>> {
        let program = root.join(".tools/peers/bin/python");
        if !program.is_file() {
            return Ok(Err(format!("{} (python): skipped, `.tools/peers` is not installed", function.name)));
        }
        let task_root = self.task_root(function.name, Peer::Python)?;
        let handler = format!("{}.py", function.name);
        fs::copy(root.join("tests/bench/peers/python").join(&handler), task_root.join(&handler))?;
        Ok(Ok(Subject {
            function: Some(function),
            peer: Peer::Python,
            program,
            arguments: ["-m", "awslambdaric", &format!("{}.handler", function.name)].map(OsString::from).into(),
            zip_bytes: zipped_size(&task_root)?,
            environment: vec![("_HANDLER", format!("{}.handler", function.name))],
            task_root,
            events: Cell::default(),
            newest: Cell::default(),
        }))
    }

    /// `tests/bench/peers/node/<function>`, run by a loop of its own that is lighter than Lambda's.
    fn node(&self, root: &Path, function: &'static Function) -> Result<Result<Subject, String>> {
        let skipped = |why: &str| Ok(Err(format!("{} (node): skipped, {why}", function.name)));
        let Some(program) = which("node") else {
            return skipped("there is no `node` on the path");
        };
        let modules = root.join(".tools/peers-node").join(function.name).join("node_modules");
        if !modules.is_dir() {
            return skipped(&format!("`.tools/peers-node/{}` is not installed", function.name));
        }
        let sources = root.join("tests/bench/peers/node");
        let task_root = self.task_root(function.name, Peer::Node)?;
        let handler = format!("{}.mjs", function.name);
        fs::copy(sources.join(function.name).join(&handler), task_root.join(&handler))?;
        std::os::unix::fs::symlink(&modules, task_root.join("node_modules"))?;
        Ok(Ok(Subject {
            function: Some(function),
            peer: Peer::Node,
            program,
            // The heap as Lambda sets it at 128 MB.
            arguments: vec![
                "--max-old-space-size=115".into(),
                "--max-semi-space-size=6".into(),
                sources.join("runtime.mjs").into(),
            ],
            zip_bytes: zipped_size(&task_root)?,
            environment: vec![("_HANDLER", format!("{}.handler", function.name))],
            task_root,
            events: Cell::default(),
            newest: Cell::default(),
        }))
    }
}

/// The size of `dir`'s zip, its symbolic links followed, as a deployment tool would make it.
fn zipped_size(dir: &Path) -> Result<u64> {
    let mut zip = ZipWriter::new(tempfile::tempfile()?);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                zip.start_file_from_path(path.strip_prefix(dir)?, options)?;
                io::copy(&mut fs::File::open(&path)?, &mut zip)?;
            }
        }
    }
    let size = zip.finish()?.metadata()?.len();
    ensure!(size > 0, "the zip of {} is empty", dir.display());
    Ok(size)
}
