//! What was true after a block: that an entry is the current one at its path, or that nothing is there.
//!
//! A path is followed through the state map with one proof for each row on its way, against one state root. The coinbase
//! of the next block repeats that root and is itself proven to be in the log, so one checkpoint vouches for all of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::file::{Result, decimal, hash, push_hashes};
use super::{ProofError, ProofFile};
use crate::checkpoint::Checkpoint;
use crate::codec::{TreePath, decode};
use crate::hash::{BucketId, Hash};
use crate::state::{BucketRecord, Entry, EntryNode, map, row};
use crate::transaction::Envelope;

/// First line of the file.
const FIRST_LINE: &str = "wizefs.invalid/state-proof@v1";
/// Bits of a key, so most siblings on its way.
const BITS: usize = 256;

/// What is under a key of the state map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapProof {
    /// The only leaf where the search ends: key and value hash. None when nothing is there.
    pub(crate) leaf: Option<(Hash, Hash)>,
    /// Sibling hashes, from the leaf up.
    pub(crate) siblings: Vec<Hash>,
}

impl MapProof {
    /// Whether it shows that `key` has a value with this hash, or none, in the map with `root`.
    fn verify(&self, root: &Hash, key: &Hash, value: Option<Hash>) -> bool {
        let depth = self.siblings.len();
        let ends_right = match (value, self.leaf) {
            (Some(value), leaf) => leaf == Some((*key, value)),
            (None, None) => true,
            // Another key's leaf: it must be the one a search for this key ends at.
            (None, Some((other, _))) => other != *key && common_bits(&other, key) >= depth,
        };
        if depth > BITS || !ends_right {
            return false;
        }
        let mut hash = self.leaf.map_or(map::EMPTY_ROOT, |(key, value)| map::leaf_hash(&key, &value));
        for (level, sibling) in (0..depth).rev().zip(&self.siblings) {
            hash = match bit(key, level) {
                true => map::inner_hash(sibling, &hash),
                false => map::inner_hash(&hash, sibling),
            };
        }
        hash == *root
    }
}

fn bit(key: &Hash, at: usize) -> bool {
    key.0[at / 8] >> (7 - at % 8) & 1 == 1
}

fn common_bits(a: &Hash, b: &Hash) -> usize {
    (0..BITS).take_while(|at| bit(a, *at) == bit(b, *at)).count()
}

/// A row of the state, and what is under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowProof {
    /// Key of the row, as the format has it.
    pub(crate) row: Vec<u8>,
    /// Its value, if it has one.
    pub(crate) value: Option<Vec<u8>>,
    /// The way to it in the map.
    pub(crate) proof: MapProof,
}

/// That something, or nothing, was at a path after a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateProof {
    /// The block.
    pub block: u64,
    /// The bucket.
    pub bucket: BucketId,
    /// The path in it; not the root.
    pub path: TreePath,
    /// The bucket's row, then one for each component as far as the path can be followed.
    pub(crate) rows: Vec<RowProof>,
    /// The next block's coinbase in the log: it repeats the state root.
    pub coinbase: ProofFile,
}

/// What a state proof shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The bucket.
    pub bucket: BucketRecord,
    /// What is at the path; none when nothing is, or when the bucket is deleted.
    pub entry: Option<Entry>,
    /// What the checkpoint states. Whose signatures it carries is for a [`super::Policy`] to judge.
    pub checkpoint: Checkpoint,
}

