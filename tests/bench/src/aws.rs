//! A fake AWS that responds immediately: DynamoDB, SNS, SQS and AWS IoT over TLS on loopback, one port per service,
//! since AWS has one address per service. It records every call, so that no benchmark measures a failure.

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
use local_cloud::pki::{KeyType, generate_key_pair};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::{
    dynamodb::Tables,
    iot::{Registry, shadows},
    sqs::sqs,
};

/// The region.
pub const REGION: &str = "eu-west-1";
/// The account.
pub const ACCOUNT: &str = "123456789012";

/// The content type of DynamoDB and SQS.
pub const AWS_JSON: &str = "application/x-amz-json-1.0";

/// A call of a function.
#[derive(Debug)]
pub struct Call {
    /// The operation, such as `PutItem`.
    pub operation: String,
    /// The name of the table or queue, the ARN of the topic, or the last name in an AWS IoT path.
    pub target: String,
    /// The request: JSON, or decoded fields, one per line.
    pub body: String,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// The endpoints and the recorded calls. The endpoints live as long as the process.
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
    /// `AWS_ENDPOINT_URL_IOT_DATA_PLANE`
    pub shadows: String,
    /// The certificates of AWS IoT.
    pub registry: Registry,
    /// The tables of DynamoDB.
    pub tables: Tables,
    /// The file with the CA certificate of the endpoints, in PEM.
    pub ca: PathBuf,
    calls: Calls,
}

impl FakeAws {
    /// Starts the endpoints and writes their CA certificate to `dir`.
    pub async fn start(dir: &Path) -> Result<Self> {
        let ca = dir.join("ca.pem");
        let tls = TlsAcceptor::from(Arc::new(server_config(&ca)?));
        let calls = Calls::default();
        let registry = Registry::new()?;
        let tables = Tables::default();
        let dynamodb_tables = tables.clone();
        let dynamodb = listen(tls.clone(), calls.clone(), move |request| dynamodb_tables.handle(request)).await?;
        let sns = listen(tls.clone(), calls.clone(), sns).await?;
        let sqs = listen(tls.clone(), calls.clone(), sqs).await?;
        let iot_registry = registry.clone();
        let iot = listen(tls.clone(), calls.clone(), move |request| iot_registry.handle(request)).await?;
        let shadows = listen(tls, calls.clone(), shadows).await?;
        Ok(Self { dynamodb, sns, sqs, iot, shadows, registry, tables, ca, calls })
    }

    /// Returns the calls since this was last called.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Creates a certificate chain like that of AWS's endpoints: root, intermediate, server. The CAs have RSA keys, because
/// most of what a handshake costs a client is the verification of signatures. The server has an elliptic curve key,
/// which costs the client slightly more than AWS's RSA key, but does not make it wait for a slow signature.
fn server_config(ca_file: &Path) -> Result<ServerConfig> {
    let ca = |name: &str| -> Result<CertificateParams> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    };

    let root = ca("bench root")?;
    let root_key = generate_key_pair(KeyType::Rsa2048)?;
    std::fs::write(ca_file, root.self_signed(&root_key)?.pem())
        .with_context(|| format!("failed to write {}", ca_file.display()))?;
    let root = Issuer::new(root, root_key);

    let intermediate = ca("bench intermediate")?;
    let intermediate_key = generate_key_pair(KeyType::Rsa2048)?;
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
    // DynamoDB and SNS do not offer HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A response, and the call to record.
pub struct FakeResponse {
    /// The call.
    pub call: Call,
    /// The status.
    pub status: StatusCode,
    /// The error type, if the service names it in a header.
    pub error_type: Option<&'static str>,
    /// The content type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

trait Service: Fn(&Request<Bytes>) -> Result<FakeResponse> + Clone + Send + Sync + 'static {}

impl<F: Fn(&Request<Bytes>) -> Result<FakeResponse> + Clone + Send + Sync + 'static> Service for F {}

/// Serves a service on a new port. Returns its URL.
async fn listen(tls: TlsAcceptor, calls: Calls, service: impl Service) -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = format!("https://localhost:{}", listener.local_addr()?.port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, calls, service) = (tls.clone(), calls.clone(), service.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                // Killed functions drop their connections.
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(|request| respond(request, &calls, &service));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
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
    let response = match service(&request) {
        Ok(response) if signed => response,
        other => {
            let why = match other {
                Ok(_) => "the call is not signed".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            FakeResponse {
                call: Call {
                    operation: "Unsupported".to_owned(),
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
    let mut builder = Response::builder()
        .status(response.status)
        .header("x-amzn-requestid", "7a62c49f-347e-4fc4-9331-6e8e7a96aa73")
        .header("content-type", response.content_type);
    if let Some(error_type) = response.error_type {
        builder = builder.header("x-amzn-errortype", error_type);
    }
    if response.content_type == AWS_JSON {
        builder = builder.header("x-amz-crc32", crc32(response.body.as_bytes()));
    }
    calls.lock().unwrap_or_else(PoisonError::into_inner).push(response.call);
    Ok(builder.body(Full::new(Bytes::from(response.body)))?)
}

/// The checksum in every DynamoDB response, which some SDKs verify.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
}

/// Handles a call of SNS, in the Query protocol.
fn sns(request: &Request<Bytes>) -> Result<FakeResponse> {
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
        other => anyhow::bail!("{other} is not supported by the fake"),
    };
    Ok(FakeResponse {
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
