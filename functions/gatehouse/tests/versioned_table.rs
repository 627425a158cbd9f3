//! Records under optimistic locking.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::time::Duration;

use gatehouse::store::item::{string, text};
use gatehouse::{Invocation, Item, Key, TableError, Update, VersionedItem, VersionedTable};
use serde_json::json;
use test_support::{FakeAws, Fault, NOW, Process, State, Table};

const KEY: [&str; 2] = ["thing#a", "state"];

fn account() -> FakeAws {
    FakeAws::new("sample").table(Table::new("table", &["id", "part"], &["GetItem", "BatchGetItem", "PutItem"]))
}

fn table(process: &Process) -> VersionedTable {
    VersionedTable::new(process.dynamodb(), "table")
}

fn key() -> Key {
    Key::new(KEY[0], KEY[1])
}

fn invocation() -> Invocation {
    Invocation::new("request-1", NOW, NOW.plus(Duration::from_secs(10)))
}

fn with_value(value: &str) -> Item {
    Item::from([("value".to_owned(), string(value))])
}

/// Another process's write: sets the value, and increments the version.
fn write_as_another(state: &mut State, value: &str) {
    let version = state.attribute("table", &KEY, "version").map_or(0, |version| version.parse::<u64>().unwrap());
    let attributes = json!({
        "value": {"S": value}, "version": {"N": (version + 1).to_string()}, "writer": {"S": "another"},
    });
    state.set_attributes("table", &KEY, &attributes);
}

/// Appends a letter to the record's value.
async fn append(process: &Process, letter: &str, invocation: &Invocation) -> Result<String, TableError> {
    let append = async |old: &VersionedItem| {
        let value = format!("{}{letter}", text(&old.item, "value").unwrap_or_default());
        Ok::<_, TableError>(Update::Write(with_value(&value), value))
    };
    Ok(table(process).update(&key(), invocation, append).await?.value)
}

#[tokio::test(start_paused = true)]
async fn written_record_is_read_back_and_versions_count() {
    let (aws, invocation) = (account(), invocation());
    let table = table(&aws.process());
    let new = table.get(&key()).await.unwrap();
    assert_eq!((new.version(), new.item.len()), (0, 0));
    let mut versions = Vec::new();
    for value in ["1", "2"] {
        let write = async |_: &VersionedItem| Ok::<_, TableError>(Update::Write(with_value(value), ()));
        let updated = table.update(&key(), &invocation, write).await.unwrap();
        assert_eq!(table.get(&key()).await.unwrap(), updated.record);
        assert_eq!(text(&updated.record.item, "value"), Some(value));
        versions.push(updated.record.version());
    }
    assert_eq!(versions, [1, 2]);
    assert_eq!(invocation.counts().get("Conflicts"), None);
}

