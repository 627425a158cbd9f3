//! An effect that must happen once: claimed, performed, marked as completed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io;
use std::task::Poll;
use std::time::Duration;

use gatehouse::{Execution, Idempotency, IdempotencyError, Invocation, run_claimed};
use serde_json::json;
use test_support::{FakeAws, Fault, NOW, Process};

const CLAIM: [&str; 1] = ["button#event-1"];

fn invocation() -> Invocation {
    Invocation::new("request-1", NOW, NOW.plus(Duration::from_secs(10)))
}

fn idempotency(process: &Process) -> Idempotency {
    Idempotency::from_environment(&process.environment(), process.dynamodb(), "button").unwrap()
}

/// An account in which another process has written this claim.
fn claimed(status: &str, in_progress_expiration: u64, expiration: u64) -> FakeAws {
    let aws = FakeAws::new("button");
    let claim = json!({
        "status": {"S": status}, "owner": {"S": "another"},
        "in_progress_expiration": {"N": in_progress_expiration.to_string()},
        "expiration": {"N": expiration.to_string()},
    });
    aws.state().set_attributes("idempotency", &CLAIM, &claim);
    aws
}

/// The effect under test: counts how often it is performed.
fn effect(count: &Cell<u32>) -> impl Future<Output = Result<(), io::Error>> {
    poll_fn(|_| {
        count.set(count.get() + 1);
        Poll::Ready(Ok(()))
    })
}

/// Runs the effect in this process. Returns its result, and how often it was performed.
async fn run(process: &Process) -> (Result<Execution, IdempotencyError<io::Error>>, u32) {
    let count = Cell::new(0);
    let result = idempotency(process).run_once("event-1", &invocation(), effect(&count)).await;
    (result, count.get())
}

async fn run_failing(process: &Process) -> Result<Execution, IdempotencyError<io::Error>> {
    let failing = async || Err(io::Error::other("the topic is gone"));
    idempotency(process).run_once("event-1", &invocation(), failing()).await
}

#[tokio::test(start_paused = true)]
async fn effect_is_claimed_until_the_deadline_then_marked() {
    let aws = FakeAws::new("button");
    let process = aws.process();
    let effect = async || {
        let state = aws.state();
        let claim = state.item("idempotency", &CLAIM).unwrap();
        assert_eq!(claim["status"], json!({"S": "INPROGRESS"}));
        assert_eq!(claim["in_progress_expiration"], json!({"N": NOW.plus(Duration::from_secs(10)).to_string()}));
        assert_eq!(claim["expiration"], json!({"N": (NOW.seconds() + 86_400).to_string()}));
        Ok::<_, io::Error>(())
    };
    let execution = idempotency(&process).run_once("event-1", &invocation(), effect()).await.unwrap();
    assert_eq!(execution, Execution::Completed);
    let state = aws.state();
    assert_eq!(state.attribute("idempotency", &CLAIM, "status").as_deref(), Some("COMPLETED"));
    assert_eq!(state.calls_of(1), ["PutItem idempotency", "UpdateItem idempotency"]);
}

#[tokio::test(start_paused = true)]
async fn completed_effect_is_not_performed_again() {
    // An expired claim does not matter once the effect is completed.
    let aws = claimed("COMPLETED", NOW.millis() - 1, NOW.seconds() + 1);
    let (result, count) = run(&aws.process()).await;
    assert_eq!((result.unwrap(), count), (Execution::AlreadyCompleted, 0));
}

#[tokio::test(start_paused = true)]
async fn effect_in_progress_elsewhere_is_retried_later() {
    let aws = claimed("INPROGRESS", NOW.millis(), NOW.seconds() + 1);
    let (result, count) = run(&aws.process()).await;
    let error = result.unwrap_err();
    assert!(matches!(error, IdempotencyError::AlreadyInProgress), "{error:?}");
    assert_eq!(count, 0);
}

