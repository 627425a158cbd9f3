//! Colors, for terminals only.

use std::io::IsTerminal;

/// Paints text.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    is_colored: bool,
}

impl Style {
    /// Returns the style of standard output: colored on a terminal, unless `NO_COLOR` is set.
    pub fn stdout() -> Self {
        let is_disabled = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { is_colored: std::io::stdout().is_terminal() && !is_disabled }
    }

    /// Returns a style without colors.
    pub fn plain() -> Self {
        Self { is_colored: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn success(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn failure(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}
