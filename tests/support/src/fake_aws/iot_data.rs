//! AWS IoT's data plane: `UpdateThingShadow`.

use gatehouse::Timestamp;
use serde_json::Value;

use super::State;
use super::request::Call;
use super::response::Response;

/// An update of a device shadow.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowUpdate {
    /// When it was made.
    pub at: Timestamp,
    /// The thing.
    pub thing: String,
    /// The shadow's name; `None` for the unnamed shadow.
    pub shadow: Option<String>,
    /// The document that was sent.
    pub document: Value,
}

impl ShadowUpdate {
    /// The desired state.
    pub fn desired(&self) -> &Value {
        &self.document["state"]["desired"]
    }
}

impl State {
    pub(super) fn iot_data(&mut self, call: &Call) -> Response {
        assert!(call.body["state"].is_object(), "{} is not a shadow document", call.body);
        self.shadow_updates.push(ShadowUpdate {
            at: self.now(),
            thing: call.path[1].clone(),
            shadow: call.query.get("name").cloned(),
            document: call.body.clone(),
        });
        Response::empty()
    }
}
