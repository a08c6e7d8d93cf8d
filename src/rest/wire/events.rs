//! The shapes of `/v1/events`.

use super::LogLine;
use crate::name::BucketName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What happened; on the wire, the name stands in `event:` and the rest in `data:`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Event {
    /// `block`: sealed; its transactions follow.
    Block(BlockEvent),
    /// `transaction`: final.
    Transaction(Box<LogLine>),
    /// `mount`.
    Mount(MountEvent),
    /// `unmount`.
    Unmount(UnmountEvent),
}

impl Event {
    /// The name of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Block(_) => "block",
            Event::Transaction(_) => "transaction",
            Event::Mount(_) => "mount",
            Event::Unmount(_) => "unmount",
        }
    }
}

/// A block was sealed.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlockEvent {
    /// [`super::V`].
    pub v: u32,
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: String,
    /// When.
    pub time: String,
    /// Place of its first transaction in the log.
    pub first_index: u64,
    /// How many it has.
    pub count: u32,
}

/// A bucket was mounted.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MountEvent {
    /// [`super::V`].
    pub v: u32,
    /// When.
    pub time: String,
    /// The bucket.
    pub bucket: BucketName,
    /// Where.
    #[schema(value_type = String)]
    pub mountpoint: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A bucket was unmounted.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UnmountEvent {
    /// [`super::V`].
    pub v: u32,
    /// When.
    pub time: String,
    /// The bucket.
    pub bucket: BucketName,
    /// Where it was.
    #[schema(value_type = String)]
    pub mountpoint: PathBuf,
    /// Only detached: programs still use it.
    pub detached: bool,
}
