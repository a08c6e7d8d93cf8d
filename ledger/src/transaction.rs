//! Transactions: what is signed, and its bytes. FORMAT.md section 2 shows them with vectors.

use std::io::{self, Read};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::address::AddressHash;
use crate::codec::{
    DecodeError, Label, MAX_TARGET, MAX_TRANSACTION, TreePath, bounded_bytes, decode_versioned, encode, invalid,
};
use crate::hash::{BlockHash, BucketId, Hash, TxId};
use crate::wallet::{PublicKey, Signature, Wallet};

mod rules;

/// Prefix of the bytes a transaction's author signs.
pub const TRANSACTION_DOMAIN: &[u8] = b"wizefs tx v1\0";
/// Most inputs, and most outputs, of a transfer.
pub const MAX_COINS: usize = 256;

/// One leaf of the log.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Transaction {
    /// Format version.
    pub version: Version,
    /// The chain it belongs to; on another chain it is invalid.
    pub chain: Hash,
    /// Who states it, and what.
    pub envelope: Envelope,
}

/// Format version of a transaction; its first byte. Zero is taken by the stub of an erased one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum Version {
    /// The only version so far.
    V1 = 1,
}

/// The three ways a transaction comes about.
#[expect(clippy::large_enum_variant, reason = "nearly every value is of the largest variant")]
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Envelope {
    /// Stated by an author under a gapless sequence number.
    Authored(Authored) = 0,
    /// Coins moved; spent outputs prevent replay, so there is no sequence number.
    Transfer(Transfer) = 1,
    /// First leaf of every block; the block's signature covers it.
    Coinbase(Coinbase) = 2,
}

/// A signed statement of one author.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Authored {
    /// Who states it.
    pub author: PublicKey,
    /// The author's own count of statements, from 0 without gaps.
    pub sequence: u64,
    /// When it happened, microseconds since 1970 UTC.
    pub time_us: u64,
    /// Random bytes that make the leaf hash unguessable.
    pub salt: [u8; 16],
    /// What is stated.
    pub body: Body,
    /// Over [`TRANSACTION_DOMAIN`] and all canonical bytes before it; always the last 64 bytes.
    pub signature: Signature,
}

/// What an author states. Tags 16 to 31 are kept for: validator set, stake, token, grant, name, key-value, message,
/// rotation of the wallet key, rotation of the log key (in this order).
#[expect(clippy::large_enum_variant, reason = "nearly every value is of the largest variant")]
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Body {
    /// A new bucket, named for ever after by this transaction's txid.
    CreateBucket {
        /// Name, unique among the open buckets.
        name: Label,
        /// Kind of file system.
        kind: BucketKind,
    } = 1,
    /// A bucket's end; its history stays.
    DeleteBucket {
        /// The bucket.
        bucket: BucketId,
    } = 2,
    /// A change in a bucket.
    File(FileBody) = 3,
}

/// Kind of a bucket, with the numbers of `wizefs.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum BucketKind {
    /// A directory.
    Loopback = 1,
    /// A read-only archive.
    Zip = 2,
    /// A read-write archive.
    Lz = 3,
}

/// One change in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FileBody {
    /// The bucket it happened in.
    pub bucket: BucketId,
    /// The bucket's own number of the change.
    pub change: u64,
    /// How it came about.
    pub cause: Cause,
    /// Transaction of the entry this one replaces or removes at its path (rename: at `to`; exchange: at `b`).
    pub prior: Option<TxId>,
    /// Rename: transaction of the entry moved from `from`. Exchange: of the entry at `a`. Else none.
    pub source: Option<TxId>,
    /// What happened.
    pub op: FileOp,
}

/// How a change came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum Cause {
    /// By a program through the mount.
    Mount = 0,
    /// By put, remove or their services.
    Put = 1,
    /// Found when a tree was adopted.
    Import = 2,
    /// Found by recovery, ours.
    Recovered = 3,
    /// Made behind the mount: recorded, not vouched for.
    Foreign = 4,
}

/// What happened to which path. All paths name an entry, never the root, except `Mkdir` (the root's mode).
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum FileOp {
    /// A file or symlink has this content; missing parents are implied, whatever stood there is replaced.
    Put(Put) = 1,
    /// Nothing is at the path (a directory's entry goes with all below it).
    Remove {
        /// Where.
        path: TreePath,
    } = 2,
    /// The entry, a directory with all below it, moved and replaced what was at `to`.
    Rename {
        /// Old path.
        from: TreePath,
        /// New path.
        to: TreePath,
    } = 3,
    /// Two entries changed places.
    Exchange {
        /// One path.
        a: TreePath,
        /// The other path.
        b: TreePath,
    } = 4,
    /// A directory is at the path with this mode; if there was one already, its mode changed.
    Mkdir {
        /// Where; the root is allowed.
        path: TreePath,
        /// Permission bits, 0o7777.
        mode: u32,
    } = 5,
    /// The directory at the path is gone.
    Rmdir {
        /// Where.
        path: TreePath,
    } = 6,
    /// As `Put`: the author takes a foreign state as their own.
    Accept(Put) = 7,
}

