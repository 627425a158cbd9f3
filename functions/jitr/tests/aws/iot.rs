//! AWS IoT's registry of certificates, things and policies.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, State};

pub fn certificate_arn(id: &str) -> String {
    format!("arn:aws:iot:eu-west-1:123456789012:cert/{id}")
}

pub fn operation(method: &str, path: &[String]) -> &'static str {
    match (method, path.iter().map(String::as_str).collect::<Vec<_>>().as_slice()) {
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

impl State {
    pub fn iot(
        &mut self,
        operation: &str,
        path: &[String],
        query: &BTreeMap<String, String>,
        principal: &str,
        body: &Value,
    ) -> Answer {
        let on = &path[1];
        let missing = || Answer::error(404, "ResourceNotFoundException");
        match operation {
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
                let pair = (on.clone(), principal.to_owned());
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
