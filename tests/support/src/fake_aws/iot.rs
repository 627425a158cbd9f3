//! AWS IoT's registry of certificates, CAs, things and policies.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::request::Call;
use super::response::Response;

/// The registry's content.
#[derive(Debug)]
pub struct Registry {
    /// Device certificates by id.
    pub certificates: BTreeMap<String, RegisteredCertificate>,
    /// CA certificates by id.
    pub cas: BTreeMap<String, RegisteredCa>,
    /// Things' attributes by name, with the thing's type under the empty name.
    pub things: BTreeMap<String, BTreeMap<String, String>>,
    /// Things and the certificates (ARNs) that are attached to them, in the order of attachment.
    pub attached: Vec<(String, String)>,
    /// Policies and the certificates (ARNs) to which they are attached.
    pub policies: BTreeSet<(String, String)>,
    /// The maximum number of certificates or principals on a page. The default is the requested number, or one
    /// principal.
    pub page_size: Option<usize>,
    registrations: usize,
}

/// A device certificate in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredCertificate {
    /// `PENDING_ACTIVATION`, `ACTIVE`, `INACTIVE` or `REVOKED`.
    pub status: String,
    /// The certificate in PEM.
    pub pem: String,
    /// The id of the CA that signed it.
    pub ca: Option<String>,
    order: usize,
}

/// A CA certificate in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredCa {
    /// `ACTIVE` or `INACTIVE`.
    pub status: String,
    /// `ENABLE` or `DISABLE`.
    pub auto_registration: String,
    /// The certificate in PEM.
    pub pem: String,
}

impl Default for Registry {
    /// Returns an empty registry. `ListThingPrincipals` returns one principal per page.
    fn default() -> Self {
        Self {
            certificates: BTreeMap::new(),
            cas: BTreeMap::new(),
            things: BTreeMap::new(),
            attached: Vec::new(),
            policies: BTreeSet::new(),
            page_size: None,
            registrations: 0,
        }
    }
}

/// The ARN of a device certificate.
pub fn certificate_arn(id: &str) -> String {
    format!("arn:aws:iot:eu-west-1:123456789012:cert/{id}")
}

pub(super) fn operation(method: &str, path: &[String]) -> &'static str {
    match (method, path.iter().map(String::as_str).collect::<Vec<_>>().as_slice()) {
        ("GET", ["certificates", _]) => "DescribeCertificate",
        ("PUT", ["certificates", _]) => "UpdateCertificate",
        ("GET", ["certificates-by-ca", _]) => "ListCertificatesByCA",
        ("GET", ["cacertificate", _]) => "DescribeCACertificate",
        ("PUT", ["cacertificate", _]) => "UpdateCACertificate",
        ("POST", ["things", _]) => "CreateThing",
        ("GET", ["things", _, "principals"]) => "ListThingPrincipals",
        ("PUT", ["things", _, "principals"]) => "AttachThingPrincipal",
        ("PUT", ["target-policies", _]) => "AttachPolicy",
        (method, path) => panic!("the fake registry does not support {method} {path:?}"),
    }
}

fn not_found() -> Response {
    Response::error(404, "ResourceNotFoundException")
}

impl Registry {
    /// Registers a device certificate, which becomes the last one in lists.
    pub fn register(&mut self, id: &str, status: &str, pem: &str, ca: Option<&str>) {
        self.registrations += 1;
        let certificate = RegisteredCertificate {
            status: status.to_owned(),
            pem: pem.to_owned(),
            ca: ca.map(str::to_owned),
            order: self.registrations,
        };
        self.certificates.insert(id.to_owned(), certificate);
    }

    /// Registers an active CA certificate with auto-registration.
    pub fn register_ca(&mut self, id: &str, pem: &str) {
        let (status, auto_registration) = ("ACTIVE".to_owned(), "ENABLE".to_owned());
        self.cas.insert(id.to_owned(), RegisteredCa { status, auto_registration, pem: pem.to_owned() });
    }

    /// The status of a device certificate.
    pub fn status(&self, id: &str) -> &str {
        &self.certificates[id].status
    }

    /// Changes the status of a device certificate.
    pub fn set_status(&mut self, id: &str, status: &str) {
        status.clone_into(&mut self.certificates.get_mut(id).unwrap().status);
    }

