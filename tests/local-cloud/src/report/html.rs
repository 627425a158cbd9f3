//! The report as a web page in one file, with the console's views of paths and charts.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::json::event;
use crate::observer::Observer;
use crate::player::StepResult;
use crate::scenario::Scenario;

const STYLE: &str = include_str!("../../console/style.css");

/// The console's modules, in the order in which they need each other, and the report's own.
const MODULES: [&str; 4] = [
    include_str!("../../console/dom.js"),
    include_str!("../../console/chart.js"),
    include_str!("../../console/path.js"),
    include_str!("../../console/report.js"),
];

/// Returns the page. It loads nothing, and contains payloads as data, never as markup.
pub fn html(scenarios: &[Scenario], results: &[StepResult], observer: &Observer, duration: Duration) -> String {
    let scenarios: Vec<_> = scenarios
        .iter()
        .map(|scenario| {
            let of_scenario = results.iter().filter(|result| result.scenario == scenario.name);
            let chart = scenario.chart.as_ref().map(|chart| {
                json!({"thing": chart.thing, "field": chart.field, "threshold": chart.threshold, "limit": chart.limit})
            });
            json!({
                "name": scenario.name,
                "about": scenario.about,
                "chart": chart,
                "results": of_scenario.map(|result| with_path(result, observer)).collect::<Vec<_>>(),
            })
        })
        .collect();
    page(&json!({"seconds": duration.as_secs_f64(), "scenarios": scenarios}))
}

/// Returns a result as JSON, with the path of its event if the observer has kept it.
pub fn with_path(result: &StepResult, observer: &Observer) -> Value {
    let path = result.event_id.as_ref().and_then(|id| {
        let path = observer.read_journal(|journal| journal.event(id).map(|event| event.path(&observer.rules)));
        path.flatten()
    });
    let mut json = event(result);
    if let Some(json) = json.as_object_mut() {
        json.insert("path".to_owned(), path.into());
    }
    json
}

fn page(data: &Value) -> String {
    let script = script();
    let (style_hash, script_hash) = (hash(STYLE), hash(&script));
    // So that nothing in the data can end the element.
    let data = data.to_string().replace('<', "\\u003c");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src '{script_hash}'; \
         style-src '{style_hash}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Gatehouse replay</title>\n\
         <style>{STYLE}</style>\n</head>\n<body class=\"report\">\n<main id=\"main\" class=\"panel\"></main>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script type=\"module\">{script}</script>\n\
         </body>\n</html>\n"
    )
}

/// Joins the modules to one script.
fn script() -> String {
    let mut script = String::new();
    for line in MODULES.iter().flat_map(|module| module.lines()).filter(|line| !line.starts_with("import ")) {
        script.push_str(line.strip_prefix("export ").unwrap_or(line));
        script.push('\n');
    }
    script
}

fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_one_file_and_data_is_no_markup() {
        let page = page(&json!({"seconds": 1, "scenarios": [{"about": "</script><img src=x>"}]}));
        assert!(!page.contains("<img") && page.contains("\\u003c/script>"));
        assert_eq!(page.matches("</script>").count(), 2);
        for other in ["<link", " src=\"", "import ", "export ", "https://"] {
            assert!(!page.contains(other), "{other} is in the page");
        }
    }

    #[test]
    fn no_two_modules_declare_the_same_name() {
        let script = script();
        let names = script.lines().filter_map(|line| {
            let rest = line.strip_prefix("function ").or_else(|| line.strip_prefix("const "))?;
            rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
        });
        let mut names: Vec<_> = names.collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
