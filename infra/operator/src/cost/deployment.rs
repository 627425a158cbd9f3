//! The properties of a deployment and its functions that determine what AWS charges. Unit tests compare the counts with
//! the templates and with the functions' code.

/// The properties of a function that determine its cost.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// Its name, without the deployment's prefix.
    pub name: &'static str,
    /// Maximum size of a batch from its queue; `None` if it has no queue.
    pub batch_size: Option<f64>,
    /// How long a poller collects messages for a batch, in seconds.
    pub batching_window: f64,
    /// CPU time per message, in µs (docs/performance.md).
    pub cpu_per_message: f64,
    /// Sequential calls in one invocation. Each takes [`ROUND_TRIP`].
    pub round_trips: f64,
    /// The metrics that it reports, besides [`COMMON_METRICS`].
    pub metrics: &'static [&'static str],
}

/// The metrics that every function reports in every invocation.
pub const COMMON_METRICS: [&str; 3] = ["Done", "Refused", "Retried"];

/// Assumed duration of one call to DynamoDB, SNS or SQS from a warm function, in seconds.
pub const ROUND_TRIP: f64 = 0.005;

/// Assumed CPU time of an invocation besides that of its messages, in µs: the runtime, its log line and its metrics.
pub const CPU_PER_INVOCATION: f64 = 500.0;

/// CPU time of one event in a function that handles events one by one, in µs, as measured for `actuator`.
const CPU_PER_EVENT: f64 = 474.0;

/// The share of a CPU that Lambda gives each MB of memory.
pub const CPU_PER_MEGABYTE: f64 = 1.0 / 1769.0;

/// Measured bytes of a batch's log line, of a metric record without its metrics, and of each metric in it. CloudWatch
/// adds 26 bytes to each line.
pub const LOG_LINE_BYTES: f64 = 163.0 + 26.0;
/// See [`LOG_LINE_BYTES`].
pub const METRIC_RECORD_BYTES: f64 = 170.0 + 26.0;
/// See [`LOG_LINE_BYTES`].
pub const METRIC_BYTES: f64 = 56.0;
/// Bytes that an event's ID and thing add to the two lines of an invocation with a single event.
pub const SINGLE_EVENT_BYTES: f64 = 2.0 * 90.0;

/// How many pollers Lambda runs for an idle queue, each with a long poll of 20 seconds.
pub const POLLERS: f64 = 5.0;
/// See [`POLLERS`].
pub const POLL_SECONDS: f64 = 20.0;

/// Metric alarms and composite alarms of a deployment with default parameters.
pub const METRIC_ALARMS: f64 = 124.0;
/// See [`METRIC_ALARMS`].
pub const COMPOSITE_ALARMS: f64 = 11.0;

/// Metrics that these alarms watch beyond one each: AWS charges for each metric.
pub const FURTHER_METRICS: f64 = 27.0;

/// Dashboards.
pub const DASHBOARDS: f64 = 1.0;

/// Work queues, each of which Lambda polls.
pub const WORK_QUEUES: f64 = 8.0;

/// Bytes that the envelope adds to an event whose payload is in base64.
pub const ENVELOPE_BYTES: f64 = 420.0;

/// Bytes per item that DynamoDB charges beyond its attributes, and that `telemetry` adds to a reading.
pub const ITEM_OVERHEAD_BYTES: f64 = 100.0 + 250.0;

/// The functions, in the order of the README.
pub const FUNCTIONS: [Function; 10] = [
    Function {
        name: "jitr",
        batch_size: Some(5.0),
        batching_window: 0.0,
        cpu_per_message: 21.0 / 3.0 * CPU_PER_EVENT,
        round_trips: 21.0,
        metrics: &["Admitted", "Conflicts", "Duplicate", "Expiring", "Overridden", "Rejected", "Rotated", "Unmarked"],
    },
    Function {
        name: "revoke",
        batch_size: Some(1.0),
        batching_window: 0.0,
        cpu_per_message: 250.0 * 525.0,
        round_trips: 250.0,
        metrics: &[
            "AlreadyRevoked",
            "Conflicts",
            "Disconnected",
            "Duplicate",
            "Failed",
            "Found",
            "Revoked",
            "Unmarked",
        ],
    },
    Function {
        name: "button",
        batch_size: None,
        batching_window: 0.0,
        cpu_per_message: CPU_PER_EVENT,
        round_trips: 3.0,
        metrics: &["Duplicate", "Notified", "Unmarked"],
    },
    Function {
        name: "doorbell",
        batch_size: None,
        batching_window: 0.0,
        cpu_per_message: CPU_PER_EVENT,
        round_trips: 4.0,
        metrics: &["Conflicts", "Duplicate", "Notified", "Suppressed", "Unmarked"],
    },
    Function {
        name: "telemetry",
        batch_size: Some(1000.0),
        batching_window: 5.0,
        cpu_per_message: 13.0,
        round_trips: 4.0,
        metrics: &["Duplicate", "Stored", "Unprocessed"],
    },
    Function {
        name: "alarm",
        batch_size: Some(1000.0),
        batching_window: 1.0,
        cpu_per_message: 17.0,
        round_trips: 6.0,
        metrics: &[
            "Cleared",
            "Conflicts",
            "MissingValue",
            "OutOfOrder",
            "Raised",
            "RateLimited",
            "Recovered",
            "Stale",
            "Unmarked",
        ],
    },
    Function {
        name: "actuator",
        batch_size: Some(10.0),
        batching_window: 0.0,
        cpu_per_message: CPU_PER_EVENT,
        round_trips: 5.0,
        metrics: &[
            "Commanded",
            "Conflicts",
            "Delayed",
            "Duplicate",
            "GatewayFailed",
            "Superseded",
            "Unmarked",
            "Unmatched",
        ],
    },
    Function {
        name: "forward",
        batch_size: Some(100.0),
        batching_window: 1.0,
        cpu_per_message: 33.0,
        round_trips: 3.0,
        metrics: &["Conflicts", "DestinationClosed", "Forwarded"],
    },
    Function {
        name: "presence",
        batch_size: Some(10.0),
        batching_window: 0.0,
        cpu_per_message: CPU_PER_EVENT,
        round_trips: 3.0,
        metrics: &[
            "AuthorizationFailures",
            "Conflicts",
            "Duplicate",
            "DuplicateClientId",
            "Notified",
            "OutOfOrder",
            "StillConnected",
            "Unmarked",
        ],
    },
    Function {
        name: "shadow",
        batch_size: Some(10.0),
        batching_window: 0.0,
        cpu_per_message: CPU_PER_EVENT,
        round_trips: 2.0,
        metrics: &["Conflicts", "Duplicate", "OutOfOrder"],
    },
];

