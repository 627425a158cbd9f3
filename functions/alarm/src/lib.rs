//! The function `alarm`: evaluates rules per device, and notifies on state transitions.
//!
//! A device's state under one rule is a record in a table with optimistic locking ([`alarm_record`]). The readings of a
//! batch are grouped by device and needed fields ([`batch`]). Then the function takes these steps:
//!
//! 1. Read every record that the batch touches, a hundred per call.
//! 2. Apply the samples to each record: the state of the data ([`state_machine`]), and the state of the alarm as people
//!    work with it ([`alarm_state`]).
//! 3. Count the transitions against the rate limit, once per rule ([`notification_limit`]).
//! 4. Write each changed record once, however many samples there were. The same write adds the pending notifications of
//!    its transitions.
//! 5. Write the history entries of the pending notifications ([`history`]), publish the notifications, and remove them
//!    from the record.
//!
//! The process may die between any two of these steps. Before step 4 nothing has happened, except that the summary of a
//! rate limit may count a transition twice. After it the notification is stored, and the next invocation publishes it:
//! for the same batch when it is delivered again, or for the scheduled check of due records. So each transition is
//! published at least once, always under the same id.
//!
//! A person's action on an alarm takes the same steps.
//!
//! A record also holds the definition that its state is based on, which is the rule's conditions. When a document
//! changes them, step 2 closes the state, and the record starts anew
//! ([`AlarmRecord::adopt`](alarm_record::AlarmRecord::adopt)).
//!
//! The scheduled check also finds devices that have stopped sending. It does not scan the table: an index holds the
//! records to be checked, by time ([`due_index`]). Devices that have never sent anything have no record; if a rule asks
//! for it, the devices table is scanned for them, slowly ([`never_reported`]).
//!
//! All times are times of receipt; device clocks are ignored.

pub mod alarm_record;
pub mod alarm_state;
pub mod batch;
pub mod command;
mod due_checks;
pub mod due_index;
mod error;
mod evaluation;
mod handler;
pub mod history;
pub mod message_text;
pub mod never_reported;
pub mod notification;
pub mod notification_limit;
mod notifier;
pub mod pointer;
pub mod rules;
pub mod state_index;
pub mod state_machine;
pub mod thresholds;
mod version;

pub use handler::AlarmHandler;
