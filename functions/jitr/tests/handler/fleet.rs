//! An account with one CA, and devices that present certificates to it.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::pki::Crl;
use gatehouse::{Concurrent, Devices, Idempotency, InitError, Timestamp, Topic};
use iot_registry::Registry;
use jitr::JitrHandler;
use rcgen::{CertificateParams, CertificateRevocationListParams, KeyPair, SerialNumber};
use serde_json::{Value, json};
use test_support::pki::{self, Ca, DAY, NOW, OpenSsl, date, device_params};
use test_support::{
    Call, Delivered, FakeAws, Index, Item, Process, State, Table, certificate_arn, label_by_kind_and_sort_key,
};

/// How long after an invocation its lease has expired.
pub const LATER: Duration = Duration::from_mins(10);

static DEVICES: Table = Table::new("devices", &["id", "part"], &["GetItem", "PutItem", "Query"])
    .index(Index { name: "runs-out", key: &["runsOutOn", "id"], projects_all: true })
    .label(label_by_kind_and_sort_key);

/// An RSA CA: its signatures are deterministic, and so are the certificates' ids.
pub static CA: LazyLock<Ca> = LazyLock::new(|| {
    let key = OpenSsl::new("handler").key("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    Ca::with_key("Test CA", KeyPair::from_pem(&key).unwrap())
});
/// A CA that signs the same content differently each time.
pub static ELLIPTIC: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
pub static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

/// An account with one CA.
pub struct Fleet {
    pub aws: FakeAws,
    pub ca: &'static Ca,
    pub ca_id: String,
    valid: Arc<Mutex<HashSet<String>>>,
}

/// A device that has presented its certificate.
pub struct Device {
    pub id: String,
    pub event: Value,
}

pub fn digest(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn event(certificate: &str, ca: &str) -> Value {
    json!({
        "payload": {
            "certificateId": certificate, "caCertificateId": ca, "timestamp": NOW, "awsAccountId": "123456789012",
            "certificateStatus": "PENDING_ACTIVATION", "certificateRegistrationTimestamp": null,
        },
        "thing": certificate, "topic": format!("$aws/events/certificates/registered/{ca}"),
        "traceId": format!("e-{}", certificate.get(..8).unwrap_or_default()), "receivedAt": NOW,
    })
}

pub fn account() -> FakeAws {
    FakeAws::new("jitr")
        .timeout(Duration::from_mins(1))
        .env("ACCOUNT_ID", "123456789012")
        .env("DEVICE_POLICY", "device")
        .env("DEVICES_TABLE", "devices")
        .env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:admissions")
        .table(DEVICES)
}

pub fn handler(process: &Process) -> Result<JitrHandler, InitError> {
    handler_with(process, Registry::new(process.iot()))
}

pub fn handler_with(process: &Process, registry: Registry) -> Result<JitrHandler, InitError> {
    let environment = process.environment();
    JitrHandler::from_environment(
        &environment,
        registry,
        Devices::from_environment(&environment, process.dynamodb())?,
        Idempotency::from_environment(&environment, process.dynamodb(), "jitr")?,
        Topic::from_environment(&environment, process.sns())?,
    )
}

fn concurrent(process: &Process) -> Concurrent<JitrHandler> {
    Concurrent::new(handler(process).unwrap(), NonZeroUsize::MIN)
}

/// Passes deliveries to `jitr` in a process.
pub trait Deliver {
    async fn deliver(&self, delivery: &Value, now: Timestamp) -> Delivered;
    async fn deliver_until_settled(self, event: &Value, now: Timestamp) -> Delivered;
}

impl Deliver for Process {
    async fn deliver(&self, delivery: &Value, now: Timestamp) -> Delivered {
        self.deliver_to(concurrent(self), delivery, now).await
    }

    async fn deliver_until_settled(self, event: &Value, now: Timestamp) -> Delivered {
        self.deliver_until_done(concurrent, event, now).await.0
    }
}

impl Fleet {
    pub fn new() -> Self {
        Self::of(&CA)
    }

    /// An account that checks each certificate when it becomes active: it must be valid, with its policy and its thing.
    pub fn of(ca: &'static Ca) -> Self {
        let (aws, ca_id) = (account(), digest(&ca.der));
        aws.state().iot.register_ca(&ca_id, &ca.pem);
        let valid: Arc<Mutex<HashSet<String>>> = Arc::default();
        let may_be_active = Arc::clone(&valid);
        aws.observe(move |state: &State, call: &Call| {
            if call.name != "UpdateCertificate ACTIVE" {
                return Ok(());
            }
            let (id, arn) = (&call.path[1], certificate_arn(&call.path[1]));
            let holds = [
                (may_be_active.lock().unwrap().contains(id), "it is not valid"),
                (state.iot.policies.contains(&("device".to_owned(), arn.clone())), "it has no policy"),
                (state.iot.attached.iter().any(|(_, attached)| *attached == arn), "it is attached to no thing"),
            ];
            let violation = holds.into_iter().find(|(holds, _)| !holds);
            violation.map_or(Ok(()), |(_, why)| Err(format!("certificate {id} was activated: {why}")))
        });
        Self { aws, ca, ca_id, valid }
    }

    /// A device presents this certificate, and AWS IoT registers it.
    pub fn present(&self, der: &[u8]) -> Device {
        let (id, pem) = (digest(der), pki::pem("CERTIFICATE", der));
        self.aws.state().iot.register(&id, "PENDING_ACTIVATION", &pem, Some(&self.ca_id));
        Device { event: event(&id, &self.ca_id), id }
    }

    /// A device whose certificate is valid except for these changes.
    pub fn device_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Device {
        let mut params = device_params(name);
        change(&mut params);
        self.present(&self.ca.issue(&params, &*KEY))
    }

    /// A device with a valid certificate.
    pub fn device(&self, name: &str, serial: u8) -> Device {
        let device = self.device_with(name, |params| params.serial_number = Some(SerialNumber::from_slice(&[serial])));
        self.set_valid(&device.id, true);
        device
    }

    /// Sets whether a certificate may be activated.
    pub fn set_valid(&self, id: &str, is_valid: bool) {
        let mut valid = self.valid.lock().unwrap();
        if is_valid {
            valid.insert(id.to_owned())
        } else {
            valid.remove(id)
        };
    }

    pub fn ca_key(&self) -> String {
        format!("ca#{}", self.ca_id)
    }

    pub fn publish(&self, crl: &[u8]) {
        publish(&mut self.aws.state(), &self.ca_key(), self.ca, crl);
    }

    pub async fn deliver(&self, device: &Device) -> Delivered {
        self.aws.process().deliver(&device.event, NOW).await
    }

    pub fn status(&self, device: &Device) -> String {
        self.aws.state().iot.status(&device.id).to_owned()
    }

    pub fn state_of(&self, device: &Device) -> Option<String> {
        record(&self.aws.state(), &device.id, "state")
    }

    pub fn reason_of(&self, device: &Device) -> Option<String> {
        record(&self.aws.state(), &device.id, "reason")
    }

    /// The certificate that holds this device's name.
    pub fn holder_of(&self, thing: &str) -> Option<String> {
        self.aws.state().attribute("devices", &[&format!("thing#{thing}"), "name"], "certificateId")
    }

    pub fn lasting(&self) -> Value {
        lasting(&self.aws.state())
    }
}

/// An attribute of a certificate's record, as text.
pub fn record(state: &State, certificate: &str, name: &str) -> Option<String> {
    state.attribute("devices", &[&format!("certificate#{certificate}"), "admission"], name)
}

/// Sets attributes of an item of the devices table.
pub fn set(state: &mut State, pk: &str, sk: &str, attributes: &Value) {
    state.set_attributes("devices", &[pk, sk], attributes);
}

/// Blocks a CA or a certificate as `revoke` does.
pub fn block(state: &mut State, pk: &str, sk: &str) {
    set(state, pk, sk, &json!({"blocked": {"BOOL": true}}));
    if sk == "admission" {
        let version = state.attribute("devices", &[pk, sk], "version").map_or(0, |version| version.parse().unwrap());
        set(state, pk, sk, &json!({"version": {"N": (version + 1_u64).to_string()}}));
    }
}

/// How many notifications have this reason.
pub fn notified(state: &State, reason: &str) -> usize {
    let has_reason = |attributes: &std::collections::BTreeMap<String, String>| {
        attributes.get("reason").map(String::as_str) == Some(reason)
    };
    state.published.iter().filter(|published| has_reason(&published.attributes)).count()
}

/// The lasting state, without what differs from run to run.
pub fn lasting(state: &State) -> Value {
    let transient = ["owner", "ownedUntil", "updatedAt", "claimedAt", "rejectedAt", "version", "writer"];
    let lasting = |item: &Item| -> Item {
        item.iter()
            .filter(|(name, _)| !transient.contains(&name.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    let devices: Vec<_> = state.items("devices").map(|(key, item)| json!([key, lasting(item)])).collect();
    let statuses: Vec<_> = state.iot.certificates.values().map(|certificate| &certificate.status).collect();
    json!({
        "certificates": statuses,
        "things": state.iot.things,
        "attached": state.iot.attached.iter().collect::<BTreeSet<_>>(),
        "policies": state.iot.policies,
        "devices": devices,
        "quarantined": state.quarantined().len(),
    })
}

/// Publishes a CRL as `gatehouse ca publish-crl` does, in chunks of 100 bytes.
pub fn publish(state: &mut State, ca: &str, by: &Ca, crl: &[u8]) {
    let number = Crl::parse(crl, &by.certificate()).map_or_else(|_| format!("{:040x}", 99), |crl| crl.number);
    for (n, chunk) in crl.chunks(100).enumerate() {
        let bytes = json!({"bytes": {"B": BASE64_STANDARD.encode(chunk)}});
        set(state, ca, &format!("crl#{number}#{n:04}"), &bytes);
    }
    let (chunks, bytes) = (crl.chunks(100).len().to_string(), crl.len().to_string());
    let published = json!({"crlNumber": {"S": number}, "crlChunks": {"N": chunks}, "crlBytes": {"N": bytes}});
    set(state, ca, "status", &published);
}

pub fn crl(serials: &[&[u8]], number: u8) -> Vec<u8> {
    crl_with(serials, number, |_| ())
}

fn crl_with(serials: &[&[u8]], number: u8, change: impl FnOnce(&mut CertificateRevocationListParams)) -> Vec<u8> {
    CA.crl_with(serials, |params| {
        params.crl_number = SerialNumber::from_slice(&[number]);
        change(params);
    })
}

pub fn expired_crl(number: u8) -> Vec<u8> {
    crl_with(&[], number, |params| {
        (params.this_update, params.next_update) = (date(NOW.minus(2 * DAY)), date(NOW.minus(DAY)));
    })
}