/// Returns the function of this name.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Returns the text of all files in a folder.
    fn code(folder: &Path) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                text += &code(&path);
            } else {
                text += &read(&path);
            }
        }
        text
    }

    /// Returns the values of a property in a template.
    fn values<'a>(template: &'a str, property: &'a str) -> impl Iterator<Item = &'a str> {
        let value =
            move |line: &'a str| line.trim().trim_start_matches("- ").strip_prefix(property)?.strip_prefix(": ");
        template.lines().filter_map(value).map(|value| value.trim_matches('\''))
    }

    #[test]
    fn alarms_are_those_of_the_templates() {
        // `make lint-docs` compares this sentence with the templates.
        let guide = read(&root().join("docs/operations.md")).split_whitespace().collect::<Vec<_>>().join(" ");
        let sentence = format!("{} alarms, eleven of them composite; a dashboard", METRIC_ALARMS + COMPOSITE_ALARMS);
        assert!(guide.contains(&sentence), "docs/operations.md does not contain: {sentence}");
        assert_eq!((COMPOSITE_ALARMS.to_string(), DASHBOARDS.to_string()), ("11".to_owned(), "1".to_owned()));

        let rules = read(&root().join("infra/rule-alarms.yaml"));
        let (mappings, resources) = rules.split_once("\nResources:\n").expect("resources");
        let further = |template: &str| template.matches("MetricStat:").count() - 1;
        let of_rules = mappings.matches("{Name: ").count() * further(resources);
        let others = further(&read(&root().join("infra/observability.yaml")));
        assert_eq!((of_rules + others).to_string(), FURTHER_METRICS.to_string());
    }

    #[test]
    fn queues_and_batches_are_those_of_the_templates() {
        let mut sources = 0;
        for entry in fs::read_dir(root().join("infra")).expect("infra") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.extension().is_none_or(|extension| extension != "yaml") || name.starts_with("forward-") {
                continue;
            }
            let template = read(&path);
            let sizes: Vec<_> = values(&template, "BatchSize").collect();
            let names: &[&str] = if name == "admission" { &["jitr", "revoke"] } else { &[&name] };
            for (size, name) in sizes.iter().zip(names) {
                let function = function(name).expect("a function");
                assert_eq!(function.batch_size.map(|size| size.to_string()).as_deref(), Some(*size), "{name}");
                let window = values(&template, "MaximumBatchingWindowInSeconds").next().unwrap_or("0");
                assert_eq!(function.batching_window.to_string(), window, "{name}");
            }
            sources += sizes.len();
        }
        assert_eq!(sources.to_string(), WORK_QUEUES.to_string());
        assert_eq!(FUNCTIONS.iter().filter(|function| function.batch_size.is_some()).count(), sources);
    }

    #[test]
    fn metrics_are_those_that_the_code_counts() {
        let library = code(&root().join("functions/gatehouse/src"));
        for function in FUNCTIONS {
            let text = code(&root().join("functions").join(function.name).join("src"));
            let listed: BTreeSet<&str> = function.metrics.iter().copied().collect();
            for metric in &listed {
                let quoted = format!("\"{metric}\"");
                assert!(
                    text.contains(&quoted) || library.contains(&quoted),
                    "{} does not count {metric}",
                    function.name
                );
            }
            // Literals passed to `count` and `add`.
            for call in ["count(\"", "add(\"", "push((\""] {
                for metric in text.split(call).skip(1).filter_map(|rest| rest.split('"').next()) {
                    assert!(listed.contains(metric), "{} counts {metric}", function.name);
                }
            }
            assert_eq!(text.contains("VersionedTable"), listed.contains("Conflicts"), "{}", function.name);
        }
    }
}