/// A file's or symlink's state.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Put {
    /// Where.
    pub path: TreePath,
    /// What is in it.
    pub content: Content,
    /// Permission bits, 0o7777.
    pub mode: u32,
    /// Owner when it was settled; carried, not watched.
    pub uid: u32,
    /// Group when it was settled; carried, not watched.
    pub gid: u32,
    /// Modification time, nanoseconds since 1970 UTC; carried, not watched.
    pub mtime_ns: i64,
    /// How it was established that nobody could still write it.
    pub evidence: Evidence,
}

/// Content of an entry.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Content {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// None while writers are open: never an invented hash.
        hashes: Option<Hashes>,
    } = 0,
    /// A symbolic link.
    Symlink {
        /// Where it points, 1 to 4,095 bytes.
        #[borsh(deserialize_with = "target_bytes")]
        target: Vec<u8>,
    } = 1,
}

/// Both hashes of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Hashes {
    /// BLAKE3.
    pub blake3: [u8; 32],
    /// SHA-256.
    pub sha256: [u8; 32],
}

/// How it was established that a content was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum Evidence {
    /// A read lease was held while hashing.
    Lease = 0,
    /// Equal statx before and after.
    Stat = 1,
    /// It was not: writers are open, the hashes are null.
    OpenWriters = 2,
}

/// Coins moved from outputs the author owns to new ones.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Transfer {
    /// Owner of every input.
    pub author: PublicKey,
    /// When, microseconds since 1970 UTC.
    pub time_us: u64,
    /// Random bytes that make the leaf hash unguessable.
    pub salt: [u8; 16],
    /// Outputs spent, 1 to 256, none twice.
    pub inputs: Vec<OutputRef>,
    /// Outputs made, 1 to 256; their sum is the inputs' sum.
    pub outputs: Vec<Output>,
    /// As in [`Authored`].
    pub signature: Signature,
}

/// Names an output: the transaction that made it and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct OutputRef {
    /// Transaction that made it.
    pub txid: TxId,
    /// Place among its outputs, from 0.
    pub index: u32,
}

/// Coins at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Output {
    /// Coins, at least 1.
    pub amount: u64,
    /// Who may spend them.
    pub address: AddressHash,
}

/// First leaf of a block: makes its reward and ties the log to the chain of headers and states.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Coinbase {
    /// Height of its block.
    pub height: u64,
    /// Hash of the block before; zero in genesis.
    pub previous_block: BlockHash,
    /// State root after the block before; the empty map's root in genesis.
    pub previous_state: Hash,
    /// Who gets the reward.
    pub address: AddressHash,
    /// Coins made; none are when it is zero.
    pub reward: u64,
}

/// What stays of an erased transaction: enough to replay the chain without its content. Stored in its place, first
/// byte 0; its leaf hash stays in the log.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Erased {
    /// Format version of the stub: 0.
    pub version: ErasedVersion,
    /// The erased transaction's author.
    pub author: PublicKey,
    /// The author's sequence number it used.
    pub sequence: u64,
    /// Its time, microseconds since 1970 UTC.
    pub time_us: u64,
    /// Its [`Body`] tag, and the [`FileOp`] tag or 0.
    pub kind: [u8; 2],
    /// What it did to the state map, in the map's own hashes.
    pub updates: Vec<StateUpdate>,
}

/// Format version of an erased transaction's stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum ErasedVersion {
    /// The only version so far.
    V0 = 0,
}

/// One update of the state map as a stub keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StateUpdate {
    /// Key of the map.
    pub key: Hash,
    /// SHA-256 of the value; none when the key was removed.
    pub value: Option<Hash>,
}

impl Transaction {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// Anything that is not exactly the encoding of a well-formed transaction.
    pub fn from_bytes(bytes: &[u8]) -> Result<Transaction, DecodeError> {
        if bytes.len() > MAX_TRANSACTION {
            return Err(DecodeError::Oversize(bytes.len()));
        }
        let transaction: Transaction = decode_versioned(bytes)?;
        transaction.check_shape().map_err(|what| DecodeError::Malformed(what.into()))?;
        Ok(transaction)
    }

    /// The txid of canonical bytes.
    pub fn id(bytes: &[u8]) -> TxId {
        Hash::leaf(bytes)
    }

    /// When it was stated, microseconds since 1970 UTC; a coinbase has its block's time.
    pub fn time_us(&self) -> Option<u64> {
        match &self.envelope {
            Envelope::Authored(authored) => Some(authored.time_us),
            Envelope::Transfer(transfer) => Some(transfer.time_us),
            Envelope::Coinbase(_) => None,
        }
    }

    /// Who stated it; nobody a coinbase.
    pub fn author(&self) -> Option<&PublicKey> {
        match &self.envelope {
            Envelope::Authored(authored) => Some(&authored.author),
            Envelope::Transfer(transfer) => Some(&transfer.author),
            Envelope::Coinbase(_) => None,
        }
    }

