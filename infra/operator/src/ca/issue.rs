//! `gatehouse ca create` and `issue`: create a CA and its devices' certificates, without AWS or credentials.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use gatehouse::pki::{Serial, parse_certificate, parse_pem, timestamp};
use gatehouse::{ThingName, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};

use super::files::{self, CaFile, CaName, KeyAlgorithm, date, day};
use super::index::Index;
use crate::status::{Status, UsageError};

const DAY: Duration = Duration::from_hours(24);

/// The arguments of `gatehouse ca create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    #[command(flatten)]
    ca: CaName,
    /// Algorithm of the CA's key; RSA has 3,072 bits.
    #[arg(long, default_value = "p256")]
    algorithm: KeyAlgorithm,
    /// Validity in days.
    #[arg(long, value_name = "N", default_value = "3650", value_parser = clap::value_parser!(u32).range(1..100_000))]
    days: u32,
}

/// The arguments of `gatehouse ca issue`.
#[derive(Debug, Args)]
pub struct IssueArguments {
    #[command(flatten)]
    ca: CaName,
    /// Thing name: 1 to 128 letters, digits, `:`, `-` and `_`.
    #[arg(long)]
    thing: String,
    /// Algorithm of the device's key; RSA has 2,048 bits.
    #[arg(long, default_value = "p256")]
    algorithm: KeyAlgorithm,
    /// Validity in days.
    #[arg(long, value_name = "N", default_value = "365", value_parser = clap::value_parser!(u32).range(1..100_000))]
    days: u32,
    /// Issue a new key and certificate. The old ones are kept as NAME.old.* and stay valid.
    #[arg(long)]
    renew: bool,
    /// Output directory; by default devices/ in the directory of the CA.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Creates a CA, unless it exists. Prints the ID of its certificate.
pub fn create(arguments: &CreateArguments) -> Result<Status> {
    let CreateArguments { ca, algorithm, days } = arguments;
    let directory = ca.directory()?;
    files::keep_out_of_git(&directory)?;
    let is_new = !directory.exists();
    if is_new {
        // The final rename keeps the directory complete, even after an interrupt or with two concurrent runs.
        let parent = directory.parent().context("a CA cannot be in the root directory")?;
        files::create_directory(parent)?;
        let new = parent.join(format!(".new-{}", files::hex(files::random_serial()?.as_ref())));
        let made = make_ca(&new, &ca.name, *algorithm, *days).and_then(|()| Ok(fs::rename(&new, &directory)?));
        if made.is_err() {
            let _ = fs::remove_dir_all(&new);
        }
        made.or_else(|error| if directory.join("ca.crt").exists() { Ok(()) } else { Err(error) })?;
    }
    let found = CaFile::choose(None, ca)?;
    let made = if is_new { "Created" } else { "Nothing changed: found" };
    let until = day(found.certificate.not_after);
    eprintln!("{made} {}, valid until {until}, in {}", found.title, directory.display());
    println!("{}", found.id);
    Ok(Status::Success)
}

fn make_ca(directory: &Path, name: &str, algorithm: KeyAlgorithm, days: u32) -> Result<()> {
    for folder in ["issued", "devices"] {
        files::create_directory(&directory.join(folder))?;
    }
    let key = algorithm.generate(3072)?;
    let mut params = params(name, days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).context("failed to sign the CA's certificate")?;
    for (file, content) in [
        ("ca.key", key.serialize_pem()),
        ("ca.crt", certificate.pem()),
        ("index.txt", String::new()),
        ("crlnumber", "01\n".to_owned()),
    ] {
        files::write(&directory.join(file), content.as_bytes())?;
    }
    Ok(())
}

/// Returns the parameters of a certificate that is valid from now on.
fn params(name: &str, days: u32) -> Result<CertificateParams> {
    let now = Timestamp::now();
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(files::random_serial()?);
    (params.not_before, params.not_after) = (date(now)?, date(now.plus(DAY * days))?);
    Ok(params)
}

/// Issues a device's certificate, unless a usable one exists. Prints its ID.
pub fn issue(arguments: &IssueArguments) -> Result<Status> {
    let IssueArguments { ca: name, thing, algorithm, days, renew, to } = arguments;
    ThingName::new(thing.as_str()).map_err(|refusal| UsageError(format!("--thing {thing}: {refusal}")))?;
    let directory = name.directory()?;
    let to = std::path::absolute(to.clone().unwrap_or_else(|| directory.join("devices")))?;
    files::keep_out_of_git(&to)?;
    let _lock = files::lock(&directory)?;
    let ca = CaFile::choose(None, name)?;
    files::create_directory(&to)?;
    let file = |extension: &str| to.join(format!("{thing}.{extension}"));
    let mut index = Index::read(&directory)?;

    if file("crt").exists() && !renew {
        let pem = files::read(&file("crt"))?;
        check_existing(&pem, &file("key"), &ca, &index)
            .with_context(|| format!("{} cannot be used; use --renew to issue a new one", file("crt").display()))?;
        if !file("chain.pem").exists() {
            files::write(&file("chain.pem"), format!("{pem}{}", ca.pem).as_bytes())?;
        }
        return done("Nothing changed: found a certificate", thing, &pem, &to);
    }
    let ends = Timestamp::now().plus(DAY * *days);
    ensure!(
        ca.certificate.not_after >= ends,
        "the CA expires on {}, before the end of --days {days}",
        day(ca.certificate.not_after)
    );
    if *renew && file("crt").exists() {
        // The certificate first: without it, a later run completes an interrupted renewal.
        for extension in ["crt", "key", "chain.pem"] {
            if file(extension).exists() {
                fs::rename(file(extension), file(&format!("old.{extension}")))?;
            }
        }
        eprintln!(
            "warning: the old certificate stays valid. While it is active, jitr rejects the new one (name-taken, INACTIVE) \
             unless the stack has JitrAllowRotation=true. Otherwise set the old one to INACTIVE before the device uses \
             the new one. If it was rejected, run `gatehouse ca readmit`."
        );
    }
    let key = if file("key").exists() { files::read_key(&file("key"))? } else { algorithm.generate(2048)? };
    files::write(&file("key"), key.serialize_pem().as_bytes())?;
    let pem = sign(thing, *days, &key, &ca, &directory, &mut index)?;
    files::write(&file("crt"), pem.as_bytes())?;
    files::write(&file("chain.pem"), format!("{pem}{}", ca.pem).as_bytes())?;
    done("Issued a certificate", thing, &pem, &to)
}

/// Signs a device's certificate, and adds it to the index.
fn sign(thing: &str, days: u32, key: &KeyPair, ca: &CaFile, directory: &Path, index: &mut Index) -> Result<String> {
    let mut params = params(thing, days)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = ca.issuer(files::read_key(&directory.join("ca.key"))?)?;
    let certificate = params.signed_by(key, &issuer).context("failed to sign the certificate")?;
    let serial = params.serial_number.as_ref().map(|serial| files::hex(serial.as_ref())).unwrap_or_default();
    let copy = directory.join("issued").join(format!("{}.pem", serial.to_ascii_uppercase()));
    files::write(&copy, certificate.pem().as_bytes())?;
    index.add(&serial, params.not_after, thing)?;
    Ok(certificate.pem())
}

/// Checks that a device can connect with an existing certificate.
fn check_existing(pem: &str, key: &Path, ca: &CaFile, index: &Index) -> Result<()> {
    let der = parse_pem(pem)?;
    let certificate = parse_certificate(&der)?;
    let key = files::read_key(key)?;
    ensure!(certificate.public_key().raw == key.subject_public_key_info(), "it does not match its key");
    let signed = certificate.tbs_certificate.as_ref();
    let verified = ca.certificate.verify(&certificate.signature_algorithm, &certificate.signature_value, signed);
    ensure!(verified.is_ok() && ca.certificate.is_named(certificate.issuer()), "it was issued by another CA");
    let serial = Serial::new(certificate.raw_serial()).to_string();
    ensure!(index.find(&serial).is_none_or(|entry| !entry.is_revoked()), "it has been revoked");
    let not_after = timestamp(certificate.validity().not_after);
    ensure!(not_after > Timestamp::now(), "it expired on {}", day(not_after));
    Ok(())
}

fn done(what: &str, thing: &str, pem: &str, to: &Path) -> Result<Status> {
    let der = parse_pem(pem)?;
    let until = day(timestamp(parse_certificate(&der)?.validity().not_after));
    let file = |extension: &str| to.join(format!("{thing}.{extension}"));
    let (chain, key) = (file("chain.pem"), file("key"));
    eprintln!("{what} for {thing}, valid until {until}:\n  {}\n  {}", chain.display(), key.display());
    println!("{}", files::certificate_id(&der)?);
    Ok(Status::Success)
}
