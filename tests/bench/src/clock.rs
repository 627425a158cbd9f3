//! One clock for two processes: a function's start is noted by its launcher, its first poll by the host.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since some moment that is the same for every process of this machine.
pub fn now() -> Duration {
    clock_gettime(ClockId::Monotonic).try_into().unwrap_or_default()
}
