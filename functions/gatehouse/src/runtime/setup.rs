use std::time::Duration;

use aws_types::SdkConfig;
use tokio::time::timeout;

use crate::aws::config;
use crate::runtime::environment::{Environment, InitError};
use crate::runtime::outcome::{BoxError, error_chain};
use crate::store::idempotency::Idempotency;

/// Lambda gives INIT ten seconds; one slow endpoint may not use them up.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a function is assembled from during INIT.
#[derive(Debug)]
pub struct Setup {
    environment: Environment,
    function: String,
    sdk: SdkConfig,
    dynamodb: aws_sdk_dynamodb::Client,
}

impl Setup {
    pub(crate) async fn new(environment: Environment) -> Result<Self, InitError> {
        let sdk = config::load(&environment).await?;
        let dynamodb = aws_sdk_dynamodb::Client::new(&sdk);
        Ok(Self { function: environment.required("AWS_LAMBDA_FUNCTION_NAME")?, environment, sdk, dynamodb })
    }

    /// The function's environment variables.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The name under which the function is deployed.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The process's SDK configuration, to create clients from.
    pub fn sdk(&self) -> &SdkConfig {
        &self.sdk
    }

    /// The process's DynamoDB client.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        self.dynamodb.clone()
    }

    /// The idempotency table that the environment names.
    pub fn idempotency(&self) -> Result<Idempotency, InitError> {
        Idempotency::from_environment(&self.environment, self.dynamodb(), &self.function)
    }

    /// Makes one cheap call, so that the connection to an endpoint is open before the first event arrives.
    ///
    /// INIT runs at full CPU speed; an invocation gets a fraction of it, which makes a TLS handshake expensive. A
    /// failure is only logged: the endpoint may have recovered by the time it is needed.
    pub async fn warm_up<T, E: Into<BoxError>>(&self, endpoint: &str, call: impl Future<Output = Result<T, E>>) {
        let error = match timeout(WARM_UP_TIMEOUT, call).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error_chain(error.into().as_ref()),
            Err(elapsed) => elapsed.to_string(),
        };
        tracing::warn!(endpoint, error, "warm-up call failed; the first event opens the connection");
    }
}
