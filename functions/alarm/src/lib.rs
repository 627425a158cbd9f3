//! The function `alarm`: evaluates rules per device, and notifies on state transitions.
//!
//! A device's state by one rule is a record of a table under optimistic locking ([`alarm_record`]). A batch is grouped
//! by device, needed fields and time of receipt ([`batch`]). It then takes these steps:
//!
//! 1. Read every record that the batch touches, a hundred per call.
//! 2. Decide what the samples make of each record: what the data says ([`state_machine`]), and the state of the alarm as
//!    people work with it ([`alarm_state`]).
//! 3. Count the transitions against the rate limit, once per rule ([`notification_limit`]).
//! 4. Write each changed record once, however many samples there were. The notifications of its transitions are in the
//!    same write, as pending.
//! 5. Write the history of what is pending ([`history`]), publish it, and remove it from the record.
//!
//! The process may die between any two of these steps. Before step 4 nothing has happened, except that the summary of a
//! rate limit may count a transition twice. After it the notification is stored, and whoever comes next publishes it:
//! the same batch when it is delivered again, or the scheduled check of due records. So each transition is published at
//! least once, under an id that stays the same.
//!
//! What a person does with an alarm takes the same steps.
//!
//! A record also holds the definition that its state is by: the conditions. When a document changes them, the state is
//! closed in step 2, and the record starts anew ([`AlarmRecord::adopt`](alarm_record::AlarmRecord::adopt)).
//!
//! The scheduled check also finds devices that have stopped sending. It does not scan the table: an index holds the
//! records to be checked, by time ([`due_index`]). Devices that have never sent anything have no record; only if a rule
//! asks for it, the devices table is scanned for them, slowly ([`never_reported`]).
//!
//! All times are times of receipt. Device clocks are ignored.

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
