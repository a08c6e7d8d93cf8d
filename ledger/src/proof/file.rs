//! The text files that carry proofs: C2SP `tlog-proof`, and the body of a C2SP `tlog-witness` request for consistency.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{ConsistencyProof, InclusionProof};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::hash::{Hash, TxId};
use crate::transaction::Transaction;

/// First line of a proof file.
const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// Most hashes in a proof: no log has more than 2^64 entries.
const MOST_HASHES: usize = 64;

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The text is not of its format.
    #[error("not a proof: {0}")]
    Malformed(&'static str),
    /// The checkpoint in it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The hashes do not lead to the checkpoint's root.
    #[error("the proof does not lead to the checkpoint: {0}")]
    Refuted(&'static str),
    /// The older log is another one.
    #[error("the proof goes on from a log of {proof} entries, and the checkpoint is of one of {checkpoint}")]
    OtherSize {
        /// Entries of the log that the proof goes on from.
        proof: u64,
        /// Entries of the log that the checkpoint is of.
        checkpoint: u64,
    },
}

/// Result of reading or checking a proof.
pub(super) type Result<T> = std::result::Result<T, ProofError>;

/// A C2SP `tlog-proof` whose extra data is a transaction: that it is in the log that a checkpoint is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// The transaction's canonical bytes.
    pub bytes: Vec<u8>,
    /// Its place in the log.
    pub index: u64,
    /// Sibling hashes, from the leaf up.
    pub path: Vec<Hash>,
    /// The checkpoint, a C2SP signed note.
    pub checkpoint: String,
}

/// What a proof shows to be in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The transaction's name.
    pub txid: TxId,
    /// The transaction; its signature holds.
    pub transaction: Transaction,
    /// What the checkpoint states. Whose signatures it carries is for a [`super::Policy`] to judge.
    pub checkpoint: Checkpoint,
}

impl ProofFile {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nextra {}\nindex {}\n", STANDARD.encode(&self.bytes), self.index);
        push_hashes(&mut text, &self.path);
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// It is not of the format, or carries no transaction.
    pub fn parse(text: &str) -> Result<ProofFile> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Malformed("no empty line"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(ProofError::Malformed("it does not begin with c2sp.org/tlog-proof@v1"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let extra = extra.ok_or(ProofError::Malformed("no extra line: it holds the transaction"))?;
        let bytes = STANDARD.decode(extra).map_err(|_| ProofError::Malformed("the extra line is not base64"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(decimal);
        let index = index.ok_or(ProofError::Malformed("no index line"))?;
        let path = hashes(lines)?;
        Ok(ProofFile { bytes, index, path, checkpoint: checkpoint.to_owned() })
    }

    /// Whether the transaction is in the log that the checkpoint states, and is signed by its author.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self) -> Result<Logged> {
        let checkpoint = Checkpoint::unchecked(&self.checkpoint)?;
        let txid = Transaction::id(&self.bytes);
        let proof = InclusionProof { index: self.index, size: checkpoint.size, path: self.path.clone() };
        if !proof.verify(&txid, &checkpoint.root) {
            return Err(ProofError::Refuted("the transaction is not the one in the log"));
        }
        let transaction = Transaction::from_bytes(&self.bytes);
        let transaction = transaction.map_err(|_| ProofError::Refuted("what is in the log is no transaction"))?;
        if !transaction.signature_holds(&self.bytes) {
            return Err(ProofError::Refuted("the author's signature does not hold"));
        }
        if checkpoint.origin != crate::checkpoint::origin(&transaction.chain) {
            return Err(ProofError::Refuted("the transaction is of another chain than the log"));
        }
        Ok(Logged { txid, transaction, checkpoint })
    }
}

/// That the log of one checkpoint is a prefix of the log of another: the body of a C2SP `tlog-witness` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyFile {
    /// Size of the older log.
    pub old: u64,
    /// Hashes as RFC 6962 orders them.
    pub path: Vec<Hash>,
    /// The newer checkpoint, a C2SP signed note.
    pub checkpoint: String,
}

impl ConsistencyFile {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!("old {}\n", self.old);
        push_hashes(&mut text, &self.path);
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Whether text begins as such a file does.
    pub fn is_one(text: &str) -> bool {
        text.starts_with("old ")
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// It is not of the format.
    pub fn parse(text: &str) -> Result<ConsistencyFile> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Malformed("no empty line"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(decimal);
        let old = old.ok_or(ProofError::Malformed("no line with the old size"))?;
        Ok(ConsistencyFile { old, path: hashes(lines)?, checkpoint: checkpoint.to_owned() })
    }

    /// Whether the newer checkpoint extends the `old` one; what the newer one states.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, old: &Checkpoint) -> Result<Checkpoint> {
        let new = Checkpoint::unchecked(&self.checkpoint)?;
        if new.origin != old.origin {
            return Err(CheckpointError::Origin.into());
        }
        if self.old != old.size {
            return Err(ProofError::OtherSize { proof: self.old, checkpoint: old.size });
        }
        let proof = ConsistencyProof { old: self.old, new: new.size, path: self.path.clone() };
        if !proof.verify(&old.root, &new.root) {
            return Err(ProofError::Refuted("the newer log does not begin with the older one"));
        }
        Ok(new)
    }
}

pub(super) fn push_hashes(text: &mut String, hashes: &[Hash]) {
    for hash in hashes {
        text.push_str(&STANDARD.encode(hash.0));
        text.push('\n');
    }
}

/// One hash a line.
fn hashes<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Hash>> {
    let mut hashes = Vec::new();
    for line in lines {
        if hashes.len() == MOST_HASHES {
            return Err(ProofError::Malformed("more hashes than any log needs"));
        }
        hashes.push(hash(line).ok_or(ProofError::Malformed("a line is not the base64 of a hash"))?);
    }
    Ok(hashes)
}

pub(super) fn hash(line: &str) -> Option<Hash> {
    Some(Hash(STANDARD.decode(line).ok()?.try_into().ok()?))
}

/// A decimal number without sign or leading zeros.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}
