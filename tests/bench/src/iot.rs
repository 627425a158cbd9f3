//! The part of AWS IoT that the functions use: one CA with real certificates of devices, each of which is admitted
//! once; CAs with invented certificates, which are revoked; and device shadows.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use hyper::{Method, Request, StatusCode, body::Bytes};
use local_cloud::pki::{CertificateAuthority, CertificateSpec, KeyType, hex};
use serde_json::{Value, json};

use crate::aws::{ACCOUNT, Call, FakeResponse, REGION};

/// The certificate that a function describes to warm up its connection. It does not exist.
pub const UNKNOWN_CERTIFICATE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A device with a pending certificate.
#[derive(Debug, Clone)]
pub struct Device {
    /// The common name of its certificate.
    pub thing: String,
    /// The id of its certificate.
    pub certificate: String,
    /// The serial number of its certificate, in hex.
    pub serial: String,
    /// The id of the CA that signed it.
    pub ca: String,
}

impl Device {
    /// Returns the ARN of its certificate.
    pub fn arn(&self) -> String {
        arn("cert", &self.certificate)
    }
}

fn arn(kind: &str, id: &str) -> String {
    format!("arn:aws:iot:{REGION}:{ACCOUNT}:{kind}/{id}")
}

/// The certificates that are registered with AWS IoT.
#[derive(Debug, Clone)]
pub struct Registry(Arc<State>);

#[derive(Debug)]
struct State {
    ca: CertificateAuthority,
    pending: Mutex<VecDeque<Device>>,
    certificates: Mutex<BTreeMap<String, Registered>>,
}

#[derive(Debug)]
struct Registered {
    pem: String,
    status: String,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Returns a registry with a new CA and no devices.
    pub fn new() -> Result<Self> {
        // The default key type of `gatehouse ca create`.
        let ca = CertificateAuthority::new("bench devices", KeyType::P256)?;
        Ok(Self(Arc::new(State { ca, pending: Mutex::default(), certificates: Mutex::default() })))
    }

    /// Signs and registers pending certificates in advance, so that no event waits for signatures.
    pub fn prepare(&self, count: usize) -> Result<()> {
        let State { ca, pending, certificates } = &*self.0;
        for _ in 0..count {
            let mut certificates = locked(certificates);
            let thing = format!("device-{:06}", certificates.len());
            let issued = ca.issue(&CertificateSpec::named(&thing))?;
            let serial = hex(&issued.serial);
            locked(pending).push_back(Device { thing, certificate: issued.id.clone(), serial, ca: ca.id.clone() });
            certificates.insert(issued.id, Registered { pem: issued.pem, status: "PENDING_ACTIVATION".to_owned() });
        }
        Ok(())
    }

    /// Returns the next device.
    pub fn next(&self) -> Result<Device> {
        locked(&self.0.pending).pop_front().context("not enough certificates were prepared")
    }

    /// Handles a call. Only the status of certificates is stored, because each device is new.
    pub fn handle(&self, request: &Request<Bytes>) -> Result<FakeResponse> {
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let (operation, target, found) = match (request.method(), &*path) {
            (&Method::GET, ["certificates", id]) => ("DescribeCertificate", id, self.certificate(id)),
            (&Method::PUT, ["certificates", id]) => ("UpdateCertificate", id, self.update(id, request)?),
            (&Method::GET, ["certificates-by-ca", id]) => ("ListCertificatesByCA", id, Some(signed_by(id)?)),
            (&Method::PUT, ["cacertificate", id]) => ("UpdateCACertificate", id, Some(Value::Null)),
            (&Method::GET, ["cacertificate", id]) => ("DescribeCACertificate", id, self.authority(id)),
            (&Method::GET, ["things", thing, "principals"]) => ("ListThingPrincipals", thing, None),
            (&Method::PUT, ["things", thing, "principals"]) => ("AttachThingPrincipal", thing, Some(json!({}))),
            (&Method::POST, ["things", thing]) => ("CreateThing", thing, Some(created_thing(thing))),
            (&Method::POST, ["policies", policy]) => ("CreatePolicy", policy, Some(created_policy(policy))),
            (&Method::PUT, ["target-policies", policy]) => ("AttachPolicy", policy, Some(Value::Null)),
            (method, _) => anyhow::bail!("{method} {} is not supported by the fake", request.uri()),
        };
        Ok(FakeResponse {
            call: Call { operation: operation.to_owned(), target: (*target).to_owned(), body: request_text(request)? },
            status: if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND },
            error_type: found.is_none().then_some("ResourceNotFoundException"),
            content_type: "application/json",
            body: match found {
                // AWS IoT returns an empty body.
                Some(Value::Null) => String::new(),
                Some(body) => body.to_string(),
                None => json!({ "message": "Not found" }).to_string(),
            },
        })
    }

    fn certificate(&self, id: &str) -> Option<Value> {
        let certificates = locked(&self.0.certificates);
        let Registered { pem, status } = certificates.get(id)?;
        let more = [("caCertificateId", json!(self.0.ca.id)), ("transferData", json!({}))];
        Some(json!({ "certificateDescription": description("cert", id, pem, status, more) }))
    }

    fn authority(&self, id: &str) -> Option<Value> {
        let ca = &self.0.ca;
        (id == ca.id).then(|| {
            let more = [("autoRegistrationStatus", json!("ENABLE"))];
            let description = description("cacert", id, &ca.pem, "ACTIVE", more);
            json!({ "certificateDescription": description, "registrationConfig": {} })
        })
    }

    fn update(&self, id: &str, request: &Request<Bytes>) -> Result<Option<Value>> {
        let query = request.uri().query().unwrap_or_default();
        let status = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "newStatus");
        let (_, status) = status.context("no newStatus")?;
        if status == "REVOKED" {
            return Ok(Some(Value::Null));
        }
        ensure!(status == "ACTIVE", "no benchmark sets a certificate to {status}");
        let mut certificates = locked(&self.0.certificates);
        Ok(certificates.get_mut(id).map(|certificate| {
            certificate.status = status.into_owned();
            Value::Null
        }))
    }
}

