//! `gatehouse ca publish-crl`: publishes a CA's revocation list, from its index or a file, in the devices table.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use clap::Args;
use gatehouse::Timestamp;
use gatehouse::pki::{Crl, Serial, parse_certificate, parse_pem};
use gatehouse::store::item::{integer, number, string, text};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use serde::Serialize;
use serde_json::json;

use super::files::{self, CaFile, CaName, date, day};
use super::index::Index;
use super::{readable_number, table};
use crate::context::Context;
use crate::invoke::{Invoked, invoke};
use crate::status::Status;

/// Maximum size of a chunk of a CRL: a chunk is one item of the table.
const CHUNK_BYTES: usize = 256 * 1024;

/// How long the chunks of a CRL stay in the table after its next update is due.
const RETENTION: Duration = Duration::from_hours(30 * 24);

/// How far the CA's clock may be ahead: the default of `jitr`.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// The arguments of `gatehouse ca publish-crl`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    ca: CaName,
    /// Revoke all certificates that were issued for these things. A THING with a dot or a slash is the file of one
    /// certificate.
    #[arg(long, value_name = "THING", num_args = 1.., conflicts_with = "crl")]
    revoke: Vec<String>,
    /// Days until the next update is due.
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u32).range(1..100_000))]
    days: u32,
    /// Create a new CRL even if nothing changed.
    #[arg(long, conflicts_with = "crl")]
    renew: bool,
    /// Publish a CRL that was created elsewhere, in DER or PEM.
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    /// Certificate of the CA in PEM, instead of --name.
    #[arg(long, value_name = "FILE", requires = "crl")]
    certificate: Option<PathBuf>,
    /// Replace the published CRL even if its number is higher, such as after a number that was wrong.
    #[arg(long)]
    allow_lower_number: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    ca_certificate_id: String,
    crl_number: String,
    listed: usize,
    next_update: Timestamp,
    is_revocation_started: bool,
}

/// Publishes a CRL, and has active certificates on it revoked. Prints the CRL's number.
pub async fn publish(arguments: &Arguments, context: &Context) -> Result<Status> {
    let ca = CaFile::choose(arguments.certificate.as_deref(), &arguments.ca)?;
    let bytes = match &arguments.crl {
        Some(file) => fs::read(file).with_context(|| format!("failed to read {}", file.display()))?,
        None => current_crl(arguments, &ca)?,
    };
    let crl = check(&bytes, &ca, Timestamp::now())?;
    let what = describe(&crl, &ca);
    if put(&crl, &bytes, &ca, arguments.allow_lower_number, context).await? {
        eprintln!("Published {what}.");
    } else {
        eprintln!("Nothing changed: already published {what}.");
    }
    // jitr no longer admits certificates on the list. Those that it admitted before must be revoked.
    let command = json!({"caCertificateId": ca.id.as_str(), "crl": true}).to_string();
    let function = context.names.of("revoke");
    let failed = match invoke(&context.lambda(), &function, &command).await {
        Ok(Invoked::Done) => None,
        Ok(Invoked::Refused { why, .. }) => Some(format!("was refused: {why}")),
        Ok(Invoked::Failed(error)) => Some(format!("failed: {error}")),
        Err(error) => Some(format!("failed: {error:#}")),
    };
    let report = Report {
        ca_certificate_id: ca.id.to_string(),
        crl_number: readable_number(&crl.number).to_owned(),
        listed: crl.count(),
        next_update: crl.next_update,
        is_revocation_started: failed.is_none(),
    };
    context.output.print(&report, || report.crl_number.clone())?;
    let Some(failed) = failed else {
        eprintln!("{function} revokes active certificates on the CRL.");
        return Ok(Status::Success);
    };
    eprintln!(
        "error: active certificates on the CRL were NOT revoked, because the command to {function} {failed}\n\njitr no \
         longer admits certificates on the CRL. To revoke active ones:\n\n  gatehouse revoke --ca {} --crl\n",
        ca.id
    );
    Ok(Status::NotAccepted)
}

/// Parses a CRL as `jitr` does, and checks that it can be used now.
pub fn check(bytes: &[u8], ca: &CaFile, now: Timestamp) -> Result<Crl> {
    let crl = Crl::parse(bytes, &ca.certificate).context("the CRL cannot be used")?;
    crl.check_current(now, CLOCK_SKEW).context("the CRL cannot be used")?;
    ensure!(
        crl.number.bytes().any(|digit| digit != b'f'),
        "the CRL cannot be used: no higher number could follow {}",
        readable_number(&crl.number)
    );
    Ok(crl)
}

