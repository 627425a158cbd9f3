//! The rules of AWS IoT: which envelope each one builds, and for which functions. A test compares them with the SQL in
//! the templates.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A rule of AWS IoT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name, without the deployment's prefix.
    pub name: &'static str,
    /// How it passes on the payload.
    pub payload: PayloadForm,
    /// Where it takes the thing's name from.
    pub thing: ThingSource,
    /// The functions that it feeds: directly, or through their work queues.
    pub feeds: &'static [&'static str],
}

/// How a rule passes on the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadForm {
    /// `encode(*, 'base64') AS payloadBase64`: for messages of devices.
    Base64,
    /// `* AS payload`: for messages of AWS IoT itself, which are JSON.
    Json,
}

/// Where a rule takes the thing's name from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThingSource {
    /// `topic(n)`: a segment of the topic, counted from 1.
    Topic(usize),
    /// A field of the payload.
    Field(&'static str),
    /// `replace(clientid(), '/', '-')`.
    ClientId,
}

use PayloadForm::{Base64, Json};
use ThingSource::{ClientId, Field, Topic};

/// All rules except `shadow_delta`, which republishes to devices.
const RULES: [Rule; 12] = [
    Rule { name: "button", payload: Base64, thing: Topic(2), feeds: &["button"] },
    Rule { name: "doorbell", payload: Base64, thing: Topic(2), feeds: &["doorbell"] },
    Rule { name: "telemetry", payload: Base64, thing: Topic(2), feeds: &["telemetry", "alarm"] },
    Rule { name: "sigfox", payload: Base64, thing: Field("device"), feeds: &["telemetry", "alarm"] },
    Rule { name: "forward", payload: Base64, thing: ClientId, feeds: &["forward"] },
    // It invokes a function in another account.
    Rule { name: "forward_lambda", payload: Base64, thing: ClientId, feeds: &[] },
    Rule { name: "jitr", payload: Json, thing: Field("certificateId"), feeds: &["jitr"] },
    Rule { name: "presence", payload: Json, thing: Field("clientId"), feeds: &["presence"] },
    Rule { name: "shadow", payload: Json, thing: Topic(3), feeds: &["shadow"] },
    Rule { name: "shadow_named", payload: Json, thing: Topic(3), feeds: &["shadow"] },
    Rule { name: "shadow_deleted", payload: Json, thing: Topic(3), feeds: &["shadow"] },
    Rule { name: "shadow_named_deleted", payload: Json, thing: Topic(3), feeds: &["shadow"] },
];

impl Rule {
    /// Finds a rule by its name without the deployment's prefix.
    pub fn find(name: &str) -> Option<Self> {
        RULES.into_iter().find(|rule| rule.name == name)
    }

    /// Returns the thing's name as the rule's SQL does, if there is one.
    pub fn thing(self, topic: &str, client_id: &str, payload: &[u8]) -> Option<String> {
        match self.thing {
            Topic(number) => topic.split('/').nth(number.checked_sub(1)?).map(ToOwned::to_owned),
            Field(name) => field(payload, name),
            ClientId => Some(client_id.replace('/', "-")),
        }
    }
}

fn field(payload: &[u8], name: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Fields<'a>(#[serde(borrow)] std::collections::HashMap<String, &'a RawValue>);
    let Fields(fields) = serde_json::from_slice(payload).ok()?;
    serde_json::from_str(fields.get(name)?.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_these_rules_and_no_others() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).expect("the templates") {
            let path = entry.expect("a file").path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let template = std::fs::read_to_string(&path).expect("a template");
            for rest in template.split("RuleName: !Sub ['${Words}_").skip(1) {
                let (name, rest) = rest.split_once('\'').expect("a name");
                let (_, sql) = rest.split_once("Sql:").expect("SQL");
                let sql: String = sql.chars().take(420).collect();
                let sql: String = sql.split_whitespace().collect::<Vec<_>>().join(" ");
                found.push((name.to_owned(), sql));
            }
        }
        assert_eq!(found.len(), RULES.len() + 1, "{found:?}");
        for (name, sql) in found {
            let Some(rule) = Rule::find(&name) else {
                assert_eq!(name, "shadow_delta");
                continue;
            };
            let payload = match rule.payload {
                Base64 => "SELECT encode(*, 'base64') AS payloadBase64, ",
                Json => "SELECT * AS payload, ",
            };
            let thing = match rule.thing {
                Topic(number) => format!("topic({number}) AS thing"),
                Field(field) => format!("{field} AS thing"),
                ClientId => "replace(clientid(), '/', '-') AS thing".to_owned(),
            };
            let rest = ", topic() AS topic, clientid() AS clientId, principal() AS principal, traceid() AS traceId, timestamp() AS receivedAt FROM";
            assert!(sql.contains(&format!("{payload}{thing}{rest}")), "{name}: {sql}");
        }
    }

    #[test]
    fn thing_is_where_the_rule_finds_it() {
        let thing = |rule, topic, client, payload: &str| {
            Rule::find(rule).expect("a rule").thing(topic, client, payload.as_bytes())
        };
        assert_eq!(thing("telemetry", "telemetry/lux-1", "x", "").as_deref(), Some("lux-1"));
        assert_eq!(thing("shadow", "$aws/things/lux-1/shadow/update/documents", "x", "").as_deref(), Some("lux-1"));
        assert_eq!(thing("sigfox", "sigfox", "x", r#"{"device": "2C30EB"}"#).as_deref(), Some("2C30EB"));
        assert_eq!(thing("sigfox", "sigfox", "x", "not JSON"), None);
        assert_eq!(thing("forward", "Weather/Corp/rain", "n/a", "").as_deref(), Some("n-a"));
        assert_eq!(thing("telemetry", "telemetry", "x", ""), None);
    }
}