#[tokio::test(start_paused = true)]
async fn kept_record_is_not_written() {
    let (aws, invocation) = (account(), invocation());
    append(&aws.process(), "a", &invocation).await.unwrap();
    aws.reset_calls();
    let keep = async |old: &VersionedItem| Ok::<_, TableError>(Update::Keep(old.version()));
    let updated = table(&aws.process()).update(&key(), &invocation, keep).await.unwrap();
    assert_eq!((updated.value, updated.record.version()), (1, 1));
    assert_eq!(aws.state().calls_to("PutItem").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_one_of_two_writers_of_the_same_version_succeeds() {
    let (aws, invocation) = (account(), invocation());
    let table = table(&aws.process());
    for version in 0..2 {
        let read = table.get(&key()).await.unwrap();
        assert_eq!(read.version(), version);
        let write = async |_: &VersionedItem| Ok::<_, TableError>(Update::Write(with_value("ours"), ()));
        table.update_from(read.clone(), &key(), &invocation, write).await.unwrap();
        let mut seen = Vec::new();
        let late = async |old: &VersionedItem| {
            seen.push(old.version());
            let write = Update::Write(with_value("theirs"), true);
            Ok::<_, TableError>(if old.version() == version { write } else { Update::Keep(false) })
        };
        let updated = table.update_from(read, &key(), &invocation, late).await.unwrap();
        assert_eq!((updated.value, seen), (false, vec![version, version + 1]));
        assert_eq!(text(&updated.record.item, "value"), Some("ours"));
    }
    assert_eq!(invocation.counts()["Conflicts"], 2);
}

#[tokio::test(start_paused = true)]
async fn conflict_is_counted_and_decided_anew_from_what_was_written() {
    let (aws, invocation) = (account(), invocation());
    let process = aws.process().change(2, |state| write_as_another(state, "x"));
    assert_eq!(append(&process, "a", &invocation).await.unwrap(), "xa");
    assert_eq!(invocation.counts()["Conflicts"], 1);
    let state = aws.state();
    assert_eq!(state.attribute("table", &KEY, "version").as_deref(), Some("2"));
    assert_eq!(state.calls_of(1), ["GetItem table", "PutItem table", "GetItem table", "PutItem table"]);
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_bounded() {
    let (aws, invocation) = (account(), invocation());
    let rivals = (1..=30).map(|attempt| 2 * attempt);
    let process = rivals.fold(aws.process(), |process, put| process.change(put, |state| write_as_another(state, "x")));
    let error = append(&process, "a", &invocation).await.unwrap_err();
    assert!(matches!(&error, TableError::Conflict(table) if table == "table"), "{error:?}");
    assert_eq!(invocation.counts()["Conflicts"], 20);
    assert_eq!(aws.state().calls_to("PutItem").len(), 20);
    assert_eq!(aws.state().attribute("table", &KEY, "value").as_deref(), Some("x"));
}

#[tokio::test(start_paused = true)]
async fn failed_decision_and_failed_calls_write_nothing() {
    let (aws, invocation) = (account(), invocation());
    let decide = async |_: &VersionedItem| Err::<Update<()>, _>(TableError::Unprocessed("t".to_owned()));
    let error = table(&aws.process()).update(&key(), &invocation, decide).await.unwrap_err();
    assert!(matches!(error, TableError::Unprocessed(_)), "{error:?}");
    let get = append(&aws.process().fail(1, Fault::Denied), "a", &invocation).await.unwrap_err();
    assert!(matches!(get, TableError::Get(..)), "{get:?}");
    let put = append(&aws.process().fail(2, Fault::Denied), "a", &invocation).await.unwrap_err();
    assert!(matches!(put, TableError::Put(..)), "{put:?}");
    assert!(aws.state().tables.is_empty());
    assert_eq!(invocation.counts().get("Conflicts"), None);
}

#[tokio::test(start_paused = true)]
async fn write_whose_response_was_lost_does_not_conflict_with_itself() {
    let (aws, invocation) = (account(), invocation());
    for put in ["a", "ab"] {
        let letter = put.get(put.len() - 1..).unwrap();
        let process = aws.process().fail(2, Fault::Lost);
        assert_eq!(append(&process, letter, &invocation).await.unwrap(), put);
        assert_eq!(process.call_count(), 3);
    }
    assert_eq!(table(&aws.process()).get(&key()).await.unwrap().version(), 2);
    assert_eq!(invocation.counts().get("Conflicts"), None);
}

#[tokio::test(start_paused = true)]
async fn item_without_a_version_is_updated_as_version_zero() {
    let (aws, invocation) = (account(), invocation());
    aws.state().set_attributes("table", &KEY, &json!({"value": {"S": "by hand, "}}));
    assert_eq!(table(&aws.process()).get(&key()).await.unwrap().version(), 0);
    assert_eq!(append(&aws.process(), "a", &invocation).await.unwrap(), "by hand, a");
    assert_eq!(aws.state().attribute("table", &KEY, "version").as_deref(), Some("1"));

    // Another process gives it a version after it was read.
    let aws = account();
    aws.state().set_attributes("table", &KEY, &json!({"value": {"S": "by hand, "}}));
    let process = aws.process().change(2, |state| write_as_another(state, "x"));
    assert_eq!(append(&process, "b", &invocation).await.unwrap(), "xb");
    assert_eq!(invocation.counts()["Conflicts"], 1);
}

#[tokio::test(start_paused = true)]
async fn many_records_are_read_in_batches_until_all_are_processed() {
    let (aws, invocation) = (account(), invocation());
    aws.state().max_batch_get = Some(60);
    let table = table(&aws.process());
    let keys: Vec<_> = (0..150).map(|number| Key::new(format!("thing#{number}"), "state")).collect();
    for key in &keys[..149] {
        let write = async |_: &VersionedItem| Ok::<_, TableError>(Update::Write(with_value(&key.pk), ()));
        table.update(key, &invocation, write).await.unwrap();
    }
    // The last one does not exist, and one is requested twice, which DynamoDB would reject.
    let found = table.get_all(keys.iter().chain([&keys[0]])).await.unwrap();
    assert_eq!(found.len(), 149);
    for key in &keys[..149] {
        assert_eq!(text(&found[key].item, "value"), Some(key.pk.as_str()));
    }
    assert_eq!(aws.state().calls_to("BatchGetItem").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn keys_that_stay_unprocessed_are_an_error_and_not_missing() {
    let aws = account();
    aws.state().max_batch_get = Some(0);
    let found = table(&aws.process()).get_all([&key()]).await;
    assert!(matches!(found, Err(TableError::Unprocessed(_))), "{found:?}");
    assert_eq!(aws.state().calls_to("BatchGetItem").len(), 6);
}
