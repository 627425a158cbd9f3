//! The one `SdkConfig` of the process, made from the environment variables that Lambda sets.
//!
//! Not by `aws-config`: it looks in more places than a function should, and brings a client for AWS STS that no
//! function uses, at 0.3 MiB of every zip and a fifteenth of every cold start.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

use crate::environment::{Environment, InitError};

/// The roots that AWS endpoints chain to: Amazon Root CA 1 to 4 and Starfield Services Root G2, as published at
/// <https://www.amazontrust.com/repository/>. Reading the system's whole store would cost more than all the rest of
/// INIT.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon-roots.pem");

/// The longest that a call takes, with all its attempts. A handler makes four at most, one after the other, in the 20
/// seconds that the templates give it.
const OPERATION: Duration = Duration::from_secs(3);

/// The longest that one attempt takes: a call that hangs leaves time for a second one.
const ATTEMPT: Duration = Duration::from_millis(1400);

/// Region, credentials and endpoints from the environment, and time-outs for every call.
pub(crate) fn config(environment: &Environment) -> Result<SdkConfig, InitError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(ATTEMPT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(OPERATION)
        .build();
    // Lambda sets them once in the life of a process.
    let credentials = Credentials::new(
        environment.required::<String>("AWS_ACCESS_KEY_ID")?,
        environment.required::<String>("AWS_SECRET_ACCESS_KEY")?,
        environment.optional("AWS_SESSION_TOKEN")?,
        None,
        "environment",
    );
    Ok(SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(environment.required::<String>("AWS_REGION")?))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .use_fips(environment.get("AWS_USE_FIPS_ENDPOINT") == Some("true"))
        .use_dual_stack(environment.get("AWS_USE_DUALSTACK_ENDPOINT") == Some("true"))
        .service_config(Endpoints(environment.clone()))
        .http_client(http_client(environment)?)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(100)))
        .time_source(SharedTimeSource::default())
        .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
        .build())
}

/// Time-outs for a call that must not be made twice: one attempt gets all the time. A second one is made only where the
/// first was turned away, or the connection broke.
pub(crate) fn one_long_attempt() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(OPERATION).operation_timeout(OPERATION).build()
}

/// `AWS_ENDPOINT_URL_<SERVICE>`, or else `AWS_ENDPOINT_URL`, as the SDKs know them: for a local cloud and for private
/// endpoints. <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>
#[derive(Debug)]
struct Endpoints(Environment);

impl LoadServiceConfig for Endpoints {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let Self(environment) = self;
        let service = key.service_id().to_uppercase().replace(' ', "_");
        let url = environment.get(&format!("{}_{service}", key.env())).or_else(|| environment.get(key.env()));
        url.filter(|_| key.env() == "AWS_ENDPOINT_URL").map(str::to_owned)
    }
}

fn http_client(environment: &Environment) -> Result<SharedHttpClient, InitError> {
    // Wins where it is set: other partitions, proxies, private endpoints, and a test's own endpoint.
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
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(more: &[(&str, &str)]) -> Environment {
        let always = [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        always.iter().chain(more).copied().collect()
    }

    fn endpoint(service: &'static str, environment: Environment) -> Option<String> {
        let key = ServiceConfigKey::builder().service_id(service).profile("endpoint_url").env("AWS_ENDPOINT_URL");
        Endpoints(environment).load_config(key.build().unwrap())
    }

    #[test]
    fn a_services_own_endpoint_wins_over_the_one_for_all() {
        let both = [("AWS_ENDPOINT_URL", "http://all"), ("AWS_ENDPOINT_URL_DYNAMODB", "http://one")];
        assert_eq!(endpoint("DynamoDB", environment(&both)).as_deref(), Some("http://one"));
        assert_eq!(endpoint("SNS", environment(&both)).as_deref(), Some("http://all"));
        assert_eq!(endpoint("SNS", environment(&[])), None);
    }

    #[test]
    fn what_lambda_always_sets_is_required() {
        let error = config(&[("AWS_REGION", "eu-west-1")].into_iter().collect()).unwrap_err();
        assert_eq!(error.to_string(), "environment variable AWS_ACCESS_KEY_ID is missing");
    }

    #[test]
    fn a_certificate_file_that_cannot_be_read_is_named() {
        let error = config(&environment(&[("SSL_CERT_FILE", "/nowhere/roots.pem")])).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/roots.pem cannot be used: "), "{error}");
    }

    #[test]
    fn the_embedded_roots_are_the_five_that_amazon_publishes() {
        let pem = std::str::from_utf8(AMAZON_ROOTS).unwrap();
        assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----").count(), 5);
        // A client makes its trust store of them at once, and panics where one does not parse.
        assert!(http_client(&environment(&[])).is_ok());
    }
}
