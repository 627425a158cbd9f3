//! A crash between any two steps of an admission never leaves a certificate active without its policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use local_cloud::fault_proxy::{Fault, FaultProxy};
use local_cloud::pki::{CertificateSpec, IssuedCertificate};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Gate;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (fault, when) in FAULTS {
        for part in 0..PARTS {
            let name = format!("crash_{when}_any_call_activates_no_incomplete_device_{}_of_{PARTS}", part + 1);
            trials.push(suite.trial("jitr", name, move |suite| crash(suite, fault, part)));
        }
    }
    trials
}

/// When the process is killed, relative to a call.
const FAULTS: [(Fault, &str); 2] = [(Fault::KilledBefore, "before"), (Fault::KilledAfter, "after")];

/// Number of tests among which the calls of an admission are divided, because each crash costs a retry delay.
const PARTS: usize = 4;

/// Kills the process at every fourth call of an admission, starting with call `part + 1`, until no call is left.
async fn crash(suite: Arc<Suite>, fault: Fault, part: usize) -> Result<()> {
    let gate = Arc::new(Gate::new(&suite).await?);
    let proxy = FaultProxy::start(&gate.stage.cloud).await?;
    gate.stage.put_behind(&proxy, "jitr").await?;
    let (mut nth, mut round) = (part + 1, 0);
    loop {
        round += 1;
        let thing = format!("thing-{round}");
        let issued = gate.ca.issue(&CertificateSpec::named(&*thing))?;
        gate.register_pending(&issued).await?;
        let monitor = Monitor::start(&gate, &issued, &thing);
        // A new process each time, so that its warm-up calls count.
        proxy.kill(&gate.stage.cloud);
        proxy.fail_nth_call(nth, fault);
        let event_id = format!("event-{round}");
        let invoked = gate.stage.invoke_until_done("jitr", &gate.event(&event_id, &issued)).await;
        let calls = || proxy.calls().into_iter().map(|call| call.operation).collect::<Vec<_>>().join(", ");
        let attempts = invoked.with_context(|| format!("call {nth} of: {}", calls()))?;
        let record = gate.outcome(&issued).await?;
        ensure!(record.state == "admitted", "call {nth} of: {}: {record:?}", calls());
        ensure!(
            gate.status(&issued).await? == "ACTIVE",
            "the certificate is not active after call {nth} of: {}",
            calls()
        );
        ensure!(
            gate.is_provisioned(&issued, &thing).await?,
            "the device is not fully provisioned after call {nth} of: {}",
            calls()
        );
        monitor.finish().await.with_context(|| format!("call {nth} of: {}", calls()))?;
        let is_crashed = proxy.calls().iter().any(|call| call.fault.is_some());
        if !is_crashed && attempts > 1 {
            // On a busy machine the function may time out before that call. Try it again with the next certificate.
            continue;
        }
        if !is_crashed {
            ensure!(nth > 20, "an admission made only {} calls: {}", proxy.calls().len(), calls());
            return Ok(());
        }
        nth += PARTS;
    }
}

/// Polls a certificate, which must never be active before the device is fully provisioned.
struct Monitor {
    task: JoinHandle<Result<()>>,
    checks: Arc<AtomicUsize>,
}

impl Monitor {
    fn start(gate: &Arc<Gate>, issued: &IssuedCertificate, thing: &str) -> Self {
        let checks = Arc::new(AtomicUsize::new(0));
        let (gate, issued, thing, counted) = (Arc::clone(gate), issued.clone(), thing.to_owned(), Arc::clone(&checks));
        let task = tokio::spawn(async move {
            loop {
                if gate.status(&issued).await? == "ACTIVE" && !gate.is_provisioned(&issued, &thing).await? {
                    bail!("{thing} was active before it was fully provisioned");
                }
                counted.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { task, checks }
    }

    async fn finish(self) -> Result<()> {
        if self.task.is_finished() {
            return self.task.await?;
        }
        self.task.abort();
        ensure!(self.checks.load(Ordering::Relaxed) > 0, "the certificate was never checked");
        Ok(())
    }
}
