//! Signed, ordered, provable history.
//!
//! Statements become [`transaction`]s, wait in the [`mempool`], are sealed into [`block`]s and are leaves of an RFC 6962
//! log whose [`checkpoint`]s are signed; a sparse Merkle map of the [`state`] says what is true now. Anyone can check a
//! [`proof`] offline, and [`fsck`] rebuilds everything from genesis. `docs/FORMAT.md` describes every byte. This crate
//! knows no file system, no async runtime and no network.

pub mod address;
pub mod block;
pub mod chain;
pub mod checkpoint;
pub mod codec;
pub mod fsck;
pub mod hash;
mod keyfile;
mod log;
pub mod mempool;
mod mine;
pub mod proof;
mod reserve;
pub mod state;
pub mod store;
pub mod transaction;
#[cfg(test)]
mod vectors;
pub mod wallet;

pub use address::{AddressHash, BadAddress};
pub use block::{Block, DEFAULT_STAMP_BITS, Genesis, Header, MAX_STAMP_BITS};
pub use chain::{Bundle, Forgotten, History, Ledger, LedgerError, Logged, OpenError, OpenOptions, Order, Row, Space};
pub use checkpoint::{Checkpoint, CheckpointError, LogKey, Vkey};
pub use codec::{Label, TreePath};
pub use fsck::{Problem, Progress, RebuildError, Report, fsck_dir, rebuild_dir};
pub use hash::{BlockHash, BucketId, Hash, TxId};
pub use keyfile::SealedKey;
pub use mempool::{Draft, Pending, Statement};
pub use proof::{ConsistencyFile, ConsistencyProof, InclusionProof, Policy, ProofError, ProofFile, StateProof, Trust};
pub use state::{Bucket, BucketRecord, Counts, Entry, EntryNode, Leaf};
pub use transaction::{
    Authored, Body, BucketKind, Cause, Coinbase, Content, Envelope, Evidence, FileBody, FileOp, Hashes, Output,
    OutputRef, Put, Transaction, Transfer,
};
pub use wallet::{KeyError, PublicKey, Signature, Wallet, WalletFile};
