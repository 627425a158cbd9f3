//! Everything that runs Gatehouse on a laptop: the local cloud, the devices that speak to it, the scenarios that they
//! play, and the end-to-end tests. Nothing in here ships, and nothing in here can reach a real account.

pub mod admission;
pub mod authority;
pub mod aws;
pub mod chart;
pub mod cloud;
pub mod command;
pub mod deploy;
pub mod device;
pub mod fault;
pub mod isolation;
pub mod keeper;
pub mod observe;
pub mod partner;
pub mod play;
pub mod progress;
pub mod report;
pub mod scenario;
pub mod tools;
pub mod watch;
