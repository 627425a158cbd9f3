//! Failures of calls, messages and queues.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::{EntryFault, Fault, NOW};
use tokio::time::Instant;

use crate::account::{
    FIFO, OTHER, QUEUE, aws, batch, bodies, deliver, document, event, hosts, poison, put, quarantined, reading,
    reasons, template, to,
};

#[tokio::test(start_paused = true)]
async fn fifo_drops_the_second_attempt_but_not_the_third() {
    let aws = aws().queue(FIFO);
    aws.state().entry_fault = Some(Box::new(|_| Some(EntryFault::AcceptedAndFailed)));
    let mut now = NOW;
    for count in [1, 1, 2] {
        assert_eq!(deliver(&aws, &to(FIFO), &batch([&reading("e-1")]), now).await.retried_messages().unwrap(), ["e-1"]);
        assert_eq!(bodies(&aws, FIFO).len(), count);
        // The last call of one invocation and the first call of the next are at most this far apart.
        now = now.plus(template("VisibilityTimeout") + template("Timeout"));
    }
}

#[tokio::test(start_paused = true)]
async fn only_failed_messages_are_retried() {
    let aws = aws().queue(QUEUE);
    aws.state().entry_fault = Some(Box::new(|entry| match entry["MessageBody"].as_str()? {
        "\"e-3\"" => Some(EntryFault::Failed("InternalError", false)),
        // Throttling counts as the sender's fault, but is temporary.
        "\"e-5\"" => Some(EntryFault::Failed("RequestThrottled", true)),
        "\"e-7\"" => Some(EntryFault::Omitted),
        "\"e-9\"" => Some(EntryFault::Failed("InvalidMessageContents", true)),
        _ => None,
    }));
    let events: Vec<_> = (0..25).map(|n| reading(&format!("e-{n}"))).collect();
    let delivered = deliver(&aws, &to(QUEUE), &batch(&events), NOW).await;
    assert_eq!(delivered.retried_messages().unwrap(), ["e-3", "e-5", "e-7"]);
    assert_eq!(hosts(&aws).len(), 3, "25 messages are three batches");
    assert_eq!(aws.state().queues[QUEUE].messages.len(), 21);
    assert_eq!(quarantined(&aws), reasons([("e-9", "not-taken")]));
}

#[tokio::test(start_paused = true)]
async fn message_that_fails_the_whole_call_does_not_affect_others() {
    let aws = aws().queue(QUEUE);
    let events = [reading("e-1"), poison(), reading("e-3")];
    assert_eq!(deliver(&aws, &to(QUEUE), &batch(&events), NOW).await.retried_messages().unwrap(), [""; 0]);
    assert_eq!(bodies(&aws, QUEUE), ["\"e-1\"", "\"e-3\""]);
    assert_eq!(quarantined(&aws), reasons([("poison", "not-taken")]));
}

