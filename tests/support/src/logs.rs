use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Once;

use serde_json::Value;
use tracing::level_filters::LevelFilter;

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The function's log in this test, down to DEBUG. Each test has its own thread, and each thread its own log.
#[derive(Debug)]
pub struct Logs(());

struct ThreadLines;

impl Write for ThreadLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logs {
    /// Starts to capture the log, and discards earlier lines.
    pub fn capture() -> Self {
        static START: Once = Once::new();
        START.call_once(|| {
            let subscriber = gatehouse::runtime::logging::subscriber(LevelFilter::DEBUG, || ThreadLines);
            tracing::subscriber::set_global_default(subscriber).expect("tests have no other subscriber");
        });
        LINES.take();
        Self(())
    }

    /// The lines with this message so far, without their timestamps.
    pub fn with_message(&self, message: &str) -> Vec<Value> {
        let lines = String::from_utf8(LINES.with_borrow(Clone::clone)).expect("UTF-8");
        let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        lines.retain(|line| line["message"] == message);
        for line in &mut lines {
            line.as_object_mut().expect("an object").remove("timestamp");
        }
        lines
    }
}
