//! Ends the MQTT sessions of devices whose certificates are revoked.
//! <https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_DeleteConnection.html>

use aws_sdk_iotdataplane::Client;
use aws_sdk_iotdataplane::error::SdkError;
use aws_sdk_iotdataplane::operation::delete_connection::DeleteConnectionError;
use aws_sdk_iotdataplane::operation::get_connection::GetConnectionError;
use gatehouse::Setup;

/// The sessions of this account's clients.
#[derive(Debug, Clone)]
pub struct Sessions(Client);

/// A session could not be ended.
#[derive(Debug, thiserror::Error)]
#[error("failed to disconnect the client")]
pub struct DisconnectError(#[from] Box<SdkError<DeleteConnectionError>>);

impl DisconnectError {
    /// Whether AWS IoT responded at all.
    pub fn is_response(&self) -> bool {
        self.0.raw_response().is_some()
    }
}

impl Sessions {
    /// The sessions that this SDK client can access.
    pub const fn new(client: Client) -> Self {
        Self(client)
    }

    /// Connects to AWS IoT's data plane, and warms up the connection.
    pub async fn connect(setup: &Setup) -> Self {
        let sessions = Self::new(Client::new(setup.sdk()));
        // No client has this id, and the function lacks permission for it, but any response will do.
        let ask = async {
            match sessions.0.get_connection().client_id(setup.function()).send().await {
                Err(error) if error.raw_response().is_some() => Ok(()),
                other => other.map(drop),
            }
            .map_err(Box::<SdkError<GetConnectionError>>::from)
        };
        setup.warm_up("AWS IoT's data plane", ask).await;
        sessions
    }

    /// Closes the connection of a thing's client. Returns whether AWS IoT knew a connection, or a stored session, under
    /// the thing's name.
    ///
    /// The will message is not published, because the device is revoked. A stored session is kept, because the thing
    /// may have another, valid certificate.
    pub async fn end(&self, thing: &str) -> Result<bool, DisconnectError> {
        match self.0.delete_connection().client_id(thing).prevent_will_message(true).send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(DeleteConnectionError::is_resource_not_found_exception) =>
            {
                Ok(false)
            }
            Err(error) => Err(Box::new(error).into()),
        }
    }
}