#[tokio::test(start_paused = true)]
async fn queue_that_closes_during_single_sends_is_not_called_again() {
    let aws = aws().queue(QUEUE);
    // The read of the document, the whole batch, and the first single message.
    aws.fail(3, Fault::Error(403, "AccessDenied"));
    let events: Vec<_> = (0..9).map(|n| reading(&format!("e-{n}"))).chain([poison()]).collect();
    let delivered = deliver(&aws, &to(QUEUE), &batch(&events), NOW).await;
    assert_eq!(delivered.retried_messages().unwrap().len(), 10);
    assert_eq!(hosts(&aws).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn fifo_thing_stops_at_its_first_failure() {
    let aws = aws().queue(FIFO);
    let mut has_failed = false;
    aws.state().entry_fault = Some(Box::new(move |entry| {
        let fails = entry["MessageBody"] == "\"a-1\"" && !std::mem::replace(&mut has_failed, true);
        fails.then_some(EntryFault::Failed("InternalError", false))
    }));
    // In any order, as SQS delivers them.
    let events: Vec<_> = [("a", 2), ("b", 1), ("a", 0), ("a", 1), ("b", 0), ("c", 0), ("a", 3)]
        .into_iter()
        .map(|(thing, at)| event(&format!("{thing}-{at}"), thing, at, &json!(format!("{thing}-{at}"))))
        .collect();
    let delivered = deliver(&aws, &to(FIFO), &batch(&events), NOW).await;
    assert_eq!(delivered.retried_messages().unwrap(), ["a-2", "a-1", "a-3"]);
    let of = |thing: &str| -> Vec<Value> {
        let state = aws.state();
        let messages = state.queues[FIFO].messages.iter().filter(|message| message["MessageGroupId"] == thing);
        messages.map(|message| message["MessageDeduplicationId"].clone()).collect()
    };
    assert_eq!((of("a"), of("b"), of("c")), (vec!["a-0".into()], vec!["b-0".into(), "b-1".into()], vec!["c-0".into()]));
    assert_eq!(deliver(&aws, &to(FIFO), &batch(&events), NOW).await.retried_messages().unwrap(), [""; 0]);
    assert_eq!(of("a"), ["a-0", "a-1", "a-2", "a-3"]);
}

#[tokio::test(start_paused = true)]
async fn refused_message_does_not_stop_its_thing_on_fifo() {
    let aws = aws().queue(FIFO);
    let events: Vec<_> = [json!("one"), json!("poison"), json!("three")]
        .iter()
        .enumerate()
        .map(|(at, payload)| event(&format!("e-{at}"), "station-1", at as u64, payload))
        .collect();
    assert_eq!(deliver(&aws, &to(FIFO), &batch(&events), NOW).await.retried_messages().unwrap(), [""; 0]);
    assert_eq!(bodies(&aws, FIFO), ["\"one\"", "\"three\""]);
    assert_eq!(quarantined(&aws), reasons([("e-1", "not-taken")]));
}

#[tokio::test(start_paused = true)]
async fn closed_queue_is_called_once_and_named_with_the_grant() {
    for (closed, hint) in [
        (("AccessDenied", "no resource-based policy allows the sqs:sendmessage action"), "the queue's policy"),
        (
            ("AccessDeniedException", "no identity-based policy allows the sqs:sendmessage action"),
            "DestinationQueueArns",
        ),
        (("KMS.AccessDeniedException", "no"), "SqsManagedSseEnabled"),
        (("AWS.SimpleQueueService.NonExistentQueue", "gone"), "there is no queue"),
        (("QueueDoesNotExist", "gone"), "neither account allows"),
    ] {
        let aws = aws().queue(QUEUE);
        aws.state().queues.get_mut(QUEUE).unwrap().closed = Some(closed);
        let error = deliver(&aws, &to(QUEUE), &reading("e-1"), NOW).await.response.unwrap().unwrap_err();
        for part in ["weather of account 222222222222 in eu-west-1", hint] {
            assert!(error.contains(part), "{closed:?}: {error}");
        }
        aws.reset_calls();
        let events: Vec<_> = (0..25).map(|n| reading(&format!("e-{n}"))).collect();
        let delivered = deliver(&aws, &to(QUEUE), &batch(&events), NOW).await;
        assert_eq!(delivered.retried_messages().unwrap().len(), 25);
        assert_eq!(hosts(&aws).len(), 1, "{closed:?}");
        assert_eq!(delivered.counts["DestinationClosed"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_call_is_repeated_and_then_retried() {
    let aws = aws().queue(QUEUE);
    aws.fail_next("SendMessageBatch", [Fault::Error(400, "RequestThrottled")]);
    assert_eq!(deliver(&aws, &to(QUEUE), &batch([&reading("e-1")]), NOW).await.retried_messages().unwrap(), [""; 0]);
    aws.fail_next("SendMessageBatch", [Fault::Error(400, "RequestThrottled"); 3]);
    // The second batch of ten is accepted.
    let events: Vec<_> = (0..20).map(|n| reading(&format!("f-{n}"))).collect();
    let delivered = deliver(&aws, &to(QUEUE), &batch(&events), NOW).await;
    assert_eq!(delivered.retried_messages().unwrap(), (0..10).map(|n| format!("f-{n}")).collect::<Vec<_>>());
    assert_eq!(delivered.counts.get("DestinationClosed"), None);
}

#[tokio::test(start_paused = true)]
async fn lost_response_does_not_duplicate_on_fifo() {
    let aws = aws().queue(FIFO);
    aws.fail_next("SendMessageBatch", [Fault::Lost; 2]);
    assert_eq!(deliver(&aws, &to(FIFO), &batch([&reading("e-1")]), NOW).await.retried_messages().unwrap(), [""; 0]);
    assert_eq!(bodies(&aws, FIFO), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn no_call_starts_that_the_timeout_could_cut_off() {
    // Seven calls start in two thirds of the time. With the poison, the first one fails; the others have one message
    // each.
    for (before, last, accepted) in [(99, reading("e-99"), 70), (9, poison(), 6)] {
        let aws = aws().queue(QUEUE).latency("SendMessageBatch", Duration::from_secs(4));
        let events: Vec<_> = (0..before).map(|n| reading(&format!("e-{n}"))).chain([last]).collect();
        let delivered = deliver(&aws, &to(QUEUE), &batch(&events), NOW).await;
        assert_eq!(delivered.retried_messages().unwrap().len(), events.len() - accepted);
        assert_eq!((hosts(&aws).len(), bodies(&aws, QUEUE).len()), (7, accepted));
    }
}

#[tokio::test(start_paused = true)]
async fn queue_that_never_responds_is_abandoned_in_time() {
    let aws = aws().queue(QUEUE).queue(OTHER).latency("SendMessageBatch", Duration::from_hours(1));
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse")])).await;
    let events: Vec<_> = (0..100).map(|n| reading(&format!("e-{n}"))).collect();
    let started = Instant::now();
    assert_eq!(deliver(&aws, &[], &batch(&events), NOW).await.retried_messages().unwrap().len(), 100);
    let elapsed = started.elapsed();
    assert!(elapsed + Duration::from_secs(5) < template("Timeout"), "{elapsed:?}");
}
