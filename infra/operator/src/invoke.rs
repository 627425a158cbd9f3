//! Invokes a function with an event, and returns its outcome.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
use aws_sdk_lambda::primitives::Blob;
use serde::Deserialize;
use tokio::time::sleep;

use crate::status::MissingError;

/// Maximum attempts of an invocation that Lambda throttles, and the first pause, which doubles.
const MAX_ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The result of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invoked {
    /// The event is done.
    Done,
    /// The event was refused, and is in quarantine.
    Refused {
        /// The reason code.
        reason: String,
        /// The reason in one sentence.
        why: String,
    },
    /// The function failed, or its response is not an outcome.
    Failed(String),
}

/// Invokes a function, by its full name, and waits for its response. Retries only what Lambda throttled, and so did not
/// run. The client must not repeat requests: the function may have handled one that timed out.
pub async fn invoke(client: &Client, function: &str, event: &str) -> Result<Invoked> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let error = match client.invoke().function_name(function).payload(Blob::new(event)).send().await {
            Ok(output) => return Ok(parse(&output)),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(InvokeError::TooManyRequestsException(_)) if attempt < MAX_ATTEMPTS => sleep(pause).await,
            Some(InvokeError::ResourceNotFoundException(_)) => {
                return Err(MissingError(format!("function {function} does not exist")).into());
            }
            _ => return Err(error).with_context(|| format!("failed to invoke {function}")),
        }
        pause *= 2;
    }
    Ok(Invoked::Failed("it was throttled".to_owned()))
}

fn parse(output: &InvokeOutput) -> Invoked {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", tag = "outcome")]
    enum Response {
        Done,
        Refused { reason: String, why: String },
    }
    let response = output.payload().map_or_else(Default::default, |payload| String::from_utf8_lossy(payload.as_ref()));
    if let Some(error) = output.function_error() {
        return Invoked::Failed(format!("the function failed ({error}): {response}"));
    }
    match serde_json::from_str(&response) {
        Ok(Response::Done) => Invoked::Done,
        Ok(Response::Refused { reason, why }) => Invoked::Refused { reason, why },
        Err(_) => Invoked::Failed(format!("the function returned no outcome: {response}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(response: &str) -> InvokeOutput {
        InvokeOutput::builder().payload(Blob::new(response)).build()
    }

    #[test]
    fn outcomes_are_read_from_the_response() {
        assert_eq!(parse(&output(r#"{"outcome":"done"}"#)), Invoked::Done);
        let refused = parse(&output(r#"{"outcome":"refused","reason":"not-json","why":"It is not JSON."}"#));
        assert!(matches!(refused, Invoked::Refused { reason, .. } if reason == "not-json"));
    }

    #[test]
    fn anything_else_is_not_accepted() {
        for response in ["", "null", r#"{"batchItemFailures":[]}"#, r#"{"outcome":"retry"}"#] {
            assert!(matches!(parse(&output(response)), Invoked::Failed(_)), "{response}");
        }
        let failed = InvokeOutput::builder().function_error("Unhandled").payload(Blob::new(r#"{"outcome":"done"}"#));
        assert!(matches!(parse(&failed.build()), Invoked::Failed(_)));
    }
}
