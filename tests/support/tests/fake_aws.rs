//! The fake account itself: what each service does, and how calls fail.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use gatehouse::{Concurrent, DeviceEvent, EventHandler, Failure, Invocation};
use serde_json::{Value, json};
use test_support::{
    EntryFault, FAULTS, FakeAws, Fault, Index, NOW, Process, Table, label_by_kind_and_sort_key, sqs_batch,
};

const DEVICES: Table = Table::new("devices", &["id", "part"], &["GetItem", "PutItem", "UpdateItem", "Query"])
    .index(Index { name: "due", key: &["due", "dueAt"], projects_all: false })
    .label(label_by_kind_and_sort_key);
const QUEUE: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/queue";

const READINGS: Table = Table::new("readings", &["thing", "at"], &["BatchWriteItem"]);
const FIFO: &str = "https://sqs.us-east-1.amazonaws.com/210987654321/queue.fifo";

fn aws() -> FakeAws {
    FakeAws::new("sample").table(DEVICES).table(READINGS).queue(QUEUE).queue(FIFO)
}

/// Updates one item per event, with the number of its process.
struct Updates {
    client: Client,
    process: usize,
}

impl EventHandler for Updates {
    type Input = DeviceEvent;
    type Error = Failure;

    async fn handle(&self, event: &DeviceEvent, _: &Invocation) -> Result<(), Failure> {
        if event.topic == "unknown" {
            let _ = self.client.scan().table_name("devices").send().await;
        }
        update_with(&self.client, self.process).await.map_err(Failure::retry)
    }
}

fn handler(process: &Process) -> Concurrent<Updates> {
    Concurrent::new(Updates { client: process.dynamodb(), process: process.number }, NonZeroUsize::MIN)
}

