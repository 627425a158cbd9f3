//! Splits IoT Events expressions into tokens.

use super::expression::ExpressionError;

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// An identifier, plain or in backticks.
    Name(String),
    /// `$input` and the like.
    Reference(String),
    /// A number.
    Number(String),
    /// A string.
    Text(String),
    /// An operator or a bracket.
    Symbol(&'static str),
}

impl Token {
    /// Returns the error that this token is not expected here.
    pub(super) fn unexpected(&self) -> ExpressionError {
        ExpressionError::Unexpected(match self {
            Self::Name(text) | Self::Number(text) | Self::Text(text) => text.clone(),
            Self::Reference(name) => format!("${name}"),
            Self::Symbol(symbol) => (*symbol).to_owned(),
        })
    }
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 22] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ".", ",", "+", "-", "*", "/", "|", "&", "^",
];

/// Splits a text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ExpressionError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '\'' | '"' | '`' => {
                let after = rest.strip_prefix(first).unwrap_or_default();
                let (quoted, after) = after.split_once(first).ok_or(ExpressionError::End)?;
                let token = if first == '`' { Token::Name(quoted.to_owned()) } else { Token::Text(quoted.to_owned()) };
                (token, after)
            }
            '$' => {
                let (name, after) = split(rest.strip_prefix('$').unwrap_or_default(), is_of_name);
                (Token::Reference(name), after)
            }
            _ if first.is_ascii_digit() => {
                let (number, after) = split(rest, |c| c.is_ascii_alphanumeric() || c == '.');
                (Token::Number(number), after)
            }
            _ if is_of_name(first) => {
                let (name, after) = split(rest, is_of_name);
                (Token::Name(name), after)
            }
            _ => {
                let known = SYMBOLS.into_iter().find_map(|symbol| Some((symbol, rest.strip_prefix(symbol)?)));
                let (symbol, after) = known.ok_or_else(|| ExpressionError::Unexpected(first.to_string()))?;
                (Token::Symbol(symbol), after)
            }
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Splits after the leading characters for which this holds.
fn split(text: &str, holds: impl Fn(char) -> bool) -> (String, &str) {
    let after = text.trim_start_matches(&holds);
    let length = text.len().saturating_sub(after.len());
    (text.chars().take(length).collect(), after)
}
