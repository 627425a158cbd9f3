//! AWS IoT's registry of certificates, things and policies.

use std::collections::BTreeMap;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use serde_json::{Value, json};

use super::Account;
use super::wire::Answer;

pub fn certificate_arn(id: &str) -> String {
    format!("arn:aws:iot:eu-west-1:123456789012:cert/{id}")
}

/// A request to it.
pub struct Invocation {
    method: String,
    path: Vec<String>,
    query: BTreeMap<String, String>,
    principal: String,
    body: Value,
}

impl Invocation {
    pub fn read(request: &HttpRequest) -> Self {
        let (_, uri) = request.uri().split_once("://").unwrap();
        let (_, path) = uri.split_once('/').unwrap();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let decoded = |part: &str| form_urlencoded::parse(part.as_bytes()).next().map(|(part, _)| part.into_owned());
        Self {
            method: request.method().to_owned(),
            path: path.split('/').map(|part| decoded(part).unwrap_or_default()).collect(),
            query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            principal: request.headers().get("x-amzn-principal").unwrap_or_default().to_owned(),
            body: serde_json::from_slice(request.body().bytes().unwrap()).unwrap_or_default(),
        }
    }

    fn operation(&self) -> &'static str {
        match (&*self.method, self.path.iter().map(String::as_str).collect::<Vec<_>>().as_slice()) {
            ("GET", ["certificates", _]) => "DescribeCertificate",
            ("PUT", ["certificates", _]) => "UpdateCertificate",
            ("GET", ["cacertificate", _]) => "DescribeCACertificate",
            ("POST", ["things", _]) => "CreateThing",
            ("GET", ["things", _, "principals"]) => "ListThingPrincipals",
            ("PUT", ["things", _, "principals"]) => "AttachThingPrincipal",
            ("PUT", ["target-policies", _]) => "AttachPolicy",
            (method, path) => panic!("{method} {path:?} is not known here"),
        }
    }

    /// The operation, with the status that it writes.
    pub fn name(&self) -> String {
        let status = self.query.get("newStatus").map(|status| format!(" {status}")).unwrap_or_default();
        format!("{}{status}", self.operation())
    }
}

impl Account {
    pub fn iot(&mut self, invocation: &Invocation) -> Answer {
        let Invocation { path, query, principal, body, .. } = invocation;
        let on = &path[1];
        let missing = || Answer::error(404, "ResourceNotFoundException");
        match invocation.operation() {
            "DescribeCertificate" => self.certificates.get(on).map_or_else(missing, |certificate| {
                Answer::good(&json!({"certificateDescription": {
                    "certificateArn": certificate_arn(on), "certificateId": on, "status": certificate.status,
                    "certificatePem": certificate.pem, "caCertificateId": certificate.ca,
                }}))
            }),
            "UpdateCertificate" => match (self.certificates.get_mut(on), query["newStatus"].as_str()) {
                (Some(certificate), status @ ("ACTIVE" | "INACTIVE" | "REVOKED")) => {
                    status.clone_into(&mut certificate.status);
                    Answer::good(&json!({}))
                }
                (Some(_), _) => Answer::error(400, "InvalidRequestException"),
                (None, _) => missing(),
            },
            "DescribeCACertificate" => self.authorities.get(on).map_or_else(missing, |(status, pem)| {
                Answer::good(&json!({"certificateDescription": {
                    "certificateId": on, "status": status, "certificatePem": pem,
                }}))
            }),
            "CreateThing" => {
                let attributes = body["attributePayload"]["attributes"].as_object().unwrap();
                let attributes = attributes.iter().map(|(name, value)| (name.as_str(), value));
                let kind = body.get("thingTypeName").map(|kind| ("", kind));
                let thing: BTreeMap<_, _> = attributes
                    .chain(kind)
                    .map(|(name, value)| (name.to_owned(), value.as_str().unwrap().to_owned()))
                    .collect();
                // The same thing again is no conflict.
                if *self.things.entry(on.clone()).or_insert_with(|| thing.clone()) == thing {
                    Answer::good(&json!({"thingName": on}))
                } else {
                    Answer::error(409, "ResourceAlreadyExistsException")
                }
            }
            "ListThingPrincipals" => {
                if !self.things.contains_key(on) {
                    return missing();
                }
                // One a page.
                let from: usize = query.get("nextToken").map_or(0, |token| token.parse().unwrap());
                let mut principals = self.attached.iter().filter(|(thing, _)| thing == on).skip(from);
                let page: Vec<_> = principals.by_ref().take(1).map(|(_, principal)| principal).collect();
                let next = principals.next().map(|_| (from + 1).to_string());
                Answer::good(&json!({"principals": page, "nextToken": next}))
            }
            "AttachThingPrincipal" => {
                if !self.things.contains_key(on) {
                    return missing();
                }
                let pair = (on.clone(), principal.clone());
                if !self.attached.contains(&pair) {
                    self.attached.push(pair);
                }
                Answer::good(&json!({}))
            }
            _ => {
                self.policies.insert((on.clone(), body["target"].as_str().unwrap().to_owned()));
                Answer::good(&json!({}))
            }
        }
    }
}
