//! Holds each threshold against each device, and tells of each change of state.
