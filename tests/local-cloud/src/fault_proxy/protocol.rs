//! Recognizes the calls of AWS SDKs, and builds throttling errors.

use anyhow::Result;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Response};

/// A service, identified by the protocol of its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    DynamoDb,
    Iot,
    Sns,
    Sqs,
}

impl Service {
    /// Returns its name, as in `AWS_ENDPOINT_URL_<SERVICE>`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DynamoDb => "DYNAMODB",
            Self::Iot => "IOT",
            Self::Sns => "SNS",
            Self::Sqs => "SQS",
        }
    }
}

/// Returns the service and the operation of a request.
pub(super) fn operation_of(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> (Service, String) {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    match target.and_then(|target| target.rsplit_once('.')) {
        // AWS JSON: the operation is in a header.
        Some(("AmazonSQS", operation)) => (Service::Sqs, operation.to_owned()),
        Some((_, operation)) => (Service::DynamoDb, operation.to_owned()),
        // AWS Query: the operation is a form field.
        None if path == "/" => (Service::Sns, query_operation(body)),
        // REST: the operation is in the method and path.
        None => (Service::Iot, rest_operation(method, path).to_owned()),
    }
}

/// Returns the `Action` of a request in the Query protocol.
fn query_operation(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or("unknown").to_owned()
}

/// Returns the operation of a request to AWS IoT.
fn rest_operation(method: &Method, path: &str) -> &'static str {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["certificates", _]) => "DescribeCertificate",
        ("PUT", ["certificates", _]) => "UpdateCertificate",
        ("GET", ["certificates-by-ca", _]) => "ListCertificatesByCA",
        ("GET", ["cacertificate", _]) => "DescribeCACertificate",
        ("PUT", ["cacertificate", _]) => "UpdateCACertificate",
        ("POST", ["things", _]) => "CreateThing",
        ("GET", ["things", _]) => "DescribeThing",
        ("PATCH", ["things", _]) => "UpdateThing",
        ("GET", ["things", _, "principals"]) => "ListThingPrincipals",
        ("GET", ["things", _, "principals-v2"]) => "ListThingPrincipalsV2",
        ("PUT", ["things", _, "principals"]) => "AttachThingPrincipal",
        ("DELETE", ["things", _, "principals"]) => "DetachThingPrincipal",
        ("GET", ["principals", "things"]) => "ListPrincipalThings",
        ("PUT", ["target-policies", _]) => "AttachPolicy",
        ("POST", ["target-policies", _]) => "DetachPolicy",
        ("POST", ["attached-policies", _]) => "ListAttachedPolicies",
        ("GET", ["endpoint"]) => "DescribeEndpoint",
        _ => "unknown",
    }
}

/// Returns a service's throttling error.
pub(super) fn throttled(service: Service) -> Result<Response<Full<Bytes>>> {
    let response = Response::builder().status(400);
    let (response, body) = match service {
        Service::DynamoDb => (
            response.header("content-type", "application/x-amz-json-1.0"),
            r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"Rate exceeded"}"#,
        ),
        Service::Iot => (
            response.header("content-type", "application/json").header("x-amzn-errortype", "ThrottlingException"),
            r#"{"message":"Rate exceeded"}"#,
        ),
        Service::Sns => (
            response.header("content-type", "text/xml"),
            "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type>\
             <Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>throttled</RequestId></ErrorResponse>",
        ),
        Service::Sqs => (
            response
                .header("content-type", "application/x-amz-json-1.0")
                .header("x-amzn-query-error", "RequestThrottled;Sender"),
            r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"Rate exceeded"}"#,
        ),
    };
    Ok(response.body(Full::new(body.into()))?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use http_body_util::BodyExt;
    use hyper::Request;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    fn call(method: &str, path: &str, target: Option<&str>, body: &str) -> (Service, String) {
        let mut headers = HeaderMap::new();
        if let Some(target) = target {
            headers.insert("x-amz-target", target.parse().expect("a header"));
        }
        operation_of(&method.parse().expect("a method"), path, &headers, body.as_bytes())
    }

    #[test]
    fn operation_is_recognized_in_every_protocol() {
        for (method, path, target, body, service, operation) in [
            ("POST", "/", Some("DynamoDB_20120810.PutItem"), "{}", Service::DynamoDb, "PutItem"),
            ("POST", "/", Some("AmazonSQS.SendMessage"), "{}", Service::Sqs, "SendMessage"),
            ("POST", "/", None, "Action=Publish&Version=2010-03-31", Service::Sns, "Publish"),
            ("GET", "/certificates/ab", None, "", Service::Iot, "DescribeCertificate"),
            ("PUT", "/certificates/ab", None, "", Service::Iot, "UpdateCertificate"),
            ("GET", "/certificates-by-ca/ab", None, "", Service::Iot, "ListCertificatesByCA"),
            ("PUT", "/cacertificate/ab", None, "", Service::Iot, "UpdateCACertificate"),
            ("POST", "/things/door", None, "{}", Service::Iot, "CreateThing"),
            ("GET", "/things/door/principals", None, "", Service::Iot, "ListThingPrincipals"),
            ("PUT", "/things/door/principals", None, "", Service::Iot, "AttachThingPrincipal"),
            ("PUT", "/target-policies/device", None, "{}", Service::Iot, "AttachPolicy"),
            ("GET", "/no/such/path", None, "", Service::Iot, "unknown"),
        ] {
            assert_eq!(call(method, path, target, body), (service, operation.to_owned()), "{method} {path}");
        }
    }

    /// Each service's SDK must recognize the throttling error and retry.
    #[tokio::test]
    async fn sdk_retries_a_throttled_call() {
        use aws_sdk_iot::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let recorded = Arc::clone(&recorded);
                let service = service_fn(move |request: Request<Incoming>| {
                    let recorded = Arc::clone(&recorded);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let (service, operation) = operation_of(&head.method, head.uri.path(), &head.headers, &body);
                        recorded.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
                        throttled(service)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        macro_rules! client {
            ($service:ident) => {
                $service::Client::from_conf(
                    $service::Config::builder()
                        .behavior_version(BehaviorVersion::latest())
                        .region(Region::new("us-east-1"))
                        .endpoint_url(&url)
                        .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
                        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
                        .http_client(aws_smithy_http_client::Builder::new().build_http())
                        .build(),
                )
            };
        }
        let mut codes = Vec::new();
        let sent = client!(aws_sdk_iot).describe_certificate().certificate_id("ab").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let sent = client!(aws_sdk_sqs).send_message().queue_url(&url).message_body("b").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let sent = client!(aws_sdk_sns).publish().topic_arn("arn:aws:sns:us-east-1:1:t").message("m").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let sent = client!(aws_sdk_dynamodb).get_item().table_name("t").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let codes: Vec<_> = codes.iter().map(Option::as_deref).collect();
        let [iot, sqs, sns, dynamodb] = codes.as_slice() else { panic!("four codes") };
        assert_eq!(
            [*iot, *sns, *dynamodb],
            [Some("ThrottlingException"), Some("Throttling"), Some("ThrottlingException")]
        );
        assert!(sqs.is_some_and(|code| code.ends_with("RequestThrottled")), "{sqs:?}");
        let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        for operation in ["DescribeCertificate", "SendMessage", "Publish", "GetItem"] {
            assert_eq!(calls.iter().filter(|call| *call == operation).count(), 3, "{operation} in {calls:?}");
        }
    }
}
