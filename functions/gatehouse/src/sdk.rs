//! The one `SdkConfig` of the process.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::environment::{Environment, InitError};

/// The roots that AWS endpoints chain to: Amazon Root CA 1 to 4 and Starfield Services Root G2, as published at
/// <https://www.amazontrust.com/repository/>. Reading the system's whole store costs more than all the rest of INIT.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon-roots.pem");

/// The environment's region, credentials and endpoints, with time-outs that leave a function of 10 seconds time for a
/// second attempt.
pub(crate) async fn config(environment: &Environment) -> Result<SdkConfig, InitError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_millis(1500))
        .operation_attempt_timeout(Duration::from_millis(2500))
        .build();
    Ok(aws_config::defaults(BehaviorVersion::latest())
        // Where Lambda puts them, and the only place that is looked at: the default chain would make an STS client in
        // every cold start, and could be sent to another provider by a variable.
        .credentials_provider(EnvironmentVariableCredentialsProvider::new())
        .http_client(http_client(environment)?)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(100)))
        .load()
        .await)
}

fn http_client(environment: &Environment) -> Result<SharedHttpClient, InitError> {
    // Wins where it is set: other partitions, proxies, private endpoints, and a test's own endpoint.
    let roots = match environment.get("SSL_CERT_FILE") {
        Some(path) => {
            std::fs::read(path).map_err(|error| InitError::File { path: path.to_owned(), source: Box::new(error) })?
        }
        None => AMAZON_ROOTS.to_vec(),
    };
    let unusable = |error| InitError::File { path: "the set of root certificates".to_owned(), source: error };
    let context = TlsContext::builder()
        .with_trust_store(TrustStore::empty().with_pem_certificate(roots))
        .build()
        .map_err(|error| unusable(Box::new(error).into()))?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}
