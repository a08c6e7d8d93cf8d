//! The shape of `status`.

use super::BucketStatus;
use crate::name::BucketName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `wizefs status`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// [`super::V`].
    pub v: u32,
    /// The process.
    pub node: NodeStatus,
    /// The chain.
    pub ledger: LedgerStatus,
    /// The buckets.
    pub buckets: Vec<BucketStatus>,
    /// What the kernel has asked of each mount, by FUSE's names; reads and writes past the node are not among it.
    #[serde(default)]
    pub requests: BTreeMap<BucketName, BTreeMap<String, u64>>,
}

/// The process in [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeStatus {
    /// Whether a node runs; a command on its own is none.
    pub running: bool,
    /// Its process id.
    pub pid: Option<u32>,
    /// Version of the program.
    pub version: String,
    /// Where REST listens.
    pub rest: Option<String>,
    /// Where gRPC listens.
    pub grpc: Option<String>,
    /// Where the chain routes listen of their own.
    pub chain: Option<String>,
    /// SHA-256 of the certificate, when TCP speaks TLS.
    #[serde(default)]
    pub tls: Option<String>,
    /// Whether clients on TCP are asked for a token.
    #[serde(default)]
    pub token: bool,
    /// When it started.
    pub since: Option<String>,
    /// Why it takes no writes, when it does not.
    pub problem: Option<String>,
}

/// The chain in [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LedgerStatus {
    /// Chain id.
    pub chain: String,
    /// C2SP verifier key of the log key.
    pub vkey: String,
    /// Height of the newest block.
    pub height: u64,
    /// Its hash.
    pub head: String,
    /// When it was sealed.
    pub head_time: Option<String>,
    /// Transactions in blocks.
    pub transactions: u64,
    /// Transactions in the log of the last checkpoint that `wizefs witness` took away: nothing before can be rewritten unseen.
    pub witnessed: Option<u64>,
    /// Root of that log.
    #[serde(default)]
    pub witnessed_root: Option<String>,
    /// When it was taken away.
    #[serde(default)]
    pub witnessed_time: Option<String>,
    /// Transactions in the mempool.
    pub pending: u64,
    /// Changes not settled yet.
    pub unsettled: u64,
}

/// `wizefs stop`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Stopping {
    /// [`super::V`].
    pub v: u32,
    /// The node is about to end.
    pub stopping: bool,
}

/// How much tracing there is.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Trace {
    /// [`super::V`].
    pub v: u32,
    /// The filter of the moment.
    pub filter: String,
}

/// How much tracing there should be.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TraceRequest {
    /// A filter: `debug`, or `info,wizefs_fs=trace`.
    pub filter: String,
}
