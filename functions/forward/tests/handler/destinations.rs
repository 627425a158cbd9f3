//! Where messages go: the document of destinations, regions, and messages with several destinations.

use std::time::Duration;

use serde_json::json;
use test_support::{Fault, NOW, workspace_file};

use crate::account::{
    FIFO, OTHER, QUEUE, assert_done, aws, batch, bodies, deliver, deliver_to, document, hosts, put, reading, to,
};

#[tokio::test(start_paused = true)]
async fn document_replaces_the_destination_of_the_template() {
    let aws = aws().queue(QUEUE).queue(OTHER);
    put(&aws, &document(&[("partner", "Weather/#", OTHER, "refuse")])).await;
    assert_done(&deliver(&aws, &to(QUEUE), &reading("e-1"), NOW).await);
    assert_eq!(bodies(&aws, QUEUE), [""; 0]);
    assert_eq!(bodies(&aws, OTHER), ["\"e-1\""]);
    put(&aws, &json!({"destinations": []})).await;
    let response = deliver(&aws, &to(QUEUE), &reading("e-2"), NOW).await.response.unwrap().unwrap();
    assert_eq!(response["reason"], "no-destination");
}

#[tokio::test(start_paused = true)]
async fn invalid_document_is_refused_and_the_last_one_stays() {
    let aws = aws().queue(QUEUE);
    put(&aws, &document(&[("partner", "Weather/#", QUEUE, "refuse")])).await;
    for (bad, reason) in [
        (json!({"destination": []}), "unknown-field"),
        (json!({"destinations": {}}), "wrong-type"),
        (json!({"destinations": [{"name": "a", "topics": "#"}]}), "missing-field"),
        (json!({"destinations": [{"name": "a", "topics": 1, "queueUrl": QUEUE}]}), "wrong-type"),
        (json!({"destinations": [{"name": "a", "topics": [], "queueUrl": QUEUE}]}), "invalid-value"),
        (json!({"destinations": [{"name": "a", "topics": ["#", "a+"], "queueUrl": QUEUE}]}), "invalid-value"),
        (document(&[("a", "Weather/#/more", QUEUE, "refuse")]), "invalid-value"),
        (document(&[("a", "#", "weather", "refuse")]), "invalid-value"),
        (document(&[("a", "#", QUEUE, "drop")]), "unknown-value"),
        (document(&[("a", "#", QUEUE, "refuse"), ("a", "+", OTHER, "refuse")]), "bad-document"),
        (document(&[("a", "+", QUEUE, "refuse"), ("b", "#", QUEUE, "refuse")]), "bad-document"),
        (document(&[("", "#", QUEUE, "refuse")]), "bad-document"),
        (document(&[("a b", "#", QUEUE, "refuse")]), "bad-document"),
    ] {
        let response = deliver(&aws, &[], &bad, NOW).await.response.unwrap().unwrap();
        assert_eq!(response["reason"], reason, "{bad}: {response}");
    }
    assert_done(&deliver(&aws, &[], &reading("e-1"), NOW).await);
    assert_eq!(bodies(&aws, QUEUE), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn late_document_does_not_replace_a_newer_one() {
    let aws = aws().queue(QUEUE);
    put(&aws, &document(&[("partner", "Weather/#", QUEUE, "refuse")])).await;
    let earlier = NOW.minus(Duration::from_secs(1));
    assert_done(&deliver(&aws, &[], &json!({"destinations": []}), earlier).await);
    assert_done(&deliver(&aws, &[], &reading("e-1"), NOW).await);
}

#[tokio::test(start_paused = true)]
async fn document_applies_to_the_messages_of_its_batch() {
    let aws = aws().queue(QUEUE);
    let command = document(&[("partner", "Weather/#", QUEUE, "refuse")]);
    let delivered = deliver(&aws, &[], &batch([&reading("e-1"), &command, &reading("e-2")]), NOW).await;
    assert_eq!(delivered.retried_messages().unwrap(), [""; 0]);
    assert_eq!(bodies(&aws, QUEUE), ["\"e-1\"", "\"e-2\""]);
}

#[tokio::test(start_paused = true)]
async fn region_comes_from_the_url_unless_an_endpoint_is_set() {
    let aws = aws().queue(QUEUE).queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse")])).await;
    assert_done(&deliver(&aws, &[], &reading("e-1"), NOW).await);
    let local = [("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")];
    assert_done(&deliver(&aws, &local, &reading("e-2"), NOW).await);
    let (ours, theirs) = ("sqs.eu-west-1.amazonaws.com", "sqs.us-east-1.amazonaws.com");
    assert_eq!(hosts(&aws), [ours, theirs, "127.0.0.1:4566", "127.0.0.1:4566"]);
}

#[tokio::test(start_paused = true)]
async fn only_the_destination_that_failed_is_tried_again() {
    let aws = aws().queue(QUEUE).queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "Weather/Corp/+", OTHER, "refuse")])).await;
    aws.state().queues.get_mut(OTHER).unwrap().closed = Some(("AccessDenied", "no"));
    for _ in 0..3 {
        let delivered = deliver(&aws, &[], &batch([&reading("e-1"), &reading("e-2")]), NOW).await;
        assert_eq!(delivered.retried_messages().unwrap(), ["e-1", "e-2"]);
    }
    aws.state().queues.get_mut(OTHER).unwrap().closed = None;
    assert_eq!(
        deliver(&aws, &[], &batch([&reading("e-1"), &reading("e-2")]), NOW).await.retried_messages().unwrap(),
        [""; 0]
    );
    for queue in [QUEUE, OTHER] {
        assert_eq!(bodies(&aws, queue), ["\"e-1\"", "\"e-2\""]);
    }
}

