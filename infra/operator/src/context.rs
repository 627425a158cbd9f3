//! The context that subcommands share: SDK clients, names and output.

use std::time::Duration;

use anyhow::{Result, bail};
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};

use crate::cli::GlobalOptions;
use crate::names::Names;
use crate::output::Output;

/// Timeout of an invocation: a function runs for at most five minutes.
const INVOCATION_TIMEOUT: Duration = Duration::from_secs(310);

/// Timeout of one attempt of any other call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// The SDK clients, names and output of a deployment.
#[derive(Debug, Clone)]
pub struct Context {
    config: SdkConfig,
    /// The names in the deployment.
    pub names: Names,
    /// How results are printed.
    pub output: Output,
}

impl Context {
    /// Reads the configuration as the AWS CLI does. Fails if no region is configured.
    pub async fn connect(options: &GlobalOptions) -> Result<Self> {
        // TLS as in the functions, with the system's roots (or `SSL_CERT_FILE`), and the environment's proxy.
        let http = Builder::new().build_with_connector_fn(|settings, _components| {
            let mut connector = Connector::builder()
                .proxy_config(ProxyConfig::from_env())
                .tls_provider(Provider::Rustls(CryptoMode::Ring));
            connector.set_connector_settings(settings.cloned());
            connector.build()
        });
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            // It would abort a slow invocation.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(region) = &options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &options.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = &options.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let config = loader.load().await;
        if config.region().is_none() {
            bail!("no region is configured; use --region, AWS_REGION or the profile");
        }
        Ok(Self { config, names: Names::new(options.prefix.clone()), output: Output::of(options) })
    }

    /// Returns the region.
    pub fn region(&self) -> &str {
        self.config.region().map_or_else(Default::default, AsRef::as_ref)
    }

    /// Returns the endpoint that requests go to instead of AWS's own, such as that of the local cloud.
    pub fn endpoint_url(&self) -> Option<&str> {
        self.config.endpoint_url()
    }

    /// Returns the SDK's configuration, for a client of another service.
    pub fn config(&self) -> &SdkConfig {
        &self.config
    }

    /// Returns a client of DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.config)
    }

    /// Returns a client of Lambda. It never repeats a request: the function may have handled one that timed out.
    pub fn lambda(&self) -> aws_sdk_lambda::Client {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(INVOCATION_TIMEOUT).build();
        let config = aws_sdk_lambda::config::Builder::from(&self.config);
        aws_sdk_lambda::Client::from_conf(config.retry_config(RetryConfig::disabled()).timeout_config(timeouts).build())
    }

    /// Returns a client of SNS.
    pub fn sns(&self) -> aws_sdk_sns::Client {
        aws_sdk_sns::Client::new(&self.config)
    }

    /// Returns a client of SQS.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.config)
    }

    /// Returns a client of SQS for sending, which never repeats a request.
    pub fn sqs_without_retries(&self) -> aws_sdk_sqs::Client {
        let config = aws_sdk_sqs::config::Builder::from(&self.config);
        aws_sdk_sqs::Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
    }

    /// Returns a client of AWS IoT.
    pub fn iot(&self) -> aws_sdk_iot::Client {
        aws_sdk_iot::Client::new(&self.config)
    }

    /// Returns a client of the data plane of AWS IoT.
    pub fn iot_data(&self) -> aws_sdk_iotdataplane::Client {
        aws_sdk_iotdataplane::Client::new(&self.config)
    }

    /// Returns a client of STS, which identifies the caller. It never repeats a request, because there is a fallback.
    pub fn sts(&self) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::config::Builder::from(&self.config);
        aws_sdk_sts::Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
    }

    /// Returns a client of CloudWatch.
    pub fn cloudwatch(&self) -> aws_sdk_cloudwatch::Client {
        aws_sdk_cloudwatch::Client::new(&self.config)
    }

    /// Returns a client of CloudWatch Logs.
    pub fn logs(&self) -> aws_sdk_cloudwatchlogs::Client {
        aws_sdk_cloudwatchlogs::Client::new(&self.config)
    }
}
