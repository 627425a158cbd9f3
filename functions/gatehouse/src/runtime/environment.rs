use std::collections::HashMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use crate::runtime::outcome::BoxError;

/// Why a function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A required environment variable is not set, or is empty.
    #[error("environment variable {0} is missing")]
    Missing(String),
    /// An environment variable has an invalid value.
    #[error("environment variable {name} is {value:?}: {why}")]
    Invalid {
        /// The variable's name.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file that the function needs at start cannot be read.
    #[error("failed to read {path}: {source}")]
    File {
        /// The file's path.
        path: String,
        /// What went wrong.
        source: BoxError,
    },
    /// The TLS client could not be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] BoxError),
}

/// The process's environment variables, as a value, so that tests can provide their own.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, String>);

/// Shows the names only: some values are credentials.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// The variables of this process. A variable that is not Unicode counts as not set.
    pub(crate) fn of_process() -> Self {
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
    }

    /// Returns a variable's text; `None` if it is not set or is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Parses a variable that must be set.
    pub fn required<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, InitError> {
        self.optional(name)?.ok_or_else(|| InitError::Missing(name.to_owned()))
    }

    /// Parses a variable that may be set; `None` if it is not.
    pub fn optional<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, InitError> {
        self.get(name).map(|value| value.parse().map_err(|why: T::Err| Self::invalid(name, value, &why))).transpose()
    }

    /// The error for a variable with an invalid value.
    pub fn invalid(name: &str, value: impl Display, why: &impl Display) -> InitError {
        InitError::Invalid { name: name.to_owned(), value: value.to_string(), why: why.to_string() }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_variable_is_named() {
        let error = Environment::default().required::<String>("TOPIC_ARN").unwrap_err();
        assert_eq!(error.to_string(), "environment variable TOPIC_ARN is missing");
    }

    #[test]
    fn debug_never_prints_a_value() {
        let environment: Environment = [("AWS_SECRET_ACCESS_KEY", "secret")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }

    #[test]
    fn empty_variable_counts_as_missing() {
        let environment: Environment = [("TOPIC_ARN", "")].into_iter().collect();
        assert!(matches!(environment.required::<String>("TOPIC_ARN"), Err(InitError::Missing(_))));
    }

    #[test]
    fn invalid_variable_is_named_with_its_value() {
        let environment: Environment = [("LEVEL", "high")].into_iter().collect();
        let error = environment.optional::<u32>("LEVEL").unwrap_err();
        assert_eq!(error.to_string(), "environment variable LEVEL is \"high\": invalid digit found in string");
    }
}
