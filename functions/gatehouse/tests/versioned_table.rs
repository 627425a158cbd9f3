//! Records under optimistic locking, and the documents that are kept in them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemInput, BatchGetItemOutput};
use aws_sdk_dynamodb::operation::get_item::GetItemOutput;
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::types::KeysAndAttributes;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_smithy_mocks::{MockResponse, Rule, RuleMode, mock, mock_client};
use gatehouse::item::{Item, integer, number, string, text};
use gatehouse::{Document, DocumentError, Fault, RecordError, Records, Timestamp, Validate};
use serde::Deserialize;

type Items = Arc<Mutex<HashMap<(String, String), Item>>>;

fn key(item: &Item) -> (String, String) {
    (text(item, "id").unwrap().to_owned(), text(item, "part").unwrap().to_owned())
}

/// A table that keeps what is put, and the two conditions that records are put under.
#[expect(clippy::result_large_err, reason = "the SDK's own")]
fn put(items: &Items, input: &PutItemInput) -> Result<PutItemOutput, PutItemError> {
    let mut items = items.lock().unwrap();
    let item = input.item().unwrap();
    let found = items.get(&key(item)).cloned();
    let version = found.as_ref().and_then(|found| integer(found, "version"));
    let holds = match input.condition_expression().unwrap() {
        "attribute_not_exists(#version)" => version.is_none(),
        "#version = :was" => {
            version == input.expression_attribute_values().unwrap()[":was"].as_n().unwrap().parse().ok()
        }
        other => panic!("unknown condition {other}"),
    };
    if !holds {
        let failed = ConditionalCheckFailedException::builder().set_item(found).build();
        return Err(PutItemError::ConditionalCheckFailedException(failed));
    }
    items.insert(key(item), item.clone());
    Ok(PutItemOutput::builder().build())
}

fn puts(items: &Items) -> Rule {
    let items = Arc::clone(items);
    mock!(Client::put_item).match_requests(|_| true).then_compute_response(move |input| match put(&items, input) {
        Ok(output) => MockResponse::Output(output),
        Err(error) => MockResponse::Error(error),
    })
}

fn gets(items: &Items) -> Rule {
    let items = Arc::clone(items);
    mock!(Client::get_item).match_requests(|input| input.consistent_read() == Some(true)).then_compute_output(
        move |input| {
            let found = items.lock().unwrap().get(&key(input.key().unwrap())).cloned();
            GetItemOutput::builder().set_item(found).build()
        },
    )
}

fn records(rules: &[&Rule]) -> Records {
    Records::new(mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, rules), "table")
}

fn value(of: &str) -> Item {
    Item::from([("value".to_owned(), string(of))])
}

#[tokio::test]
async fn what_is_put_is_read_back_and_each_write_counts() {
    let items = Items::default();
    let (put, get) = (puts(&items), gets(&items));
    let records = records(&[&put, &get]);
    let new = records.get("thing#a", "state").await.unwrap();
    assert_eq!((new.version(), new.item.len()), (0, 0));
    let first = records.put("thing#a", "state", value("1"), &new).await.unwrap();
    let second = records.put("thing#a", "state", value("2"), &first).await.unwrap();
    assert_eq!(second.version(), 2);
    assert_eq!(records.get("thing#a", "state").await.unwrap(), second);
    assert_eq!(text(&second.item, "value"), Some("2"));
}

