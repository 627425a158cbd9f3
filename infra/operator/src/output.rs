//! Tables, JSON, times, and text that cannot control a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use gatehouse::Timestamp;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::cli::GlobalOptions;

const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Output {
    /// Returns the format that the options select.
    pub fn of(options: &GlobalOptions) -> Self {
        if options.json { Self::Json } else { Self::Text }
    }

    /// Prints a result: as JSON, or as the text that `text` returns.
    pub fn print(self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self {
            Self::Text => write(&with_newline(text())),
            Self::Json => {
                let json = serde_json::to_string_pretty(result).context("failed to write JSON")?;
                write(&with_newline(escape_json(&json)))
            }
        }
    }
}

/// Writes to standard output. Ignores a closed pipe, such as to `head`.
pub fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("failed to write the output"),
        _ => Ok(()),
    }
}

/// Asks on the terminal whether to continue. Returns `false` if standard input is not a terminal.
pub fn confirm(question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("failed to read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Starts a table with these headers.
pub fn table<const N: usize>(headers: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headers);
    table
}

/// Formats a table without spaces around its lines.
pub fn text(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        let _ = writeln!(text, "{}", line.strip_prefix(' ').unwrap_or(line).trim_end());
    }
    text
}

/// Formats a time in UTC, to the second.
pub fn utc(time: Timestamp) -> String {
    let seconds = i64::try_from(time.seconds()).ok();
    let formatted = seconds
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(TIME).ok());
    formatted.unwrap_or_else(|| time.to_string())
}

/// Escapes every character that can control a terminal, as in `\u{1b}`, because devices choose names.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '\n' => escaped.push(c),
            _ if is_unsafe(c) => escaped.extend(c.escape_default()),
            _ => escaped.push(c),
        }
        escaped
    })
}

/// Like [`escape`], for one line of a table.
pub fn escape_line(text: &str) -> String {
    escape(text).replace('\n', "\\n")
}

/// Formats bytes that a device sent: valid UTF-8 like [`escape`], other bytes as `\xff`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut escaped, chunk| {
        escaped.push_str(&escape(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
        escaped
    })
}

/// Returns whether a character is a control character, changes the direction of text, or is invisible.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Escapes the unsafe characters that JSON does not require to escape.
fn escape_json(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut escaped, c| {
        if c != '\n' && is_unsafe(c) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
        escaped
    })
}

fn with_newline(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\u{1b}[2J\u{9b}31m\u{202e}\r\tü"), "a\\u{1b}[2J\\u{9b}31m\\u{202e}\\r\\tü");
        assert_eq!(escape_line("a\nb"), "a\\nb");
        assert_eq!(escape_bytes(b"a\xff\x1bb"), "a\\xff\\u{1b}b");
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let value = serde_json::json!({"name": "a\u{1b}\u{9b}\u{202e}\n"});
        let escaped = escape_json(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(!escaped.chars().any(|c| c != '\n' && is_unsafe(c)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), value);
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(utc(Timestamp::from_millis(1_764_421_445_999)), "2025-11-29 13:04:05");
    }
}
