//! Certificate revocation lists.

use std::time::SystemTime;

use super::DAY;

/// The content of a certificate revocation list.
#[derive(Debug, Clone)]
pub struct Crl {
    /// The CRL number, which increases with each list.
    pub number: u64,
    /// The revoked serial numbers.
    pub revoked: Vec<Vec<u8>>,
    /// When the list was issued.
    pub this_update: SystemTime,
    /// When the next one is due.
    pub next_update: SystemTime,
}

impl Crl {
    /// Returns an empty list that is valid for 30 days.
    pub fn new(number: u64) -> Self {
        let now = SystemTime::now();
        Self { number, revoked: Vec::new(), this_update: now - DAY, next_update: now + 30 * DAY }
    }

    /// Adds the serial number of a revoked certificate.
    #[must_use]
    pub fn with_revoked(mut self, serial: &[u8]) -> Self {
        self.revoked.push(serial.to_vec());
        self
    }

    /// Returns the number as the devices table stores it: 40 hex digits, which sort like the number.
    pub fn sortable_number(&self) -> String {
        format!("{:040x}", self.number)
    }
}
