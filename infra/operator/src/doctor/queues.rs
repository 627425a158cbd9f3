//! Dead-letter queues.

use anyhow::Result;

use crate::context::Context;
use crate::dead_letters::{Depth, discover};
use crate::doctor::Findings;

/// Checks that the dead-letter queues are empty.
pub async fn dead_letters(context: &Context, findings: &mut Findings) -> Result<()> {
    let queues = discover(context, &[]).await?;
    if queues.is_empty() {
        findings.problem("there are no dead-letter queues", "Deploy the stack, or check --prefix and --region.");
    }
    for queue in &queues {
        let Some(Depth { visible, in_flight }) = findings.take(queue.depth().await) else { continue };
        if visible + in_flight > 0 {
            findings.problem(
                format!("{} holds {} dead letters", queue.name, visible + in_flight),
                "Find the cause in the function's log, then resend them: `gatehouse dead-letters resend`.",
            );
        }
    }
    findings.or_ok(format!("{} dead-letter queues are empty", queues.len()));
    Ok(())
}
