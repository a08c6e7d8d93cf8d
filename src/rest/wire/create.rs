//! `wizefs create`: what is asked, what is heard meanwhile, what is answered.

use super::{ErrorBody, WirePath};
use crate::name::{BucketKind, BucketName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `wizefs create`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Create {
    /// The bucket's name.
    pub origin: BucketName,
    /// Its kind; the name decides without.
    #[serde(default)]
    pub kind: Option<BucketKind>,
    /// The directory or archive to adopt.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub from: Option<PathBuf>,
    /// File with the passphrase of encrypted members, absolute; remembered.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub passfile: Option<PathBuf>,
}

/// A line of the reply to [`Create`]: progress while files are adopted, then the bucket or the failure.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum CreateLine {
    /// So far.
    Progress {
        /// How far.
        progress: Progress,
    },
    /// The bucket.
    Created(Created),
    /// The failure.
    Failed(ErrorBody),
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// Files recorded.
    pub files: u64,
    /// Their sizes, summed.
    pub bytes: u64,
}

/// The reply to [`Create`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Created {
    /// [`super::V`].
    pub v: u32,
    /// The bucket.
    pub bucket: BucketName,
    /// Its kind.
    pub kind: BucketKind,
    /// The transaction that created it.
    pub txid: String,
    /// The block of it.
    pub block: Option<u64>,
    /// Where the files are.
    #[schema(value_type = String)]
    pub backing: PathBuf,
    /// Files recorded when a directory or archive was adopted.
    pub imported: Option<Progress>,
    /// Members of an archive that cannot be read and are not recorded.
    pub unread: Vec<Unread>,
}

/// A member that cannot be read.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unread {
    /// Where it is.
    #[serde(flatten)]
    pub path: WirePath,
    /// Why.
    pub problem: String,
}
