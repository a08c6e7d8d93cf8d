//! Proofs for people without a node: of what is at a path, of one log being the beginning of another, of parts of files.

use super::{Node, files::tree_path, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::wire;
use crate::slice;
use wizefs_fs::BucketPath;
use wizefs_ledger::{BucketId, Checkpoint, Hash, History, Order, TxId};

/// The private row that holds the last checkpoint somebody took away: size of its log, and when, in microseconds since 1970.
const WITNESSED: &[u8] = b"witnessed";

/// A checkpoint that somebody took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWitnessed {
    /// Size of its log.
    pub size: u64,
    /// Root of its log.
    pub root: Option<String>,
    /// When it was taken.
    pub time: Option<String>,
}

impl Node {
    /// Prove what is at a path, or the change that took it away: the transaction in the log, and with `state` that it is the
    /// current one. Where nothing was ever recorded there is no transaction, and `state` alone proves that. Everything settled
    /// so far is final then.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`]; [`Kind::FileMissing`] when nothing was ever recorded there and `state` was not asked for;
    /// [`Kind::Busy`] while it is being written.
    pub fn prove(&self, name: &BucketName, path: &BucketPath, state: bool) -> Result<wire::Proof> {
        self.sync(Some(name), false)?;
        let id = self.bucket(name)?.id;
        let path_there = tree_path(path)?;
        if path.is_root() {
            return Err(Error::new(Kind::NotAFile, format!("{name} is a bucket: name a file in it")));
        }
        let state = state.then(|| self.ledger.prove_state(&id, &path_there)).transpose().map_err(trouble::ledger)?;
        let current = state.as_ref().and_then(|state| state.check().ok()?.entry).map(|entry| entry.content_txid());
        let proven = match (current, self.newest_at(&id, name, path)) {
            (Some(txid), _) | (None, Ok(txid)) => Some(txid),
            (None, Err(error)) if error.kind == Kind::FileMissing && state.is_some() => None,
            (None, Err(error)) => return Err(error),
        };
        let made = proven.map(|txid| match &state {
            Some(state) => self.ledger.prove_beside(&txid, state),
            None => self.ledger.prove(&txid),
        });
        let pending = || Error::new(Kind::Busy, format!("the last change of {name}/{path} is still pending"));
        let proof = made.map(|made| made.map_err(trouble::ledger)?.ok_or_else(pending)).transpose()?;
        let checkpoint = match (&proof, &state) {
            (Some(proof), _) => &proof.checkpoint,
            (None, Some(state)) => &state.coinbase.checkpoint,
            (None, None) => return Err(pending()),
        };
        let stated = Checkpoint::unchecked(checkpoint);
        let stated = stated.map_err(|e| Error::new(Kind::LedgerDamaged, e.to_string()))?;
        let block =
            proof.as_ref().map(|proof| self.ledger.block_of(proof.index)).transpose().map_err(trouble::ledger)?;
        Ok(wire::Proof {
            v: wire::V,
            txid: proven.map(|txid| txid.to_string()),
            index: proof.as_ref().map(|proof| proof.index),
            block: block.flatten().map(|block| block.header.height),
            log_size: stated.size,
            bucket: name.clone(),
            path: path.into(),
            proof: proof.map(|proof| proof.to_text()),
            state_block: state.as_ref().map(|state| state.block),
            state: state.map(|state| state.to_text()),
            files: Vec::new(),
        })
    }

    /// The transaction that made what is at a path, or that took away what was there.
    fn newest_at(&self, id: &BucketId, name: &BucketName, path: &BucketPath) -> Result<TxId> {
        let there = tree_path(path)?;
        if let Some(entry) = self.ledger.entry(id, &there).map_err(trouble::ledger)? {
            return Ok(entry.content_txid());
        }
        let history = self.ledger.history(&History::Path(*id, there), Order::NewestFirst, None, 1);
        let newest = history.map_err(trouble::ledger)?.first().map(|logged| logged.txid);
        newest.ok_or_else(|| {
            let error = Error::new(Kind::FileMissing, format!("nothing was ever recorded at {name}/{path}"));
            error.hint(format!("wizefs list {name} shows what is there"))
        })
    }

    /// The bao slice of bytes `first..=last` of a file, checked against the ledger.
    ///
    /// # Errors
    /// As [`Node::get`]; [`Kind::Usage`] for a range that the file does not have or that is too long.
    pub fn slice(&self, name: &BucketName, path: &BucketPath, first: u64, last: u64) -> Result<Vec<u8>> {
        let (recorded, content) = self.get(name, path)?;
        let size = recorded.stored.size;
        if first > last || last >= size {
            return Err(Error::new(Kind::Usage, format!("{name}/{path} has {size} bytes, so no range {first}-{last}")));
        }
        if last - first >= slice::MOST {
            let text = format!("a proof of a range holds at most {} bytes", slice::MOST);
            return Err(Error::new(Kind::Usage, text).hint("prove the whole file, or several ranges"));
        }
        let root = wire::unhex(&recorded.stored.blake3).ok_or_else(|| Error::new(Kind::Internal, "no hash"))?;
        let made = slice::encode(content.file(), &root, size, first, last);
        made.map_err(|e| Error::io(Kind::Failed, format!("cannot read {name}/{path}"), &e))
    }

    /// Prove that the log of today begins with the log of `old` entries.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the log is shorter than that.
    pub fn prove_since(&self, old: u64) -> Result<wire::Consistency> {
        let size = self.ledger.size();
        if old > size {
            return Err(Error::new(Kind::Usage, format!("the log has {size} entries, not {old}")));
        }
        let proof = self.ledger.prove_since(old).map_err(trouble::ledger)?;
        Ok(wire::Consistency { v: wire::V, old, proof: proof.to_text() })
    }

    /// Remember that somebody took this checkpoint away: from now on that much of the history cannot be rewritten unseen.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is not of this log as it is.
    pub fn witnessed(&self, size: u64, root: &Hash) -> Result<()> {
        let known = self.ledger.log_root(size).map_err(trouble::ledger)?;
        if known != Some(*root) {
            return Err(Error::new(Kind::Usage, "that is no checkpoint of this log"));
        }
        let now = jiff::Timestamp::now().as_microsecond();
        let row = (WITNESSED.to_vec(), Some([size.to_be_bytes(), now.to_be_bytes()].concat()));
        self.ledger.write_local(&[row]).map_err(trouble::ledger)
    }

    /// The last checkpoint somebody took away.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn last_witnessed(&self) -> Result<Option<LastWitnessed>> {
        let Some(row) = self.ledger.local(WITNESSED).map_err(trouble::ledger)? else { return Ok(None) };
        let number = |at: usize| row.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let Some(size) = number(0) else { return Ok(None) };
        let time = number(8).and_then(|micros| i64::try_from(micros).ok()).map(wire::time);
        let root = self.ledger.log_root(size).map_err(trouble::ledger)?;
        Ok(Some(LastWitnessed { size, root: root.map(|root| root.to_string()), time }))
    }
}
