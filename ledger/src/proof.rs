//! Offline proofs: RFC 6962 inclusion and consistency, and their verification.

use crate::hash::Hash;

/// That a leaf is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// The leaf's place.
    pub index: u64,
    /// The log's size.
    pub size: u64,
    /// Sibling hashes, from the leaf up.
    pub path: Vec<Hash>,
}

/// That a log is a prefix of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The smaller size.
    pub old: u64,
    /// The larger size.
    pub new: u64,
    /// Hashes as RFC 6962 section 2.1.2 orders them.
    pub path: Vec<Hash>,
}
