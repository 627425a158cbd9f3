//! Whole journeys on the local cloud: the shipped templates and zips, real devices, real processes.
//!
//! One local cloud serves all tests; each test has an account of its own in it, so they run side by side, as do several
//! runs of the suite.

mod admission;
mod bridge;
mod broken;
mod device_sdk;
mod faults;
mod greenhouse;
mod isolation;
mod neighbours;
mod once;
mod processes;
mod quarantine;
mod replay;
mod revocation;
mod stage;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use local_cloud::{cli, supervisor, tools};

use crate::stage::Suite;

/// Tests wait more than they work.
const AT_ONCE: usize = 4;

fn main() -> ExitCode {
    if let Some(code) = supervisor::main() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let suite = match tools::require_zips().and_then(|()| Suite::new()) {
        Ok(suite) => Arc::new(suite),
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    end_with_a_signal(&suite);

    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(revocation::trials(&suite));
    trials.extend(greenhouse::trials(&suite));
    trials.extend(neighbours::trials(&suite));
    trials.extend(admission::trials(&suite));
    trials.extend(faults::trials(&suite));
    trials.extend(replay::trials(&suite));
    trials.extend(bridge::trials(&suite));
    trials.extend(device_sdk::trials(&suite));
    trials.extend(processes::trials(&suite));
    trials.extend(isolation::trials(&suite));
    trials.extend(once::trials(&suite));
    trials.extend(broken::trials(&suite));
    trials.extend(quarantine::trials(&suite));
    let conclusion = libtest_mimic::run(&arguments, trials);
    suite.end();
    conclusion.exit_code()
}

/// Ctrl-C ends the tests where they are, and then the local cloud.
fn end_with_a_signal(suite: &Arc<Suite>) {
    let suite = Arc::clone(suite);
    suite.clone().runtime().spawn(async move {
        let _ = cli::shutdown_signal().await;
        suite.end();
        std::process::exit(130);
    });
}
