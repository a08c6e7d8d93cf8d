//! Proofs for people without a node: of what is at a path, of one log being the beginning of another, of parts of files.

use super::{Node, files::tree_path, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::wire;
use crate::slice;
use wizefs_fs::BucketPath;
use wizefs_ledger::{BucketId, Checkpoint, Entry, Hash, History, Logged, Order, Transaction, TreePath, TxId};

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

/// No transaction says what is at a path.
fn unproven(name: &BucketName, path: &BucketPath, is_there: bool) -> Error {
    if is_there {
        let text = format!("{name}/{path} is a folder that no transaction made: it came with what was put in it");
        return Error::new(Kind::NotAFile, text)
            .hint("add --state and -o FILE: the state alone proves that it is there");
    }
    let error = Error::new(Kind::FileMissing, format!("no transaction tells of {name}/{path}"));
    error.hint(format!("wizefs list {name} shows what is there"))
}

impl Node {
    /// Prove what is at a path, or the change that took it away: the transaction in the log, and with `state` that it is the
    /// current one. Where no transaction says it (nothing was ever recorded, the removal is erased, a folder is only
    /// implied by what is in it) `state` alone proves it. Everything settled so far is final then.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`]; without `state` [`Kind::FileMissing`] when nothing was ever recorded there and
    /// [`Kind::NotAFile`] for a folder that is only implied; [`Kind::Busy`] while it is being written.
    pub fn prove(&self, name: &BucketName, path: &BucketPath, state: bool) -> Result<wire::Proof> {
        self.sync(Some(name), false)?;
        let id = self.bucket(name)?.id;
        let path_there = tree_path(path)?;
        if path.is_root() {
            return Err(Error::new(Kind::NotAFile, format!("{name} is a bucket: name a file in it")));
        }
        let state = state.then(|| self.ledger.prove_state(&id, &path_there)).transpose().map_err(trouble::ledger)?;
        if state.is_some() {
            // It may have sealed a block.
            self.sealer.announce(self);
        }
        let current = match &state {
            Some(state) => state.check().map_err(|e| Error::new(Kind::LedgerDamaged, e.to_string()))?.entry,
            None => self.ledger.entry(&id, &path_there).map_err(trouble::ledger)?,
        };
        let proven = match &current {
            Some(entry) => self.stated_by(entry, &path_there)?,
            None => self.taken_away_by(&id, &path_there, state.is_some())?,
        };
        if proven.is_none() && state.is_none() {
            return Err(unproven(name, path, current.is_some()));
        }
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

    /// The transaction that says what is at a path; none for a folder that is only implied.
    fn stated_by(&self, entry: &Entry, path: &TreePath) -> Result<Option<TxId>> {
        let logged = self.ledger.transaction(&entry.content_txid()).map_err(trouble::ledger)?;
        let is_said = |logged: &Logged| {
            let file = logged.transaction.as_ref().and_then(Transaction::file);
            file.is_some_and(|file| entry.is_stated_by(&file.op, path))
        };
        Ok(logged.filter(is_said).map(|logged| logged.txid))
    }

    /// The transaction that took away what was at a path. Where that one is erased: none with `surely`, else the newest that
    /// is left of the path's history.
    fn taken_away_by(&self, id: &BucketId, path: &TreePath, surely: bool) -> Result<Option<TxId>> {
        let history = self.ledger.history(&History::Path(*id, path.clone()), Order::NewestFirst, None, 1);
        // What was never there was taken away by nobody, whatever became of the folders above.
        let Some(newest) = history.map_err(trouble::ledger)?.into_iter().next() else { return Ok(None) };
        let last = self.ledger.last_change(id, path).map_err(trouble::ledger)?;
        let goes = |logged: &Logged| {
            let file = logged.transaction.as_ref().and_then(Transaction::file);
            file.is_some_and(|file| file.op.takes_away(path))
        };
        let gone = last.filter(goes).map(|logged| logged.txid);
        Ok(if surely { gone } else { gone.or(Some(newest.txid)) })
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
