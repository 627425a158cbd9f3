//! What every subcommand works with: SDK clients, names and output.

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

/// The longest that a function runs is five minutes.
const INVOCATION_TIMEOUT: Duration = Duration::from_secs(310);

/// The longest that one attempt of any other call takes.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// SDK clients, names and output.
#[derive(Debug, Clone)]
pub struct Context {
    config: SdkConfig,
    /// The names in the deployment.
    pub names: Names,
    /// How results are printed.
    pub output: Output,
}

impl Context {
    /// Reads the configuration as the AWS CLI does. Makes no call.
    pub async fn connect(options: &GlobalOptions) -> Result<Self> {
        // The same TLS as the functions have, with the system's roots (or `SSL_CERT_FILE`), and the environment's proxy.
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
            // It would end an invocation that takes its time.
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

    /// The region.
    pub fn region(&self) -> &str {
        self.config.region().map_or_else(Default::default, AsRef::as_ref)
    }

    /// Whether requests go to an endpoint other than AWS's own, such as the local cloud.
    pub fn endpoint_url(&self) -> Option<&str> {
        self.config.endpoint_url()
    }

    /// The SDK's configuration, for a client of another service.
    pub fn config(&self) -> &SdkConfig {
        &self.config
    }

    /// DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.config)
    }

    /// Lambda. It never repeats a request: an attempt that timed out may have been handled.
    pub fn lambda(&self) -> aws_sdk_lambda::Client {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(INVOCATION_TIMEOUT).build();
        let config = aws_sdk_lambda::config::Builder::from(&self.config);
        aws_sdk_lambda::Client::from_conf(config.retry_config(RetryConfig::disabled()).timeout_config(timeouts).build())
    }

    /// SNS.
    pub fn sns(&self) -> aws_sdk_sns::Client {
        aws_sdk_sns::Client::new(&self.config)
    }

    /// SQS.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.config)
    }

    /// SQS for sending, which never repeats a request.
    pub fn sqs_without_retries(&self) -> aws_sdk_sqs::Client {
        let config = aws_sdk_sqs::config::Builder::from(&self.config);
        aws_sdk_sqs::Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
    }

    /// AWS IoT.
    pub fn iot(&self) -> aws_sdk_iot::Client {
        aws_sdk_iot::Client::new(&self.config)
    }

    /// The data plane of AWS IoT.
    pub fn iot_data(&self) -> aws_sdk_iotdataplane::Client {
        aws_sdk_iotdataplane::Client::new(&self.config)
    }

    /// STS, which says who the caller is. It is asked once, and what it does not say is known otherwise.
    pub fn sts(&self) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::config::Builder::from(&self.config);
        aws_sdk_sts::Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
    }

    /// CloudWatch.
    pub fn cloudwatch(&self) -> aws_sdk_cloudwatch::Client {
        aws_sdk_cloudwatch::Client::new(&self.config)
    }

    /// CloudWatch Logs.
    pub fn logs(&self) -> aws_sdk_cloudwatchlogs::Client {
        aws_sdk_cloudwatchlogs::Client::new(&self.config)
    }
}