/// Returns the id of the CA that has signed this many certificates, which event `n` revokes.
pub fn compromised_ca(n: usize, certificates: usize) -> String {
    format!("{n:032x}{certificates:032x}")
}

/// Returns the id of a certificate of such a CA.
pub fn compromised_certificate(n: usize, index: usize) -> String {
    format!("{n:032x}{index:032x}")
}

/// Returns the only page of the list of such a CA's certificates.
fn signed_by(ca: &str) -> Result<Value> {
    let (n, certificates) = ca.split_at_checked(32).context("the id of the CA is too short")?;
    let (n, certificates) = (usize::from_str_radix(n, 16)?, usize::from_str_radix(certificates, 16)?);
    let certificate = |index| {
        let id = compromised_certificate(n, index);
        json!({
            "certificateArn": arn("cert", &id),
            "certificateId": id,
            "status": "ACTIVE",
            "certificateMode": "DEFAULT",
            "creationDate": 1_763_715_600,
        })
    };
    Ok(json!({ "certificates": (0..certificates).map(certificate).collect::<Vec<_>>() }))
}

/// Handles a call about a classic shadow or a connection. No thing has one yet.
pub fn shadows(request: &Request<Bytes>) -> Result<FakeResponse> {
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let (operation, thing) = match (request.method(), &*path) {
        (&Method::GET, ["things", thing, "shadow"]) => ("GetThingShadow", thing),
        (&Method::POST, ["things", thing, "shadow"]) => ("UpdateThingShadow", thing),
        (&Method::GET, ["connections", client]) => ("GetConnection", client),
        (method, _) => anyhow::bail!("{method} {} is not supported by the fake", request.uri()),
    };
    let is_update = operation == "UpdateThingShadow";
    Ok(FakeResponse {
        call: Call { operation: operation.to_owned(), target: (*thing).to_owned(), body: request_text(request)? },
        status: if is_update { StatusCode::OK } else { StatusCode::NOT_FOUND },
        error_type: (!is_update).then_some("ResourceNotFoundException"),
        content_type: "application/json",
        // AWS IoT adds metadata, which the function does not read.
        body: if is_update { request_text(request)? } else { json!({ "message": "Not found" }).to_string() },
    })
}

/// Returns the query, the principal and the body of a request.
fn request_text(request: &Request<Bytes>) -> Result<String> {
    let mut text = String::new();
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        let _ = writeln!(text, "{name}={value}");
    }
    if let Some(principal) = request.headers().get("x-amzn-principal") {
        let _ = writeln!(text, "principal={}", principal.to_str()?);
    }
    Ok(text + std::str::from_utf8(request.body())?)
}

/// Returns the common part of certificate descriptions, and `more`.
fn description<const N: usize>(kind: &str, id: &str, pem: &str, status: &str, more: [(&str, Value); N]) -> Value {
    const YEAR: u64 = 365 * 24 * 60 * 60;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let always = [
        ("certificateArn", json!(arn(kind, id))),
        ("certificateId", json!(id)),
        ("status", json!(status)),
        ("certificatePem", json!(pem)),
        ("ownedBy", json!(ACCOUNT)),
        ("creationDate", json!(now)),
        ("lastModifiedDate", json!(now)),
        ("customerVersion", json!(1)),
        ("generationId", json!("d4f6c9b1-7e0c-4f55-b2a1-3a5f0f6f5c1e")),
        ("validity", json!({ "notBefore": now, "notAfter": now + YEAR })),
        ("certificateMode", json!("DEFAULT")),
    ];
    always.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn created_thing(thing: &str) -> Value {
    json!({
        "thingName": thing,
        "thingArn": arn("thing", thing),
        "thingId": "9b2f1c55-0a4e-4d0b-8a44-6f2b7d5f0c3d",
    })
}

fn created_policy(policy: &str) -> Value {
    json!({
        "policyName": policy,
        "policyArn": arn("policy", policy),
        "policyDocument": "{}",
        "policyVersionId": "1",
    })
}
