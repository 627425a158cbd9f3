//! One device at the door, from the event to the record.

use std::time::Duration;

use aws_sdk_iot::types::CertificateStatus;
use gatehouse::x509::{self, CaCertificate};
use gatehouse::{Attribute, Invocation, CertificateId, FetchError, Notification, Refusal, Standing, ThingName};
use tokio::time::sleep;

use crate::certificate::Certificate;
use crate::event::Registered;
use crate::reason::Reason;
use crate::records::{Holder, Lease, Record, Refused, State};
use crate::registry::Registration;
use crate::{Error, Jitr};

/// How often, and how many times, to look again while another invocation works on the same certificate. A device that is
/// turned away knocks again within a second, and each knock is an event.
const LOOK_AGAIN: (Duration, usize) = (Duration::from_millis(200), 25);

/// What is to be done about an event, as the certificate and its record are now.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    /// Admit it, or take up an admission that was not finished.
    Admit,
    /// Carry out a refusal that was decided.
    Refuse(Refused),
    /// An admission was not finished, and is not to be.
    GiveUp,
    /// Somebody else activated it: note that.
    Note,
    /// It is settled.
    Nothing,
}

impl Task {
    /// Only what is pending is worked on, and what was begun here is finished. What an operator took away stays away.
    fn of(status: &CertificateStatus, state: Option<&State>) -> Self {
        match (status, state) {
            (_, Some(State::Refusing(refused))) => Self::Refuse(refused.clone()),
            (CertificateStatus::PendingActivation, _) | (CertificateStatus::Active, Some(State::Admitting)) => {
                Self::Admit
            }
            (_, Some(State::Admitting)) => Self::GiveUp,
            (CertificateStatus::Active, None) => Self::Note,
            _ => Self::Nothing,
        }
    }
}

/// Why an admission does not go on.
enum Stop {
    /// The certificate is turned away.
    TurnedAway(Reason),
    /// Somebody gave it another status meanwhile, which stays.
    TakenAway,
    /// Not now.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::TurnedAway(reason)
    }
}

/// One event on its way.
pub(crate) struct Admission<'a> {
    pub(crate) jitr: &'a Jitr,
    pub(crate) ids: Registered,
    pub(crate) event_id: &'a str,
    pub(crate) invocation: &'a Invocation,
}

