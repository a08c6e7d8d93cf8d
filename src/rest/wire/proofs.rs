//! The shapes of proofs: `proof`, `verify --proof`, `witness`.

use super::{BucketName, WirePath};
use serde::{Deserialize, Serialize};

/// `wizefs proof`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Proof {
    /// [`super::V`].
    pub v: u32,
    /// The transaction proven; null when nothing was ever recorded there, and the state proof says so.
    pub txid: Option<String>,
    /// Its place in the log.
    pub index: Option<u64>,
    /// Its block.
    pub block: Option<u64>,
    /// Size of the log that the checkpoint is of.
    pub log_size: u64,
    /// The bucket.
    pub bucket: BucketName,
    /// The path.
    #[serde(flatten)]
    pub path: WirePath,
    /// The proof file's text; null when there is no transaction.
    pub proof: Option<String>,
    /// The block after which the state is proven.
    pub state_block: Option<u64>,
    /// The state proof's text.
    pub state: Option<String>,
    /// Files written by the command.
    #[serde(default)]
    pub files: Vec<String>,
}

/// `wizefs proof --since`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Consistency {
    /// [`super::V`].
    pub v: u32,
    /// Size of the older log.
    pub old: u64,
    /// The proof file's text.
    pub proof: String,
}

/// The reply to a checkpoint that was taken away.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Witnessed {
    /// [`super::V`].
    pub v: u32,
    /// Size of the log in it.
    pub size: u64,
}

/// `wizefs verify FILE --proof P`.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Verified {
    /// [`super::V`].
    pub v: u32,
    /// `proof`, `consistency`, or `state` for a state proof alone.
    pub r#type: &'static str,
    /// It holds, apart from the signer.
    pub ok: bool,
    /// `trusted`, `unchecked`, or `too-few-witnesses`.
    pub signer: &'static str,
    /// The trusted key, or the ids of the keys nobody vouches for.
    pub keys: Vec<String>,
    /// The log.
    pub log: String,
    /// Size of the log that the checkpoint is of.
    pub log_size: u64,
    /// The transaction; what follows is what it states.
    pub txid: Option<String>,
    /// Its place in the log.
    pub index: Option<u64>,
    /// When it was stated.
    pub time: Option<String>,
    /// Address of who stated it.
    pub author: Option<String>,
    /// `put`, `remove` and so on.
    pub op: Option<String>,
    /// The bucket's id.
    pub bucket_id: Option<String>,
    /// The path.
    #[serde(flatten)]
    pub path: WirePath,
    /// Bytes of the whole file.
    pub size: Option<u64>,
    /// BLAKE3 of the whole file.
    pub blake3: Option<String>,
    /// SHA-256 of the whole file.
    pub sha256: Option<String>,
    /// Bytes compared, first and last, when not the whole file.
    pub range: Option<(u64, u64)>,
    /// What the state proof says.
    pub state: Option<Standing>,
    /// 0 or 27.
    pub exit: u8,
}

/// What was true after a block.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Standing {
    /// The block.
    pub block: u64,
    /// The bucket's name.
    pub bucket: String,
    /// The path then.
    #[serde(flatten)]
    pub path: WirePath,
    /// `current`: this version was the one there; `absent`: nothing was.
    pub standing: &'static str,
}
