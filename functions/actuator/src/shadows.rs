//! Sets desired states in AWS IoT's device shadows.

use std::time::Duration;

use aws_sdk_iotdataplane::Client;
use aws_sdk_iotdataplane::error::SdkError;
use aws_sdk_iotdataplane::operation::get_thing_shadow::GetThingShadowError;
use aws_sdk_iotdataplane::operation::update_thing_shadow::UpdateThingShadowError;
use aws_sdk_iotdataplane::primitives::Blob;
use gatehouse::{Refusal, Setup, ThingName};
use tokio::time::sleep;

use crate::device_command::DesiredState;

/// The maximum number of attempts to update a shadow that others keep updating, and the pause in between.
const MAX_ATTEMPTS: usize = 3;
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// The device shadows of this account.
#[derive(Debug, Clone)]
pub struct Shadows(Client);

/// Why a shadow was not updated.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// AWS IoT will never accept this state.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// AWS IoT did not accept it now.
    #[error("failed to update the shadow")]
    Update(#[source] Box<SdkError<UpdateThingShadowError>>),
}

impl Shadows {
    /// Connects to AWS IoT's data plane, and warms up the connection.
    pub async fn connect(setup: &Setup) -> Self {
        let client = Client::new(setup.sdk());
        // The thing need not exist: a response that it was not found will do.
        let look = async {
            match client.get_thing_shadow().thing_name(setup.function()).send().await {
                Err(error) if is_not_found(&error) => Ok(()),
                other => other.map(drop),
            }
        };
        setup.warm_up("AWS IoT's data plane", look).await;
        Self(client)
    }

    /// The shadows that this SDK client can access.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Sets the desired state of a thing's shadow, which is created if it does not exist.
    ///
    /// Refused with `bad-desired-state` if AWS IoT rejects the state itself.
    pub async fn set_desired(&self, thing: &ThingName, state: &DesiredState) -> Result<(), ShadowError> {
        let DesiredState { name, desired } = state;
        // Not through `json!`, which would change numbers.
        let payload = Blob::new(format!(r#"{{"state":{{"desired":{}}}}}"#, desired.as_str()));
        let mut attempts = 1;
        loop {
            let update = self.0.update_thing_shadow().thing_name(thing.as_str()).set_shadow_name(name.clone());
            let Err(error) = update.payload(payload.clone()).send().await else { return Ok(()) };
            match error.as_service_error() {
                Some(UpdateThingShadowError::ConflictException(_)) if attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                    sleep(CONFLICT_PAUSE).await;
                }
                Some(
                    UpdateThingShadowError::InvalidRequestException(_)
                    | UpdateThingShadowError::RequestEntityTooLargeException(_)
                    | UpdateThingShadowError::UnsupportedDocumentEncodingException(_),
                ) => return Err(bad_desired_state().into()),
                _ => return Err(ShadowError::Update(error.into())),
            }
        }
    }
}

fn is_not_found(error: &SdkError<GetThingShadowError>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 404)
}

fn bad_desired_state() -> Refusal {
    let why = "AWS IoT rejected the desired state that the document of actions contains for this transition.";
    Refusal::new("bad-desired-state", why)
}
