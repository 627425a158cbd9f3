//! `gatehouse ca register` and `deactivate`: register a CA with AWS IoT, or set it inactive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iot::operation::describe_ca_certificate::DescribeCACertificateError;
use aws_sdk_iot::types::{AutoRegistrationStatus, CaCertificateStatus};
use clap::Args;
use gatehouse::Timestamp;
use gatehouse::pki::{CertificateId, parse_certificate};
use gatehouse::store::item::{number, string};
use rcgen::{CertificateParams, DnType, KeyPair};

use super::files::{self, CaFile, CaName, date, day};
use super::table::{self, Block};
use crate::context::Context;
use crate::output::{escape_line, utc};
use crate::status::{MissingError, Status};

/// The arguments of `gatehouse ca register`.
#[derive(Debug, Args)]
pub struct RegisterArguments {
    #[command(flatten)]
    ca: CaName,
    /// Certificate of a CA that was created elsewhere, in PEM, instead of --name.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Private key of that CA, in PKCS #8 and PEM, to prove to AWS IoT that it is yours. Not needed if it is registered.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Certificate that the CA signed for the account's registration code (`aws iot get-registration-code`), for a key
    /// that no file holds.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    verification_certificate: Option<PathBuf>,
    /// Lift the block of a CA that was revoked. Certificates that were revoked stay revoked.
    #[arg(long)]
    lift_block: bool,
}

/// The arguments of `gatehouse ca deactivate`.
#[derive(Debug, Args)]
pub struct DeactivateArguments {
    #[command(flatten)]
    ca: CaName,
    /// Certificate of the CA in PEM, instead of --name.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate_id")]
    certificate: Option<PathBuf>,
    /// ID of the CA in AWS IoT, instead of --name.
    #[arg(long, value_name = "ID", value_parser = super::certificate_id)]
    certificate_id: Option<CertificateId>,
}

/// Registers a CA, or sets a registered one active. Prints its ID.
pub async fn register(arguments: &RegisterArguments, context: &Context) -> Result<Status> {
    let ca = CaFile::choose(arguments.certificate.as_deref(), &arguments.ca)?;
    ca.check(Timestamp::now())?;
    if let Some(block) = read_block(&ca.id, context).await? {
        if !arguments.lift_block {
            return Err(blocked(&ca, &block));
        }
        lift_block(&ca, &block, context).await?;
    }
    // For the alarm that warns before a CA expires.
    let not_after = ca.certificate.not_after;
    let update = table::update(context, &ca.id, "certificate");
    let update = update.update_expression("SET notAfter = :notAfter, runsOutOn = :runsOutOn");
    let update = update.expression_attribute_values(":notAfter", number(not_after.millis()));
    table::send(update.expression_attribute_values(":runsOutOn", string(day(not_after)))).await?;

    if read_registration(&ca.id, context).await? == Some((true, true)) {
        eprintln!("Nothing changed: {} is registered and ACTIVE, and auto-registration is enabled.", ca.title);
        println!("{}", ca.id);
        return Ok(Status::Success);
    }
    if !set_registration(&ca.id, true, context).await? {
        register_new(arguments, &ca, context).await?;
    }
    // A block that was set meanwhile prevails.
    if let Some(block) = read_block(&ca.id, context).await? {
        set_registration(&ca.id, false, context).await?;
        return Err(blocked(&ca, &block));
    }
    eprintln!("Registered {}: it is ACTIVE, and auto-registration is enabled.", ca.title);
    println!("{}", ca.id);
    Ok(Status::Success)
}

async fn register_new(arguments: &RegisterArguments, ca: &CaFile, context: &Context) -> Result<()> {
    let iot = context.iot();
    let verification = if let Some(file) = &arguments.verification_certificate {
        files::read(file)?
    } else {
        let own = || Ok::<_, anyhow::Error>(arguments.ca.directory()?.join("ca.key"));
        let key = match (&arguments.key, &arguments.certificate) {
            (Some(key), _) => key.clone(),
            (None, None) => own()?,
            (None, Some(_)) => bail!("{} is not registered: --key or --verification-certificate is required", ca.title),
        };
        let code = iot.get_registration_code().send().await.context("failed to read the registration code")?;
        let code = code.registration_code.context("AWS IoT returned no registration code")?;
        sign_registration_code(ca, &key, &code)?
    };
    let register = iot.register_ca_certificate().ca_certificate(&ca.pem).verification_certificate(verification);
    let registered = register.set_as_active(true).allow_auto_registration(true).send().await;
    let id = registered.context("failed to register the CA")?.certificate_id.unwrap_or_default();
    ensure!(id == ca.id.as_str(), "AWS IoT assigned the ID {id} instead of {}, which the functions rely on", ca.id);
    Ok(())
}

