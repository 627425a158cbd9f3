//! `Weather/Corp/+`: forwards messages to Amazon SQS queues, also in other accounts and regions.
//!
//! The operator's document, [`Destinations`], names the queues. Until one is uploaded, the template's parameters define
//! one destination. A batch is handled in this order:
//!
//! 1. Documents among the messages are stored, so that they apply to the messages of the same batch.
//! 2. The document in force and the messages' [`DeliveryRecords`] are read. The records say which destinations have
//!    accepted a message in an earlier attempt.
//! 3. Each message goes to **every** other destination with a matching topic filter, as the device sent it, with AWS
//!    IoT's metadata in message attributes ([`Message`]).
//! 4. A message is done when all its destinations have accepted it. If only some have, they are recorded, and only the
//!    others are tried again.
//!
//! A receiver can rely on this:
//!
//! - Each message arrives at least once. It arrives twice on a standard queue, with the same attribute `traceId`, if a
//!   response was lost or the process died before the response arrived. A FIFO queue drops a copy within five minutes
//!   of the first: the template schedules the second attempt within that time, but the third after it.
//! - On a FIFO queue, those messages of one thing that reached the function in the same batch are in order of receipt.
//!   A message that is not accepted delays those behind it in the batch. No stronger order is possible: AWS IoT does
//!   not guarantee the order of messages to a queue, and a retried message arrives later. The attribute `receivedAt`
//!   gives the true order.

mod batch;
mod delivery_record;
mod destination;
mod error;
mod handler;
mod message;
mod queue_url;
mod regional_clients;
mod sender;
mod topic_filter;

pub use batch::{BatchItem, MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, take_batch};
pub use delivery_record::{DeliveryRecord, DeliveryRecords};
pub use destination::{BinaryPolicy, Destination, Destinations};
pub use error::ForwardError;
pub use handler::ForwardHandler;
pub use message::{Message, MessageAttribute};
pub use queue_url::{ParseQueueUrlError, QueueUrl};
pub use regional_clients::RegionalClients;
pub use sender::{OutgoingMessage, send_all};
pub use topic_filter::{ParseTopicFilterError, TopicFilter};
