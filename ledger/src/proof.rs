//! Offline proofs: RFC 6962 inclusion and consistency, their verification, and the files that carry them.

use crate::hash::Hash;

mod file;
mod policy;
mod state;

pub use file::{ConsistencyFile, Logged, ProofError, ProofFile};
pub use policy::{BadPolicy, Policy, Trust};
pub(crate) use state::{MapProof, RowProof};
pub use state::{Standing, StateProof};

/// That a leaf is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// The leaf's place.
    pub index: u64,
    /// The log's size.
    pub size: u64,
    /// Sibling hashes, from the leaf up.
    pub path: Vec<Hash>,
}

/// That a log is a prefix of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The smaller size.
    pub old: u64,
    /// The larger size.
    pub new: u64,
    /// Hashes as RFC 6962 section 2.1.2 orders them.
    pub path: Vec<Hash>,
}

/// The largest power of two below `count`, which must be at least 2: where RFC 6962 splits a tree.
pub(crate) fn split(count: u64) -> u64 {
    1 << (63 - (count - 1).leading_zeros())
}

impl InclusionProof {
    /// Whether it shows `leaf` at its index of the log with `root` (RFC 9162 section 2.1.3.2).
    pub fn verify(&self, leaf: &Hash, root: &Hash) -> bool {
        if self.index >= self.size {
            return false;
        }
        let (mut node, mut last) = (self.index, self.size - 1);
        let mut hash = *leaf;
        for sibling in &self.path {
            if last == 0 {
                return false;
            }
            if node & 1 == 1 || node == last {
                hash = Hash::node(sibling, &hash);
                // A node without a right sibling moves up unchanged until it is a right child.
                while node & 1 == 0 && node != 0 {
                    node >>= 1;
                    last >>= 1;
                }
            } else {
                hash = Hash::node(&hash, sibling);
            }
            node >>= 1;
            last >>= 1;
        }
        last == 0 && hash == *root
    }
}

impl ConsistencyProof {
    /// Whether it shows that the log with `old_root` is a prefix of the one with `new_root` (RFC 9162 section 2.1.4.2).
    pub fn verify(&self, old_root: &Hash, new_root: &Hash) -> bool {
        if self.old > self.new {
            return false;
        }
        if self.old == 0 || self.old == self.new {
            // Everything extends the empty log; a log extends itself.
            return self.path.is_empty() && (self.old == 0 || old_root == new_root);
        }
        // A complete old tree is a node of the new one, and the proof does not repeat it.
        let whole = self.old.is_power_of_two();
        let mut path = self.path.iter();
        let Some(first) = (if whole { Some(old_root) } else { path.next() }) else { return false };
        let (mut node, mut last) = (self.old - 1, self.new - 1);
        while node & 1 == 1 {
            node >>= 1;
            last >>= 1;
        }
        let (mut old, mut new) = (*first, *first);
        for sibling in path {
            if last == 0 {
                return false;
            }
            if node & 1 == 1 || node == last {
                old = Hash::node(sibling, &old);
                new = Hash::node(sibling, &new);
                while node & 1 == 0 && node != 0 {
                    node >>= 1;
                    last >>= 1;
                }
            } else {
                new = Hash::node(&new, sibling);
            }
            node >>= 1;
            last >>= 1;
        }
        last == 0 && old == *old_root && new == *new_root
    }
}
