use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

use super::request::Service;

/// A response, before it is written in the service's own format.
#[derive(Debug)]
pub(super) enum Response {
    Output(Value),
    Error { status: u16, code: &'static str, message: String, more: Value },
}

impl Response {
    pub(super) fn empty() -> Self {
        Self::Output(json!({}))
    }

    pub(super) fn error(status: u16, code: &'static str) -> Self {
        Self::error_with(status, code, json!({}))
    }

    /// Returns an error with these fields in addition to its code and message.
    pub(super) fn error_with(status: u16, code: &'static str, more: Value) -> Self {
        Self::Error { status, code, message: format!("The test injects {code}."), more }
    }

    pub(super) fn error_message(status: u16, code: &'static str, message: &str) -> Self {
        Self::Error { status, code, message: message.to_owned(), more: json!({}) }
    }

    pub(super) fn into_http(self, service: Service) -> HttpResponse {
        match self {
            Self::Output(body) if service == Service::Sns => http(200, sns_output(&body)),
            Self::Output(body) => http(200, body.to_string()),
            Self::Error { status, code, message, .. } if service == Service::Sns => {
                http(status, sns_error(code, &message))
            }
            Self::Error { status, code, message, more: mut body } => {
                body["__type"] = format!("com.amazonaws#{code}").into();
                body["message"] = message.into();
                let mut response = http(status, body.to_string());
                let headers = response.headers_mut();
                // SQS's codes are older than its JSON protocol; they arrive in a header that takes precedence.
                match service {
                    Service::Sqs => headers.insert("x-amzn-query-error", format!("{code};Sender")),
                    _ => headers.insert("x-amzn-errortype", code),
                };
                response
            }
        }
    }
}

fn http(status: u16, body: String) -> HttpResponse {
    HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body))
}

fn sns_output(body: &Value) -> String {
    let id = body["MessageId"].as_str().unwrap();
    format!(
        "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>{id}</MessageId>\
         </PublishResult></PublishResponse>"
    )
}

fn sns_error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    )
}
