//! An effect that must happen once: claimed, carried out, marked.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aws_sdk_dynamodb::operation::delete_item::{DeleteItemError, DeleteItemOutput};
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_dynamodb::{Client, error::ErrorMetadata};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use gatehouse::{Environment, Execution, Idempotency, IdempotencyError, Invocation, Timestamp, run_claimed};

const NOW: Timestamp = Timestamp::from_millis(1_763_715_600_000);

fn invocation() -> Invocation {
    Invocation::new("request-1", NOW, NOW.plus(Duration::from_secs(10)))
}

fn table(rules: &[&Rule]) -> Idempotency {
    let client = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, rules);
    let environment: Environment = [("IDEMPOTENCY_TABLE", "idempotency")].into_iter().collect();
    Idempotency::from(&environment, client, "button").unwrap()
}

fn attribute<'a>(input: &'a PutItemInput, name: &str) -> &'a str {
    let value = &input.item().unwrap()[name];
    value.as_s().or_else(|_| value.as_n()).unwrap()
}

/// Expiry is part of the condition: DynamoDB's time to live may come days late.
fn takes_over_only_what_has_expired(input: &PutItemInput) -> bool {
    let values = input.expression_attribute_values().unwrap();
    input.condition_expression()
        == Some(
            "attribute_not_exists(id) OR expiration < :seconds \
             OR (#status = :in_progress AND in_progress_expiration < :millis)",
        )
        && values[":seconds"].as_n().unwrap().parse::<u64>().unwrap() == NOW.seconds()
        && values[":millis"].as_n().unwrap().parse::<u64>().unwrap() - NOW.millis() < 10_000
        && values[":in_progress"] == AttributeValue::S("INPROGRESS".to_owned())
}

/// The table refuses the claim and shows the item that stands in its way.
fn stands_in_the_way(status: &str, owner: &str) -> PutItemError {
    let refused = ConditionalCheckFailedException::builder()
        .item("status", AttributeValue::S(status.to_owned()))
        .item("owner", AttributeValue::S(owner.to_owned()))
        .build();
    PutItemError::ConditionalCheckFailedException(refused)
}

fn takes_the_claim() -> Rule {
    mock!(Client::put_item).then_output(|| PutItemOutput::builder().build())
}

fn takes_the_mark() -> Rule {
    mock!(Client::update_item).then_output(|| UpdateItemOutput::builder().build())
}

/// The effect under test: counts how often it is carried out.
fn effect(count: &Cell<u32>) -> impl Future<Output = Result<(), io::Error>> {
    poll_fn(|_| {
        count.set(count.get() + 1);
        Poll::Ready(Ok(()))
    })
}

#[tokio::test]
async fn an_effect_is_claimed_until_the_deadline_then_carried_out_then_marked() {
    let claim = mock!(Client::put_item)
        .match_requests(|input| {
            attribute(input, "id") == "button#event-1"
                && attribute(input, "status") == "INPROGRESS"
                && attribute(input, "in_progress_expiration") == NOW.plus(Duration::from_secs(10)).to_string()
                && attribute(input, "expiration") == (NOW.seconds() + 86_400).to_string()
                && takes_over_only_what_has_expired(input)
        })
        .then_output(|| PutItemOutput::builder().build());
    let mark = takes_the_mark();
    let count = Cell::new(0);
    let once = table(&[&claim, &mark]).run_once("event-1", &invocation(), effect(&count)).await.unwrap();
    assert_eq!((once, count.get()), (Execution::Completed, 1));
    assert_eq!((claim.num_calls(), mark.num_calls()), (1, 1));
}

#[tokio::test]
async fn an_effect_that_was_completed_before_is_not_carried_out_again() {
    let claim = mock!(Client::put_item).then_error(|| stands_in_the_way("COMPLETED", "another"));
    let count = Cell::new(0);
    let once = table(&[&claim]).run_once("event-1", &invocation(), effect(&count)).await.unwrap();
    assert_eq!((once, count.get()), (Execution::AlreadyCompleted, 0));
}

