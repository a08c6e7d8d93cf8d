//! The shapes of coins and blocks: `wallet`, `send`, `block`, `mine`.

use super::{LogLine, TxStatus};
use serde::{Deserialize, Serialize};

/// A wallet: `wizefs wallet`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Wallet {
    /// [`super::V`].
    pub v: u32,
    /// Its name here.
    pub name: String,
    /// Its address.
    pub address: String,
    /// X||Y, 128 hex digits.
    pub public_key: String,
    /// Coins it can spend, pending transfers included.
    pub balance: u64,
    /// Whether a passphrase protects its key.
    pub sealed: bool,
}

/// `wizefs wallet list`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Wallets {
    /// [`super::V`].
    pub v: u32,
    /// Sorted by name.
    pub wallets: Vec<Wallet>,
}

/// What is to be sent.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TransferRequest {
    /// Public key of the sender, 128 hex digits.
    pub from: String,
    /// Address of the receiver.
    pub to: String,
    /// Coins.
    pub amount: u64,
}

/// A transfer's canonical bytes, signed or not.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TransferBytes {
    /// Base64.
    pub bytes: String,
    /// Seal a block with it at once.
    #[serde(default)]
    pub minenow: bool,
}

/// `wizefs send`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Sent {
    /// [`super::V`].
    pub v: u32,
    /// The transfer.
    pub txid: String,
    /// `pending` or `final`.
    pub status: TxStatus,
    /// Its block.
    pub block: Option<u64>,
}

/// `wizefs block`, `wizefs mine`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Block {
    /// [`super::V`].
    pub v: u32,
    /// Blocks before it.
    pub height: u64,
    /// Its hash.
    pub hash: String,
    /// Hash of the block before.
    pub previous: String,
    /// When it was sealed.
    pub time: String,
    /// Address of who sealed it.
    pub sealer: String,
    /// Log index of its first transaction.
    pub first_index: u64,
    /// Transactions in it.
    pub count: u32,
    /// Root of the log after it.
    pub log_root: String,
    /// Root of the state after it.
    pub state_root: String,
    /// Leading zero bits of its hash asked for.
    pub stamp_bits: u8,
    /// What makes the hash fit.
    pub nonce: u64,
    /// Its transactions.
    pub transactions: Vec<LogLine>,
}