impl StateProof {
    /// Whether all of it holds: what is at the path.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> Result<Standing> {
        let logged = self.coinbase.check()?;
        let Envelope::Coinbase(coinbase) = &logged.transaction.envelope else {
            return Err(ProofError::Refuted("what stands for the block is no coinbase"));
        };
        if self.block.checked_add(1) != Some(coinbase.height) {
            return Err(ProofError::Refuted("the coinbase is not the next block's"));
        }
        let mut rows = self.rows.iter();
        let bucket = prove(rows.next(), &row::bucket(&self.bucket), &coinbase.previous_state)?;
        let bucket = bucket.ok_or(ProofError::Refuted("there is no such bucket"))?;
        let bucket: BucketRecord = decode(bucket).map_err(|_| ProofError::Refuted("the bucket's row is malformed"))?;
        let mut directory = self.bucket;
        let mut names = self.path.components().peekable();
        let mut found = None;
        while let Some(name) = names.next().filter(|_| !bucket.closed) {
            let key = row::entry(&self.bucket, &directory, name);
            let value = prove(rows.next(), &key, &coinbase.previous_state)?;
            let entry: Option<Entry> = value.map(decode).transpose().map_err(|_| ProofError::Refuted("an entry"))?;
            match entry.as_ref().map(|entry| &entry.node) {
                Some(EntryNode::Directory { id, .. }) if names.peek().is_some() => directory = *id,
                _ => {
                    found = entry.filter(|_| names.peek().is_none());
                    break;
                }
            }
        }
        match rows.next() {
            None => Ok(Standing { bucket, entry: found, checkpoint: logged.checkpoint }),
            Some(_) => Err(ProofError::Refuted("it has rows beyond the path")),
        }
    }

    /// Whether text begins as such a file does.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(FIRST_LINE)
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let path = STANDARD.encode(self.path.as_bytes());
        let mut text = format!("{FIRST_LINE}\nblock {}\nbucket {}\npath {path}\n", self.block, self.bucket);
        for RowProof { row, value, proof } in &self.rows {
            let row = STANDARD.encode(row);
            text += &match (value, &proof.leaf) {
                (Some(value), _) => format!("row {row} value {}\n", STANDARD.encode(value)),
                (None, None) => format!("row {row} empty\n"),
                (None, Some((key, value))) => {
                    format!("row {row} other {} {}\n", STANDARD.encode(key.0), STANDARD.encode(value.0))
                }
            };
            push_hashes(&mut text, &proof.siblings);
        }
        text.push('\n');
        text.push_str(&self.coinbase.to_text());
        text
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// It is not of the format.
    pub fn parse(text: &str) -> Result<StateProof> {
        let (head, coinbase) = text.split_once("\n\n").ok_or(ProofError::Malformed("no empty line"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(ProofError::Malformed("it does not begin with wizefs.invalid/state-proof@v1"));
        }
        let mut field = |name| lines.next().and_then(|line| line.strip_prefix(name)).ok_or(ProofError::Malformed(name));
        let block = decimal(field("block ")?).ok_or(ProofError::Malformed("block"))?;
        let bucket = field("bucket ")?;
        // One text for one proof: upper-case digits are not it.
        let bucket: Hash = bucket
            .parse()
            .ok()
            .filter(|hash: &Hash| hash.to_string() == bucket)
            .ok_or(ProofError::Malformed("bucket"))?;
        let path = STANDARD.decode(field("path ")?).ok().and_then(|path| TreePath::new(path).ok());
        let path = path.filter(|path| !path.is_root()).ok_or(ProofError::Malformed("path"))?;
        let mut rows = Vec::new();
        while let Some(line) = lines.next() {
            let mut row = row_line(line).ok_or(ProofError::Malformed("row"))?;
            while let Some(line) = lines.next_if(|line| !line.starts_with("row ")) {
                row.proof.siblings.push(hash(line).ok_or(ProofError::Malformed("sibling"))?);
            }
            rows.push(row);
        }
        Ok(StateProof { block, bucket, path, rows, coinbase: ProofFile::parse(coinbase)? })
    }
}

/// The value that a row proof shows for the row it must be about.
fn prove<'a>(proof: Option<&'a RowProof>, row: &[u8], root: &Hash) -> Result<Option<&'a [u8]>> {
    let proof = proof.ok_or(ProofError::Refuted("a row on the path's way is missing"))?;
    let key = row::map_key(row).ok_or(ProofError::Refuted("a row that the map does not hold"))?;
    let value = proof.value.as_deref();
    if proof.row != row || !proof.proof.verify(root, &key, value.map(|value| Hash::of(&[value]))) {
        return Err(ProofError::Refuted("a row is not what the state root says"));
    }
    Ok(value)
}

fn row_line(line: &str) -> Option<RowProof> {
    let words: Vec<&str> = line.split(' ').collect();
    let bytes = |text: &str| STANDARD.decode(text).ok();
    let (row, value, leaf) = match words.as_slice() {
        ["row", row, "value", value] => {
            let (row, value) = (bytes(row)?, bytes(value)?);
            let leaf = (row::map_key(&row)?, Hash::of(&[&value]));
            (row, Some(value), Some(leaf))
        }
        ["row", row, "empty"] => (bytes(row)?, None, None),
        ["row", row, "other", key, value] => (bytes(row)?, None, Some((hash(key)?, hash(value)?))),
        _ => return None,
    };
    Some(RowProof { row, value, proof: MapProof { leaf, siblings: Vec::new() } })
}
