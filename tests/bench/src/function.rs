//! The functions that are measured. A new function is one more row of [`FUNCTIONS`].

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    actuation,
    aws::ACCOUNT,
    batch::Size,
    dynamodb::{ACTUATOR_TABLE, ALARMS_TABLE, DEVICES_TABLE, TELEMETRY_TABLE},
    event::{DEVICE_POLICY, IDEMPOTENCY_TABLE, Turn, queue, topic_arn},
    expected::{Expected, ExpectedCall},
    iot::Device,
    revocation,
    subject::Peer,
};

/// A function, its events, and their expected effects.
#[derive(Debug)]
pub struct Function {
    /// The name of its crate and zip.
    pub name: &'static str,
    /// Environment variables that not every function has.
    pub environment: &'static [(&'static str, &'static str)],
    /// Builds a unique event and its expected effect.
    pub event: fn(&Turn) -> Result<(Value, Expected)>,
    /// Whether each event needs a new device.
    pub needs_devices: bool,
    /// The subjects that it is compared with: implementations in other languages, or another build of it.
    pub peers: &'static [Peer],
    /// The batch sizes to compare; single events are compared if there are none.
    pub batches: &'static [Size],
    /// A note on the comparison.
    pub note: Option<&'static str>,
}

/// Every function, in the order of the report.
pub const FUNCTIONS: &[Function] =
    &[BUTTON, DOORBELL, JITR, REVOKE, TELEMETRY, ALARM, ACTUATOR, FORWARD, PRESENCE, SHADOW];

/// `button`. The empty function receives the same events.
pub const BUTTON: Function = Function {
    name: "button",
    environment: &[],
    event: |turn| {
        let payload = json!({
            "serialNumber": "G030JF055364XVRB", "batteryVoltage": "2000mV", "clickType": "SINGLE",
        });
        let calls = vec![
            ExpectedCall::new("PutItem", IDEMPOTENCY_TABLE, [turn.trace_id()]),
            ExpectedCall::new(
                "Publish",
                &topic_arn("button"),
                [
                    "Received SINGLE message from button ID: G030JF055364XVRB".to_owned(),
                    "=clickType\n".to_owned(),
                    "=batteryVoltage\n".to_owned(),
                    "=2000\n".to_owned(),
                ],
            ),
            ExpectedCall::new("UpdateItem", IDEMPOTENCY_TABLE, [turn.trace_id(), "COMPLETED".to_owned()]),
        ];
        Ok((turn.device_event("iotbutton", "G030JF055364XVRB", &payload), Expected::Calls(calls)))
    },
    needs_devices: false,
    peers: &[Peer::AwsLc, Peer::Python, Peer::Node],
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
        let calls = vec![
            ExpectedCall::new("GetItem", IDEMPOTENCY_TABLE, [thing.clone()]),
            ExpectedCall::new("PutItem", IDEMPOTENCY_TABLE, [thing.clone()]),
            ExpectedCall::new(
                "Publish",
                &topic_arn("doorbell"),
                ["Message=Somebody is at the door!\n".to_owned(), "=Transactional\n".to_owned()],
            ),
            ExpectedCall::new("PutItem", IDEMPOTENCY_TABLE, [thing]),
        ];
        Ok((event, Expected::Calls(calls)))
    },
    needs_devices: false,
    peers: &[],
    batches: &[],
    note: None,
};

const JITR: Function = Function {
    name: "jitr",
    environment: &[("DEVICES_TABLE", DEVICES_TABLE), ("ACCOUNT_ID", ACCOUNT), ("DEVICE_POLICY", DEVICE_POLICY)],
    event: |turn| {
        let device = turn.registry.next()?;
        let calls = match turn.peer {
            Peer::Node => admission_of_the_sample(&device),
            _ => admission(&device, turn.is_first),
        };
        Ok((turn.registered_event(&device), Expected::Calls(calls)))
    },
    needs_devices: true,
    peers: &[Peer::Node],
    batches: &[],
    note: Some(
        "The Node peer of jitr is the sample that is commonly copied: it makes 3 calls and\n\
         validates nothing. jitr validates the certificate and makes 21 calls, and one more\n\
         for the first event of a process.",
    ),
};

const REVOKE: Function = Function {
    name: "revoke",
    // So high that the pace does not limit the function; AWS IoT allows about 10 revocations per second.
    environment: &[("DEVICES_TABLE", DEVICES_TABLE), ("REVOCATIONS_PER_SECOND", "1000")],
    event: |turn| Ok((revocation::delivery(turn), Expected::Calls(revocation::calls(turn)))),
    needs_devices: false,
    peers: &[],
    // The maximum page size of `ListCertificatesByCA`.
    batches: &[Size::of(250)],
    note: Some("A batch of revoke is one command for a CA that has signed this many certificates."),
};

const TELEMETRY: Function = Function {
    name: "telemetry",
    environment: &[("TELEMETRY_TABLE", TELEMETRY_TABLE), ("RETENTION_DAYS", "365"), ("MIMALLOC_PURGE_DELAY", "0")],
    event: |turn| Ok((turn.batch().delivery("telemetry"), Expected::Stored(turn.batch()))),
    needs_devices: false,
    peers: &[Peer::Python, Peer::Node],
    batches: &[Size::ONE, Size::of(10), Size::of(100), Size::of(1000), Size::of_arrays(1000, 10), Size::of(10_000)],
    note: None,
};

