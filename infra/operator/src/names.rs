//! The functions of a deployment, and the names of its resources.

use crate::status::MissingError;

/// The functions, by the names of their crates.
pub const FUNCTIONS: [&str; 10] =
    ["actuator", "alarm", "button", "doorbell", "forward", "jitr", "presence", "revoke", "shadow", "telemetry"];

/// The functions that AWS IoT invokes directly. All others have a work queue.
pub const INVOKED_DIRECTLY: [&str; 2] = ["button", "doorbell"];

/// The names of a deployment's resources, which all start with its prefix.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Returns the names of the deployment with this prefix.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// Returns the prefix itself.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns a resource's full name. A function, its work queue and its table share the function's name.
    pub fn of(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    /// Returns the log group of a function.
    pub fn log_group(&self, function: &str) -> String {
        format!("/aws/lambda/{}", self.of(function))
    }

    /// Returns the full name of an AWS IoT rule, which cannot contain hyphens.
    pub fn rule(&self, rule: &str) -> String {
        format!("{}_{rule}", self.prefix.replace('-', "_"))
    }

    /// Returns a full name without the prefix; `None` if it is not of this deployment.
    pub fn suffix<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix.as_str())?.strip_prefix('-')
    }

    /// Returns the full name of an AWS IoT rule without the prefix; `None` if it is not of this deployment.
    pub fn rule_suffix<'a>(&self, rule: &'a str) -> Option<&'a str> {
        rule.strip_prefix(self.prefix.replace('-', "_").as_str())?.strip_prefix('_')
    }

    /// Finds a function by its full name or by the name of its crate.
    pub fn function(&self, name: &str) -> Result<&'static str, MissingError> {
        let short = self.suffix(name).unwrap_or(name);
        FUNCTIONS
            .into_iter()
            .find(|function| *function == short)
            .ok_or_else(|| MissingError(format!("unknown function {name}; the functions are {}", FUNCTIONS.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_is_found_by_both_names() {
        let names = Names::new("my-fleet");
        assert_eq!(names.function("button").expect("a function"), "button");
        assert_eq!(names.function("my-fleet-button").expect("a function"), "button");
    }

    #[test]
    fn unknown_function_is_an_error_that_lists_them() {
        for name in ["lamp", "gatehouse-button", "my-fleet-lamp", ""] {
            let error = Names::new("my-fleet").function(name).expect_err("should be unknown").to_string();
            assert!(error.contains("actuator, alarm, button"), "{error}");
        }
    }

    #[test]
    fn rule_name_has_underscores() {
        assert_eq!(Names::new("my-fleet").rule_suffix("my_fleet_shadow_named"), Some("shadow_named"));
        assert_eq!(Names::new("my-fleet").rule_suffix("my_fleets_shadow"), None);
    }
}
