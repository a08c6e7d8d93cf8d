//! One pass of hashing over bytes as they come: SHA-256, and BLAKE3 with its inner hashes above groups of 16 KiB.
//!
//! How many bytes follow need not be known: a subtree is finished once something follows it, and the last group when
//! nothing does. The BLAKE3 is that of the plain function over the same bytes.

use crate::change::Hashes;
use crate::verified::GROUP_BYTES;
use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// A pass under way. Pairs of inner hashes go to `inner` in post-order, 64 bytes each.
pub struct Hashing<W> {
    sha256: Sha256,
    size: u64,
    /// The last group there is so far, not finished before it is known whether another follows.
    group: Hasher,
    /// Groups before that.
    groups: u64,
    /// Hashes of the whole subtrees they form, from the left, each larger than the next.
    subtrees: Vec<ChainingValue>,
    inner: W,
}

/// What a pass found.
pub struct Hashed<W> {
    /// Bytes that came.
    pub size: u64,
    /// Their hashes.
    pub hashes: Hashes,
    /// Where the inner hashes went.
    pub inner: W,
}

/// The hashes of bytes that come, without inner ones.
pub fn plain() -> Hashing<io::Sink> {
    Hashing::new(io::sink())
}

impl<W: Write> Hashing<W> {
    /// Nothing hashed yet.
    pub fn new(inner: W) -> Self {
        Self { sha256: Sha256::new(), size: 0, group: Hasher::new(), groups: 0, subtrees: Vec::new(), inner }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// What writing inner hashes answers.
    pub fn update(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.group.count() == GROUP_BYTES {
                self.next_group()?;
            }
            let room = (GROUP_BYTES - self.group.count()) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.group.update(now);
            bytes = later;
        }
        Ok(())
    }

    /// The present group is full and another follows it.
    fn next_group(&mut self) -> io::Result<()> {
        let mut hash = self.group.finalize_non_root();
        self.groups += 1;
        // Two whole subtrees of one size make one.
        for _ in 0..self.groups.trailing_zeros() {
            let Some(left) = self.subtrees.pop() else { break };
            self.pair(&left, &hash)?;
            hash = merge_subtrees_non_root(&left, &hash, Mode::Hash);
        }
        self.subtrees.push(hash);
        self.group = Hasher::new();
        self.group.set_input_offset(self.groups * GROUP_BYTES);
        Ok(())
    }

    fn pair(&mut self, left: &ChainingValue, right: &ChainingValue) -> io::Result<()> {
        self.inner.write_all(left)?;
        self.inner.write_all(right)
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// What writing inner hashes answers.
    pub fn finish(mut self) -> io::Result<Hashed<W>> {
        let blake3 = match self.subtrees.pop() {
            None => self.group.finalize().into(),
            Some(mut left) => {
                let mut right = self.group.finalize_non_root();
                loop {
                    self.pair(&left, &right)?;
                    let Some(before) = self.subtrees.pop() else { break };
                    right = merge_subtrees_non_root(&left, &right, Mode::Hash);
                    left = before;
                }
                merge_subtrees_root(&left, &right, Mode::Hash).into()
            }
        };
        let hashes = Hashes { blake3, sha256: self.sha256.finalize().into() };
        Ok(Hashed { size: self.size, hashes, inner: self.inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::io::sync::outboard_post_order;
    use bao_tree::{BaoTree, BlockSize};

    /// Bytes in pieces of every size against the plain functions and another maker of the inner hashes.
    fn check(size: usize, piece: usize) {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        let mut hashing = Hashing::new(Vec::new());
        for piece in bytes.chunks(piece) {
            hashing.update(piece).unwrap();
        }
        let found = hashing.finish().unwrap();
        assert_eq!(found.size, size as u64);
        assert_eq!(found.hashes.blake3, *blake3::hash(&bytes).as_bytes(), "{size} by {piece}");
        assert_eq!(found.hashes.sha256[..], Sha256::digest(&bytes)[..]);
        let mut expected = Vec::new();
        let tree = BaoTree::new(size as u64, BlockSize::from_chunk_log(4));
        outboard_post_order(&bytes[..], tree, &mut expected).unwrap();
        assert_eq!(found.inner, expected, "{size} by {piece}");
    }

    #[test]
    fn equals_the_plain_hashes_and_the_known_tree() {
        const GROUP: usize = GROUP_BYTES as usize;
        for groups in 0..18 {
            for size in [groups * GROUP, groups * GROUP + 1, (groups * GROUP + GROUP) - 1] {
                for piece in [1_000, GROUP, 3 * GROUP + 5, 1 << 20] {
                    check(size, piece);
                }
            }
        }
    }
}
