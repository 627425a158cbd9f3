//! An AWS that answers at once: DynamoDB, SNS, SQS and AWS IoT over TLS on loopback, one port a service as AWS has one
//! address a service, and a record of every call, so that no benchmark measures a failure.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use local_cloud::pki::{Key, key_pair};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::{dynamodb::Tables, iot::Registry, sqs::sqs};

/// Where everything is.
pub const REGION: &str = "eu-west-1";
/// Whose everything is.
pub const ACCOUNT: &str = "123456789012";

/// The content type of DynamoDB's and SQS's answers.
pub const AWS_JSON: &str = "application/x-amz-json-1.0";

/// One call that a function made.
#[derive(Debug)]
pub struct Call {
    /// The API's operation, for example `PutItem`.
    pub operation: String,
    /// The table's or the queue's name, the topic's ARN, or the last name in an AWS IoT path.
    pub target: String,
    /// What was sent: JSON, or decoded fields, one a line.
    pub body: String,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// The endpoints and what they were asked. They live as long as the process.
#[derive(Debug)]
pub struct FakeAws {
    /// `AWS_ENDPOINT_URL_DYNAMODB`
    pub dynamodb: String,
    /// `AWS_ENDPOINT_URL_SNS`
    pub sns: String,
    /// `AWS_ENDPOINT_URL_SQS`
    pub sqs: String,
    /// `AWS_ENDPOINT_URL_IOT`
    pub iot: String,
    /// What AWS IoT knows.
    pub registry: Registry,
    /// What DynamoDB holds.
    pub tables: Tables,
    /// The authority that signed their certificate, as PEM.
    pub ca: PathBuf,
    calls: Calls,
}

impl FakeAws {
    /// Starts the endpoints and writes their authority's certificate into `dir`.
    pub async fn start(dir: &Path) -> Result<Self> {
        let ca = dir.join("ca.pem");
        let tls = TlsAcceptor::from(Arc::new(server_config(&ca)?));
        let calls = Calls::default();
        let registry = Registry::new()?;
        let tables = Tables::default();
        let held = tables.clone();
        let dynamodb = listen(tls.clone(), calls.clone(), move |request| held.answer(request)).await?;
        let sns = listen(tls.clone(), calls.clone(), sns).await?;
        let sqs = listen(tls.clone(), calls.clone(), sqs).await?;
        let known = registry.clone();
        let iot = listen(tls, calls.clone(), move |request| known.answer(request)).await?;
        Ok(Self { dynamodb, sns, sqs, iot, registry, tables, ca, calls })
    }

    /// The calls since the last time this was asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A chain like that of AWS's endpoints, made anew for each run: root, intermediate, server, the authorities with RSA
/// keys, since what a client pays for a handshake is mostly the checking of signatures. The server's own key is an
/// elliptic curve's, which costs the client a little more than AWS's RSA key would, but does not let it wait for a slow
/// signature here.
fn server_config(ca_file: &Path) -> Result<ServerConfig> {
    let authority = |name: &str| -> Result<CertificateParams> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    };

    let root = authority("bench root")?;
    let root_key = generate_key_pair(Key::Rsa2048)?;
    std::fs::write(ca_file, root.self_signed(&root_key)?.pem())
        .with_context(|| format!("cannot write {}", ca_file.display()))?;
    let root = Issuer::new(root, root_key);

    let intermediate = authority("bench intermediate")?;
    let intermediate_key = generate_key_pair(Key::Rsa2048)?;
    let intermediate_certificate = intermediate.signed_by(&intermediate_key, &root)?;
    let intermediate = Issuer::new(intermediate, intermediate_key);