#[tokio::test]
async fn while_another_process_holds_the_claim_the_event_is_neither_done_nor_let_go() {
    let claim = mock!(Client::put_item).then_error(|| stands_in_the_way("INPROGRESS", "another"));
    let count = Cell::new(0);
    let error = table(&[&claim]).run_once("event-1", &invocation(), effect(&count)).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::AlreadyInProgress), "{error:?}");
    assert_eq!(count.get(), 0);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_recognised_as_our_own_by_its_owner() {
    let owner = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&owner);
    // The table took the claim, but what comes back is a gateway's error; the SDK sends the request again.
    let claim = mock!(Client::put_item)
        .match_requests(move |input| {
            attribute(input, "owner").clone_into(&mut seen.lock().unwrap());
            true
        })
        .sequence()
        .http_status(500, None)
        .error(move || stands_in_the_way("INPROGRESS", &owner.lock().unwrap()))
        .build();
    let mark = takes_the_mark();
    let count = Cell::new(0);
    let once = table(&[&claim, &mark]).run_once("event-1", &invocation(), effect(&count)).await.unwrap();
    assert_eq!((once, count.get(), claim.num_calls()), (Execution::Completed, 1, 2));
}

#[tokio::test]
async fn a_throttled_claim_is_tried_again() {
    let throttled = || PutItemError::generic(ErrorMetadata::builder().code("ThrottlingException").build());
    let claim = mock!(Client::put_item).sequence().error(throttled).output(|| PutItemOutput::builder().build()).build();
    let count = Cell::new(0);
    let once = table(&[&claim, &takes_the_mark()]).run_once("event-1", &invocation(), effect(&count)).await.unwrap();
    assert_eq!((once, count.get(), claim.num_calls()), (Execution::Completed, 1, 2));
}

#[tokio::test]
async fn without_a_claim_nothing_is_carried_out() {
    let denied = || PutItemError::generic(ErrorMetadata::builder().code("AccessDeniedException").build());
    let claim = mock!(Client::put_item).then_error(denied);
    let count = Cell::new(0);
    let error = table(&[&claim]).run_once("event-1", &invocation(), effect(&count)).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::Claim(_)), "{error:?}");
    assert_eq!(count.get(), 0);
}

#[tokio::test]
async fn an_effect_that_fails_gives_its_claim_back_so_that_the_retry_can_have_it() {
    let release = mock!(Client::delete_item)
        .match_requests(|input| input.condition_expression() == Some("#owner = :owner"))
        .then_output(|| DeleteItemOutput::builder().build());
    let failing = async || Err(io::Error::other("the topic is gone"));
    let error = table(&[&takes_the_claim(), &release]).run_once("event-1", &invocation(), failing()).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::Effect(_)), "{error:?}");
    assert_eq!(release.num_calls(), 1);
}

#[tokio::test]
async fn an_effect_in_place_whose_mark_fails_is_done_and_counted_as_unmarked() {
    let mark = mock!(Client::update_item).sequence().http_status(400, None).build();
    let (count, invocation) = (Cell::new(0), invocation());
    let once = table(&[&takes_the_claim(), &mark]).run_once("event-1", &invocation, effect(&count)).await.unwrap();
    assert_eq!((once, count.get()), (Execution::Completed, 1));
    assert_eq!(invocation.counts().get("Unmarked"), Some(&1));
}

#[tokio::test]
async fn a_claim_that_is_gone_already_counts_as_given_back() {
    let gone = || DeleteItemError::ConditionalCheckFailedException(ConditionalCheckFailedException::builder().build());
    let release = mock!(Client::delete_item).then_error(gone);
    let failing = async || Err(io::Error::other("the topic is gone"));
    let error = table(&[&takes_the_claim(), &release]).run_once("event-1", &invocation(), failing()).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::Effect(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_effect_in_place_whose_mark_hangs_is_done_before_the_handler_is_cut_off() {
    let (count, invocation) = (Cell::new(0), invocation());
    let release = async || panic!("what is in place is not given back");
    run_claimed("event-1", &invocation, effect(&count), pending(), release()).await.unwrap();
    assert_eq!((count.get(), invocation.counts().get("Unmarked")), (1, Some(&1)));
    assert!(invocation.time_left() > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_effect_is_not_begun_when_little_time_is_left_and_its_claim_is_given_back() {
    let (count, released, invocation) = (Cell::new(0), Cell::new(0), invocation());
    tokio::time::advance(Duration::from_secs(7)).await;
    let release = async || effect(&released).await.map_err(Into::into);
    let error = run_claimed("event-1", &invocation, effect(&count), pending(), release()).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::TooLate), "{error:?}");
    assert_eq!((count.get(), released.get()), (0, 1));
}
