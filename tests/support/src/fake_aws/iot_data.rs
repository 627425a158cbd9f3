//! AWS IoT's data plane: `UpdateThingShadow`, `GetConnection` and `DeleteConnection`.

use gatehouse::Timestamp;
use serde_json::{Value, json};

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
    /// Returns the desired state.
    pub fn desired(&self) -> &Value {
        &self.document["state"]["desired"]
    }
}

impl State {
    pub(super) fn iot_data(&mut self, call: &Call) -> Response {
        let client = &call.path[1];
        match call.operation.as_str() {
            "GetConnection" => match self.connections.get(client) {
                Some(connected) => Response::Output(json!({"clientId": client, "connected": connected})),
                None => Response::error(404, "ResourceNotFoundException"),
            },
            "DeleteConnection" => match self.connections.remove(client) {
                Some(_) => Response::empty(),
                None => Response::error(404, "ResourceNotFoundException"),
            },
            _ => self.update_shadow(call),
        }
    }

    fn update_shadow(&mut self, call: &Call) -> Response {
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
