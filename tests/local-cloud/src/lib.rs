//! Runs Gatehouse on a laptop: the local cloud, simulated devices, and scenarios. Nothing in this crate ships, and
//! nothing in it can reach a real AWS account.
//!
//! | module | responsibility |
//! | --- | --- |
//! | [`cloud`] | starts and stops the local cloud, a MiniStack server |
//! | [`deploy`] | deploys the shipped templates and zips to it |
//! | [`isolation`] | keeps every local command away from real accounts |
//! | [`supervisor`] | kills everything that a command started when it ends |
//! | [`aws`] | SDK clients for an account of the local cloud |
//! | [`device`] | a device that uses MQTT over mutual TLS |
//! | [`pki`] | a CA that signs device certificates and CRLs |
//! | [`admission`] | reads the admission records of certificates |
//! | [`destination`] | a queue in another account that messages are forwarded to |
//! | [`scenario`] | reads scenario files |
//! | [`player`] | plays scenarios and compares outcomes with expectations |
//! | [`observer`] | observes messages, notifications and logs of an account |
//! | [`report`] | reports results to people and machines |
//! | [`fault_proxy`] | injects faults between functions and AWS services |
//! | [`console`] | serves the console: a page that shows, publishes, breaks, records and replays |
//! | [`emulator`] | runs cargo-lambda's emulator on the local cloud |
//! | [`cli`], [`progress`], [`tools`] | common parts of the programs `replay` and `local` |

pub mod admission;
pub mod aws;
pub mod cli;
pub mod cloud;
pub mod console;
pub mod deploy;
pub mod destination;
pub mod device;
pub mod emulator;
pub mod fault_proxy;
pub mod isolation;
pub mod observer;
pub mod pki;
pub mod player;
pub mod progress;
pub mod report;
pub mod scenario;
pub mod supervisor;
pub mod tools;
