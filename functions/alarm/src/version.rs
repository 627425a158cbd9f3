use gatehouse::Timestamp;

/// Which document is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DocumentVersion {
    /// When the command was given that put it into force.
    pub given_at: Timestamp,
    /// Its number.
    pub number: u64,
}