/// Describes a CRL in one line.
pub fn describe(crl: &Crl, ca: &CaFile) -> String {
    let (number, due) = (readable_number(&crl.number), day(crl.next_update));
    format!("CRL number {number} (hexadecimal) of {}: {} revoked, next update due on {due}", ca.title, crl.count())
}

/// Marks certificates as revoked, and returns the CA's CRL: the last one if it lists all revoked certificates and more
/// than half its lifetime is left, or else a new one.
fn current_crl(arguments: &Arguments, ca: &CaFile) -> Result<Vec<u8>> {
    let directory = arguments.ca.directory()?;
    let _lock = files::lock(&directory)?;
    let mut index = Index::read(&directory)?;
    let now = Timestamp::now();
    for thing in &arguments.revoke {
        for serial in serials(thing, &index, ca)? {
            let is_new = index.revoke(&serial, date(now)?)?;
            eprintln!("{} as revoked: certificate {serial}", if is_new { "Marked" } else { "Already marked" });
        }
    }
    let file = directory.join("crl.pem");
    let last = fs::read(&file).ok();
    let is_current = |bytes: &Vec<u8>| {
        Crl::parse(bytes, &ca.certificate).is_ok_and(|crl| {
            let lists = |serial: &str| Serial::from_hex(serial).is_some_and(|serial| crl.lists(&serial));
            let is_complete = index.revoked().all(|entry| lists(&entry.serial));
            let half = crl.next_update.since(crl.this_update) / 2;
            is_complete && crl.count() == index.revoked().count() && now < crl.this_update.plus(half)
        })
    };
    if let Some(last) = last.filter(|last| !arguments.renew && is_current(last)) {
        eprintln!("No new CRL is due: the last one lists all revoked certificates.");
        return Ok(last);
    }
    let crl = sign(&index, ca, &directory, now, arguments.days)?;
    files::write(&file, crl.as_bytes())?;
    Ok(crl.into_bytes())
}

/// Returns the serial numbers of a thing's certificates, or that of the certificate in a file.
fn serials(thing: &str, index: &Index, ca: &CaFile) -> Result<Vec<String>> {
    if thing.contains(['.', '/']) {
        let der =
            parse_pem(&files::read(Path::new(thing))?).with_context(|| format!("{thing} is not a certificate"))?;
        return Ok(vec![Serial::new(parse_certificate(&der)?.raw_serial()).to_string()]);
    }
    let serials = index.serials_of(thing);
    ensure!(!serials.is_empty(), "{} did not issue a certificate for a thing {thing}", ca.title);
    Ok(serials)
}

/// Signs a CRL with the next number.
fn sign(index: &Index, ca: &CaFile, directory: &Path, now: Timestamp, days: u32) -> Result<String> {
    let file = directory.join("crlnumber");
    let number = files::read(&file)?;
    let number = u64::from_str_radix(number.trim(), 16).with_context(|| format!("{} is no number", file.display()))?;
    let entry = |entry: &super::index::Entry| {
        let serial = files::unhex(&entry.serial)?;
        Some(RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: entry.revoked_at()?,
            reason_code: None,
            invalidity_date: None,
        })
    };
    let revoked: Option<Vec<_>> = index.revoked().map(entry).collect();
    let params = CertificateRevocationListParams {
        this_update: date(now)?,
        next_update: date(now.plus(Duration::from_hours(24) * days))?,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.context("the CA's index has an entry that cannot be read")?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    // The number first: a failure afterward leaves a gap, but never two CRLs with the same number.
    files::write(&file, format!("{:02X}\n", number + 1).as_bytes())?;
    let issuer = ca.issuer(files::read_key(&directory.join("ca.key"))?)?;
    params.signed_by(&issuer).and_then(|crl| crl.pem()).context("failed to sign the CRL")
}

