//! Messages that are stored with a state change and sent afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::time::Duration;

use gatehouse::store::item::{number, text};
use gatehouse::{
    Failure, Idempotency, IdempotencyError, Invocation, Item, Key, Notification, Outbox, OutboxError, PublishError,
    TableError, Timestamp, Topic, Update, VersionedItem, VersionedTable,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use test_support::{FakeAws, Fault, NOW, Process, Published, State, Table};

const KEY: [&str; 2] = ["thing#a", "state"];
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Message {
    id: String,
}

fn messages(ids: &str) -> Vec<Message> {
    ids.split_whitespace().map(|id| Message { id: id.to_owned() }).collect()
}

fn account() -> FakeAws {
    FakeAws::new("sample")
        .table(Table::new("table", &["id", "part"], &["GetItem", "PutItem"]))
        .env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:sample")
}

fn key() -> Key {
    Key::new(KEY[0], KEY[1])
}

fn table(process: &Process) -> VersionedTable {
    VersionedTable::new(process.dynamodb(), "table")
}

fn outbox(process: &Process) -> Outbox {
    let idempotency = Idempotency::from_environment(&process.environment(), process.dynamodb(), "sample").unwrap();
    Outbox::new(table(process), idempotency, "owed")
}

fn invocation(now: Timestamp) -> Invocation {
    Invocation::new("request-1", now, now.plus(TIMEOUT))
}

/// An account with a record in which these messages are pending.
async fn with_pending(ids: &str) -> FakeAws {
    let aws = account();
    let write = async |_: &VersionedItem| {
        let mut item = Item::new();
        Outbox::set_pending(&mut item, "owed", &messages(ids)).unwrap();
        Ok::<_, TableError>(Update::Write(item, ()))
    };
    table(&aws.process()).update(&key(), &invocation(NOW), write).await.unwrap();
    aws.reset_calls();
    aws
}

/// Sends the pending messages with the outbox of this process.
async fn flush_with(
    outbox: &Outbox,
    process: &Process,
    invocation: &Invocation,
) -> Result<(), OutboxError<PublishError>> {
    let topic = Topic::from_environment(&process.environment(), process.sns()).unwrap();
    let send = async |message: &Message| {
        topic.publish(Notification { message: message.id.clone(), ..Notification::default() }).await
    };
    let note = |item: &mut Item, left: &[Message]| {
        item.insert("left".to_owned(), number(left.len().try_into().unwrap()));
    };
    let record = table(process).get(&key()).await?;
    outbox.flush(&key(), record, invocation, |message: &Message| message.id.clone(), send, note).await
}

async fn flush(process: &Process, now: Timestamp) -> Result<(), OutboxError<PublishError>> {
    flush_with(&outbox(process), process, &invocation(now)).await
}

fn sent(aws: &FakeAws) -> String {
    aws.state().published.iter().map(Published::text).collect::<Vec<_>>().join(" ")
}

fn pending(aws: &FakeAws) -> Option<Vec<String>> {
    let state = aws.state();
    let pending = state.item("table", &KEY)?.get("owed")?["L"].as_array()?;
    let id = |text: &Value| serde_json::from_str::<Message>(text["S"].as_str().unwrap()).unwrap().id;
    Some(pending.iter().map(id).collect())
}

fn attribute(aws: &FakeAws, name: &str) -> Option<String> {
    aws.state().attribute("table", &KEY, name)
}

fn set_pending_as_another(state: &mut State, ids: &str) {
    let version: u64 = state.attribute("table", &KEY, "version").unwrap().parse().unwrap();
    let texts: Vec<_> = messages(ids).iter().map(|message| json!({"S": json!(message).to_string()})).collect();
    let version = json!({"N": (version + 1).to_string()});
    let attributes = json!({"owed": {"L": texts}, "other": {"S": "kept"}, "version": version, "writer": {"S": "x"}});
    state.set_attributes("table", &KEY, &attributes);
}

#[test]
fn pending_messages_are_read_back_as_they_were_set() {
    let mut item = Item::from([("other".to_owned(), number(1))]);
    assert_eq!(Outbox::pending::<Message>(&item, "owed").unwrap(), []);
    Outbox::set_pending(&mut item, "owed", &messages("a b")).unwrap();
    assert_eq!(Outbox::pending::<Message>(&item, "owed").unwrap(), messages("a b"));
    Outbox::set_pending::<Message>(&mut item, "owed", &[]).unwrap();
    assert_eq!((item.len(), text(&item, "owed")), (1, None));
}

#[tokio::test(start_paused = true)]
async fn pending_messages_are_sent_once_in_order_and_removed() {
    let aws = with_pending("a b c").await;
    flush(&aws.process(), NOW).await.unwrap();
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a b c", None));
    // What depends on the remaining messages is updated in the same write.
    assert_eq!(attribute(&aws, "left").as_deref(), Some("0"));
    assert_eq!(aws.state().calls_to("PutItem table").len(), 1);
    flush(&aws.process(), NOW).await.unwrap();
    assert_eq!(sent(&aws), "a b c");
    assert_eq!(aws.state().calls_to("PutItem table").len(), 1, "an empty outbox is not written");
}

/// The calls are: read, then for each message claim, publish and mark, then write.
#[tokio::test(start_paused = true)]
async fn process_may_die_at_any_call_and_each_message_is_sent() {
    for fault in [Fault::DiesBefore, Fault::DiesAfter] {
        for call in 1..=8 {
            let aws = with_pending("a b").await;
            let died = tokio::time::timeout(Duration::from_secs(1), flush(&aws.process().fail(call, fault), NOW)).await;
            assert!(died.is_err(), "{fault:?} at call {call}");
            flush(&aws.process(), NOW.plus(2 * TIMEOUT)).await.unwrap();
            // Sent twice only if the process dies after SNS has accepted the message and before it is marked.
            let expected = match (fault, call) {
                (Fault::DiesAfter, 3) | (Fault::DiesBefore, 4) => "a a b",
                (Fault::DiesAfter, 6) | (Fault::DiesBefore, 7) => "a b b",
                _ => "a b",
            };
            assert_eq!((sent(&aws).as_str(), pending(&aws)), (expected, None), "{fault:?} at call {call}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn message_that_another_invocation_is_sending_stays_pending() {
    let aws = with_pending("a b").await;
    let claim = json!({
        "status": {"S": "INPROGRESS"}, "owner": {"S": "another"},
        "in_progress_expiration": {"N": NOW.plus(TIMEOUT).to_string()},
        "expiration": {"N": (NOW.seconds() + 60).to_string()},
    });
    aws.state().set_attributes("idempotency", &["sample#b"], &claim);
    let error = flush(&aws.process(), NOW).await.unwrap_err();
    assert!(matches!(error, OutboxError::Send(IdempotencyError::AlreadyInProgress)), "{error:?}");
    assert!(matches!(Failure::from(error), Failure::Retry(_)));
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a", Some(vec!["b".to_owned()])));
    assert_eq!(attribute(&aws, "left").as_deref(), Some("1"));
    // The other process died, and its claim has expired.
    flush(&aws.process(), NOW.plus(2 * TIMEOUT)).await.unwrap();
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a b", None));
}

#[tokio::test(start_paused = true)]
async fn later_messages_wait_for_one_that_fails() {
    let aws = with_pending("a b c").await;
    aws.fail_next("Publish", [None, Some(Fault::Denied)]);
    let error = flush(&aws.process(), NOW).await.unwrap_err();
    assert!(matches!(error, OutboxError::Send(IdempotencyError::Effect(_))), "{error:?}");
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a", Some(vec!["b".to_owned(), "c".to_owned()])));
    flush(&aws.process(), NOW).await.unwrap();
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a b c", None));
}

#[tokio::test(start_paused = true)]
async fn messages_enqueued_meanwhile_are_sent_too() {
    let aws = with_pending("a").await;
    // Just before the message is removed.
    let process = aws.process().change(5, |state| set_pending_as_another(state, "a b"));
    flush(&process, NOW).await.unwrap();
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a b", None));
    assert_eq!(attribute(&aws, "other").as_deref(), Some("kept"));
}

#[tokio::test(start_paused = true)]
async fn two_concurrent_invocations_send_each_message_once() {
    let aws = with_pending("a b").await;
    let (one, other) = (aws.process(), aws.process());
    let (_, _) = tokio::join!(flush(&one, NOW), flush(&other, NOW));
    flush(&aws.process(), NOW).await.unwrap();
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a b", None));
}

#[tokio::test(start_paused = true)]
async fn message_that_another_invocation_removed_is_not_written_again() {
    let aws = with_pending("a").await;
    let process = aws.process().change(5, |state| set_pending_as_another(state, ""));
    let invocation = invocation(NOW);
    flush_with(&outbox(&process), &process, &invocation).await.unwrap();
    assert_eq!((sent(&aws).as_str(), attribute(&aws, "left")), ("a", None));
    assert_eq!(invocation.counts()["Conflicts"], 1);
}

#[tokio::test(start_paused = true)]
async fn unparsable_messages_are_neither_sent_nor_removed() {
    for broken in [json!({"S": "a"}), json!({"L": [{"N": "1"}]}), json!({"L": [{"S": "{"}]})] {
        let aws = with_pending("a").await;
        aws.state().set_attributes("table", &KEY, &json!({"owed": broken}));
        let error = flush(&aws.process(), NOW).await.unwrap_err();
        assert!(matches!(error, OutboxError::Parse(_)), "{error:?}");
        assert_eq!(error.to_string(), "failed to parse the pending messages in attribute owed");
        assert!(matches!(Failure::from(error), Failure::Retry(_)));
        assert_eq!((sent(&aws).as_str(), aws.state().calls_to("PutItem").len()), ("", 0));
    }
}

#[tokio::test(start_paused = true)]
async fn outbox_without_claims_sends_even_late_and_without_the_table() {
    let aws = with_pending("a b").await;
    aws.fail_each("PutItem idempotency", Fault::Denied);
    let (process, invocation) = (aws.process(), invocation(NOW));
    tokio::time::advance(Duration::from_secs(8)).await;
    assert!(invocation.is_running_late());
    flush_with(&Outbox::without_claims(table(&process), "owed"), &process, &invocation).await.unwrap();
    assert_eq!((sent(&aws).as_str(), pending(&aws)), ("a b", None));
    assert_eq!(aws.state().calls_to("PutItem idempotency").len(), 0);
}
