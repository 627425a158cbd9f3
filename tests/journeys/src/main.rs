//! End-to-end tests on the local cloud: the shipped templates and zips, real devices, real processes.
//!
//! One local cloud serves all tests. Each test has its own account, so tests can run concurrently. Several runs of the
//! suite can, too.

mod actuator;
mod admission;
mod alarm;
mod alarm_rules;
mod bridge;
mod console;
mod deployment;
mod device_sdk;
mod events;
mod faults;
mod forwarding;
mod idempotency;
mod invalid_events;
mod isolation;
mod operator;
mod permissions;
mod presence;
mod process_cleanup;
mod programs;
mod replay;
mod revocation;
mod shadows;
mod stage;
mod stalls;
mod suite;
mod telemetry;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use local_cloud::{cli, supervisor, tools};

use crate::suite::Suite;

/// Number of tests that run concurrently. They wait more than they compute.
const THREADS: usize = 8;

fn main() -> ExitCode {
    if let Some(code) = supervisor::main() {
        return code;
    }
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("prove-permissions") {
        return permissions::prove(words.next().as_deref());
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let suite = match tools::require_zips().and_then(|()| Suite::new()) {
        Ok(suite) => Arc::new(suite),
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    stop_on_signal(&suite);

    let mut trials: Vec<Trial> = Vec::new();
    // First, because its journeys include the longest: it waits two minutes for messages that a killed process received.
    trials.extend(operator::trials(&suite));
    trials.extend(actuator::trials(&suite));
    trials.extend(deployment::trials(&suite));
    trials.extend(revocation::trials(&suite));
    trials.extend(telemetry::trials(&suite));
    trials.extend(alarm::trials(&suite));
    trials.extend(alarm_rules::trials(&suite));
    trials.extend(forwarding::trials(&suite));
    trials.extend(presence::trials(&suite));
    trials.extend(shadows::trials(&suite));
    trials.extend(admission::trials(&suite));
    trials.extend(faults::trials(&suite));
    trials.extend(console::trials(&suite));
    trials.extend(replay::trials(&suite));
    trials.extend(bridge::trials(&suite));
    trials.extend(device_sdk::trials(&suite));
    trials.extend(process_cleanup::trials(&suite));
    trials.extend(isolation::trials(&suite));
    trials.extend(idempotency::trials(&suite));
    trials.extend(invalid_events::trials(&suite));
    let conclusion = libtest_mimic::run(&arguments, trials);
    suite.stop();
    conclusion.exit_code()
}

/// Stops the tests and the local cloud on Ctrl-C.
fn stop_on_signal(suite: &Arc<Suite>) {
    let suite = Arc::clone(suite);
    suite.clone().runtime().spawn(async move {
        let _ = cli::shutdown_signal().await;
        suite.stop();
        std::process::exit(130);
    });
}
