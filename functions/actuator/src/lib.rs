//! Sends the command that answers an alarm.
