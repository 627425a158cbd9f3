//! Records in the tables: documents and refused events.

use anyhow::Result;

use crate::context::Context;
use crate::doctor::Findings;
use crate::documents::{Kind, current};
use crate::quarantine::QuarantineTable;
use crate::selection::Selection;

/// Checks that the documents in force are valid for this version's code.
pub async fn documents(context: &Context, findings: &mut Findings) -> Result<()> {
    for kind in Kind::ALL {
        let Some(found) = findings.take(current(context, kind).await) else { continue };
        let Some(document) = found else {
            findings.ok(format!("no document of {kind} has been uploaded"));
            continue;
        };
        match kind.parse(&document.document) {
            Ok(()) => findings.ok(format!("version {} of {kind} is in force and valid", document.version)),
            Err(refusal) => findings.problem(
                format!("version {} of {kind} is in force, but invalid: {}", document.version, refusal.why),
                "Correct the document, and upload it with `gatehouse documents put`. Until then, its function retries.",
            ),
        }
    }
    Ok(())
}

/// Checks that nothing is in quarantine.
pub async fn quarantine(context: &Context, findings: &mut Findings) -> Result<()> {
    let events = QuarantineTable::new(context).list(&Selection::default(), &context.names).await?;
    if !events.is_empty() {
        findings.warning(
            format!("{} refused events are in quarantine", events.len()),
            "List them with `gatehouse quarantine list`; resend or discard them.",
        );
    }
    findings.or_ok("no refused event is in quarantine");
    Ok(())
}
