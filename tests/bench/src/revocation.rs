//! Commands to `revoke`, and their expected effects.

use serde_json::{Value, json};

use crate::{
    dynamodb::DEVICES_TABLE,
    event::{Turn, queue},
    expected::ExpectedCall,
    iot::{compromised_ca, compromised_certificate},
    sqs,
};

/// The maximum number of keys in a `BatchGetItem` call.
const MAX_GETS: usize = 100;

/// Returns a command to revoke all certificates of a CA; there are as many as the turn has messages.
pub fn delivery(turn: &Turn) -> Value {
    let command = json!({ "caCertificateId": ca(turn), "reason": "its key has leaked" });
    sqs::delivery(&[sqs::record("revoke", &turn.trace_id(), turn.received_at, &command)])
}

/// Returns the calls of the command's first step: it blocks the CA, revokes its certificates, and leaves a second sweep
/// to a later step.
pub fn calls(turn: &Turn) -> Vec<ExpectedCall> {
    let ca = ca(turn);
    let record = |operation, key: String, mentions: &[&str]| {
        let mentions = mentions.iter().map(|it| (*it).to_owned());
        ExpectedCall::new(operation, DEVICES_TABLE, [key].into_iter().chain(mentions))
    };
    let iot = |operation, target: &str, mentions: &[&str]| {
        ExpectedCall::new(operation, target, mentions.iter().map(|it| (*it).to_owned()))
    };
    let run = |operation, mentions: &[&str]| record(operation, format!("\"ca#{ca}\""), mentions);

    let mut calls = vec![
        run("GetItem", &["\"revocation#"]),
        run("PutItem", &["\"revocation#"]),
        run("UpdateItem", &["\"status\"", "blocked"]),
        iot("UpdateCACertificate", &ca, &["newStatus=INACTIVE"]),
        iot("ListCertificatesByCA", &ca, &[]),
    ];
    let pages = turn.size.messages.div_ceil(MAX_GETS);
    calls.extend((0..pages).map(|_| ExpectedCall::new("BatchGetItem", DEVICES_TABLE, ["certificate#".to_owned()])));
    for index in 0..turn.size.messages {
        let certificate = compromised_certificate(turn.n, index);
        let key = format!("\"certificate#{certificate}\"");
        calls.extend([
            record("PutItem", key.clone(), &["\"revokedBy\""]),
            iot("UpdateCertificate", &certificate, &["newStatus=REVOKED"]),
            record("PutItem", key, &["\"revoked\"", "its key has leaked"]),
        ]);
    }
    calls.extend([
        run("PutItem", &["dueAt"]),
        ExpectedCall::new("SendMessage", &queue("revoke"), [ca.clone(), "\"DelaySeconds\":120".to_owned()]),
        run("PutItem", &["\"revocation#"]),
    ]);
    calls
}

fn ca(turn: &Turn) -> String {
    compromised_ca(turn.n, turn.size.messages)
}
