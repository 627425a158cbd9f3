//! AWS IoT's device shadows.

use std::time::Duration;

use aws_sdk_iotdataplane::Client;
use aws_sdk_iotdataplane::error::SdkError;
use aws_sdk_iotdataplane::operation::get_thing_shadow::GetThingShadowError;
use aws_sdk_iotdataplane::operation::update_thing_shadow::UpdateThingShadowError;
use aws_sdk_iotdataplane::primitives::Blob;
use gatehouse::{Refusal, Setup, ThingName};
use serde_json::json;
use tokio::time::sleep;

use crate::answers::Shadow;

/// How many times a shadow is updated that somebody else is updating at the same moment, and the pause between.
const CONFLICTS: (usize, Duration) = (3, Duration::from_millis(100));

/// The shadows of this account's things.
#[derive(Debug, Clone)]
pub struct Shadows(Client);

/// Why a shadow was not updated.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// AWS IoT will never take this state.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// AWS IoT did not take it now.
    #[error("the device shadow could not be updated")]
    NotUpdated(#[source] Box<SdkError<UpdateThingShadowError>>),
}

impl Shadows {
    /// The shadows, with the connection to AWS IoT's data plane warmed up.
    pub async fn connect(setup: &Setup) -> Self {
        let client = Client::new(setup.sdk());
        // Of a thing that is not there: any answer will do.
        let look = async {
            match client.get_thing_shadow().thing_name(setup.function()).send().await {
                Err(error) if is_not_found(&error) => Ok(()),
                other => other.map(drop),
            }
        };
        setup.warm_up("AWS IoT's data plane", look).await;
        Self(client)
    }

    /// The shadows that this client reaches.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Sets the desired state of a thing's shadow; the shadow is made where there is none.
    pub async fn desire(&self, thing: &ThingName, shadow: &Shadow) -> Result<(), ShadowError> {
        let Shadow { name, desired } = shadow;
        let payload = Blob::new(json!({"state": {"desired": desired}}).to_string());
        let (times, pause) = CONFLICTS;
        let mut conflicts = 0;
        loop {
            let update = self.0.update_thing_shadow().thing_name(thing.as_str()).set_shadow_name(name.clone());
            let Err(error) = update.payload(payload.clone()).send().await else { return Ok(()) };
            match error.as_service_error() {
                Some(UpdateThingShadowError::ConflictException(_)) if conflicts + 1 < times => {
                    conflicts += 1;
                    sleep(pause).await;
                }
                Some(
                    UpdateThingShadowError::InvalidRequestException(_)
                    | UpdateThingShadowError::RequestEntityTooLargeException(_)
                    | UpdateThingShadowError::UnsupportedDocumentEncodingException(_),
                ) => return Err(refused().into()),
                _ => return Err(ShadowError::NotUpdated(error.into())),
            }
        }
    }
}

fn is_not_found(error: &SdkError<GetThingShadowError>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 404)
}

fn refused() -> Refusal {
    let why =
        "AWS IoT does not take the desired state that answers this transition; the document of answers is at fault.";
    Refusal::new("bad-desired-state", why)
}