impl Admission<'_> {
    /// Does what is to be done, under a lease on the certificate's record.
    pub(crate) async fn run(&self) -> Result<(), Error> {
        let Self { jitr, ids, invocation, .. } = self;
        let (pause, mut looks) = LOOK_AGAIN;
        let (lease, registration, record, task) = loop {
            // The record first: where it says that all is settled, the status that is read after it is not older.
            let record = jitr.records.get(&ids.certificate).await?;
            let registration = self.registration().await?;
            let task = Task::of(&registration.status, record.state.as_ref());
            match task {
                Task::Nothing => {
                    invocation.count("Duplicate");
                    return Ok(());
                }
                Task::Note => {
                    let is_noted = jitr.records.found_active(ids, invocation.now()).await?;
                    invocation.count(if is_noted { "FoundActive" } else { "Duplicate" });
                    return Ok(());
                }
                Task::Admit | Task::Refuse(_) | Task::GiveUp => {}
            }
            if let Some(lease) = jitr.records.begin(ids, &record, invocation).await? {
                break (lease, registration, record, task);
            }
            if looks == 0 || invocation.is_running_late() {
                return Err(Error::Busy("this certificate"));
            }
            looks -= 1;
            sleep(pause).await;
        };
        let done = match task {
            Task::Refuse(refused) => self.turn_away(&lease, &registration, &refused).await,
            Task::GiveUp => self.give_up(&lease).await,
            Task::Admit | Task::Note | Task::Nothing => self.admit_or_not(&lease, &registration, &record).await,
        };
        if done.is_err()
            && let Err(error) = jitr.records.release(&lease, invocation.now()).await
        {
            let request_id = invocation.request_id();
            tracing::warn!(requestId = request_id, %error, "the lease could not be given back; it ends by itself");
        }
        done
    }

    /// The certificate as it is now. An event that does not tell the truth about it is refused.
    async fn registration(&self) -> Result<Registration, Error> {
        let Registered { certificate, ca } = &self.ids;
        let registration = self.jitr.registry.certificate(certificate).await?.ok_or_else(|| {
            Refusal::new("unknown-certificate", "There is no certificate of this id; it may have been deleted.")
        })?;
        if registration.ca.as_ref() != Some(ca) {
            let why = "The certificate is registered under another CA than the event names.";
            return Err(Refusal::new("another-ca", why).into());
        }
        Ok(registration)
    }

    async fn admit_or_not(&self, lease: &Lease, registration: &Registration, record: &Record) -> Result<(), Error> {
        let Self { jitr, invocation, .. } = self;
        let stop = match self.admit(registration, record).await {
            Ok((thing, certificate)) => {
                jitr.records.admitted(lease, &thing, &certificate, invocation.now()).await?;
                invocation.count("Admitted");
                return Ok(());
            }
            Err(stop) => stop,
        };
        let reason = match stop {
            Stop::TurnedAway(reason) => reason,
            Stop::TakenAway => return self.give_up(lease).await,
            // A certificate that is pending waits until it can be told. One that is active already does not stay so.
            Stop::Failed(Error::Crl(error)) if self.status().await? == Some(CertificateStatus::Active) => {
                Reason::CrlUnclear(error.to_string())
            }
            Stop::Failed(error) => return Err(error),
        };
        let refused = Refused::new(&reason, &jitr.rules.refused_status);
        jitr.records.refusing(lease, &refused, invocation.now()).await?;
        self.turn_away(lease, registration, &refused).await
    }

    /// All the steps of an admission but its record.
    async fn admit(&self, registration: &Registration, record: &Record) -> Result<(ThingName, Certificate), Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let (authority, standing) = self.authority().await?;
        let der = x509::certificate_der(&registration.pem).map_err(|error| Reason::Malformed(error.to_string()))?;
        let certificate = Certificate::check(&der, &authority, invocation.now(), jitr.rules.skew)?;
        if jitr.records.take_signed(&certificate.signed, &ids.certificate, invocation.now()).await? != Holder::Ours {
            return Err(Reason::AnotherEncoding.into());
        }
        if record.is_blocked {
            return Err(Reason::Blocked.into());
        }
        self.not_on_the_list(&authority, &standing, &certificate).await?;
        let thing = certificate.thing(&jitr.rules.thing_name)?;
        self.take_name(&thing).await?;

        let attributes = [
            ("serial", certificate.serial.to_string()),
            ("ca", ids.ca.to_string()),
            ("fingerprint", ids.certificate.to_string()),
        ];
        jitr.registry.create_thing(&thing, attributes).await?;
        jitr.registry.attach(&thing, &registration.arn).await?;

        match self.look_again(&certificate).await? {
            CertificateStatus::Active => {}
            CertificateStatus::PendingActivation => {
                jitr.registry.set_status(&ids.certificate, CertificateStatus::Active).await?;
                if self.look_again(&certificate).await? != CertificateStatus::Active {
                    return Err(Stop::TakenAway);
                }
            }
            _ => return Err(Stop::TakenAway),
        }
        Ok((thing, certificate))
    }

    /// The CA, which must be active, within its time, and not blocked; and what else the devices table says of it.
    async fn authority(&self) -> Result<(CaCertificate, Standing), Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let authority = jitr.registry.active_authority(&ids.ca).await?.ok_or(Reason::CaInactive)?;
        if authority.not_before > invocation.now().plus(jitr.rules.skew) || authority.not_after < invocation.now() {
            return Err(Reason::CaExpired.into());
        }
        let standing = jitr.devices.standing(&ids.ca).await.map_err(|error| Error::Devices(error.into()))?;
        if standing.block.is_some() {
            return Err(Reason::CaBlocked.into());
        }
        jitr.note(&ids.ca, &authority).await?;
        Ok((authority, standing))
    }

    /// The certificate must not be on its CA's revocation list.
    async fn not_on_the_list(
        &self,
        authority: &CaCertificate,
        standing: &Standing,
        certificate: &Certificate,
    ) -> Result<(), Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let Some(publication) = &standing.publication else {
            return if jitr.rules.needs_crl { Err(Reason::NoCrl.into()) } else { Ok(()) };
        };
        let crl = jitr.devices.crl(&ids.ca, authority, publication).await.map_err(|error| match error {
            FetchError::Table(error) => Error::Devices(error.into()),
            unclear => Error::Crl(unclear),
        })?;
        crl.check_current(invocation.now(), jitr.rules.skew).map_err(|error| Error::Crl(error.into()))?;
        if crl.lists(&certificate.serial) { Err(Reason::RevokedByCrl.into()) } else { Ok(()) }
    }

    /// Looks at everything that somebody may have changed since the first look; the certificate's status.
    async fn look_again(&self, certificate: &Certificate) -> Result<CertificateStatus, Stop> {
        let (authority, standing) = self.authority().await?;
        self.not_on_the_list(&authority, &standing, certificate).await?;
        if self.jitr.records.get(&self.ids.certificate).await?.is_blocked {
            return Err(Reason::Blocked.into());
        }
        self.status().await?.ok_or(Stop::TakenAway)
    }

    /// Takes the thing's name for this certificate. The claim comes first, so that two certificates of one name cannot
    /// both find nobody there.
    async fn take_name(&self, thing: &ThingName) -> Result<(), Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let mut from = None;
        while let Holder::Another(holder) =
            jitr.records.take_name(thing, &ids.certificate, from.as_ref(), invocation.now()).await?
        {
            self.may_come_after(&holder, thing).await?;
            from = Some(holder);
        }
        for other in jitr.registry.certificates_of(thing).await? {
            if other != ids.certificate && Some(&other) != from.as_ref() {
                self.may_come_after(&other, thing).await?;
            }
        }
        Ok(())
    }

    /// Whether this certificate may have the name of a thing that another one has or had.
    async fn may_come_after(&self, other: &CertificateId, thing: &ThingName) -> Result<(), Stop> {
        match self.jitr.registry.certificate(other).await?.map(|found| found.status) {
            Some(CertificateStatus::Active) if self.jitr.rules.may_rotate => {
                Ok(self.tell_rotation(other, thing).await?)
            }
            Some(CertificateStatus::Active) => Err(Reason::NameTaken.into()),
            // It may yet be admitted, or turned away.
            Some(CertificateStatus::PendingActivation) => Err(Error::Busy("another certificate of this name").into()),
            _ => Ok(()),
        }
    }

    /// The old certificate is left alone, and reported.
    async fn tell_rotation(&self, old: &CertificateId, thing: &ThingName) -> Result<(), Error> {
        let Self { jitr, ids, event_id, invocation } = self;
        let new = &ids.certificate;
        let notification = Notification {
            subject: "A device has a new certificate".to_owned(),
            message: format!(
                "Thing {thing} has a new certificate. The old one is still active: deactivate it once the device uses the \
                 new one.\nNew: {new}\nOld: {old}"
            ),
            data: None,
            attributes: vec![
                ("thing", Attribute::Text(thing.to_string())),
                ("certificateId", Attribute::Text(new.to_string())),
                ("eventId", Attribute::Text((*event_id).to_owned())),
            ],
        };
        jitr.idempotency.run_once(&format!("{new}#after#{old}"), invocation, jitr.topic.publish(notification)).await?;
        invocation.count("Rotated");
        Ok(())
    }

    /// Carries a decision out that is written down: the status, the notification, the end of the record.
    async fn turn_away(&self, lease: &Lease, registration: &Registration, refused: &Refused) -> Result<(), Error> {
        let Self { jitr, ids, invocation, .. } = self;
        if let Some(CertificateStatus::PendingActivation | CertificateStatus::Active) = self.status().await? {
            jitr.registry.set_status(&ids.certificate, refused.status.clone()).await?;
        }
        let der = x509::certificate_der(&registration.pem).ok();
        let certificate = der.and_then(|der| Certificate::unchecked(&der));
        let told = jitr.topic.publish(self.notification(refused, certificate.as_ref()));
        jitr.idempotency.run_once(&format!("{}#{}", ids.certificate, refused.code), invocation, told).await?;
        jitr.records.refused(lease, refused, certificate.as_ref(), invocation.now()).await?;
        invocation.count("TurnedAway");
        Ok(())
    }

    fn notification(&self, refused: &Refused, certificate: Option<&Certificate>) -> Notification {
        let Registered { certificate: id, ca } = &self.ids;
        let Refused { code, why, status } = refused;
        let mut attributes = vec![
            ("reason", Attribute::Text(code.clone())),
            ("certificateId", Attribute::Text(id.to_string())),
            ("caCertificateId", Attribute::Text(ca.to_string())),
            ("eventId", Attribute::Text(self.event_id.to_owned())),
        ];
        let thing = certificate.and_then(Certificate::thing_name);
        let who = thing.as_ref().map(|thing| format!(" for thing {thing}")).unwrap_or_default();
        attributes.extend(thing.map(|thing| ("thing", Attribute::Text(thing.to_string()))));
        Notification {
            subject: format!("Device turned away: {code}"),
            message: format!(
                "A certificate{who} was turned away and is {status} now. {why}\nCertificate: {id}\nCA: {ca}"
            ),
            data: None,
            attributes,
        }
    }

    /// Ends an admission that somebody else decided about.
    async fn give_up(&self, lease: &Lease) -> Result<(), Error> {
        let refused = Refused {
            code: "taken-away".to_owned(),
            why: "Its status was changed while it was being admitted.".to_owned(),
            status: self.status().await?.unwrap_or_else(|| CertificateStatus::from("DELETED")),
        };
        self.jitr.records.refused(lease, &refused, None, self.invocation.now()).await?;
        self.invocation.count("TakenAway");
        Ok(())
    }

    /// The certificate's status now; `None` if it is gone.
    async fn status(&self) -> Result<Option<CertificateStatus>, Error> {
        let found = self.jitr.registry.certificate(&self.ids.certificate).await?;
        Ok(found.map(|found| found.status))
    }
}
