//! Records under optimistic locking.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::time::Duration;

use futures_util::future::join_all;
use gatehouse::store::item::{string, text};
use gatehouse::{Invocation, Item, Key, TableError, Update, VersionedItem, VersionedTable};
use serde_json::json;
use test_support::{FakeAws, Fault, NOW, Process, State, Table};

const KEY: [&str; 2] = ["thing#a", "state"];

fn account() -> FakeAws {
    let operations = &["GetItem", "BatchGetItem", "PutItem", "BatchExecuteStatement"];
    FakeAws::new("sample").table(Table::new("table", &["id", "part"], operations))
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

/// The keys of this many records, which have a version.
async fn existing(aws: &FakeAws, count: usize) -> Vec<Key> {
    let keys: Vec<_> = (0..count).map(|number| Key::new(format!("thing#{number}"), "state")).collect();
    for key in &keys {
        let item = Item::from([("value".to_owned(), string("old")), ("note".to_owned(), string("gone"))]);
        let write = async |_: &VersionedItem| Ok::<_, TableError>(Update::Write(item.clone(), ()));
        table(&aws.process()).update(key, &invocation(), write).await.unwrap();
    }
    aws.reset_calls();
    keys
}

/// Replaces these records at the same time, each by one that differs in its value and lacks the note.
async fn replace_all(process: &Process, keys: &[Key], invocation: &Invocation) -> Vec<Result<u64, TableError>> {
    let table = table(process).with_batched_writes();
    let replace = async |key: &Key| {
        let write = async |_: &VersionedItem| Ok::<_, TableError>(Update::Write(with_value(&key.pk), ()));
        Ok(table.update(key, invocation, write).await?.record.version())
    };
    join_all(keys.iter().map(replace)).await
}

/// Asserts that each record was replaced by one write, and returns how many calls wrote.
async fn assert_replaced_once(aws: &FakeAws, keys: &[Key]) -> (usize, usize) {
    let found = table(&aws.process()).get_all(keys).await.unwrap();
    for key in keys {
        let record = &found[key];
        let names = ["id", "part", "value", "version", "writer"];
        let mut found: Vec<_> = record.item.keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!((record.version(), found), (2, names.to_vec()));
        assert_eq!(text(&record.item, "value"), Some(key.pk.as_str()));
    }
    let state = aws.state();
    (state.calls_to("BatchExecuteStatement").len(), state.calls_to("PutItem").len())
}

#[tokio::test(start_paused = true)]
async fn concurrent_writes_share_calls() {
    let (aws, invocation) = (account(), invocation());
    let keys = existing(&aws, 60).await;
    let versions = replace_all(&aws.process(), &keys, &invocation).await;
    assert!(versions.iter().all(|version| matches!(version, Ok(2))), "{versions:?}");
    assert_eq!(assert_replaced_once(&aws, &keys).await, (3, 0));
    assert_eq!(invocation.counts().get("Conflicts"), None);
}

#[tokio::test(start_paused = true)]
async fn write_without_company_and_new_record_have_calls_of_their_own() {
    let (aws, invocation) = (account(), invocation());
    let keys = existing(&aws, 1).await;
    replace_all(&aws.process(), &keys, &invocation).await.pop().unwrap().unwrap();
    assert_eq!(assert_replaced_once(&aws, &keys).await, (0, 1));
    let new = ["b", "c"].map(|name| Key::new(name, "state"));
    let versions = replace_all(&aws.process(), &new, &invocation).await;
    assert!(versions.iter().all(|version| matches!(version, Ok(1))), "{versions:?}");
    assert_eq!(aws.state().calls_to("BatchExecuteStatement").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn conflict_in_a_shared_call_concerns_one_record() {
    let (aws, invocation) = (account(), invocation());
    let keys = existing(&aws, 3).await;
    // The first three calls read the records.
    let process = aws.process().change(4, |state| {
        let attributes = json!({"version": {"N": "2"}, "writer": {"S": "another"}});
        state.set_attributes("table", &["thing#1", "state"], &attributes);
    });
    let versions = replace_all(&process, &keys, &invocation).await;
    let versions: Vec<_> = versions.into_iter().map(Result::unwrap).collect();
    assert_eq!(versions, [2, 3, 2]);
    assert_eq!(invocation.counts()["Conflicts"], 1);
    assert_eq!(aws.state().calls_to("PutItem").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn shared_call_whose_response_was_lost_does_not_conflict_with_itself() {
    let (aws, invocation) = (account(), invocation());
    let keys = existing(&aws, 3).await;
    let process = aws.process().fail(4, Fault::Lost);
    let versions = replace_all(&process, &keys, &invocation).await;
    assert!(versions.iter().all(|version| matches!(version, Ok(2))), "{versions:?}");
    assert_eq!(assert_replaced_once(&aws, &keys).await, (2, 0));
    assert_eq!(invocation.counts().get("Conflicts"), None);
}

#[tokio::test(start_paused = true)]
async fn throttled_statement_is_repeated_as_a_call_of_its_own() {
    let (aws, invocation) = (account(), invocation());
    let keys = existing(&aws, 5).await;
    let process = aws.process().fail(6, Fault::Unprocessed(2));
    let versions = replace_all(&process, &keys, &invocation).await;
    assert!(versions.iter().all(|version| matches!(version, Ok(2))), "{versions:?}");
    assert_eq!(assert_replaced_once(&aws, &keys).await, (1, 2));
}

#[tokio::test(start_paused = true)]
async fn failed_shared_call_is_the_error_of_each_record() {
    let (aws, invocation) = (account(), invocation());
    let keys = existing(&aws, 3).await;
    let process = aws.process().fail_each("BatchExecuteStatement", Fault::Throttled);
    let results = replace_all(&process, &keys, &invocation).await;
    assert!(results.iter().all(|result| matches!(result, Err(TableError::BatchPut(..)))), "{results:?}");
    let state = aws.state();
    assert_eq!(state.attribute("table", &["thing#0", "state"], "value").as_deref(), Some("old"));
    assert_eq!(state.calls_to("PutItem").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn rejected_shared_call_is_replaced_by_calls_of_their_own() {
    for fault in [Fault::Denied, Fault::Error(400, "ValidationException")] {
        let (aws, invocation) = (account(), invocation());
        let keys = existing(&aws, 3).await;
        let versions = replace_all(&aws.process().fail(4, fault), &keys, &invocation).await;
        assert!(versions.iter().all(|version| matches!(version, Ok(2))), "{fault:?}: {versions:?}");
        assert_eq!(assert_replaced_once(&aws, &keys).await, (1, 3), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn canceled_update_does_not_block_those_that_wait_for_it() {
    let (aws, invocation) = (account(), invocation());
    let keys = existing(&aws, 3).await;
    let latency = Duration::from_millis(100);
    let table = table(&aws.clone().latency("BatchExecuteStatement", latency).process()).with_batched_writes();
    let replace = async |key: &Key| {
        let write = async |_: &VersionedItem| Ok::<_, TableError>(Update::Write(with_value(&key.pk), ()));
        Ok::<_, TableError>(table.update(key, &invocation, write).await?.record.version())
    };
    // The first one sends the writes of all, and is canceled before the response arrives.
    let first = tokio::time::timeout(latency / 2, replace(&keys[0]));
    let (first, second, third) = tokio::join!(first, replace(&keys[1]), replace(&keys[2]));
    assert!(first.is_err(), "{first:?}");
    assert_eq!((second.unwrap(), third.unwrap()), (2, 2));
}