/// Signs a certificate for the account's registration code with the CA's key, to prove possession of the key.
fn sign_registration_code(ca: &CaFile, key: &Path, code: &str) -> Result<String> {
    let now = Timestamp::now();
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, code);
    params.serial_number = Some(files::random_serial()?);
    (params.not_before, params.not_after) = (date(now)?, date(now.plus(Duration::from_hours(24)))?);
    let signed = params.signed_by(&KeyPair::generate()?, &ca.issuer(files::read_key(key)?)?)?;
    // Verify it as AWS IoT will.
    let parsed = parse_certificate(signed.der())?;
    ensure!(
        ca.certificate.is_named(parsed.issuer()),
        "failed to write the CA's name as its certificate does: use --verification-certificate"
    );
    let content = parsed.tbs_certificate.as_ref();
    let verified = ca.certificate.verify(&parsed.signature_algorithm, &parsed.signature_value, content);
    verified.with_context(|| format!("{} does not hold the key of {}", key.display(), ca.title))?;
    Ok(signed.pem())
}

async fn read_block(id: &CertificateId, context: &Context) -> Result<Option<Block>> {
    Ok(Block::read(&table::item(context, id.as_str(), "status").await?))
}

fn blocked(ca: &CaFile, block: &Block) -> anyhow::Error {
    let since = block.at.map(|at| format!(" since {} UTC", utc(at))).unwrap_or_default();
    let reason = escape_line(&block.reason);
    anyhow::anyhow!("{} is blocked{since}, reason: {reason}; use --lift-block to lift the block", ca.title)
}

async fn lift_block(ca: &CaFile, block: &Block, context: &Context) -> Result<()> {
    let update = table::update(context, &ca.id, "status");
    let update = update.update_expression("REMOVE blocked, blockedAt, blockReason");
    let update = update.expression_attribute_values(":true", AttributeValue::Bool(true));
    let update = match block.at {
        Some(at) => update
            .condition_expression("blocked = :true AND blockedAt = :at")
            .expression_attribute_values(":at", number(at.millis())),
        None => update.condition_expression("blocked = :true AND attribute_not_exists(blockedAt)"),
    };
    let is_lifted = table::send(update).await?;
    ensure!(is_lifted, "the block changed meanwhile: another operator lifted it or blocked the CA again");
    eprintln!("Lifted the block of {}.", ca.title);
    Ok(())
}

/// Returns whether a CA is active and auto-registers; `None` if it is not registered.
async fn read_registration(id: &CertificateId, context: &Context) -> Result<Option<(bool, bool)>> {
    match context.iot().describe_ca_certificate().certificate_id(id.as_str()).send().await {
        Ok(found) => {
            let found = found.certificate_description.context("AWS IoT did not describe the CA")?;
            let is_active = found.status == Some(CaCertificateStatus::Active);
            Ok(Some((is_active, found.auto_registration_status == Some(AutoRegistrationStatus::Enable))))
        }
        Err(error)
            if error.as_service_error().is_some_and(DescribeCACertificateError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("failed to describe CA {id}")),
    }
}

/// Sets a CA active or inactive, and its auto-registration likewise. Returns `false` if it is not registered.
async fn set_registration(id: &CertificateId, is_active: bool, context: &Context) -> Result<bool> {
    if read_registration(id, context).await?.is_none() {
        return Ok(false);
    }
    let (status, registration) = if is_active {
        (CaCertificateStatus::Active, AutoRegistrationStatus::Enable)
    } else {
        (CaCertificateStatus::Inactive, AutoRegistrationStatus::Disable)
    };
    let update = context.iot().update_ca_certificate().certificate_id(id.as_str()).new_status(status);
    let updated = update.new_auto_registration_status(registration).send().await;
    updated.with_context(|| format!("failed to update CA {id}"))?;
    Ok(true)
}

/// Sets a CA inactive, so that no new device is admitted. Prints its ID.
pub async fn deactivate(arguments: &DeactivateArguments, context: &Context) -> Result<Status> {
    let (id, title) = if let Some(id) = &arguments.certificate_id {
        (id.clone(), format!("the CA {id}"))
    } else {
        let ca = CaFile::choose(arguments.certificate.as_deref(), &arguments.ca)?;
        (ca.id, ca.title)
    };
    match read_registration(&id, context).await? {
        None => return Err(MissingError(format!("{title} is not registered with AWS IoT")).into()),
        Some((false, false)) => {
            eprintln!("Nothing changed: {title} is INACTIVE, and auto-registration is disabled.");
        }
        Some(_) => {
            set_registration(&id, false, context).await?;
            eprintln!("Set {title} to INACTIVE and disabled auto-registration.");
        }
    }
    eprintln!(
        "Devices that were already admitted can still connect. To block the CA and revoke every certificate that it \
         signed:\n\n  gatehouse revoke --ca {id} --reason 'its key leaked'\n"
    );
    println!("{id}");
    Ok(Status::Success)
}