#[tokio::test(start_paused = true)]
async fn removing_one_destination_does_not_resend_to_the_other() {
    let aws = aws().queue(QUEUE);
    let (here, gone) = (("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse"));
    for (destinations, back) in [(&[here, gone][..], &["e-1"][..]), (&[here], &[])] {
        put(&aws, &document(destinations)).await;
        assert_eq!(deliver(&aws, &[], &batch([&reading("e-1")]), NOW).await.retried_messages().unwrap(), back);
    }
    assert_eq!(bodies(&aws, QUEUE), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn destination_that_comes_back_receives_nothing_twice() {
    let aws = aws().queue(QUEUE).queue(FIFO);
    let [a, b, gone] = [("a", QUEUE), ("b", FIFO), ("c", OTHER)].map(|(name, queue)| (name, "#", queue, "refuse"));
    for destinations in [[a, gone], [b, gone], [a, gone]] {
        put(&aws, &document(&destinations)).await;
        assert_eq!(deliver(&aws, &[], &batch([&reading("e-1")]), NOW).await.retried_messages().unwrap(), ["e-1"]);
    }
    for queue in [QUEUE, FIFO] {
        assert_eq!(bodies(&aws, queue), ["\"e-1\""]);
    }
}

#[tokio::test(start_paused = true)]
async fn several_matching_topics_send_a_message_once() {
    let aws = aws().queue(QUEUE);
    let topics = ["Weather/Corp/humidity", "Weather/Corp/+", "Weather/#"];
    put(&aws, &json!({"destinations": [{"name": "a", "topics": topics, "queueUrl": QUEUE}]})).await;
    assert_done(&deliver(&aws, &[], &reading("e-1"), NOW).await);
    assert_eq!(bodies(&aws, QUEUE), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn refusal_by_one_destination_does_not_affect_others() {
    let aws = aws().queue(QUEUE).queue(OTHER);
    let mut event = reading("e-1");
    event["payloadBase64"] = "/wA=".into();
    event.as_object_mut().unwrap().remove("payload");
    put(&aws, &document(&[("a", "#", QUEUE, "base64"), ("b", "#", OTHER, "refuse")])).await;
    let response = deliver(&aws, &[], &event, NOW).await.response.unwrap().unwrap();
    assert_eq!((&response["reason"], bodies(&aws, QUEUE)), (&json!("not-json"), vec!["/wA=".to_owned()]));
    // The operator changes the document, and resends the event from quarantine.
    put(&aws, &document(&[("a", "#", QUEUE, "base64"), ("b", "#", OTHER, "base64")])).await;
    assert_done(&deliver(&aws, &[], &event, NOW).await);
    for queue in [QUEUE, OTHER] {
        assert_eq!(bodies(&aws, queue), ["/wA="]);
    }
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_message_in_one_batch_share_a_record() {
    let aws = aws().queue(QUEUE).queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse")])).await;
    aws.state().queues.get_mut(OTHER).unwrap().closed = Some(("AccessDenied", "no"));
    let copies = batch([&reading("e-1"), &reading("e-1")]);
    let delivered = deliver(&aws, &[], &copies, NOW).await;
    assert_eq!((delivered.retried_messages().unwrap(), delivered.count("Conflicts")), (vec!["e-1"; 2], 1));
    aws.state().queues.get_mut(OTHER).unwrap().closed = None;
    assert_eq!(deliver(&aws, &[], &copies, NOW).await.retried_messages().unwrap(), [""; 0]);
    for queue in [QUEUE, OTHER] {
        assert_eq!(bodies(&aws, queue).len(), 2, "one per copy");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_if_the_delivery_records_are_unknown() {
    let aws = aws().queue(QUEUE).queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse")])).await;
    for operation in ["BatchGetItem", "GetItem"] {
        let process = aws.process().fail_each(operation, Fault::Error(400, "ResourceNotFoundException"));
        let delivered = deliver_to(process, &[], &batch([&reading("e-1")]), NOW).await;
        assert_eq!(delivered.retried_messages().unwrap(), ["e-1"]);
    }
    assert_eq!(hosts(&aws), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn document_in_infra_is_valid() {
    put(&aws(), &serde_json::from_str(&workspace_file("infra/destinations.json")).unwrap()).await;
}