    /// The change in a bucket it states, if it is one.
    pub fn file(&self) -> Option<&FileBody> {
        match &self.envelope {
            Envelope::Authored(Authored { body: Body::File(file), .. }) => Some(file),
            _ => None,
        }
    }

    /// Signs in place, with the author's wallet, and returns the canonical bytes.
    pub(crate) fn sign(&mut self, wallet: &Wallet) -> Vec<u8> {
        let mut bytes = encode(self);
        let unsigned = bytes.len() - Signature::LENGTH;
        let signature = wallet.sign(&[TRANSACTION_DOMAIN, &bytes[..unsigned]]);
        bytes[unsigned..].copy_from_slice(&signature.0);
        match &mut self.envelope {
            Envelope::Authored(authored) => authored.signature = signature,
            Envelope::Transfer(transfer) => transfer.signature = signature,
            Envelope::Coinbase(_) => unreachable!("a coinbase is not signed"),
        }
        bytes
    }

    /// What its author signs, hashed: an ECDSA signature over this hash is the transaction's.
    pub fn signing_hash(&self) -> Hash {
        let bytes = encode(self);
        Hash::of(&[TRANSACTION_DOMAIN, &bytes[..bytes.len().saturating_sub(Signature::LENGTH)]])
    }

    /// A transfer's canonical bytes with this signature; whether it is the author's is not judged here.
    pub fn signed_with(mut self, signature: Signature) -> Vec<u8> {
        if let Envelope::Transfer(transfer) = &mut self.envelope {
            transfer.signature = signature;
        }
        encode(&self)
    }

    /// A transfer's canonical bytes, signed with the author's wallet.
    pub fn signed_by(mut self, wallet: &Wallet) -> Vec<u8> {
        match self.envelope {
            Envelope::Transfer(_) => self.sign(wallet),
            _ => encode(&self),
        }
    }

    /// Whether `bytes`, this transaction's encoding, carry the author's signature; a coinbase carries none.
    pub fn signature_holds(&self, bytes: &[u8]) -> bool {
        let (author, signature) = match &self.envelope {
            Envelope::Authored(authored) => (&authored.author, &authored.signature),
            Envelope::Transfer(transfer) => (&transfer.author, &transfer.signature),
            Envelope::Coinbase(_) => return true,
        };
        match bytes.len().checked_sub(Signature::LENGTH) {
            Some(unsigned) => author.verify(&[TRANSACTION_DOMAIN, &bytes[..unsigned]], signature),
            None => false,
        }
    }
}

impl Body {
    /// The tags an erased transaction's stub keeps: body, and file operation or 0.
    pub fn kind(&self) -> [u8; 2] {
        match self {
            Body::CreateBucket { .. } => [1, 0],
            Body::DeleteBucket { .. } => [2, 0],
            Body::File(file) => [3, file.op.tag()],
        }
    }
}

impl FileOp {
    fn tag(&self) -> u8 {
        match self {
            FileOp::Put(_) => 1,
            FileOp::Remove { .. } => 2,
            FileOp::Rename { .. } => 3,
            FileOp::Exchange { .. } => 4,
            FileOp::Mkdir { .. } => 5,
            FileOp::Rmdir { .. } => 6,
            FileOp::Accept(_) => 7,
        }
    }

    /// The path it ends at (exchange: `b`), and the other one it touches (rename: `from`, exchange: `a`).
    pub fn paths(&self) -> (&TreePath, Option<&TreePath>) {
        match self {
            FileOp::Put(put) | FileOp::Accept(put) => (&put.path, None),
            FileOp::Remove { path } | FileOp::Mkdir { path, .. } | FileOp::Rmdir { path } => (path, None),
            FileOp::Rename { from, to } => (to, Some(from)),
            FileOp::Exchange { a, b } => (b, Some(a)),
        }
    }

    /// What it moved: new path, old path.
    pub fn moves(&self) -> Vec<(&TreePath, &TreePath)> {
        match self {
            FileOp::Rename { from, to } => vec![(to, from)],
            FileOp::Exchange { a, b } => vec![(b, a), (a, b)],
            _ => Vec::new(),
        }
    }

    /// Whether what is at `path` goes from there, by itself or with a directory above it.
    pub fn takes_away(&self, path: &TreePath) -> bool {
        match self {
            FileOp::Put(put) | FileOp::Accept(put) => path.below(&put.path).is_some_and(|rest| !rest.is_empty()),
            FileOp::Mkdir { .. } => false,
            FileOp::Remove { path: gone } | FileOp::Rmdir { path: gone } => path.below(gone).is_some(),
            FileOp::Rename { .. } | FileOp::Exchange { .. } => {
                self.moves().into_iter().any(|(_, from)| path.below(from).is_some())
            }
        }
    }
}

/// Reads a symlink target, bounded before it is allocated.
fn target_bytes<R: Read>(reader: &mut R) -> io::Result<Vec<u8>> {
    let target = bounded_bytes(reader, MAX_TARGET)?;
    if target.is_empty() {
        return Err(invalid("a symlink target is empty"));
    }
    Ok(target)
}
