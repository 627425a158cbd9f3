//! One metric record per invocation, in CloudWatch's embedded metric format: a log line from which CloudWatch extracts
//! metrics. <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::event::timestamp::Timestamp;

/// Returns the record's text. Each count is a metric in the namespace `Gatehouse` with the dimension `function`;
/// properties are searchable, but not metrics.
pub(crate) fn record(
    function: &str,
    now: Timestamp,
    counts: &BTreeMap<&'static str, u64>,
    properties: impl IntoIterator<Item = (&'static str, Value)>,
) -> String {
    let definitions: Vec<Value> = counts.keys().map(|name| json!({"Name": name, "Unit": "Count"})).collect();
    let mut record: Map<String, Value> = properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    record.extend(counts.iter().map(|(&name, &count)| (name.to_owned(), count.into())));
    record.insert("function".to_owned(), function.into());
    record.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": now.millis(),
            "CloudWatchMetrics": [{
                "Namespace": "Gatehouse",
                "Dimensions": [["function"]],
                "Metrics": definitions,
            }],
        }),
    );
    Value::Object(record).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_has_every_metric_and_the_dimension() {
        let counts = BTreeMap::from([("Done", 2), ("Refused", 0)]);
        let properties = [("requestId", "r-1".into()), ("coldStart", true.into())];
        let text = record("gatehouse-button", Timestamp::from_millis(1_700_000_000_123), &counts, properties);
        let expected = json!({
            "_aws": {
                "Timestamp": 1_700_000_000_123_u64,
                "CloudWatchMetrics": [{
                    "Namespace": "Gatehouse",
                    "Dimensions": [["function"]],
                    "Metrics": [{"Name": "Done", "Unit": "Count"}, {"Name": "Refused", "Unit": "Count"}],
                }],
            },
            "function": "gatehouse-button",
            "Done": 2,
            "Refused": 0,
            "requestId": "r-1",
            "coldStart": true,
        });
        assert_eq!(serde_json::from_str::<Value>(&text).expect("valid JSON"), expected);
        assert!(!text.contains('\n'), "a record is one line");
    }
}
