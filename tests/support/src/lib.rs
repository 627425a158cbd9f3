//! Shared code of the functions' handler tests.
//!
//! [`FakeAws`] is an AWS account behind the SDK's own HTTP layer, so that a test sees exactly the requests that the
//! function sends, retries included. It injects faults, ends processes at any call, and decides whose call is served
//! first. [`pki`] issues certificates and CRLs.
//!
//! ```no_run
//! # use std::num::NonZeroUsize;
//! use gatehouse::{Concurrent, DeviceEvent, EventHandler, Failure, Invocation};
//! use serde_json::json;
//! use test_support::{FakeAws, Fault, NOW};
//!
//! # struct Lamp(aws_sdk_sns::Client);
//! # impl EventHandler for Lamp {
//! #     type Input = DeviceEvent;
//! #     type Error = Failure;
//! #     async fn handle(&self, _: &DeviceEvent, _: &Invocation) -> Result<(), Failure> { Ok(()) }
//! # }
//! # async fn test() {
//! let aws = FakeAws::new("lamp").env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:lamp");
//! let process = aws.process().fail(1, Fault::Throttled);
//! let handler = Concurrent::new(Lamp(process.sns()), NonZeroUsize::MIN);
//! let delivered = process.deliver_to(handler, &json!({"thing": "lamp-1"}), NOW).await;
//! assert!(delivered.is_done());
//! assert_eq!(aws.state().published[0].text(), "The lamp is on.");
//! # }
//! ```
//!
//! The fake does not support requests and expressions that no function uses; they fail the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so does what it is made of"
)]

mod document_schema;
mod event;
mod fake_aws;
mod logs;
pub mod pki;

pub use document_schema::{DocumentSchema, mutated};
pub use event::{sample, sqs_batch, sqs_record, workspace_file};
pub use fake_aws::*;
pub use logs::Logs;
