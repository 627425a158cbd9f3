use std::collections::BTreeMap;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use gatehouse::Timestamp;
use serde_json::Value;

use super::{iot, signature, sns};

/// A service of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Amazon DynamoDB.
    DynamoDb,
    /// Amazon SNS.
    Sns,
    /// Amazon SQS.
    Sqs,
    /// AWS IoT's registry.
    Iot,
    /// AWS IoT's data plane.
    IotData,
}

/// A request that a process sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The number of the process that sent it, from 1.
    pub process: usize,
    /// When it was served.
    pub at: Timestamp,
    /// The service.
    pub service: Service,
    /// The operation, such as `PutItem`.
    pub operation: String,
    /// The operation and what it applies to: in DynamoDB the label of the item, as in `PutItem thing/presence`; for the
    /// update of a certificate the new status, as in `UpdateCertificate ACTIVE`.
    pub name: String,
    /// Whether AWS refused it because of an injected fault.
    pub is_refused: bool,
    /// The host that it was sent to.
    pub host: String,
    /// The parts of the path, decoded.
    pub path: Vec<String>,
    /// The query parameters, decoded.
    pub query: BTreeMap<String, String>,
    /// The JSON body; for SNS, the form as an object.
    pub body: Value,
    /// The body as it was sent.
    pub text: String,
    /// The body's length in bytes.
    pub size: usize,
    /// The certificate, or its ARN, that a registry call attaches.
    pub(super) principal: String,
}

impl Call {
    /// Returns whether this is the call's name or its operation.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.operation == name
    }

    /// The name, followed by `, refused` if AWS refused it.
    pub fn label(&self) -> String {
        let refused = if self.is_refused { ", refused" } else { "" };
        format!("{}{refused}", self.name)
    }

    pub(super) fn parse(process: usize, request: &HttpRequest) -> Self {
        let bytes = request.body().bytes().expect("the body is in memory");
        let (host, path) = request.uri().split_once("://").unwrap().1.split_once('/').unwrap();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let decode = |part: &str| form_urlencoded::parse(part.as_bytes()).next().map(|(part, _)| part.into_owned());
        let json = || serde_json::from_slice(bytes).unwrap_or_default();
        let mut call = Self {
            process,
            at: Timestamp::from_millis(0),
            service: Service::Iot,
            operation: String::new(),
            name: String::new(),
            is_refused: false,
            host: host.to_owned(),
            path: path.split('/').map(|part| decode(part).unwrap_or_default()).collect(),
            query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            body: Value::Null,
            text: String::from_utf8_lossy(bytes).into_owned(),
            size: bytes.len(),
            principal: request.headers().get("x-amzn-principal").unwrap_or_default().to_owned(),
        };
        if let Some((prefix, operation)) =
            request.headers().get("x-amz-target").and_then(|target| target.split_once('.'))
        {
            signature::verify(request);
            call.service = match prefix {
                "DynamoDB_20120810" => Service::DynamoDb,
                "AmazonSQS" => Service::Sqs,
                other => panic!("the fake has no service {other}"),
            };
            (call.operation, call.body) = (operation.to_owned(), json());
        } else if host.starts_with("sns.") {
            call.service = Service::Sns;
            (call.operation, call.body) = sns::parse(bytes);
        } else if host.starts_with("data-ats.iot.") || host.starts_with("data.iot.") {
            (call.service, call.body) = (Service::IotData, json());
            call.operation = match (request.method(), &*call.path) {
                ("POST", [things, _, shadow]) if things == "things" && shadow == "shadow" => "UpdateThingShadow".into(),
                ("GET", [connections, _]) if connections == "connections" => "GetConnection".into(),
                ("DELETE", [connections, _]) if connections == "connections" => "DeleteConnection".into(),
                (method, path) => panic!("the fake data plane does not support {method} {path:?}"),
            };
        } else if host.starts_with("iot.") {
            call.body = json();
            call.operation = iot::operation(request.method(), &call.path).to_owned();
        } else {
            panic!("the fake has no host {host}");
        }
        call.name.clone_from(&call.operation);
        if let Some(status) = call.query.get("newStatus") {
            call.name = format!("{} {status}", call.operation);
        }
        call
    }
}
