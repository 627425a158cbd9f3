//! The checks that AWS makes on every request: its length and its signature.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::collections::BTreeMap;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use ring::{digest, hmac};

/// The secret access key of every process.
pub(super) const SECRET: &str = "secret";

/// Verifies a request of a JSON protocol, which is a POST to `/`.
pub(super) fn verify(request: &HttpRequest) {
    let body = request.body().bytes().unwrap();
    let header = |name: &str| request.headers().get(name).unwrap_or_else(|| panic!("there is no header {name}"));
    assert_eq!(header("content-length"), body.len().to_string());

    let authorization = header("authorization").strip_prefix("AWS4-HMAC-SHA256 ").unwrap();
    let parts: BTreeMap<_, _> = authorization.split(", ").map(|part| part.split_once('=').unwrap()).collect();
    let (_, after_scheme) = request.uri().split_once("://").unwrap();
    let host = after_scheme.split('/').next().unwrap();
    let names = parts["SignedHeaders"];
    assert!(names.contains("content-length"), "{names}");
    let line = |name| format!("{name}:{}\n", if name == "host" { host } else { header(name).trim() });
    let lines: String = names.split(';').map(line).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(digest::digest(&digest::SHA256, body)));

    let (_, scope) = parts["Credential"].split_once('/').unwrap();
    let digest = hex(digest::digest(&digest::SHA256, canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", header("x-amz-date"));
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let secret = format!("AWS4{SECRET}");
    let key = scope.split('/').fold(secret.into_bytes(), |key, part| mac(&key, part).as_ref().to_vec());
    assert_eq!(parts["Signature"], hex(mac(&key, &to_sign)), "the signature does not match");
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
