//! Blocks and the parameters a chain starts from. FORMAT.md sections 3 and 4 show their bytes.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{DecodeError, decode_versioned, encode};
use crate::hash::{BlockHash, Hash};
use crate::wallet::{PublicKey, Signature, Wallet};

/// Prefix of what a sealer signs; the block hash follows.
pub const BLOCK_DOMAIN: &[u8] = b"wizefs block v1\0";
/// Prefix of the genesis parameters in the chain id.
pub const GENESIS_DOMAIN: &[u8] = b"wizefs genesis v1\0";
/// Coins the genesis block makes.
pub const EMISSION: u64 = 1_000_000;
/// Coins every later block makes.
pub const REWARD: u64 = 10;
/// Hashcash stamp a new chain asks for unless told otherwise, in leading zero bits.
pub const DEFAULT_STAMP_BITS: u8 = 16;
/// Hardest stamp a chain may ask for.
pub const MAX_STAMP_BITS: u8 = 24;

/// What makes a chain itself and no other.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Genesis {
    /// Format version.
    pub version: GenesisVersion,
    /// Random bytes.
    pub random: [u8; 32],
    /// The node's wallet: seals blocks, gets the emission.
    pub wallet: PublicKey,
    /// Ed25519 key that signs checkpoints.
    pub log_key: [u8; 32],
    /// When the chain was made, microseconds since 1970 UTC.
    pub time_us: u64,
    /// Coins the genesis block makes.
    pub emission: u64,
    /// Coins every later block makes.
    pub reward: u64,
    /// Leading zero bits every block hash must have.
    pub stamp_bits: u8,
}

/// Format version of genesis parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum GenesisVersion {
    /// The only version so far.
    V1 = 1,
}

impl Genesis {
    /// SHA-256([`GENESIS_DOMAIN`] || parameters).
    pub fn chain_id(&self) -> Hash {
        Hash::of(&[GENESIS_DOMAIN, &encode(self)])
    }
}

/// A block's header, 239 bytes. The nonce is last, so that a stamp search hashes all but the last 47 bytes once.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Header {
    /// Format version.
    pub version: HeaderVersion,
    /// The chain it belongs to.
    pub chain: Hash,
    /// Blocks before it.
    pub height: u64,
    /// Hash of the block before; zero in genesis.
    pub previous: BlockHash,
    /// max(time of the block before, sealer's clock), microseconds since 1970 UTC.
    pub time_us: u64,
    /// Who sealed and signed it.
    pub sealer: PublicKey,
    /// Log index of its first transaction, the coinbase.
    pub first_index: u64,
    /// Transactions in it, at least 1.
    pub count: u32,
    /// Size of the log after it.
    pub log_size: u64,
    /// RFC 6962 root of the log after it.
    pub log_root: Hash,
    /// Root of the state map after it.
    pub state_root: Hash,
    /// Leading zero bits its hash must have.
    pub stamp_bits: u8,
    /// What makes it final.
    pub certificate: CertificateKind,
    /// Varied until the hash fits the stamp.
    pub nonce: u64,
}

/// Format version of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum HeaderVersion {
    /// The only version so far.
    V1 = 1,
}

/// What makes a block final. 2 is kept for raft-majority, 3 for bft-2/3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum CertificateKind {
    /// One sealer's signature.
    Solo = 1,
}

impl Header {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// The block's name, and the hash its stamp is judged by.
    pub fn hash(&self) -> BlockHash {
        Hash::of(&[&self.to_bytes()])
    }
}

/// A sealed block: header and signature. Its transactions are the log's entries from `first_index`.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Block {
    /// Header.
    pub header: Header,
    /// The sealer's, over [`BLOCK_DOMAIN`] and the block hash.
    pub signature: Signature,
}

impl Block {
    /// Signs a stamped header.
    pub(crate) fn sign(header: Header, wallet: &Wallet) -> Block {
        let signature = wallet.sign(&[BLOCK_DOMAIN, &header.hash().0]);
        Block { header, signature }
    }

    /// The block's name.
    pub fn hash(&self) -> BlockHash {
        self.header.hash()
    }

    /// Whether the sealer's signature holds.
    pub fn signature_holds(&self) -> bool {
        self.header.sealer.verify(&[BLOCK_DOMAIN, &self.hash().0], &self.signature)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// Anything that is not exactly the encoding of a block.
    pub fn from_bytes(bytes: &[u8]) -> Result<Block, DecodeError> {
        decode_versioned(bytes)
    }
}
