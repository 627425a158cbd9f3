//! The page: static files, embedded in the program.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

macro_rules! files {
    ($($path:literal => $file:literal, $type:expr;)*) => {
        /// Path, content type and content of each file.
        const FILES: &[(&str, &str, &str)] =
            &[$(($path, $type, include_str!(concat!("../../console/", $file)))),*];
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

files! {
    "/" => "index.html", HTML;
    "/style.css" => "style.css", CSS;
    "/icon.svg" => "icon.svg", IMAGE;
    "/app.js" => "app.js", SCRIPT;
    "/api.js" => "api.js", SCRIPT;
    "/dom.js" => "dom.js", SCRIPT;
    "/chart.js" => "chart.js", SCRIPT;
    "/path.js" => "path.js", SCRIPT;
    "/events.js" => "events.js", SCRIPT;
    "/publish.js" => "publish.js", SCRIPT;
    "/devices.js" => "devices.js", SCRIPT;
    "/queues.js" => "queues.js", SCRIPT;
    "/faults.js" => "faults.js", SCRIPT;
    "/scenarios.js" => "scenarios.js", SCRIPT;
    "/topology.js" => "topology.js", SCRIPT;
}

/// Returns a route per file.
pub fn routes<S: Clone + Send + Sync + 'static>() -> impl Iterator<Item = (&'static str, MethodRouter<S>)> {
    FILES.iter().map(|(path, kind, content)| (*path, get(move || async move { file(kind, content) })))
}

fn file(kind: &'static str, content: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anything else the Content-Security-Policy blocks.
    #[test]
    fn page_has_no_inline_script_or_style_and_makes_no_markup_of_text() {
        let forbidden = [
            "<style",
            " style=\"",
            " onclick=",
            "javascript:",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
        ];
        for (path, _, content) in FILES {
            for text in forbidden {
                assert!(!content.contains(text), "{path} contains {text}");
            }
            assert!(!content.contains("http://") || content.contains("http://www.w3.org/2000/svg"), "{path}");
            assert!(!content.contains("https://"), "{path} names another server");
        }
    }

    #[test]
    fn every_module_that_is_imported_is_served() {
        for (path, _, content) in FILES {
            for line in content.lines().filter(|line| line.starts_with("import ")) {
                let module = line.split('"').nth(1).unwrap_or_default().trim_start_matches('.');
                assert!(FILES.iter().any(|(served, _, _)| *served == module), "{path} imports {module}");
            }
        }
    }
}