    let mut server = CertificateParams::new(["localhost".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let server_certificate = server.signed_by(&server_key, &intermediate)?;

    let chain: Vec<CertificateDer<'static>> =
        vec![server_certificate.der().clone(), intermediate_certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // What DynamoDB and SNS offer: no HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The status, the content type, the body, and for the record: which call it was.
pub struct Answer {
    /// Which call it was.
    pub call: Call,
    /// 200, or what an error of `error_type` comes with.
    pub status: StatusCode,
    /// The kind of error, where the service names it in a header.
    pub error_type: Option<&'static str>,
    /// What the body is.
    pub content_type: &'static str,
    /// What is said.
    pub body: String,
}

trait Service: Fn(&Request<Bytes>) -> Result<Answer> + Clone + Send + Sync + 'static {}

impl<F: Fn(&Request<Bytes>) -> Result<Answer> + Clone + Send + Sync + 'static> Service for F {}

/// Serves `service` on a port of its own; the answer is its address.
async fn listen(tls: TlsAcceptor, calls: Calls, service: impl Service) -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = format!("https://localhost:{}", listener.local_addr()?.port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, calls, service) = (tls.clone(), calls.clone(), service.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                // A client that hangs up, as every killed function does, is no error here.
                let Ok(stream) = tls.accept(stream).await else { return };
                let answer = service_fn(|request| respond(request, &calls, &service));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    Ok(address)
}

async fn respond(request: Request<Incoming>, calls: &Calls, service: &impl Service) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, body.collect().await?.to_bytes());
    let authorization = request.headers().get("authorization");
    let signed = authorization.is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256 "));
    let answer = match service(&request) {
        Ok(answer) if signed => answer,
        other => {
            let why = match other {
                Ok(_) => "the call is not signed".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            Answer {
                call: Call {
                    operation: "NotUnderstood".to_owned(),
                    target: why,
                    body: String::from_utf8_lossy(request.body()).into_owned(),
                },
                status: StatusCode::BAD_REQUEST,
                error_type: None,
                content_type: "text/plain",
                body: String::new(),
            }
        }
    };
    let mut response = Response::builder()
        .status(answer.status)
        .header("x-amzn-requestid", "7a62c49f-347e-4fc4-9331-6e8e7a96aa73")
        .header("content-type", answer.content_type);
    if let Some(error_type) = answer.error_type {
        response = response.header("x-amzn-errortype", error_type);
    }
    if answer.content_type == AWS_JSON {
        response = response.header("x-amz-crc32", crc32(answer.body.as_bytes()));
    }
    calls.lock().unwrap_or_else(PoisonError::into_inner).push(answer.call);
    Ok(response.body(Full::new(Bytes::from(answer.body)))?)
}

/// The checksum that DynamoDB sends with every answer, and that some SDKs verify.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
}

/// SNS's Query protocol.
fn sns(request: &Request<Bytes>) -> Result<Answer> {
    let fields: Vec<(String, String)> = form_urlencoded::parse(request.body()).into_owned().collect();
    let field = |name: &str| -> Result<String> {
        let found = fields.iter().find(|(key, _)| key == name);
        Ok(found.with_context(|| format!("no {name}"))?.1.clone())
    };
    let operation = field("Action")?;
    let topic = field("TopicArn")?;
    let result = match operation.as_str() {
        "Publish" => "<MessageId>94f20ce6-13c5-43a0-9a9e-ca52d816e90b</MessageId>".to_owned(),
        "GetTopicAttributes" => {
            format!("<Attributes><entry><key>TopicArn</key><value>{topic}</value></entry></Attributes>")
        }
        other => anyhow::bail!("{other} is not among the fake's operations"),
    };
    Ok(Answer {
        status: StatusCode::OK,
        error_type: None,
        content_type: "text/xml",
        body: format!(
            "<{operation}Response xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\">\
             <{operation}Result>{result}</{operation}Result><ResponseMetadata>\
             <RequestId>f187a3c1-376f-11df-8963-01868b7c937a</RequestId></ResponseMetadata>\
             </{operation}Response>"
        ),
        call: Call {
            operation,
            target: topic,
            body: fields.iter().map(|(key, value)| format!("{key}={value}\n")).collect::<Vec<_>>().concat(),
        },
    })
}
