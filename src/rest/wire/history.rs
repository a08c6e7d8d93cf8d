//! The shapes of what the ledger knows: `log`, `verify`, `integrity`.

use super::{TxStatus, WirePath};
use crate::name::BucketName;
use serde::{Deserialize, Serialize};

/// A transaction: `wizefs log`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogLine {
    /// [`super::V`].
    pub v: u32,
    /// Position in the log.
    pub index: Option<u64>,
    /// The transaction id.
    pub txid: String,
    /// The block.
    pub block: Option<u64>,
    /// `pending` or `final`.
    pub status: TxStatus,
    /// When.
    pub time: String,
    /// Address of who signed.
    pub author: Option<String>,
    /// The name of that wallet here.
    pub wallet: Option<String>,
    /// What was done.
    pub op: String,
    /// In which bucket.
    pub bucket: Option<String>,
    /// To which path.
    #[serde(flatten)]
    pub path: WirePath,
    /// The old name, for a rename; the other name, for an exchange.
    pub from: Option<String>,
    /// Its bytes when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_b64: Option<String>,
    /// `file` or `symlink`.
    pub kind: Option<String>,
    /// Where a symbolic link points.
    pub target: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// BLAKE3 of the content.
    pub blake3: Option<String>,
    /// SHA-256 of the content.
    pub sha256: Option<String>,
    /// What led to it.
    pub cause: Option<String>,
    /// How the content was established.
    pub evidence: Option<String>,
    /// Coins, for transfers and coinbases.
    pub amount: Option<u64>,
}

/// A line of `wizefs verify`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum VerifyLine {
    /// Matches its entry.
    Ok(VerifyPath),
    /// Differs from its entry.
    Damaged(VerifyPath),
    /// An entry, and nothing there.
    Missing(VerifyPath),
    /// There without an entry, or changed by others and not accepted.
    Foreign(VerifyPath),
    /// An intent is open.
    Pending(VerifyPath),
    /// How far it is; only for those who ask for it.
    Progress(VerifyProgress),
    /// The end.
    Summary(VerifySummary),
}

/// A path in [`VerifyLine`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyPath {
    /// [`super::V`].
    pub v: u32,
    /// The bucket.
    pub bucket: BucketName,
    /// The path.
    #[serde(flatten)]
    pub path: WirePath,
    /// The block of the entry.
    pub block: Option<u64>,
    /// BLAKE3, or symlink target, of the entry.
    pub expected: Option<String>,
    /// What was found instead.
    pub found: Option<String>,
    /// What differs: `content`, `mode`, `size`, `kind`, `target`.
    pub fields: Vec<String>,
    /// Damaged byte ranges, first and last inclusive.
    // Of pairs the schema says with `false` that there is no third, which readers of older schemas take for a mistake.
    #[schema(value_type = Vec<[u64; 2]>)]
    pub ranges: Vec<(u64, u64)>,
    /// The size on the ledger.
    pub size: Option<u64>,
}

/// How far a `wizefs verify` is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyProgress {
    /// [`super::V`].
    pub v: u32,
    /// Paths looked at.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// The last line of `wizefs verify`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifySummary {
    /// [`super::V`].
    pub v: u32,
    /// Paths looked at.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Matching.
    pub ok: u64,
    /// Differing.
    pub damaged: u64,
    /// Not there.
    pub missing: u64,
    /// Not the user's.
    pub foreign: u64,
    /// Still being written.
    pub pending: u64,
    /// How long it took.
    pub seconds: f64,
    /// 0 or 26.
    pub exit: u8,
}

/// A line of `wizefs integrity` for those who ask for progress: how far it is, then the result.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum IntegrityLine {
    /// So far.
    Progress {
        /// How far.
        progress: Replayed,
    },
    /// The result.
    Done(Integrity),
}

/// How far a check of the chain is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Replayed {
    /// Transactions checked.
    pub done: u64,
    /// Transactions there are.
    pub total: u64,
}

/// `wizefs integrity`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Integrity {
    /// [`super::V`].
    pub v: u32,
    /// Nothing is wrong.
    pub ok: bool,
    /// Height of the last block looked at.
    pub height: u64,
    /// Transactions looked at.
    pub transactions: u64,
    /// Stubs of erased transactions.
    pub erased: u64,
    /// What is wrong, first block first.
    pub problems: Vec<Problem>,
    /// 0 or 26.
    pub exit: u8,
}

/// A problem of the chain.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Where.
    pub block: Option<u64>,
    /// Which transaction.
    pub index: Option<u64>,
    /// What.
    pub problem: String,
    /// Whether it is in what follows from the chain, so that `--rebuild` cures it.
    pub derived: bool,
}

/// `wizefs forget`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Forgotten {
    /// [`super::V`].
    pub v: u32,
    /// The transaction.
    pub txid: String,
    /// Its place in the log.
    pub index: u64,
    /// Its block.
    pub block: u64,
    /// Nothing was erased: that was only asked.
    #[serde(default)]
    pub dry_run: bool,
}
