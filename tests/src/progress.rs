//! Says on standard error what a command is doing, so that standard output holds the result alone.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, interval};

/// Where progress goes. On a terminal a line counts its seconds as it runs; elsewhere there is one line at the begin
/// and one at the end of each step.
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
    /// Progress on standard error.
    pub fn new() -> Self {
        Self { mode: if std::io::stderr().is_terminal() { Mode::Terminal } else { Mode::Lines } }
    }

    /// None at all, for tests.
    pub fn silent() -> Self {
        Self { mode: Mode::Silent }
    }

    /// Does a step, and shows it.
    pub async fn step<T, E>(self, what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.counted(what, String::new, &mut mpsc::unbounded_channel().1, work).await
    }

    /// Does a step, and shows it with how far it is. What comes from `out` meanwhile goes to standard output.
    pub async fn counted<T, E>(
        self,
        what: &str,
        how_far: impl Fn() -> String,
        out: &mut mpsc::UnboundedReceiver<String>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begin = Instant::now();
        let show = |mark: &str, end: &str| {
            let how_far = how_far();
            let space = if how_far.is_empty() { "" } else { " " };
            let seconds = begin.elapsed().as_secs_f64();
            let _ = write!(std::io::stderr(), "{mark}{what}{space}{how_far} … {seconds:.1} s{end}");
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
            (Mode::Lines, Ok(_)) if begin.elapsed() < Duration::from_secs(1) => {}
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