const ALARM: Function = Function {
    name: "alarm",
    environment: &[("ALARMS_TABLE", ALARMS_TABLE), ("DEVICES_TABLE", DEVICES_TABLE)],
    event: |turn| Ok((turn.batch().delivery("alarm"), Expected::Evaluated(turn.batch()))),
    needs_devices: false,
    peers: &[Peer::Python, Peer::Node],
    batches: &[Size::of(1000), Size::with_thresholds(1000, 50), Size::with_thresholds(1000, 200)],
    note: Some(
        "The document of alarm has 200 thresholds. 1, 50 or 200 of them apply to each of 100 things:\n\
         a batch reads and writes 100, 5,000 or 20,000 states.",
    ),
};

const ACTUATOR: Function = Function {
    name: "actuator",
    environment: &[("ACTUATOR_TABLE", ACTUATOR_TABLE)],
    event: |turn| Ok((actuation::delivery(turn), Expected::Unordered(actuation::calls(turn)))),
    needs_devices: false,
    peers: &[],
    batches: &[Size::of(10)],
    note: None,
};

const FORWARD: Function = Function {
    name: "forward",
    environment: &[("DEVICES_TABLE", DEVICES_TABLE), ("DESTINATION_TOPICS", "telemetry/+")],
    event: |turn| Ok((turn.batch().delivery("forward"), Expected::Forwarded(turn.batch()))),
    needs_devices: false,
    peers: &[Peer::Python, Peer::Node],
    // The maximum number of entries in one call, and the batch size in the template.
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
        let calls = vec![
            ExpectedCall::new("GetItem", DEVICES_TABLE, [record.clone()]),
            ExpectedCall::new("PutItem", DEVICES_TABLE, [record, "CONNECTION_LOST".to_owned()]),
            ExpectedCall::new("SendMessage", &queue("presence"), [check, "\"DelaySeconds\":300".to_owned()]),
        ];
        Ok((turn.system_delivery("presence", &thing, &topic, &payload), Expected::Calls(calls)))
    },
    needs_devices: false,
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
        let calls = vec![
            ExpectedCall::new("GetItem", DEVICES_TABLE, [record.clone(), "\"shadow#\"".to_owned()]),
            ExpectedCall::new("PutItem", DEVICES_TABLE, [record, "\"shadow#\"".to_owned(), reported.to_owned()]),
        ];
        Ok((turn.system_delivery("shadow", &thing, &topic, &payload), Expected::Calls(calls)))
    },
    needs_devices: false,
    peers: &[],
    batches: &[],
    note: None,
};

/// Returns the calls of `jitr` for a device that it admits.
fn admission(device: &Device, is_first: bool) -> Vec<ExpectedCall> {
    let Device { thing, certificate, serial, ca } = device;
    let table = |operation, key: String, mentions: &[&str]| {
        ExpectedCall::new(operation, DEVICES_TABLE, [key].into_iter().chain(mentions.iter().map(|it| (*it).to_owned())))
    };
    let iot = |operation, target: &str, mentions: &[&str]| {
        ExpectedCall::new(operation, target, mentions.iter().map(|it| (*it).to_owned()))
    };
    let record = |operation, mentions: &[&str]| table(operation, format!("\"certificate#{certificate}\""), mentions);
    let status = || iot("DescribeCertificate", certificate, &[]);
    let authority = || {
        let ca_status = table("GetItem", format!("\"ca#{ca}\""), &["\"status\""]);
        [iot("DescribeCACertificate", ca, &[]), ca_status]
    };

    let mut calls = vec![record("GetItem", &[]), status(), record("PutItem", &["\"admitting\""])];
    calls.extend(authority());
    if is_first {
        calls.push(table("PutItem", format!("\"ca#{ca}\""), &["notAfter"]));
    }
    calls.extend([
        // Its key is the digest of the signed content, which detects another encoding of the same certificate.
        table("PutItem", "\"signed\"".to_owned(), &[certificate]),
        table("PutItem", format!("\"thing#{thing}\""), &[certificate]),
        iot("ListThingPrincipals", thing, &[]),
        iot("CreateThing", thing, &[serial, ca, certificate]),
        iot("AttachThingPrincipal", thing, &[&device.arn()]),
        iot("AttachPolicy", DEVICE_POLICY, &[&device.arn()]),
    ]);
    // The CA, the record and the status are checked again immediately before and after the activation.
    let again = || authority().into_iter().chain([record("GetItem", &[]), status()]);
    calls.extend(again());
    calls.push(iot("UpdateCertificate", certificate, &["newStatus=ACTIVE"]));
    calls.extend(again());
    calls.push(record("PutItem", &["\"admitted\"", thing, serial]));
    calls
}

/// Returns the calls of the commonly copied sample, which are the same for every device.
fn admission_of_the_sample(device: &Device) -> Vec<ExpectedCall> {
    let policy = format!("Policy_{}", device.certificate);
    vec![
        ExpectedCall::new("CreatePolicy", &policy, ["iot:*".to_owned()]),
        ExpectedCall::new("AttachPolicy", &policy, [device.arn()]),
        ExpectedCall::new("UpdateCertificate", &device.certificate, ["newStatus=ACTIVE".to_owned()]),
    ]
}
