use std::collections::HashMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use crate::outcome::BoxError;

/// Why a function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A required environment variable is not set, or is empty.
    #[error("environment variable {0} is missing")]
    Missing(String),
    /// An environment variable holds what it may not hold.
    #[error("environment variable {name} is {value:?}: {why}")]
    Invalid {
        /// The variable's name.
        name: String,
        /// What it holds.
        value: String,
        /// What is wrong with that.
        why: String,
    },
    /// A file that the function starts with cannot be used.
    #[error("{path} cannot be used: {source}")]
    File {
        /// The file's path.
        path: String,
        /// What went wrong.
        source: BoxError,
    },
    /// A TLS client cannot be made.
    #[error("a TLS client cannot be made")]
    Tls(#[source] BoxError),
}

/// The process's environment variables, as a value: tests make one of their own.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, String>);

/// The names alone: among the values are credentials.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// The variables that this process was started with. One that is not Unicode counts as not set.
    pub(crate) fn of_process() -> Self {
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
    }

    /// A variable's text; `None` if it is not set or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable that must be set.
    pub fn required<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, InitError> {
        self.optional(name)?.ok_or_else(|| InitError::Missing(name.to_owned()))
    }

    /// A variable that may be set; `None` where it is not.
    pub fn optional<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, InitError> {
        self.get(name).map(|value| value.parse().map_err(|why: T::Err| Self::invalid(name, value, &why))).transpose()
    }

    /// The error for a variable whose value is not acceptable.
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
    fn a_missing_variable_is_named() {
        let error = Environment::default().required::<String>("TOPIC_ARN").unwrap_err();
        assert_eq!(error.to_string(), "environment variable TOPIC_ARN is missing");
    }

    #[test]
    fn no_value_is_ever_printed() {
        let environment: Environment = [("AWS_SECRET_ACCESS_KEY", "secret")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }

    #[test]
    fn an_empty_variable_counts_as_missing() {
        let environment: Environment = [("TOPIC_ARN", "")].into_iter().collect();
        assert!(matches!(environment.required::<String>("TOPIC_ARN"), Err(InitError::Missing(_))));
    }

    #[test]
    fn a_variable_that_does_not_parse_is_named_with_its_value_and_the_fault() {
        let environment: Environment = [("LEVEL", "high")].into_iter().collect();
        let error = environment.optional::<u32>("LEVEL").unwrap_err();
        assert_eq!(error.to_string(), "environment variable LEVEL is \"high\": invalid digit found in string");
    }
}
