//! The shape of `search`.

use super::WirePath;
use serde::{Deserialize, Serialize};

/// A file that was looked for; a line of the reply to `/v1/search`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Match {
    /// In which bucket; none when its name is not known any more.
    pub bucket: Option<String>,
    /// Where; for one that is gone, where it was put.
    #[serde(flatten)]
    pub path: WirePath,
    /// `file`, `symlink` or `directory`.
    pub kind: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// BLAKE3 of the content.
    pub blake3: Option<String>,
    /// SHA-256 of the content.
    pub sha256: Option<String>,
    /// Where a symbolic link points.
    pub target: Option<String>,
    /// The transaction that says so.
    pub txid: String,
    /// Its block.
    pub block: Option<u64>,
    /// Its time.
    pub time: Option<String>,
    /// Whether that is there now.
    pub current: bool,
}

/// `wizefs search`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Matches {
    /// [`super::V`].
    pub v: u32,
    /// By bucket and path, then those that are gone, oldest first.
    pub entries: Vec<Match>,
}