fn event(topic: &str) -> Value {
    json!({"thing": "a", "topic": topic, "payload": {}})
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

async fn update(process: &Process) -> Result<(), String> {
    update_with(&process.dynamodb(), process.number).await
}

async fn update_with(client: &Client, process: usize) -> Result<(), String> {
    let update = client.update_item().table_name("devices");
    let update = update.key("id", text("thing#a")).key("part", text("state"));
    let update = update
        .update_expression("SET #n = :n, first = if_not_exists(first, :n) REMOVE gone")
        .condition_expression("attribute_not_exists(#n) OR #n < :n")
        .expression_attribute_names("#n", "number")
        .expression_attribute_values(":n", AttributeValue::N(process.to_string()));
    update.send().await.map(drop).map_err(|error| error.into_service_error().meta().code().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn update_expression_and_condition_are_applied() {
    let aws = aws();
    aws.state().set_attributes("devices", &["thing#a", "state"], &json!({"gone": {"S": "x"}}));
    let (first, second) = (aws.process(), aws.process());
    assert_eq!(update(&second).await, Ok(()));
    assert_eq!(update(&first).await, Err("ConditionalCheckFailedException".to_owned()));
    let state = aws.state();
    let expected = json!({"id": {"S": "thing#a"}, "part": {"S": "state"}, "number": {"N": "2"}, "first": {"N": "2"}});
    assert_eq!(state.item("devices", &["thing#a", "state"]), expected.as_object());
    assert_eq!(state.calls_of(1), ["UpdateItem thing/state"]);
}

#[tokio::test(start_paused = true)]
async fn lost_and_throttled_calls_are_repeated_by_the_sdk() {
    let aws = aws();
    let process = aws.process().fail(1, Fault::Throttled).fail(2, Fault::Lost);
    assert_eq!(update(&process).await, Err("ConditionalCheckFailedException".to_owned()));
    assert_eq!(aws.state().calls_of(1)[0], "UpdateItem thing/state, refused");
    assert_eq!(aws.state().calls.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn denied_unconfirmed_and_custom_errors_are_not_repeated() {
    for (fault, code, performed) in [
        (Fault::Denied, "AccessDeniedException", false),
        (Fault::Unconfirmed, "UnconfirmedException", true),
        (Fault::Error(400, "ValidationException"), "ValidationException", false),
    ] {
        let aws = aws();
        aws.fail_next("UpdateItem", [fault]);
        assert_eq!(update(&aws.process()).await, Err(code.to_owned()));
        let state = aws.state();
        assert_eq!((state.calls.len(), state.tables.len()), (1, usize::from(performed)));
    }
}

#[tokio::test(start_paused = true)]
async fn dead_process_makes_no_more_calls() {
    for (fault, items) in [(Fault::DiesBefore, 0), (Fault::DiesAfter, 1)] {
        let aws = aws();
        let process = aws.process().fail(1, fault);
        let died = tokio::time::timeout(Duration::from_secs(1), update(&process)).await;
        assert!(died.is_err(), "{fault:?}");
        assert!(tokio::time::timeout(Duration::from_secs(1), update(&process)).await.is_err());
        assert_eq!(aws.state().tables.len(), items, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn query_of_an_index_returns_keys_page_by_page() {
    let aws = aws();
    for (thing, due) in [("thing#a", "3"), ("thing#b", "1"), ("thing#c", "9")] {
        let attributes = json!({"due": {"S": "shard"}, "dueAt": {"N": due}, "other": {"S": "x"}});
        aws.state().set_attributes("devices", &[thing, "state"], &attributes);
    }
    let query = aws.process().dynamodb().query().table_name("devices").index_name("due");
    let query = query.key_condition_expression("due = :shard AND dueAt < :now");
    let query = query.expression_attribute_values(":shard", text("shard"));
    let query = query.expression_attribute_values(":now", AttributeValue::N("5".to_owned()));
    let mut pages = query.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        assert_eq!((page.items().len(), page.items()[0].len()), (1, 4));
        found.push(page.items()[0]["id"].as_s().unwrap().clone());
    }
    assert_eq!(found, ["thing#b", "thing#a"]);
}

#[tokio::test(start_paused = true)]
async fn messages_and_shadow_updates_are_recorded() {
    let aws = aws();
    let process = aws.process();
    let publish = process.sns().publish().topic_arn("arn:topic").subject("s").message("m");
    let attribute = aws_sdk_sns::types::MessageAttributeValue::builder().data_type("String").string_value("v");
    publish.message_attributes("a", attribute.build().unwrap()).send().await.unwrap();
    process.sqs().send_message().queue_url(QUEUE).message_body("b").delay_seconds(900).send().await.unwrap();
    let shadow = process.iot_data().update_thing_shadow().thing_name("thing-1").shadow_name("lamp");
    let document = json!({"state": {"desired": {"on": true}}}).to_string();
    shadow.payload(document.into_bytes().into()).send().await.unwrap();

    let mut state = aws.state();
    let published = &state.published[0];
    assert_eq!((published.text().as_str(), published.attributes["a"].as_str()), ("m", "v"));
    assert_eq!(state.shadow_updates[0].desired(), &json!({"on": true}));
    assert_eq!(state.shadow_updates[0].shadow.as_deref(), Some("lamp"));
    let sent = state.queues.get_mut(QUEUE).unwrap().take();
    assert_eq!((sent[0].body.as_str(), sent[0].delay), ("b", Duration::from_mins(15)));
    assert_eq!(state.calls_of(1), ["Publish", "SendMessage", "UpdateThingShadow"]);
}

#[tokio::test(start_paused = true)]
async fn injected_errors_are_in_the_format_of_each_service() {
    let aws = aws();
    for name in ["Publish", "SendMessage", "UpdateThingShadow", "DescribeCertificate"] {
        aws.fail_each(name, Fault::Error(400, "SomeException"));
    }
    let process = aws.process();
    let publish = process.sns().publish().topic_arn("arn:topic").message("m").send().await.unwrap_err();
    assert_eq!(publish.into_service_error().meta().code(), Some("SomeException"));
    let send = process.sqs().send_message().queue_url(QUEUE).message_body("b").send().await.unwrap_err();
    assert_eq!(send.into_service_error().meta().code(), Some("SomeException"));
    let shadow = process.iot_data().update_thing_shadow().thing_name("t").payload(b"{}".to_vec().into());
    let shadow = shadow.send().await.unwrap_err();
    assert_eq!(shadow.into_service_error().meta().code(), Some("SomeException"));
    let describe = process.iot().describe_certificate().certificate_id("c").send().await.unwrap_err();
    assert_eq!(describe.into_service_error().meta().code(), Some("SomeException"));
}

#[tokio::test(start_paused = true)]
async fn certificates_of_a_ca_are_listed_in_pages() {
    let aws = aws();
    {
        let mut state = aws.state();
        state.iot.register_ca("ca", "pem");
        state.iot.page_size = Some(2);
        for id in ["3", "1", "2"] {
            state.iot.register(id, "ACTIVE", "pem", Some("ca"));
        }
        state.iot.register("4", "ACTIVE", "pem", Some("another"));
    }
    let iot = aws.process().iot();
    let list = iot.list_certificates_by_ca().ca_certificate_id("ca").ascending_order(true);
    let first = list.clone().send().await.unwrap();
    let ids = |page: &[aws_sdk_iot::types::Certificate]| -> Vec<String> {
        page.iter().map(|certificate| certificate.certificate_id().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(first.certificates()), ["3", "1"]);
    let second = list.marker(first.next_marker().unwrap()).send().await.unwrap();
    assert_eq!((ids(second.certificates()), second.next_marker()), (vec!["2".to_owned()], None));

    let update = iot.update_certificate().certificate_id("2").new_status("REVOKED".into());
    update.send().await.unwrap();
    assert_eq!(aws.state().iot.status("2"), "REVOKED");
    assert_eq!(aws.state().calls_to("UpdateCertificate REVOKED").len(), 1);
    let missing = iot.describe_certificate().certificate_id("9").send().await.unwrap_err();
    assert!(missing.into_service_error().is_resource_not_found_exception());
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_message_batch_fail_one_by_one() {
    let aws = aws();
    aws.state().entry_fault = Some(Box::new(|entry| match entry["Id"].as_str().unwrap() {
        "1" => Some(EntryFault::Failed("AccessDenied", true)),
        "2" => Some(EntryFault::AcceptedAndFailed),
        "3" => Some(EntryFault::Omitted),
        _ => None,
    }));
    let entry = |id: i32| SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(id.to_string());
    let send = aws.process().sqs().send_message_batch().queue_url(QUEUE);
    let send = send.set_entries(Some((0..4).map(|id| entry(id).build().unwrap()).collect()));
    let output = send.send().await.unwrap();
    assert_eq!((output.successful().len(), output.failed().len()), (1, 2));
    assert_eq!(output.failed()[0].code(), "AccessDenied");
    assert_eq!(aws.state().queues[QUEUE].bodies(), ["0", "2"]);
}

#[tokio::test(start_paused = true)]
async fn fifo_queue_of_another_account_discards_duplicates_for_a_while() {
    let aws = aws();
    let send = aws.process().sqs().send_message().queue_url(FIFO).message_body("b");
    let send = send.message_group_id("g").message_deduplication_id("d");
    for expected in [1, 1, 2] {
        send.clone().send().await.unwrap();
        assert_eq!(aws.state().queues[FIFO].messages.len(), expected);
        tokio::time::advance(Duration::from_mins(3)).await;
    }
    let missing = aws.process().sqs().send_message().queue_url("https://queue").message_body("b").send().await;
    assert!(missing.unwrap_err().into_service_error().is_queue_does_not_exist());
}

async fn write_batch(process: &Process, times: &[&str]) -> Result<usize, String> {
    let put = |at: &&str| PutRequest::builder().item("thing", text("a")).item("at", text(at)).build().unwrap();
    let requests = times.iter().map(|at| WriteRequest::builder().put_request(put(at)).build()).collect();
    let write = process.dynamodb().batch_write_item().request_items("readings", requests);
    let output = write.send().await.map_err(|error| error.into_service_error().meta().code().unwrap().to_owned())?;
    Ok(output.unprocessed_items().and_then(|items| items.get("readings")).map_or(0, Vec::len))
}

#[tokio::test(start_paused = true)]
async fn batch_writes_leave_items_unprocessed_and_are_validated() {
    let aws = aws();
    aws.fail_next("BatchWriteItem", [Fault::Unprocessed(2), Fault::UnknownUnprocessed]);
    assert_eq!(write_batch(&aws.process(), &["1", "2", "3"]).await, Ok(2));
    assert_eq!(aws.state().items("readings").count(), 1);
    assert_eq!(write_batch(&aws.process(), &["2"]).await, Ok(1));
    assert_eq!(write_batch(&aws.process(), &["1", "1"]).await, Err("ValidationException".to_owned()));
    aws.fail_when("BatchWriteItem", |call| (call.size > 200).then_some(Fault::Error(413, "TooLarge")));
    assert_eq!(write_batch(&aws.process(), &["1", "2", "3", "4", "5"]).await, Err("TooLarge".to_owned()));
    assert_eq!(write_batch(&aws.process(), &["1"]).await, Ok(0));
    assert_eq!(aws.state().writes[&("readings".to_owned(), vec!["a".to_owned(), "1".to_owned()])], 2);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_counted_and_take_their_latency() {
    let aws = aws().latency("BatchWriteItem", Duration::from_millis(5));
    let (process, started) = (aws.process(), tokio::time::Instant::now());
    let (_, _) = tokio::join!(write_batch(&process, &["1"]), write_batch(&process, &["2"]));
    assert_eq!((aws.state().max_in_flight("BatchWriteItem"), started.elapsed().as_millis()), (2, 5));
}

#[tokio::test(start_paused = true)]
async fn event_is_delivered_again_until_it_is_done() {
    for fault in FAULTS {
        let aws = aws();
        let (delivered, at) = aws.process().fail(1, fault).deliver_until_done(handler, &event("t"), NOW).await;
        let is_first = fault == Fault::Throttled;
        assert!(delivered.is_done(), "{fault:?}");
        assert_eq!(at, if is_first { NOW } else { NOW.plus(Duration::from_mins(6)) }, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_two_processes_are_served_in_order() {
    for turns in [[1, 2], [2, 1]] {
        let aws = aws();
        let (one, other) = (aws.process(), aws.process());
        aws.serve_in_order(turns);
        let (event, batch) = (event("t"), sqs_batch([event("t")]));
        let delivered =
            tokio::join!(one.deliver_to(handler(&one), &event, NOW), other.deliver_to(handler(&other), &batch, NOW));
        assert_eq!(aws.state().calls.iter().map(|call| call.process).collect::<Vec<_>>(), turns);
        assert_eq!(delivered.0.is_retried(), turns == [2, 1]);
        assert_eq!(delivered.1.retried_messages(), Some(vec![]));
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "number 1 was written by 1")]
async fn observer_sees_each_call_and_fails_the_delivery() {
    let aws = aws();
    aws.observe(|state, call| {
        let number = state.attribute("devices", &["thing#a", "state"], "number");
        number.map_or(Ok(()), |number| Err(format!("number {number} was written by {}", call.process)))
    });
    let process = aws.process();
    process.deliver_to(handler(&process), &event("t"), NOW).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "Scan of devices is not allowed")]
async fn unknown_request_in_a_handler_fails_the_delivery() {
    let aws = aws();
    let process = aws.process();
    process.deliver_to(handler(&process), &event("unknown"), NOW).await;
}

#[test]
#[should_panic(expected = "already borrowed")]
fn second_borrow_of_the_state_fails_the_test() {
    let aws = aws();
    assert_eq!(aws.state().calls.len(), aws.state().tables.len());
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the fake does not support (")]
async fn unknown_expression_fails_the_test() {
    let query = aws().process().dynamodb().put_item().table_name("devices");
    let query = query.item("id", text("thing#a")).item("part", text("state")).condition_expression("contains (id, id)");
    let _ = query.send().await;
}
