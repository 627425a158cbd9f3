//! Documents that operators upload.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::sync::Arc;
use std::time::Duration;

use gatehouse::{Document, DocumentError, Invocation, Timestamp, Validate, ValidationError, VersionedTable};
use serde::Deserialize;
use serde_json::json;
use test_support::{FakeAws, NOW, Process, Table};

const KEY: [&str; 2] = ["document#limits", "current"];

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    limits: Vec<u8>,
}

impl Validate for Limits {
    fn validate(&self) -> Result<(), ValidationError> {
        match self.limits.iter().position(|limit| *limit == 0) {
            Some(index) => Err(ValidationError::new(format!("limits[{index}]"), "must be above 0.")),
            None => Ok(()),
        }
    }
}

fn account() -> FakeAws {
    FakeAws::new("sample").table(Table::new("table", &["id", "part"], &["GetItem", "PutItem"]))
}

fn document(process: &Process) -> Document<Limits> {
    Document::new(VersionedTable::new(process.dynamodb(), "table"), "limits")
}

async fn put(document: &Document<Limits>, text: &str, given_at: Timestamp) -> Result<bool, DocumentError> {
    let invocation = Invocation::new("request-1", NOW, NOW.plus(Duration::from_secs(10)));
    document.put(text, given_at, &invocation).await
}

async fn current(document: &Document<Limits>) -> Vec<u8> {
    document.current().await.unwrap().unwrap().limits.clone()
}

#[tokio::test(start_paused = true)]
async fn document_is_in_force_once_it_is_put() {
    let document = document(&account().process());
    assert_eq!(document.current().await.unwrap(), None);
    for limits in [vec![1, 2], vec![3]] {
        assert!(put(&document, &json!({"limits": limits}).to_string(), NOW).await.unwrap());
        let current = document.current().await.unwrap().unwrap();
        assert_eq!(current.limits, limits);
        assert!(Arc::ptr_eq(&current, &document.current().await.unwrap().unwrap()), "it is parsed once");
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_document_is_refused_and_the_last_valid_one_stays() {
    let document = document(&account().process());
    put(&document, r#"{"limits":[1]}"#, NOW).await.unwrap();
    for (invalid, code, why) in [
        (r#"{"limits":[1,0]}"#, "bad-document", "`limits[1]`: must be above 0."),
        (r#"{"limits":[1,"secret"]}"#, "wrong-type", "Field `limits[1]` must be a whole number from 0 to 255."),
        (r#"{"limits":[1],"lmits":1}"#, "unknown-field", "Field `lmits` is unknown; the name must be `limits`."),
        ("[[1]]", "not-an-object", "The document is an array, not an object."),
        ("secret", "not-json", "The payload is not JSON: syntax error at line 1 column 1."),
    ] {
        let refused = put(&document, invalid, NOW).await;
        let Err(DocumentError::Refused(refusal)) = refused else { panic!("{invalid}: {refused:?}") };
        assert_eq!((refusal.code, refusal.why.as_ref()), (code, why), "{invalid}");
    }
    assert_eq!(current(&document).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn command_delivered_again_does_not_undo_a_later_one() {
    let document = document(&account().process());
    let later = NOW.plus(Duration::from_millis(1));
    assert!(put(&document, r#"{"limits":[2]}"#, later).await.unwrap());
    assert!(!put(&document, r#"{"limits":[1]}"#, NOW).await.unwrap());
    assert_eq!(current(&document).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn later_of_two_concurrent_commands_is_in_force() {
    for (given_at, expected) in [(NOW.millis() - 1, 1), (NOW.millis() + 1, 9)] {
        let rival = json!({
            "document": {"S": r#"{"limits":[9]}"#}, "version": {"N": "1"}, "writer": {"S": "another"},
            "givenAt": {"N": given_at.to_string()},
        });
        let process = account().process().change(2, move |state| state.set_attributes("table", &KEY, &rival));
        let document = document(&process);
        assert_eq!(put(&document, r#"{"limits":[1]}"#, NOW).await.unwrap(), expected == 1);
        assert_eq!(current(&document).await, [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn document_broken_by_hand_is_an_error_and_not_missing() {
    let aws = account();
    aws.state().set_attributes("table", &KEY, &json!({"document": {"S": "{"}}));
    let current = document(&aws.process()).current().await;
    assert!(matches!(current, Err(DocumentError::Invalid(..))), "{current:?}");
}
