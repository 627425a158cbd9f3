//! `$aws/events/presence/+/+`: tracks which devices are connected, and notifies when one stays offline.
//!
//! AWS IoT's lifecycle events can be late, duplicated and out of order. Each event is compared with the device's
//! record, and only a newer one changes the record. The result does not depend on the order of arrival.
//!
//! A disconnect is announced only if it lasts. After storing it, and before acknowledging the event, the function sends
//! itself a check, which its queue delays by the grace period. If the process dies in between, the event is delivered
//! again; a second check does no harm. If the device is still offline because of the same disconnect when the check
//! arrives, subscribers are notified once, and later notified of its return. A return before the check notifies nobody.
//! Before it notifies anybody, the function asks AWS IoT whether the client is connected: the event of its return may
//! be late or lost.
//!
//! Notifications are stored in the record by the same write as the change that they announce, sent afterwards, and then
//! removed: see [`gatehouse::Outbox`]. If the process dies in between, the device's next event or check sends them.
//!
//! Anyone can attempt to connect under a device's client id and be rejected, and AWS IoT may report that as a
//! disconnect of the device. Such a disconnect counts only once the connect of its own connection has been seen.

mod client_status;
mod connection;
mod device_record;
mod handler;
mod lifecycle_event;
mod notification;
mod offline_check;

pub use client_status::ClientStatus;
pub use handler::PresenceHandler;
pub use offline_check::OfflineCheck;
