//! Many steps at a limited rate, with progress, that an operator can interrupt.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use futures_util::stream::{self, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Maximum number of concurrent steps.
const CONCURRENCY: usize = 4;

/// How fast, and whether at all.
#[derive(Debug, Clone, Args)]
pub struct PaceOptions {
    /// Events per second, at most.
    #[arg(long, value_name = "NUMBER", default_value = "10", value_parser = rate)]
    pub rate: f64,
    /// Print what would be done, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

impl PaceOptions {
    /// Returns the time from one event to the next.
    pub fn interval(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate| (0.1..=1000.0).contains(rate));
    rate.ok_or("it must be a number from 0.1 to 1000")
}

/// A rate limit, a progress bar, and the operator's interrupt.
#[derive(Debug)]
pub struct Pace {
    ticks: Mutex<Interval>,
    bar: ProgressBar,
    interrupted: watch::Receiver<bool>,
}

impl Pace {
    /// Shows the progress bar, and listens for signals: after the first Ctrl-C or SIGTERM no more steps start, and the
    /// second one ends the process.
    pub fn start(options: &PaceOptions, steps: usize) -> Result<Self> {
        let mut ticks = interval(options.interval());
        // No steps faster than the rate to catch up after a slow one.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { ticks: Mutex::new(ticks), bar: bar(steps), interrupted: listen()? })
    }

    /// Waits for the next step's turn. Returns `false` after an interrupt.
    pub async fn next(&self) -> bool {
        tokio::select! {
            biased;
            () = self.interrupt() => false,
            _ = async { self.ticks.lock().await.tick().await } => true,
        }
    }

    /// Returns whether the operator has interrupted it.
    pub fn is_interrupted(&self) -> bool {
        *self.interrupted.borrow()
    }

    /// Waits until the operator interrupts it.
    pub async fn interrupt(&self) {
        let mut interrupted = self.interrupted.clone();
        if interrupted.wait_for(|interrupted| *interrupted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Moves the progress bar by one step.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// Runs a step for each item. Returns the results of the steps that were started before an interrupt, in any order.
    pub async fn for_each<T, R>(&self, items: Vec<T>, step: impl AsyncFn(T) -> R) -> Vec<R> {
        let step = &step;
        let begun = stream::iter(items).map(|item| async move {
            if !self.next().await {
                return None;
            }
            let result = step(item).await;
            self.advance();
            Some(result)
        });
        let results = begun.buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await;
        self.bar.finish_and_clear();
        results.into_iter().flatten().collect()
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(steps: usize) -> ProgressBar {
    let length = u64::try_from(steps).ok();
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(length, target);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}

fn listen() -> Result<watch::Receiver<bool>> {
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if sender.send_replace(true) {
                std::process::exit(130);
            }
            eprintln!("interrupted: finishing what has begun; once more to stop at once");
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_a_positive_number() {
        assert_eq!(rate("2.5"), Ok(2.5));
        for text in ["0", "0.01", "-1", "NaN", "inf", "many", "1001"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn every_item_gets_one_step() {
        let pace = Pace::start(&PaceOptions { rate: 1000.0, dry_run: false }, 5).expect("signals");
        let mut results = pace.for_each(vec![1, 2, 3, 4, 5], async |item| item * 2).await;
        results.sort_unstable();
        assert_eq!(results, [2, 4, 6, 8, 10]);
    }
}
