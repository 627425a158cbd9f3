//! The certificates that a CA has issued and revoked, in the format of `openssl ca`: a line per certificate, with its
//! state (`V` or `R`), expiry, revocation, serial number, file and subject.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::files;

/// The index of a CA.
#[derive(Debug)]
pub struct Index {
    file: PathBuf,
    entries: Vec<Entry>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    expires: String,
    /// When it was revoked, in the format of the file; empty if it was not.
    revoked: String,
    /// The serial number, as uppercase hexadecimal digits.
    pub serial: String,
    subject: String,
}

impl Entry {
    /// Returns when it was revoked; `None` if it was not.
    pub fn revoked_at(&self) -> Option<OffsetDateTime> {
        // A reason may follow.
        parse_time(self.revoked.split(',').next()?)
    }

    /// Returns whether it is revoked.
    pub fn is_revoked(&self) -> bool {
        !self.revoked.is_empty()
    }
}

impl Index {
    /// Reads the index in a CA's directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let file = directory.join("index.txt");
        let text = files::read(&file)?;
        let entries: Option<_> = text.lines().map(parse).collect();
        Ok(Self { entries: entries.with_context(|| format!("{} is not an index", file.display()))?, file })
    }

    /// Returns the revoked certificates.
    pub fn revoked(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_revoked())
    }

    /// Returns the certificate with this serial number.
    pub fn find(&self, serial: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.serial.eq_ignore_ascii_case(serial))
    }

    /// Returns the serial numbers of all certificates of a thing.
    pub fn serials_of(&self, thing: &str) -> Vec<String> {
        let is_of_thing = |entry: &&Entry| entry.subject.strip_prefix("/CN=") == Some(thing);
        self.entries.iter().filter(is_of_thing).map(|entry| entry.serial.clone()).collect()
    }

    /// Adds a certificate, and writes the index.
    pub fn add(&mut self, serial: &str, expires: OffsetDateTime, thing: &str) -> Result<()> {
        self.entries.push(Entry {
            expires: format_time(expires)?,
            revoked: String::new(),
            serial: serial.to_ascii_uppercase(),
            subject: format!("/CN={thing}"),
        });
        self.write()
    }

    /// Marks a certificate as revoked, and writes the index. Returns `false` if it already was.
    pub fn revoke(&mut self, serial: &str, now: OffsetDateTime) -> Result<bool> {
        let entry = self.entries.iter_mut().find(|entry| entry.serial.eq_ignore_ascii_case(serial));
        let entry = entry.with_context(|| format!("the CA did not issue the certificate {serial}"))?;
        if entry.is_revoked() {
            return Ok(false);
        }
        entry.revoked = format_time(now)?;
        self.write()?;
        Ok(true)
    }

    fn write(&self) -> Result<()> {
        let line = |Entry { expires, revoked, serial, subject }: &Entry| {
            let state = if revoked.is_empty() { "V" } else { "R" };
            format!("{state}\t{expires}\t{revoked}\t{serial}\tunknown\t{subject}\n")
        };
        files::write(&self.file, self.entries.iter().map(line).collect::<String>().as_bytes())
    }
}

fn parse(line: &str) -> Option<Entry> {
    let mut columns = line.split('\t').map(str::to_owned);
    let (_state, expires, revoked, serial) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
    let (_file, subject) = (columns.next()?, columns.next()?);
    Some(Entry { expires, revoked, serial, subject })
}

/// Formats a time as certificates do: the year has two digits before 2050.
fn format_time(at: OffsetDateTime) -> Result<String> {
    let text = at.format(format_description!("[year][month][day][hour][minute][second]Z"))?;
    ensure!(text.len() == 15, "the year of {at} does not have four digits");
    Ok(if at.year() < 2050 { text.get(2..).unwrap_or_default().to_owned() } else { text })
}

fn parse_time(text: &str) -> Option<OffsetDateTime> {
    let text = if text.len() == 13 { format!("20{text}") } else { text.to_owned() };
    let form = format_description!("[year][month][day][hour][minute][second]Z");
    PrimitiveDateTime::parse(&text, form).ok().map(PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn index_of_openssl_is_read_and_written_unchanged() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = "V\t361126170000Z\t\t1A2B\tunknown\t/CN=front-gate\n\
                    R\t20510101000000Z\t261129170000Z\t3C\tunknown\t/CN=a:b_c-9\n";
        let file = directory.path().join("index.txt");
        std::fs::write(&file, text).expect("written");
        let mut index = Index::read(directory.path()).expect("an index");
        assert_eq!(index.serials_of("front-gate"), ["1A2B"]);
        let revoked: Vec<_> = index.revoked().map(|entry| (entry.serial.as_str(), entry.revoked_at())).collect();
        assert_eq!(revoked, [("3C", Some(datetime!(2026-11-29 17:00 UTC)))]);
        index.write().expect("written");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), text);

        assert!(index.revoke("1a2b", datetime!(2026-12-01 00:00 UTC)).expect("revoked"));
        assert!(!index.revoke("1A2B", datetime!(2026-12-02 00:00 UTC)).expect("revoked"));
        assert!(index.revoke("77", datetime!(2026-12-02 00:00 UTC)).is_err());
        index.add("0f", datetime!(2051-12-01 00:00 UTC), "new").expect("added");
        let written = std::fs::read_to_string(&file).expect("read");
        assert!(written.starts_with("R\t361126170000Z\t261201000000Z\t1A2B\tunknown\t/CN=front-gate\n"), "{written}");
        assert!(written.ends_with("V\t20511201000000Z\t\t0F\tunknown\t/CN=new\n"), "{written}");
    }
}
