//! What is known about an event or a device, and from where.

use std::fmt::Write as _;

use gatehouse::Timestamp;
use serde::Serialize;

use crate::output::{self, Output, escape, escape_line, utc};

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// What was looked for.
    pub subject: String,
    /// What was found, by time; what has no time comes first.
    pub findings: Vec<Finding>,
    /// What was not found, or could not be looked up.
    pub notes: Vec<String>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: a table, a queue, the logs of a function.
    pub place: String,
    /// When, if that is known.
    pub at: Option<Timestamp>,
    /// What.
    pub text: String,
}

impl Findings {
    /// Nothing yet.
    pub fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), findings: Vec::new(), notes: Vec::new() }
    }

    /// Adds something that was found.
    pub fn add(&mut self, place: impl Into<String>, at: Option<Timestamp>, text: impl Into<String>) {
        self.findings.push(Finding { place: place.into(), at, text: text.into() });
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Takes the value of a look-up. A failure is noted, so that one denied call does not hide the rest.
    pub fn take<T>(&mut self, what: &str, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.note(format!("{what}: {error:#}"))).ok()
    }

    /// Prints everything.
    pub fn print(&mut self, output: Output) -> anyhow::Result<()> {
        self.findings.sort_by_key(|finding| finding.at);
        output.print(self, || self.text())
    }

    fn text(&self) -> String {
        let mut table = output::table(["TIME (UTC)", "PLACE", "WHAT"]);
        for Finding { place, at, text } in &self.findings {
            let at = at.map_or_else(|| "-".to_owned(), utc);
            table.add_row([&at, place, text].map(|cell| escape_line(cell)));
        }
        let mut text = if self.findings.is_empty() { String::new() } else { output::text(&table) };
        for note in &self.notes {
            let _ = writeln!(text, "note: {}", escape(note));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_look_up_becomes_a_note() {
        let mut findings = Findings::new("an-event");
        assert_eq!(findings.take("logs", Err::<(), _>(anyhow::anyhow!("denied"))), None);
        assert_eq!(findings.take("logs", Ok(1)), Some(1));
        assert_eq!(findings.notes, ["logs: denied"]);
        assert!(findings.text().contains("note: logs: denied"));
    }

    #[test]
    fn names_cannot_control_the_terminal() {
        let mut findings = Findings::new("an-event");
        findings.add("a\u{1b}", Some(Timestamp::from_millis(0)), "b\nc");
        assert!(findings.text().contains("1970-01-01 00:00:00"));
        assert!(findings.text().contains("b\\nc") && !findings.text().contains('\u{1b}'));
    }
}
