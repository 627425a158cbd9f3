//! Reports progress on standard error, so that standard output contains only the result.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, interval};

/// Reports progress. On a terminal, one line per step counts the seconds; elsewhere, one line is written when a step
/// starts and one when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Terminal,
    Lines,
    Silent,
}

impl Progress {
    /// Reports progress on standard error.
    pub fn new() -> Self {
        Self { mode: if std::io::stderr().is_terminal() { Mode::Terminal } else { Mode::Lines } }
    }

    /// Reports nothing.
    pub fn silent() -> Self {
        Self { mode: Mode::Silent }
    }

    /// Runs a step and reports it.
    pub async fn step<T, E>(self, what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.counted(what, String::new, &mut mpsc::unbounded_channel().1, work).await
    }

    /// Runs a step and reports it with its current state. Texts from `out` are written to standard output meanwhile.
    pub async fn counted<T, E>(
        self,
        what: &str,
        state: impl Fn() -> String,
        out: &mut mpsc::UnboundedReceiver<String>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started_at = Instant::now();
        let show = |mark: &str, end: &str| {
            let state = state();
            let space = if state.is_empty() { "" } else { " " };
            let seconds = started_at.elapsed().as_secs_f64();
            let _ = write!(std::io::stderr(), "{mark}{what}{space}{state} … {seconds:.1} s{end}");
        };
        if self.mode == Mode::Lines {
            eprintln!("{what} …");
        }
        tokio::pin!(work);
        let mut ticks = interval(Duration::from_millis(if self.mode == Mode::Terminal { 100 } else { 10_000 }));
        ticks.tick().await;
        let print = |text: String| {
            if self.mode == Mode::Terminal {
                eprint!("\r\x1b[K");
            }
            print!("{text}");
            let _ = std::io::stdout().flush();
        };
        let result = loop {
            tokio::select! {
                biased;
                Some(text) = out.recv() => print(text),
                result = &mut work => break result,
                _ = ticks.tick() => match self.mode {
                    Mode::Terminal => show("\r\x1b[K", ""),
                    Mode::Lines => show("  ", "\n"),
                    Mode::Silent => {}
                },
            }
        };
        while let Ok(text) = out.try_recv() {
            print(text);
        }
        match (self.mode, &result) {
            (Mode::Silent, _) => {}
            (Mode::Terminal, Ok(_)) => show("\r\x1b[K", "\n"),
            (Mode::Terminal, Err(_)) => eprintln!("\r\x1b[K{what} … failed"),
            (Mode::Lines, Ok(_)) if started_at.elapsed() < Duration::from_secs(1) => {}
            (Mode::Lines, Ok(_)) => show("  ", "\n"),
            (Mode::Lines, Err(_)) => eprintln!("  failed"),
        }
        result
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
