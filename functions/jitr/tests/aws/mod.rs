//! As much of AWS as `jitr` uses: its tables, AWS IoT's registry, and an SNS topic. It looks at each certificate
//! that becomes active whether it may.

mod iot;
#[path = "../../../gatehouse/tests/wire/mod.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use gatehouse::{Devices, Idempotency, InitError, Concurrent, Timestamp, Topic};
use jitr::Jitr;
use jitr::registry::Registry;
use serde_json::{Value, json};
use wire::dynamodb::{Index, Item, Table, kind};
use wire::{Answer, Request};
pub use wire::{Delivered, Fault};

use crate::client;

/// How long the queue waits for an invocation.
const VISIBILITY: Duration = Duration::from_mins(6);

pub type Aws = wire::Aws<Account>;
pub type Process = wire::Process<Account>;
pub type State = wire::State<Account>;

/// What is in the account beside the tables.
#[derive(Default)]
pub struct Account {
    /// Certificates by id.
    pub certificates: BTreeMap<String, Certificate>,
    /// CAs' status and PEM by id.
    pub authorities: BTreeMap<String, (String, String)>,
    /// Things' attributes by name, with the thing's type under the empty name.
    pub things: BTreeMap<String, BTreeMap<String, String>>,
    /// Things and what is attached to them, in that order of attaching.
    pub attached: Vec<(String, String)>,
    /// Policies and what they are attached to.
    pub policies: BTreeSet<(String, String)>,
    /// What the topic's subscribers got.
    pub published: Vec<BTreeMap<String, String>>,
    /// The certificates that may be activated; none may where none are named.
    pub good: BTreeSet<String>,
    /// What should not have been, in words.
    pub wrong: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub status: String,
    pub pem: String,
    pub ca: Option<String>,
}

impl wire::Account for Account {
    const TIME_OUT: Duration = Duration::from_mins(1);
    const ENVIRONMENT: &'static [(&'static str, &'static str)] = &[
        ("ACCOUNT_ID", "123456789012"),
        ("DEVICE_POLICY", "device"),
        ("DEVICES_TABLE", "devices"),
        ("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:admissions"),
    ];
    const TABLES: &'static [Table] = &[Table {
        name: "devices",
        key: &["id", "part"],
        operations: &["GetItem", "PutItem", "UpdateItem", "Query"],
        index: Some(Index { name: "runs-out", key: &["runsOutOn", "id"], is_whole: true }),
        called: |key| format!("{}/{}", kind(&key[0]), key[1]),
    }];

    fn name(request: &HttpRequest) -> String {
        iot::Invocation::read(request).name()
    }

    fn answer(&mut self, request: &Request<'_>) -> Answer {
        match request {
            Request::Publish(form) => {
                self.published.push(form.clone());
                Answer::published()
            }
            Request::Other(request) => {
                let before = self.activated();
                let answer = self.iot(&iot::Invocation::read(request));
                for id in self.activated().difference(&before) {
                    self.look_at_activated(id);
                }
                answer
            }
            other => panic!("{other:?} is not known here"),
        }
    }
}

impl Process {
    pub fn jitr(&self) -> Result<Jitr, InitError> {
        let (environment, dynamodb) = (self.environment(), client!(aws_sdk_dynamodb, self));
        Jitr::from(
            &environment,
            Registry::from(&environment, client!(aws_sdk_iot, self))?,
            Devices::from(&environment, dynamodb.clone())?,
            Idempotency::from(&environment, dynamodb, "jitr")?,
            Topic::from(&environment, client!(aws_sdk_sns, self))?,
        )
    }

    /// Hands something to the process, by this clock.
    pub async fn deliver(&self, delivery: &Value, now: Timestamp) -> Delivered {
        let handler = Concurrent::new(self.jitr().unwrap(), NonZeroUsize::MIN);
        let delivered = self.deliver_to(handler, delivery, now).await;
        assert_eq!(self.aws.state().wrong, [""; 0]);
        delivered
    }

    /// Hands an event to this process, and as long as it comes back, to others, as the queue does: the last answer. For
    /// tests whose clock is paused.
    pub async fn deliver_until_done(self, event: &Value, now: Timestamp) -> Delivered {
        let (mut process, mut now) = (self, now);
        for _ in 0..5 {
            let delivered = process.deliver(event, now).await;
            if !delivered.is_handed_back() {
                return delivered;
            }
            now = now.plus(VISIBILITY);
            tokio::time::sleep(VISIBILITY).await;
            process = process.another();
        }
        panic!("the event came back five times");
    }
}

impl Account {
    fn activated(&self) -> BTreeSet<String> {
        self.certificates.iter().filter(|(_, found)| found.status == "ACTIVE").map(|(id, _)| id.clone()).collect()
    }

    /// What must hold at the moment in which a certificate is activated.
    fn look_at_activated(&mut self, id: &str) {
        let arn = iot::certificate_arn(id);
        let holds = [
            (self.good.contains(id), "its checks do not hold"),
            (self.policies.contains(&("device".to_owned(), arn.clone())), "it has no policy"),
            (self.attached.iter().any(|(_, attached)| *attached == arn), "it is attached to no thing"),
        ];
        for (_, wrong) in holds.into_iter().filter(|(holds, _)| !holds) {
            self.wrong.push(format!("certificate {id} was activated: {wrong}"));
        }
    }

    pub fn status(&self, id: &str) -> &str {
        &self.certificates[id].status
    }

    pub fn set_status(&mut self, id: &str, status: &str) {
        status.clone_into(&mut self.certificates.get_mut(id).unwrap().status);
    }
}

impl State {
    /// An attribute of an item of the devices table, as text.
    pub fn noted(&self, id: &str, part: &str, name: &str) -> Option<String> {
        let item = self.tables.get(&("devices".to_owned(), vec![id.to_owned(), part.to_owned()]))?;
        let value = item.get(name)?.as_object()?.values().next()?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// An attribute of the record of a certificate.
    pub fn record(&self, certificate: &str, name: &str) -> Option<String> {
        self.noted(&format!("certificate#{certificate}"), "admission", name)
    }

    /// Writes attributes into an item of the devices table.
    pub fn note(&mut self, id: &str, part: &str, attributes: &Value) {
        let key = ("devices".to_owned(), vec![id.to_owned(), part.to_owned()]);
        let item = self.tables.entry(key).or_insert_with(|| {
            [("id", id), ("part", part)]
                .map(|(name, value)| (name.to_owned(), json!({"S": value})))
                .into_iter()
                .collect()
        });
        item.extend(attributes.as_object().unwrap().clone());
    }

    /// All that lasts, without what is different from one run to the next.
    pub fn lasting(&self) -> Value {
        let fleeting = ["owner", "ownedUntil", "updatedAt", "claimedAt"];
        let lasting = |item: &Item| -> Item {
            item.iter()
                .filter(|(name, _)| !fleeting.contains(&name.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        let devices: Vec<_> = self.tables.iter().filter(|((table, _), _)| table == "devices").collect();
        let quarantined = self.tables.keys().filter(|(table, _)| table == "quarantine").count();
        let statuses: Vec<_> = self.certificates.values().map(|certificate| &certificate.status).collect();
        json!({
            "certificates": statuses,
            "things": self.things,
            "attached": self.attached.iter().collect::<BTreeSet<_>>(),
            "policies": self.policies,
            "devices": devices.into_iter().map(|(key, item)| json!([key.1, lasting(item)])).collect::<Vec<_>>(),
            "quarantined": quarantined,
        })
    }
}
