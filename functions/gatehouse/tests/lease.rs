//! Exclusive work on a record.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::time::Duration;

use gatehouse::store::item::{string, text};
use gatehouse::{Invocation, Item, Key, Lease, LeaseError, Timestamp, VersionedTable};
use serde_json::{Value, json};
use test_support::{FakeAws, Fault, NOW, Process, State, Table};

const KEY: [&str; 2] = ["certificate#a", "admission"];
const TIMEOUT: Duration = Duration::from_secs(10);

fn account() -> FakeAws {
    FakeAws::new("sample").table(Table::new("table", &["id", "part"], &["GetItem", "PutItem"]))
}

fn invocation(now: Timestamp) -> Invocation {
    Invocation::new("request-1", now, now.plus(TIMEOUT))
}

fn set(name: &str, value: &str) -> impl Fn(&mut Item) {
    let (name, value) = (name.to_owned(), string(value));
    move |item| drop(item.insert(name.clone(), value.clone()))
}

/// Reads the record and takes a lease on it, at this time.
async fn acquire(process: &Process, now: Timestamp) -> Option<Lease> {
    let (table, key) = (VersionedTable::new(process.dynamodb(), "table"), Key::new(KEY[0], KEY[1]));
    let seen = table.get(&key).await.unwrap();
    Lease::acquire(&table, key, &seen, &invocation(now), set("state", "started")).await.unwrap()
}

/// Another process's write, without taking the lease.
fn write_as_another(state: &mut State, attributes: &Value) {
    let version: u64 = state.attribute("table", &KEY, "version").unwrap().parse().unwrap();
    let written = json!({"version": {"N": (version + 1).to_string()}, "writer": {"S": "another"}});
    state.set_attributes("table", &KEY, &written);
    state.set_attributes("table", &KEY, attributes);
}

fn attribute(aws: &FakeAws, name: &str) -> Option<String> {
    aws.state().attribute("table", &KEY, name)
}

#[tokio::test(start_paused = true)]
async fn acquired_lease_names_its_owner_and_ends_at_the_deadline() {
    let aws = account();
    let lease = acquire(&aws.process(), NOW).await.unwrap();
    assert_eq!(text(&lease.record().item, "state"), Some("started"));
    assert_eq!(attribute(&aws, "state").as_deref(), Some("started"));
    assert_eq!(attribute(&aws, "owner").as_deref(), text(&lease.record().item, "owner"));
    assert_eq!(attribute(&aws, "ownedUntil"), Some(NOW.plus(TIMEOUT).to_string()));
    assert!(Lease::is_active(lease.record(), NOW.plus(TIMEOUT)));
    assert!(!Lease::is_active(lease.record(), NOW.plus(TIMEOUT).plus(Duration::from_millis(1))));
}

#[tokio::test(start_paused = true)]
async fn active_lease_is_refused_and_expired_one_is_taken_over() {
    let aws = account();
    let first = acquire(&aws.process(), NOW).await.unwrap();
    let owner = text(&first.record().item, "owner").map(str::to_owned);
    assert!(acquire(&aws.process(), NOW.plus(TIMEOUT)).await.is_none());
    assert_eq!(attribute(&aws, "owner"), owner);
    let second = acquire(&aws.process(), NOW.plus(TIMEOUT).plus(Duration::from_millis(1))).await.unwrap();
    assert_eq!(attribute(&aws, "owner").as_deref(), text(&second.record().item, "owner"));
    assert_ne!(attribute(&aws, "owner"), owner);
}

#[tokio::test(start_paused = true)]
async fn record_written_since_it_was_read_cannot_be_leased() {
    let aws = account();
    drop(acquire(&aws.process(), NOW).await);
    let process = aws.process().change(2, |state| write_as_another(state, &json!({"state": {"S": "changed"}})));
    assert!(acquire(&process, NOW.plus(2 * TIMEOUT)).await.is_none());
    assert_eq!(attribute(&aws, "state").as_deref(), Some("changed"));
}

#[tokio::test(start_paused = true)]
async fn only_one_of_two_concurrent_invocations_gets_the_lease() {
    for turns in [[1, 2, 1, 2], [1, 2, 2, 1]] {
        let aws = account();
        let (one, other) = (aws.process(), aws.process());
        aws.serve_in_order(turns);
        let (one, other) = tokio::join!(acquire(&one, NOW), acquire(&other, NOW));
        assert!(one.is_some() != other.is_some(), "{turns:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn change_keeps_the_lease_and_release_gives_it_back() {
    let aws = account();
    let mut lease = acquire(&aws.process(), NOW).await.unwrap();
    lease.change(&invocation(NOW), set("state", "checked")).await.unwrap();
    assert_eq!(attribute(&aws, "state").as_deref(), Some("checked"));
    assert!(acquire(&aws.process(), NOW).await.is_none());
    lease.release(&invocation(NOW), set("state", "done")).await.unwrap();
    assert_eq!((attribute(&aws, "state").as_deref(), attribute(&aws, "ownedUntil")), (Some("done"), None));
    assert!(!Lease::is_active(lease.record(), NOW));
    assert!(acquire(&aws.process(), NOW).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn change_is_applied_on_top_of_what_others_wrote() {
    let aws = account();
    let process = aws.process().change(3, |state| write_as_another(state, &json!({"blocked": {"BOOL": true}})));
    let mut lease = acquire(&process, NOW).await.unwrap();
    let invocation = invocation(NOW);
    lease.change(&invocation, set("state", "checked")).await.unwrap();
    assert_eq!(attribute(&aws, "state").as_deref(), Some("checked"));
    assert_eq!(attribute(&aws, "blocked").as_deref(), Some("true"));
    assert_eq!(invocation.counts()["Conflicts"], 1);
    assert!(lease.record().item.contains_key("blocked"));
}

#[tokio::test(start_paused = true)]
async fn lease_that_was_taken_away_is_lost() {
    for is_release in [false, true] {
        let aws = account();
        let process = aws.process().change(3, |state| write_as_another(state, &json!({"owner": {"S": "run-1"}})));
        let mut lease = acquire(&process, NOW).await.unwrap();
        let invocation = invocation(NOW);
        let result = if is_release {
            lease.release(&invocation, set("state", "done")).await
        } else {
            lease.change(&invocation, set("state", "checked")).await
        };
        let error = result.unwrap_err();
        assert!(matches!(&error, LeaseError::Lost(key) if key == KEY[0]), "{error:?}");
        assert_eq!(attribute(&aws, "state").as_deref(), Some("started"));
        assert_eq!(attribute(&aws, "owner").as_deref(), Some("run-1"));
    }
}

#[tokio::test(start_paused = true)]
async fn writes_whose_responses_were_lost_keep_the_lease() {
    let aws = account();
    let process = aws.process().fail(2, Fault::Lost).fail(4, Fault::Lost);
    let mut lease = acquire(&process, NOW).await.unwrap();
    let invocation = invocation(NOW);
    lease.release(&invocation, set("state", "done")).await.unwrap();
    assert_eq!(attribute(&aws, "state").as_deref(), Some("done"));
    assert_eq!(invocation.counts().get("Conflicts"), None);
    assert_eq!(process.call_count(), 5);
}
