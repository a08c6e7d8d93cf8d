//! Rebuilds everything from genesis and compares.

use std::ops::ControlFlow;
use std::path::Path;

use crate::store::StoreError;

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Transactions checked.
    pub done: u64,
    /// Transactions there are, as far as known.
    pub total: u64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Height of the last block.
    pub height: u64,
    /// Transactions in the log.
    pub transactions: u64,
    /// How many of them are erased.
    pub erased: u64,
    /// What is wrong, the first place first; empty when nothing is.
    pub problems: Vec<Problem>,
    /// Whether the check was broken off.
    pub cancelled: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Height of the block it concerns.
    pub block: Option<u64>,
    /// Log index of the transaction it concerns.
    pub index: Option<u64>,
    /// What it is.
    pub problem: String,
}

/// Checks the ledger in `dir`, which no process may have open, without writing; works on one too damaged to open.
///
/// # Errors
/// It is in use, or there is none.
#[allow(unused_variables, clippy::todo)]
pub fn fsck_dir(dir: &Path, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Report, StoreError> {
    todo!()
}

pub(crate) fn check(_read: &dyn crate::store::Read, _progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Report {
    Report::default()
}
