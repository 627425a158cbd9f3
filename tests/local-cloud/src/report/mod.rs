//! Reports results: to people, in 80 columns or as a web page, and to machines, as JSON.

mod chart;
mod html;
mod json;
mod layout;
mod style;
#[cfg(test)]
mod tests;
mod text;

use crate::player::StepResult;

pub use html::{html, with_path};
pub use json::json;
pub use style::Style;
pub use text::{event, scenario, summary};
