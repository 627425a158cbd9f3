//! The scheduled check.

use serde_json::json;
use test_support::{Fault, Published, sqs_batch};

use crate::setup::*;

#[tokio::test(start_paused = true)]
async fn stale_device_is_notified_once_and_again_when_it_returns() {
    let aws = account(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 50)], 0).await;
    let hour = 60 * MINUTE;
    check(&aws, hour).await;
    assert_eq!(transitions(&aws), []);
    let delivered = check(&aws, hour + MINUTE).await;
    assert_eq!((delivered.is_done(), delivered.count("Stale")), (true, 1));
    check(&aws, hour + 2 * MINUTE).await;
    let rechecked = [("thing#greenhouse-1".to_owned(), START + hour + 11 * MINUTE)];
    assert_eq!(due(&aws), rechecked, "only whether the threshold still applies is checked before there is data");
    let delivered = deliver(&aws, &[reading("e-2", 3 * hour, 50)], 3 * hour).await;
    assert_eq!(delivered.count("Recovered"), 1);
    assert_eq!(transitions(&aws), [to("STALE", hour), to("OK", 3 * hour)]);
    let texts: Vec<_> = aws.state().published.iter().map(Published::text).collect();
    let back = "too-bright: greenhouse-1 is back after 3 h (now 50)";
    assert_eq!(texts, ["too-bright: no data from greenhouse-1 for 1 h", back]);
    assert_eq!(due(&aws), [("thing#greenhouse-1".to_owned(), START + 4 * hour)]);
}

#[tokio::test(start_paused = true)]
async fn reporting_device_rarely_moves_in_the_index() {
    let aws = account(json!([too_bright(60)])).await;
    let mut due_times = Vec::new();
    for minute in 0..300 {
        deliver(&aws, &[reading(&format!("e-{minute}"), minute * MINUTE, 50)], minute * MINUTE).await;
        check(&aws, minute * MINUTE + 1).await;
        due_times.extend(due(&aws).iter().map(|(_, at)| *at));
    }
    assert_eq!(transitions(&aws), []);
    due_times.dedup();
    assert!((5..=12).contains(&due_times.len()), "it moved {} times in five hours", due_times.len());
}

#[tokio::test(start_paused = true)]
async fn delayed_check_counts_from_when_it_was_sent() {
    let aws = account(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 50)], 0).await;
    // The command was sent after ten minutes, and waited in the queue for almost two hours.
    let mut delivery = sqs_batch([check_command()]);
    delivery["Records"][0]["attributes"]["SentTimestamp"] = (START + 10 * MINUTE).to_string().into();
    deliver_to(&aws.process(), &delivery, at(120 * MINUTE)).await;
    assert_eq!(transitions(&aws), []);
}

#[tokio::test(start_paused = true)]
async fn removed_threshold_still_sends_what_is_pending() {
    let aws = account(json!([too_bright(0)])).await;
    let process = aws.process().fail_each("Publish", Fault::Denied);
    deliver_to(&process, &reading("e-1", 0, 150), at(0)).await;
    assert!(has_pending(&aws.state()));
    put_thresholds(&aws, json!([])).await;
    check(&aws, 120 * MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 0), to("CLOSED", 0)]);
    assert_eq!((due(&aws), has_pending(&aws.state())), (vec![], false));
}
