//! Asks AWS IoT whether a client is connected now.
//! <https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_GetConnection.html>

use std::time::Duration;

use aws_sdk_iotdataplane::Client;
use aws_sdk_iotdataplane::error::SdkError;
use aws_sdk_iotdataplane::operation::get_connection::{GetConnectionError, GetConnectionOutput};
use gatehouse::{Failure, Setup, ThingName};
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The minimum time between two calls of a process. The templates run at most five processes, so an outage that
/// disconnects a whole fleet leads to at most ten calls per second, like other calls that AWS IoT limits per account.
const PACE: Duration = Duration::from_millis(500);

/// The connections of this account's clients.
#[derive(Debug)]
pub struct ClientStatus {
    client: Client,
    pace: Mutex<Interval>,
}

/// What AWS IoT says about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// It is connected.
    Connected,
    /// It is not connected, or AWS IoT does not know it.
    NotConnected,
    /// The function lacks the permission to ask.
    Denied,
}

/// AWS IoT did not say whether a client is connected.
#[derive(Debug, thiserror::Error)]
#[error("failed to ask AWS IoT whether the client is connected")]
pub struct ClientStatusError(#[from] Box<SdkError<GetConnectionError>>);

impl From<ClientStatusError> for Failure {
    fn from(error: ClientStatusError) -> Self {
        Self::retry(error)
    }
}

impl ClientStatus {
    /// The connections that this SDK client can access.
    pub fn new(client: Client) -> Self {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { client, pace: Mutex::new(pace) }
    }

    /// Connects to AWS IoT's data plane, and warms up the connection.
    pub async fn connect(setup: &Setup) -> Self {
        let status = Self::new(Client::new(setup.sdk()));
        // No client has this id; that response is enough. Bypasses the pace, so that the first check need not wait.
        let ask = async { read(status.request(setup.function()).await).map(drop) };
        setup.warm_up("AWS IoT's data plane", ask).await;
        status
    }

    /// Returns whether the client of a thing, whose id is the thing's name, is connected now.
    pub async fn of(&self, thing: &ThingName) -> Result<Connectivity, ClientStatusError> {
        self.pace.lock().await.tick().await;
        read(self.request(thing.as_str()).await)
    }

    async fn request(&self, client_id: &str) -> Result<GetConnectionOutput, SdkError<GetConnectionError>> {
        self.client.get_connection().client_id(client_id).send().await
    }
}

fn read(
    response: Result<GetConnectionOutput, SdkError<GetConnectionError>>,
) -> Result<Connectivity, ClientStatusError> {
    match response {
        Ok(connection) if connection.connected() => Ok(Connectivity::Connected),
        Ok(_) => Ok(Connectivity::NotConnected),
        // AWS IoT does not know clients that have been offline for half an hour and have no stored session.
        Err(error) if error.as_service_error().is_some_and(GetConnectionError::is_resource_not_found_exception) => {
            Ok(Connectivity::NotConnected)
        }
        Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 403) => {
            Ok(Connectivity::Denied)
        }
        Err(error) => Err(Box::new(error).into()),
    }
}