#[tokio::test]
async fn of_two_processes_that_read_the_same_only_one_writes() {
    let items = Items::default();
    let (put, get) = (puts(&items), gets(&items));
    let records = records(&[&put, &get]);
    for round in 0..2 {
        let was = records.get("thing#a", "state").await.unwrap();
        assert_eq!(was.version(), round);
        records.put("thing#a", "state", value("ours"), &was).await.unwrap();
        let late = records.put("thing#a", "state", value("theirs"), &was).await;
        assert!(matches!(late, Err(RecordError::Conflict)), "{late:?}");
        assert_eq!(text(&records.get("thing#a", "state").await.unwrap().item, "value"), Some("ours"));
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_no_conflict_with_itself() {
    let items = Items::default();
    let (table, failed) = (Arc::clone(&items), Arc::clone(&items));
    // The table took it, but what comes back is a gateway's error; the SDK sends the request again.
    let put = mock!(Client::put_item)
        .match_requests(move |input| {
            let _ = put(&table, input);
            true
        })
        .sequence()
        .http_status(500, None)
        .error(move || {
            let found = failed.lock().unwrap().values().next().cloned();
            let failed = ConditionalCheckFailedException::builder().set_item(found).build();
            PutItemError::ConditionalCheckFailedException(failed)
        })
        .build();
    let get = gets(&items);
    let records = records(&[&put, &get]);
    let new = records.get("thing#a", "state").await.unwrap();
    let written = records.put("thing#a", "state", value("1"), &new).await.unwrap();
    assert_eq!((written.version(), put.num_calls()), (1, 2));
    assert_eq!(records.get("thing#a", "state").await.unwrap(), written);
}

/// Reads so many keys of a call, and leaves the rest unread.
fn gets_all(items: &Items, at_once: usize, calls: Arc<AtomicUsize>) -> Rule {
    let items = Arc::clone(items);
    mock!(Client::batch_get_item).match_requests(|_| true).then_compute_output(move |input: &BatchGetItemInput| {
        calls.fetch_add(1, Ordering::SeqCst);
        let wanted = &input.request_items().unwrap()["table"];
        assert!(wanted.keys().len() <= 100 && wanted.consistent_read() == Some(true));
        let (now, later) = wanted.keys().split_at(at_once.min(wanted.keys().len()));
        let items = items.lock().unwrap();
        let found: Vec<_> = now.iter().filter_map(|wanted| items.get(&key(wanted)).cloned()).collect();
        let output = BatchGetItemOutput::builder().responses("table", found);
        if later.is_empty() {
            return output.build();
        }
        let left = KeysAndAttributes::builder().set_keys(Some(later.to_vec())).consistent_read(true).build().unwrap();
        output.unprocessed_keys("table", left).build()
    })
}

#[tokio::test(start_paused = true)]
async fn many_are_read_a_hundred_a_call_and_what_was_left_unread_is_asked_for_again() {
    let items = Items::default();
    let put = puts(&items);
    let calls = Arc::new(AtomicUsize::new(0));
    let all = gets_all(&items, 60, Arc::clone(&calls));
    let records = records(&[&put, &all]);
    let names: Vec<_> = (0..150).map(|number| format!("thing#{number}")).collect();
    for name in &names[..149] {
        records.put(name, "state", value(name), &gatehouse::Record::default()).await.unwrap();
    }
    // The last one is not there, and one is asked for twice, which DynamoDB would refuse.
    let wanted = names.iter().chain([&names[0]]).map(|name| (name.as_str(), "state"));
    let found = records.get_all(wanted).await.unwrap();
    assert_eq!(found.len(), 149);
    for name in &names[..149] {
        assert_eq!(text(&found[&(name.clone(), "state".to_owned())].item, "value"), Some(name.as_str()));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_never_reads_the_rest_is_given_up_and_not_taken_for_empty() {
    let calls = Arc::new(AtomicUsize::new(0));
    let all = gets_all(&Items::default(), 0, Arc::clone(&calls));
    let found = records(&[&all]).get_all([("thing#a", "state")]).await;
    assert!(matches!(found, Err(RecordError::Unread(_))), "{found:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 6);
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    limits: Vec<u8>,
}

impl Validate for Limits {
    fn check(&self) -> Result<(), Fault> {
        match self.limits.iter().position(|limit| *limit == 0) {
            Some(index) => Err(Fault::new(format!("limits[{index}]"), "must be above 0.")),
            None => Ok(()),
        }
    }
}

const AT: Timestamp = Timestamp::from_millis(1_763_715_600_000);

#[tokio::test]
async fn a_document_is_in_force_from_when_it_was_put() {
    let items = Items::default();
    let (put, get) = (puts(&items), gets(&items));
    let document = Document::<Limits>::new(records(&[&put, &get]), "limits");
    assert_eq!(document.current().await.unwrap(), None);
    for limits in ["[1,2]", "[3]"] {
        assert!(document.put(&format!("{{\"limits\":{limits}}}"), AT).await.unwrap());
        let current = document.current().await.unwrap().unwrap();
        assert_eq!(format!("{:?}", current.limits).replace(' ', ""), limits);
        assert!(Arc::ptr_eq(&current, &document.current().await.unwrap().unwrap()), "it is parsed once");
    }
}

#[tokio::test]
async fn a_bad_document_is_refused_with_the_path_of_the_fault_and_the_last_good_one_stays_in_force() {
    let items = Items::default();
    let (put, get) = (puts(&items), gets(&items));
    let document = Document::<Limits>::new(records(&[&put, &get]), "limits");
    document.put(r#"{"limits":[1]}"#, AT).await.unwrap();
    for (bad, code, why) in [
        (r#"{"limits":[1,0]}"#, "bad-document", "`limits[1]`: must be above 0."),
        (r#"{"limits":[1,"secret"]}"#, "wrong-type", "Field `limits[1]` must be u8."),
        (
            r#"{"limits":[1],"secret":1}"#,
            "unknown-field",
            "A field that is not known stands there; it must be `limits`.",
        ),
        ("secret", "not-json", "The payload is not JSON: line 1 column 1 does not parse."),
    ] {
        let refused = document.put(bad, AT).await;
        let Err(DocumentError::Refused(refusal)) = refused else { panic!("{bad}: {refused:?}") };
        assert_eq!((refusal.code, refusal.why.as_ref()), (code, why), "{bad}");
    }
    assert_eq!(document.current().await.unwrap().unwrap().limits, [1]);
}

#[tokio::test]
async fn an_order_that_comes_again_after_a_later_one_does_not_undo_it() {
    let items = Items::default();
    let (put, get) = (puts(&items), gets(&items));
    let document = Document::<Limits>::new(records(&[&put, &get]), "limits");
    let later = Timestamp::from_millis(AT.millis() + 1);
    assert!(document.put(r#"{"limits":[2]}"#, later).await.unwrap());
    assert!(!document.put(r#"{"limits":[1]}"#, AT).await.unwrap());
    assert_eq!(document.current().await.unwrap().unwrap().limits, [2]);
}

#[tokio::test]
async fn of_two_orders_that_meet_the_later_one_is_in_force() {
    let items = Items::default();
    let (table, rival) = (Arc::clone(&items), AtomicBool::new(true));
    let put = mock!(Client::put_item).match_requests(|_| true).then_compute_response(move |input| {
        if rival.swap(false, Ordering::SeqCst) {
            let mut item = input.item().unwrap().clone();
            item.insert("document".to_owned(), string(r#"{"limits":[9]}"#));
            item.insert("writer".to_owned(), string("another"));
            item.insert("givenAt".to_owned(), number(AT.millis() - 1));
            table.lock().unwrap().insert(key(&item), item);
        }
        match put(&table, input) {
            Ok(output) => MockResponse::Output(output),
            Err(error) => MockResponse::Error(error),
        }
    });
    let get = gets(&items);
    let document = Document::<Limits>::new(records(&[&put, &get]), "limits");
    assert!(document.put(r#"{"limits":[1]}"#, AT).await.unwrap());
    assert_eq!(document.current().await.unwrap().unwrap().limits, [1]);
}

#[tokio::test]
async fn a_document_that_somebody_broke_by_hand_is_not_taken_for_none() {
    let items = Items::default();
    let get = gets(&items);
    let broken = [("id", "document#limits"), ("part", "current"), ("document", "{")];
    let broken: Item = broken.into_iter().map(|(name, text)| (name.to_owned(), string(text))).collect();
    items.lock().unwrap().insert(key(&broken), broken);
    let current = Document::<Limits>::new(records(&[&get]), "limits").current().await;
    assert!(matches!(current, Err(DocumentError::Unusable(..))), "{current:?}");
}
