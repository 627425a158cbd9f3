//! The index for listing alarms by state. It contains all alarms that are not NORMAL, is spread over eight partitions
//! per state, and is sorted by when the state was entered.

use gatehouse::store::item::string;
use gatehouse::{AlarmState, Item};

use crate::due_index::hash_byte;

/// The number of the index's partitions for each state.
pub const STATE_SHARDS: u8 = 8;

const STATE_SHARD: &str = "stateShard";

/// Returns the name of a partition.
pub fn shard_name(state: AlarmState, number: u8) -> String {
    format!("{state}#{number:02}")
}

/// Adds a device's record to the index or, if the state is NORMAL, removes it. The sort key is the attribute
/// `alarmStateSince`.
pub(crate) fn set_state(item: &mut Item, thing: &str, state: AlarmState) {
    if state == AlarmState::Normal {
        item.remove(STATE_SHARD);
    } else {
        item.insert(STATE_SHARD.to_owned(), string(shard_name(state, hash_byte(thing) % STATE_SHARDS)));
    }
}
