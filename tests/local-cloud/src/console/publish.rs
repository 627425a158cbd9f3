//! `POST /api/v1/publish` and `/devices`: publishes as a device, and registers devices.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_iot::types::CertificateStatus;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, interval, sleep};

use super::App;
use super::error::{ApiError, ApiResult};
use crate::cloud::Cloud;
use crate::device::{Broker, ConnectResult, Device, Identity, MAX_MESSAGE_BYTES, Published};
use crate::player::Enrollment;
use crate::scenario::CertificateOptions;

/// Maximum number of copies that one request publishes.
const MAX_REPEAT: u32 = 10_000;

/// Maximum rate at which one request publishes, in copies per second.
const MAX_RATE: u32 = 200;

/// How long a new certificate may take to be admitted.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(30);

/// A device whose credentials the console has.
type SharedDevice = Arc<Mutex<Device>>;

/// The devices whose credentials the console has, and the CA for new ones.
#[derive(Debug, Default)]
pub struct Publishers {
    devices: Mutex<HashMap<String, SharedDevice>>,
    enrollment: OnceCell<Enrollment>,
}

impl Publishers {
    /// Adds a device.
    pub async fn add(&self, cloud: &Cloud, identity: Identity) {
        let (thing, device) = (identity.thing.clone(), Device::new(cloud, identity));
        self.devices.lock().await.insert(thing, Arc::new(Mutex::new(device)));
    }

    /// Lists the devices.
    pub async fn things(&self) -> Vec<String> {
        let mut things: Vec<_> = self.devices.lock().await.keys().cloned().collect();
        things.sort();
        things
    }

    async fn get(&self, thing: &str) -> ApiResult<SharedDevice> {
        let devices = self.devices.lock().await;
        devices.get(thing).cloned().ok_or_else(|| {
            ApiError::missing(format!(
                "The console has no certificate of {thing}. Register it first, or publish as another."
            ))
        })
    }
}

/// A message to publish.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Message {
    thing: String,
    topic: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default = "one")]
    qos: u8,
    #[serde(default = "one_copy")]
    repeat: u32,
    /// Copies per second.
    #[serde(default = "one_copy")]
    rate: u32,
}

fn one() -> u8 {
    1
}

fn one_copy() -> u32 {
    1
}

/// Publishes a message. Waits until AWS IoT has acknowledged or denied the first copy.
pub async fn publish(
    State(app): State<Arc<App>>,
    Json(message): Json<Message>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let payload = message.validate()?;
    let device = app.publishers.get(&message.thing).await?;
    let published = publish_one(&device, &message, &payload).await?;
    if published == Published::Denied {
        let why = format!("AWS IoT denied it: the policy of {} does not allow this topic.", message.thing);
        return Ok((StatusCode::OK, Json(json!({"published": 0, "denied": true, "why": why}))));
    }
    if message.repeat > 1 {
        let started = message.repeat;
        tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / message.rate);
            ticks.tick().await;
            for _ in 1..message.repeat {
                ticks.tick().await;
                if publish_one(&device, &message, &payload).await.is_err() {
                    return;
                }
            }
        });
        return Ok((StatusCode::ACCEPTED, Json(json!({"published": 1, "denied": false, "started": started}))));
    }
    Ok((StatusCode::OK, Json(json!({"published": 1, "denied": false}))))
}

async fn publish_one(device: &Mutex<Device>, message: &Message, payload: &[u8]) -> anyhow::Result<Published> {
    let mut device = device.lock().await;
    if message.qos == 0 {
        device.publish_unacknowledged(&message.topic, payload).await?;
        return Ok(Published::Accepted);
    }
    Ok(device.publish(&message.topic, &[payload]).await?.1)
}

impl Message {
    /// Returns the payload to publish, or why the message is not valid.
    fn validate(&self) -> ApiResult<Vec<u8>> {
        let invalid = |is_valid: bool, why: &str| if is_valid { Ok(()) } else { Err(ApiError::invalid(why)) };
        let is_topic = !self.topic.is_empty() && self.topic.len() <= 256 && !self.topic.contains(['+', '#', '\0']);
        invalid(is_topic, "The topic must have 1 to 256 bytes, without + and #.")?;
        invalid(self.qos <= 1, "AWS IoT supports QoS 0 and 1.")?;
        invalid((1..=MAX_REPEAT).contains(&self.repeat), "A message can be repeated 1 to 10,000 times.")?;
        invalid((1..=MAX_RATE).contains(&self.rate), "The rate must be 1 to 200 a second.")?;
        let bytes = match (&self.payload, &self.payload_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(encoded)) => {
                BASE64_STANDARD.decode(encoded).map_err(|_| ApiError::invalid("The payload is not base64."))?
            }
            _ => return Err(ApiError::invalid("Give exactly one of payload and payloadBase64.")),
        };
        invalid(bytes.len() <= MAX_MESSAGE_BYTES, "AWS IoT accepts at most 128 KiB.")?;
        Ok(bytes)
    }
}

/// A device to register.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewDevice {
    thing: String,
    /// Whether it connects with a certificate that AWS IoT does not know, so that `jitr` admits or rejects it.
    #[serde(default)]
    by_jitr: bool,
}

/// Registers a device, or issues another certificate to one that exists.
pub async fn register(State(app): State<Arc<App>>, Json(new): Json<NewDevice>) -> ApiResult<Json<Value>> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
    if !(1..=128).contains(&new.thing.len()) || !new.thing.bytes().all(is_allowed) {
        return Err(ApiError::invalid("A thing's name has 1 to 128 of the characters a-z A-Z 0-9 : _ -"));
    }
    if new.by_jitr {
        return Ok(Json(admit(&app, &new.thing).await?));
    }
    let policy = app.deployment.output("DevicePolicy")?;
    let identity = Identity::register(&app.clients, &new.thing, policy).await?;
    app.publishers.add(&app.cloud, identity).await;
    Ok(Json(json!({"thing": new.thing, "state": "registered"})))
}

/// Connects with a certificate that AWS IoT does not know yet, and waits until it is admitted or rejected.
async fn admit(app: &App, thing: &str) -> ApiResult<Value> {
    let table = app.deployment.output("DevicesTable")?;
    let start = || Enrollment::new(&app.clients, table);
    let enrollment = app.publishers.enrollment.get_or_try_init(start).await?;
    let issued = enrollment.issue(&CertificateOptions::default(), thing).await?;
    let mut device = Device::at(Broker::from(&*app.cloud), issued.identity(thing));
    let deadline = Instant::now() + ADMISSION_TIMEOUT;
    loop {
        let result = device.try_connect().await?;
        let status = app.clients.iot.describe_certificate().certificate_id(&issued.id).send().await;
        let status = status.ok().and_then(|found| found.certificate_description?.status);
        let is_rejected = matches!(status, Some(CertificateStatus::Revoked | CertificateStatus::Inactive));
        match result {
            ConnectResult::Accepted => {
                app.publishers.devices.lock().await.insert(thing.to_owned(), Arc::new(Mutex::new(device)));
                return Ok(json!({"thing": thing, "state": "admitted", "certificateId": issued.id}));
            }
            _ if is_rejected => return Ok(json!({"thing": thing, "state": "rejected", "certificateId": issued.id})),
            _ if Instant::now() > deadline => {
                return Ok(json!({"thing": thing, "state": "pending", "certificateId": issued.id}));
            }
            _ => sleep(Duration::from_millis(200)).await,
        }
    }
}
