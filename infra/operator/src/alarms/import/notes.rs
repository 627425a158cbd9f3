//! What an import could not carry over, and what it changed.

use serde::Serialize;

/// The notes about the models, in their order.
#[derive(Debug, Default)]
pub struct Notes {
    model: String,
    notes: Vec<Note>,
}

/// A note about a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The model.
    pub model: String,
    /// What it is about: a field or an action of the model.
    pub what: String,
    /// Why it is not carried over, or how the rule differs.
    pub why: String,
    /// Whether it is not carried over at all.
    pub lost: bool,
}

impl Notes {
    /// Makes this the model of the notes that follow.
    pub fn begin(&mut self, model: &str) {
        model.clone_into(&mut self.model);
    }

    /// Notes that something is not carried over.
    pub fn lost(&mut self, what: &str, why: &str) {
        self.push(what, why, true);
    }

    /// Notes that something is carried over, but the rule differs.
    pub fn changed(&mut self, what: &str, why: &str) {
        self.push(what, why, false);
    }

    fn push(&mut self, what: &str, why: &str, lost: bool) {
        self.notes.push(Note { model: self.model.clone(), what: what.to_owned(), why: why.to_owned(), lost });
    }

    /// The notes.
    pub fn all(&self) -> &[Note] {
        &self.notes
    }
}

impl Note {
    /// The note as a line.
    pub fn line(&self) -> String {
        let Self { model, what, why, lost } = self;
        let verb = if *lost { "not carried over" } else { "note" };
        format!("{model}: {verb}: {what}: {why}")
    }
}
