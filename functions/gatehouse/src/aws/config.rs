//! Loads the single `SdkConfig` that all clients of the process share.
//!
//! `aws-config` reads the environment as AWS documents it: `AWS_ENDPOINT_URL` and its variants per service, FIPS and
//! dual-stack endpoints, retry mode and attempts. Credentials and region are passed in, so that no provider chain is
//! walked and no call is made during INIT; TLS roots and timeouts are set here.

use std::num::NonZeroU32;
use std::time::Duration;

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;

use crate::runtime::environment::{Environment, InitError};

/// The roots that AWS endpoints chain to: Amazon Root CA 1 to 4 and Starfield Services Root G2, as published at
/// <https://www.amazontrust.com/repository/>. Loading the system's whole trust store would take longer than the rest of
/// INIT.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon-roots.pem");

/// The timeout of a call, all its attempts included, unless `OPERATION_TIMEOUT_SECONDS` is set. A handler makes at most
/// four calls in sequence, within the 20 seconds that the templates give it.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(not(feature = "tls-aws-lc"))]
const CRYPTO: CryptoMode = CryptoMode::Ring;
#[cfg(feature = "tls-aws-lc")]
const CRYPTO: CryptoMode = CryptoMode::AwsLc;

const INITIAL_BACKOFF: Duration = Duration::from_millis(100);

/// Loads the configuration from the environment.
pub(crate) async fn load(environment: &Environment) -> Result<SdkConfig, InitError> {
    let seconds = environment.optional::<NonZeroU32>("OPERATION_TIMEOUT_SECONDS")?;
    let operation_timeout = seconds.map_or(OPERATION_TIMEOUT, |seconds| Duration::from_secs(seconds.get().into()));
    // Leaves time for a backoff and a second attempt after one that hangs.
    let attempt_timeout = operation_timeout.saturating_sub(2 * INITIAL_BACKOFF) / 2;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(attempt_timeout)
        .operation_attempt_timeout(attempt_timeout)
        .operation_timeout(operation_timeout)
        .build();
    // They need no refresh: Lambda sets them once in the life of a process.
    let credentials = Credentials::new(
        environment.required::<String>("AWS_ACCESS_KEY_ID")?,
        environment.required::<String>("AWS_SECRET_ACCESS_KEY")?,
        environment.optional("AWS_SESSION_TOKEN")?,
        None,
        "environment",
    );
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(environment.required::<String>("AWS_REGION")?))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(http_client(environment, attempt_timeout)?)
        .timeout_config(timeouts)
        // It would act only after 20 seconds, when every timeout has passed, and adds overhead to each call.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await;
    let retries = config.retry_config().cloned().unwrap_or_else(RetryConfig::standard);
    Ok(config.into_builder().retry_config(retries.with_initial_backoff(INITIAL_BACKOFF)).build())
}

/// Returns timeouts for a call that must not be made twice: the first attempt gets all the time. The SDK makes a second
/// one only if the first was rejected or the connection broke.
pub(crate) fn single_attempt_timeouts(config: &SdkConfig) -> TimeoutConfig {
    let timeout = config.timeout_config().and_then(TimeoutConfig::operation_timeout).unwrap_or(OPERATION_TIMEOUT);
    TimeoutConfig::builder().operation_attempt_timeout(timeout).operation_timeout(timeout).build()
}

/// Returns an HTTP client with one connector for all SDK clients, whatever their timeouts: the SDK's default one would
/// parse the roots again for each client and each set of timeouts.
fn http_client(environment: &Environment, connect_timeout: Duration) -> Result<SharedHttpClient, InitError> {
    // Takes precedence if set, for other partitions, proxies, private endpoints and tests.
    let roots = match environment.get("SSL_CERT_FILE") {
        Some(path) => {
            std::fs::read(path).map_err(|error| InitError::File { path: path.to_owned(), source: Box::new(error) })?
        }
        None => AMAZON_ROOTS.to_vec(),
    };
    let context = TlsContext::builder()
        .with_trust_store(TrustStore::empty().with_pem_certificate(roots))
        .build()
        .map_err(|error| InitError::Tls(error.into()))?;
    let connector = Connector::builder()
        .connector_settings(HttpConnectorSettings::builder().connect_timeout(connect_timeout).build())
        .tls_provider(Provider::Rustls(CRYPTO))
        .tls_context(context)
        .build();
    let connector = SharedHttpConnector::new(connector);
    Ok(http_client_fn(move |_settings, _components| connector.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(more: &[(&str, &str)]) -> Environment {
        let always = [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        always.iter().chain(more).copied().collect()
    }

    #[tokio::test]
    async fn variables_that_lambda_sets_are_required() {
        let error = load(&[("AWS_REGION", "eu-west-1")].into_iter().collect()).await.unwrap_err();
        assert_eq!(error.to_string(), "environment variable AWS_ACCESS_KEY_ID is missing");
    }

    #[tokio::test]
    async fn unreadable_certificate_file_is_named() {
        let error = load(&environment(&[("SSL_CERT_FILE", "/nowhere/roots.pem")])).await.unwrap_err();
        assert!(error.to_string().starts_with("failed to read /nowhere/roots.pem: "), "{error}");
    }

    #[tokio::test]
    async fn region_timeouts_and_backoff_are_ours() {
        let config = load(&environment(&[])).await.unwrap();
        assert_eq!(config.region().map(Region::as_ref), Some("eu-west-1"));
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_timeout(), Some(OPERATION_TIMEOUT));
        assert_eq!(timeouts.operation_attempt_timeout(), Some(Duration::from_millis(1400)));
        assert_eq!(config.retry_config().map(RetryConfig::initial_backoff), Some(INITIAL_BACKOFF));
    }

    #[tokio::test]
    async fn operation_timeout_may_be_set() {
        let config = load(&environment(&[("OPERATION_TIMEOUT_SECONDS", "12")])).await.unwrap();
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_timeout(), Some(Duration::from_secs(12)));
        assert_eq!(timeouts.operation_attempt_timeout(), Some(Duration::from_millis(5900)));
        let once = single_attempt_timeouts(&config);
        assert_eq!(once.operation_attempt_timeout(), Some(Duration::from_secs(12)));

        let error = load(&environment(&[("OPERATION_TIMEOUT_SECONDS", "0")])).await.unwrap_err();
        assert!(error.to_string().starts_with("environment variable OPERATION_TIMEOUT_SECONDS is \"0\": "), "{error}");
    }

    #[test]
    fn embedded_roots_are_the_five_that_amazon_publishes() {
        let pem = std::str::from_utf8(AMAZON_ROOTS).unwrap();
        assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----").count(), 5);
        // A client builds its trust store immediately, and panics if one does not parse.
        assert!(http_client(&environment(&[]), OPERATION_TIMEOUT).is_ok());
    }
}
