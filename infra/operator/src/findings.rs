//! Findings about an event or a device, with their sources.

use std::fmt::Write as _;

use gatehouse::Timestamp;
use serde::Serialize;

use crate::output::{self, Output, escape, escape_line, utc};

/// All findings about a subject.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// The event or device that was looked up.
    pub subject: String,
    /// The findings; printed by time, those without a time first.
    pub findings: Vec<Finding>,
    /// Notes on failed look-ups and on the limits of the search.
    pub notes: Vec<String>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its source: a table, a queue, or the log of a function.
    pub place: String,
    /// When it happened, if that is known.
    pub at: Option<Timestamp>,
    /// What was found.
    pub text: String,
}

impl Findings {
    /// Creates an empty collection.
    pub fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), findings: Vec::new(), notes: Vec::new() }
    }

    /// Adds a finding.
    pub fn add(&mut self, place: impl Into<String>, at: Option<Timestamp>, text: impl Into<String>) {
        self.findings.push(Finding { place: place.into(), at, text: text.into() });
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Returns the value of a look-up. A failure becomes a note, so that one denied call does not hide the rest.
    pub fn take<T>(&mut self, what: &str, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.note(format!("{what}: {error:#}"))).ok()
    }

    /// Prints the findings and notes.
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
