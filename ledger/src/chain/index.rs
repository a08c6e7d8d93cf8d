//! Ways to find transactions and blocks. All derived: fsck rebuilds and compares them.
//!
//! Hashes are cut to 16 bytes in these keys; whoever reads checks against the whole one.

use crate::block::Block;
use crate::codec::{TreePath, encode};
use crate::hash::{BlockHash, BucketId, Hash, TxId};
use crate::transaction::{Authored, Body, Envelope, Transaction};

/// Bytes of a hash kept in a key.
const CUT: usize = 16;

fn key(tag: u8, hash: &Hash) -> Vec<u8> {
    [&[tag], &hash.0[..CUT]].concat()
}

fn key_at(mut key: Vec<u8>, index: u64) -> Vec<u8> {
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Row telling the log index of a transaction.
pub(crate) fn txid_key(txid: &TxId) -> Vec<u8> {
    key(b't', txid)
}

/// Prefix of the rows of a bucket's transactions; their log indexes follow.
pub(crate) fn bucket_prefix(bucket: &BucketId) -> Vec<u8> {
    key(b'b', bucket)
}

/// Prefix of the rows of the transactions that name a path; their log indexes follow.
pub(crate) fn path_prefix(bucket: &BucketId, path: &TreePath) -> Vec<u8> {
    key(b'p', &Hash::of(&[&bucket.0, path.as_bytes()]))
}

/// Row telling the height of a block by its hash.
pub(crate) fn block_key(hash: &BlockHash) -> Vec<u8> {
    key(b'h', hash)
}

/// Row telling the height of a block by the log index of its first transaction.
pub(crate) fn first_key(index: u64) -> Vec<u8> {
    key_at(vec![b'f'], index)
}

/// The bucket a transaction is about.
pub(crate) fn bucket_of(txid: &TxId, transaction: &Transaction) -> Option<BucketId> {
    let Envelope::Authored(Authored { body, .. }) = &transaction.envelope else { return None };
    Some(match body {
        Body::CreateBucket { .. } => *txid,
        Body::DeleteBucket { bucket } => *bucket,
        Body::File(file) => file.bucket,
    })
}

/// The rows of a transaction at log index `index`.
pub(crate) fn index_rows(index: u64, txid: &TxId, transaction: &Transaction, put: &mut dyn FnMut(Vec<u8>, Vec<u8>)) {
    put(txid_key(txid), encode(&index));
    if let Some(bucket) = bucket_of(txid, transaction) {
        put(key_at(bucket_prefix(&bucket), index), Vec::new());
    }
    if let Some(file) = transaction.file() {
        let (path, other) = file.op.paths();
        for path in std::iter::once(path).chain(other) {
            put(key_at(path_prefix(&file.bucket, path), index), Vec::new());
        }
    }
}

/// The rows of a block.
pub(crate) fn block_rows(block: &Block) -> [(Vec<u8>, Vec<u8>); 2] {
    let height = encode(&block.header.height);
    [(block_key(&block.hash()), height.clone()), (first_key(block.header.first_index), height)]
}

/// The log index at the end of a row's key.
pub(crate) fn index_in(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk::<8>()?))
}