/// Puts a CRL into force, atomically. Returns `false` if it already was.
async fn put(crl: &Crl, bytes: &[u8], ca: &CaFile, allow_lower: bool, context: &Context) -> Result<bool> {
    let status = table::item(context, ca.id.as_str(), "status").await?;
    let published = text(&status, "crlNumber");
    match published {
        Some(published) if published == crl.number => {
            let is_same = integer(&status, "crlNextUpdate") == Some(crl.next_update.millis());
            ensure!(is_same, "another CRL with number {} is published", readable_number(published));
            return Ok(false);
        }
        Some(published) if *published > *crl.number && !allow_lower => bail!(
            "the CRL has number {}, but {} is published: a new CRL needs a higher number, or --allow-lower-number; \
             nothing changed",
            readable_number(&crl.number),
            readable_number(published)
        ),
        _ => {}
    }
    let chunks = bytes.chunks(CHUNK_BYTES);
    let count = u64::try_from(chunks.len())?;
    for (position, chunk) in chunks.enumerate() {
        put_chunk(crl, position, chunk, ca, context).await?;
    }
    // Nothing reads the chunks until this item refers to them. The update fails if another operator was faster.
    let update = table::update(context, &ca.id, "status");
    let update = update.update_expression(
        "SET crlNumber = :number, crlChunks = :chunks, crlBytes = :bytes, crlNextUpdate = :next, crlPublishedAt = :now, \
         runsOutOn = :day",
    );
    let update = match published {
        Some(published) => update
            .condition_expression("crlNumber IN (:published, :number)")
            .expression_attribute_values(":published", string(published)),
        None => update.condition_expression("attribute_not_exists(crlNumber) OR crlNumber = :number"),
    };
    let update = update.expression_attribute_values(":number", string(&crl.number));
    let update = update.expression_attribute_values(":chunks", number(count));
    let update = update.expression_attribute_values(":bytes", number(u64::try_from(bytes.len())?));
    let update = update.expression_attribute_values(":next", number(crl.next_update.millis()));
    let update = update.expression_attribute_values(":now", number(Timestamp::now().millis()));
    let update = update.expression_attribute_values(":day", string(day(crl.next_update)));
    ensure!(table::send(update).await?, "another CRL was published meanwhile; nothing changed");
    Ok(true)
}

/// Writes a chunk of a CRL. An existing one must be the same: a published CRL is never overwritten.
async fn put_chunk(crl: &Crl, position: usize, chunk: &[u8], ca: &CaFile, context: &Context) -> Result<()> {
    let bytes = AttributeValue::B(Blob::new(chunk));
    let put = context.dynamodb().put_item().table_name(context.names.of("devices"));
    let put = put.item("id", string(format!("ca#{}", ca.id)));
    let put = put.item("part", string(format!("crl#{}#{position:04}", crl.number)));
    let put = put.item("expiration", number(crl.next_update.plus(RETENTION).seconds()));
    let put = put.item("bytes", bytes.clone()).condition_expression("attribute_not_exists(#bytes) OR #bytes = :same");
    let put = put.expression_attribute_names("#bytes", "bytes").expression_attribute_values(":same", bytes);
    match put.send().await {
        Ok(_) => Ok(()),
        Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
            bail!("another CRL already has number {}: a new CRL needs another one", readable_number(&crl.number))
        }
        Err(error) => Err(error).context("failed to write the CRL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;

    fn run(directory: &Path, arguments: &[&str]) -> Arguments {
        let home = directory.to_str().expect("a path");
        let line = [&["gatehouse", "ca"], arguments, &["--directory", home]].concat();
        match Cli::try_parse_from(line).expect("valid arguments").command {
            crate::cli::Command::Ca(crate::ca::Command::PublishCrl(arguments)) => return arguments,
            crate::cli::Command::Ca(command) => drop(command.run_offline().expect("offline").expect("done")),
            _ => {}
        }
        run(directory, &["publish-crl"])
    }

    #[test]
    fn crl_lists_what_was_revoked_and_is_renewed_when_due() {
        let home = tempfile::tempdir().expect("a directory");
        run(home.path(), &["create"]);
        run(home.path(), &["issue", "--thing", "gate"]);
        run(home.path(), &["issue", "--thing", "door"]);
        let arguments = run(home.path(), &["publish-crl", "--revoke", "gate"]);
        let ca = CaFile::choose(None, &arguments.ca).expect("a CA");
        let first = current_crl(&arguments, &ca).expect("a CRL");
        let crl = check(&first, &ca, Timestamp::now()).expect("a usable CRL");
        assert_eq!((readable_number(&crl.number), crl.count()), ("1", 1));
        let index = Index::read(&home.path().join("sample")).expect("an index");
        let listed = index
            .serials_of("gate")
            .iter()
            .all(|serial| crl.lists(&Serial::from_hex(serial).expect("a serial number")));
        assert!(listed);
        // Nothing changed, so it is the same.
        assert_eq!(current_crl(&arguments, &ca).expect("a CRL"), first);
        let renewed = current_crl(&run(home.path(), &["publish-crl", "--renew"]), &ca).expect("a CRL");
        assert_eq!(readable_number(&check(&renewed, &ca, Timestamp::now()).expect("usable").number), "2");
        assert!(current_crl(&run(home.path(), &["publish-crl", "--revoke", "unknown"]), &ca).is_err());
        let later = Timestamp::now().plus(Duration::from_hours(31 * 24));
        assert!(check(&renewed, &ca, later).is_err());
    }
}