/// DynamoDB's time to live may come days late, so expiry is part of the condition.
#[tokio::test(start_paused = true)]
async fn expired_claims_and_marks_are_taken_over() {
    for (status, in_progress_expiration, expiration) in [
        ("INPROGRESS", NOW.millis() - 1, NOW.seconds() + 1),
        ("INPROGRESS", NOW.millis() + 1, NOW.seconds() - 1),
        ("COMPLETED", NOW.millis() - 1, NOW.seconds() - 1),
    ] {
        let (result, count) = run(&claimed(status, in_progress_expiration, expiration).process()).await;
        assert_eq!((result.unwrap(), count), (Execution::Completed, 1), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn claim_whose_response_was_lost_is_recognized_as_ours() {
    let process = FakeAws::new("button").process().fail(1, Fault::Lost);
    let (result, count) = run(&process).await;
    assert_eq!((result.unwrap(), count), (Execution::Completed, 1));
    let calls = ["PutItem idempotency", "PutItem idempotency", "UpdateItem idempotency"];
    assert_eq!(process.aws.state().calls_of(1), calls);
}

#[tokio::test(start_paused = true)]
async fn throttled_claim_is_repeated() {
    let process = FakeAws::new("button").process().fail(1, Fault::Throttled);
    let (result, count) = run(&process).await;
    assert_eq!((result.unwrap(), count), (Execution::Completed, 1));
    assert_eq!(process.aws.state().calls_to("PutItem").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_performed_without_a_claim() {
    let (result, count) = run(&FakeAws::new("button").process().fail(1, Fault::Denied)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, IdempotencyError::Claim(_)), "{error:?}");
    assert_eq!(count, 0);
}

#[tokio::test(start_paused = true)]
async fn failed_effect_releases_its_claim_for_the_retry() {
    let process = FakeAws::new("button").process();
    let error = run_failing(&process).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::Effect(_)), "{error:?}");
    let state = process.aws.state();
    assert_eq!(state.calls_of(1), ["PutItem idempotency", "DeleteItem idempotency"]);
    assert_eq!(state.item("idempotency", &CLAIM), None);
}

#[tokio::test(start_paused = true)]
async fn claim_of_another_owner_is_not_released() {
    let process = FakeAws::new("button").process().change(2, |state| {
        state.set_attributes("idempotency", &CLAIM, &json!({"owner": {"S": "another"}}));
    });
    run_failing(&process).await.unwrap_err();
    assert_eq!(process.aws.state().attribute("idempotency", &CLAIM, "owner").as_deref(), Some("another"));
}

#[tokio::test(start_paused = true)]
async fn effect_whose_mark_fails_is_done_and_counted() {
    let process = FakeAws::new("button").process().fail(2, Fault::Denied);
    let (count, invocation) = (Cell::new(0), invocation());
    let execution = idempotency(&process).run_once("event-1", &invocation, effect(&count)).await.unwrap();
    assert_eq!((execution, count.get()), (Execution::Completed, 1));
    assert_eq!(invocation.counts().get("Unmarked"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn claim_that_is_already_gone_counts_as_released() {
    let process = FakeAws::new("button").process().change(2, |state| state.tables.clear());
    let error = run_failing(&process).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::Effect(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn mark_that_hangs_ends_before_the_handler_is_cut_off() {
    let (count, invocation) = (Cell::new(0), invocation());
    let release = async || panic!("a performed effect does not release its claim");
    run_claimed("event-1", &invocation, effect(&count), pending(), release()).await.unwrap();
    assert_eq!((count.get(), invocation.counts().get("Unmarked")), (1, Some(&1)));
    assert!(invocation.time_left() > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn effect_is_left_to_the_next_attempt_when_time_is_short() {
    let (count, released, invocation) = (Cell::new(0), Cell::new(0), invocation());
    tokio::time::advance(Duration::from_secs(7)).await;
    let release = async || effect(&released).await.map_err(Into::into);
    let error = run_claimed("event-1", &invocation, effect(&count), pending(), release()).await.unwrap_err();
    assert!(matches!(error, IdempotencyError::TooLate), "{error:?}");
    assert_eq!((count.get(), released.get()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn process_that_died_in_the_effect_blocks_until_its_deadline() {
    let aws = FakeAws::new("button");
    let dies = aws.process().fail(2, Fault::DiesBefore);
    tokio::time::timeout(Duration::from_secs(1), run(&dies)).await.unwrap_err();
    let deadline = NOW.plus(Duration::from_secs(10));
    for (at, expected) in [(deadline, None), (deadline.plus(Duration::from_millis(1)), Some(Execution::Completed))] {
        let invocation = Invocation::new("request-2", at, at.plus(Duration::from_secs(10)));
        let result = idempotency(&aws.process()).run_once("event-1", &invocation, effect(&Cell::new(0))).await;
        assert_eq!(result.ok(), expected);
    }
}