    pub(super) fn serve(&mut self, call: &Call) -> Response {
        let Call { path, query, principal, body, .. } = call;
        let id = &path[1];
        match call.operation.as_str() {
            "DescribeCertificate" => self.describe_certificate(id),
            "UpdateCertificate" => match (self.certificates.get_mut(id), query["newStatus"].as_str()) {
                (Some(certificate), status @ ("ACTIVE" | "INACTIVE" | "REVOKED")) => {
                    status.clone_into(&mut certificate.status);
                    Response::empty()
                }
                (Some(_), _) => Response::error(400, "InvalidRequestException"),
                (None, _) => not_found(),
            },
            "ListCertificatesByCA" => self.list_certificates(id, query),
            "DescribeCACertificate" => self.describe_ca(id),
            "UpdateCACertificate" => {
                let Some(ca) = self.cas.get_mut(id) else { return not_found() };
                if let Some(status) = query.get("newStatus") {
                    ca.status.clone_from(status);
                }
                if let Some(auto_registration) = query.get("newAutoRegistrationStatus") {
                    ca.auto_registration.clone_from(auto_registration);
                }
                Response::empty()
            }
            "CreateThing" => self.create_thing(id, body),
            "ListThingPrincipals" => self.list_principals(id, query),
            "AttachThingPrincipal" => {
                if !self.things.contains_key(id) {
                    return not_found();
                }
                let pair = (id.clone(), principal.clone());
                if !self.attached.contains(&pair) {
                    self.attached.push(pair);
                }
                Response::empty()
            }
            "AttachPolicy" => {
                self.policies.insert((id.clone(), body["target"].as_str().unwrap().to_owned()));
                Response::empty()
            }
            other => panic!("the fake registry does not support {other}"),
        }
    }

    fn describe_certificate(&self, id: &str) -> Response {
        let Some(RegisteredCertificate { status, pem, ca, .. }) = self.certificates.get(id) else { return not_found() };
        Response::Output(json!({"certificateDescription": {
            "certificateArn": certificate_arn(id), "certificateId": id, "status": status, "certificatePem": pem,
            "caCertificateId": ca,
        }}))
    }

    fn describe_ca(&self, id: &str) -> Response {
        let Some(RegisteredCa { status, auto_registration, pem }) = self.cas.get(id) else { return not_found() };
        Response::Output(json!({"certificateDescription": {
            "certificateId": id, "status": status, "certificatePem": pem, "autoRegistrationStatus": auto_registration,
        }}))
    }

    /// Lists certificates in the order of registration. A marker is the index of the first certificate on the page.
    fn list_certificates(&self, ca: &str, query: &BTreeMap<String, String>) -> Response {
        assert_eq!(query.get("isAscendingOrder").map(String::as_str), Some("true"), "new certificates must come last");
        let mut all: Vec<_> = self.certificates.iter().filter(|(_, found)| found.ca.as_deref() == Some(ca)).collect();
        all.sort_by_key(|(_, certificate)| certificate.order);
        let size = query.get("pageSize").map_or(25, |size| size.parse().unwrap());
        assert!((1..=250).contains(&size), "a page of {size} certificates");
        let from: usize = query.get("marker").map_or(0, |marker| marker.parse().unwrap());
        let to = all.len().min(from + self.page_size.unwrap_or(size).min(size));
        let describe = |(id, certificate): &(&String, &RegisteredCertificate)| json!({"certificateArn": certificate_arn(id), "certificateId": id, "status": certificate.status});
        let page: Vec<_> = all[from..to].iter().map(describe).collect();
        Response::Output(json!({"certificates": page, "nextMarker": (to < all.len()).then(|| to.to_string())}))
    }

    /// Creates a thing. Creating the same thing again succeeds.
    fn create_thing(&mut self, name: &str, body: &Value) -> Response {
        let attributes = body["attributePayload"]["attributes"].as_object().into_iter().flatten();
        let attributes = attributes.map(|(name, value)| (name.as_str(), value));
        let kind = body.get("thingTypeName").map(|kind| ("", kind));
        let thing: BTreeMap<_, _> =
            attributes.chain(kind).map(|(name, value)| (name.to_owned(), value.as_str().unwrap().to_owned())).collect();
        if *self.things.entry(name.to_owned()).or_insert_with(|| thing.clone()) == thing {
            Response::Output(json!({"thingName": name}))
        } else {
            Response::error(409, "ResourceAlreadyExistsException")
        }
    }

    /// Lists a page of principals: one, unless a page size is set.
    fn list_principals(&self, thing: &str, query: &BTreeMap<String, String>) -> Response {
        if !self.things.contains_key(thing) {
            return not_found();
        }
        let size = self.page_size.unwrap_or(1);
        let from: usize = query.get("nextToken").map_or(0, |token| token.parse().unwrap());
        let mut principals = self.attached.iter().filter(|(of, _)| of == thing).skip(from);
        let page: Vec<_> = principals.by_ref().take(size).map(|(_, principal)| principal).collect();
        let next = principals.next().map(|_| (from + size).to_string());
        Response::Output(json!({"principals": page, "nextToken": next}))
    }
}
