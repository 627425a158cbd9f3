use gatehouse::Timestamp;

/// Identifies the document in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DocumentVersion {
    /// When the command that put it into force was given.
    pub given_at: Timestamp,
    /// Its number.
    pub number: u64,
}
