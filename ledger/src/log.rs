//! The log: an RFC 6962 Merkle tree over all transactions, kept as C2SP tiles of height 8.
//!
//! Tile (level, n) holds the hashes of nodes 256 n .. 256 n + 255 at tree level 8 * level: level 0 the leaves, level 1 the
//! roots of full level-0 tiles, and so on. The last tile of a level may be partial; it is rewritten as it grows.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::hash::Hash;
use crate::proof::{ConsistencyProof, InclusionProof, split};
use crate::store::{Batch, Column, Read, StoreError};

/// Hashes in a full tile.
pub(crate) const TILE: usize = 256;
/// Tree levels a tile spans.
const HEIGHT: u32 = 8;

/// Key of a tile's row.
pub(crate) fn tile_key(level: u8, number: u64) -> Vec<u8> {
    [&[level][..], &number.to_be_bytes()].concat()
}

/// Root of the RFC 6962 tree over `hashes`, of which the last may itself be the root of an incomplete tree. Empty: the
/// hash of nothing.
pub(crate) fn root_of(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Hash::of(&[]),
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(split(hashes.len() as u64) as usize);
            Hash::node(&root_of(left), &root_of(right))
        }
    }
}

/// The right edge of the log: what appending needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    size: u64,
    /// The partial tile of each level.
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// Entries in the log.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the right edge of a log of `size` entries.
    pub(crate) fn load(read: &dyn Read, size: u64) -> Result<Edge, StoreError> {
        let mut levels = Vec::new();
        let mut nodes = size;
        while nodes > 0 {
            let width = (nodes % TILE as u64) as usize;
            let level = levels.len() as u8;
            levels.push(match width {
                0 => Vec::new(),
                _ => read_tile(read, level, nodes / TILE as u64, width)?,
            });
            nodes /= TILE as u64;
        }
        Ok(Edge { size, levels })
    }

    /// Appends leaf hashes; the tiles that changed go to `tile`: level, number, hashes.
    pub(crate) fn append(&mut self, leaves: &[Hash], tile: &mut dyn FnMut(u8, u64, &[Hash])) {
        let before = self.size;
        for leaf in leaves {
            self.push(0, *leaf, tile);
            self.size += 1;
        }
        for (level, hashes) in self.levels.iter().enumerate() {
            let shift = HEIGHT * level as u32;
            if !hashes.is_empty() && self.size >> shift != before >> shift {
                tile(level as u8, (self.size >> shift) / TILE as u64, hashes);
            }
        }
    }

    fn push(&mut self, level: usize, hash: Hash, tile: &mut dyn FnMut(u8, u64, &[Hash])) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(hash);
        if self.levels[level].len() == TILE {
            let full = std::mem::take(&mut self.levels[level]);
            // `size` counts the leaves before the one that fills this tile.
            tile(level as u8, (self.size >> (HEIGHT * level as u32)) / TILE as u64, &full);
            self.push(level + 1, root_of(&full), tile);
        }
    }

    /// The first entry below the first hash in which two edges of logs of one size differ.
    pub(crate) fn first_difference(&self, other: &Edge) -> Option<u64> {
        let differing = self.levels.iter().zip(&other.levels).enumerate().filter_map(|(level, (ours, theirs))| {
            let at = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs)?;
            let shift = HEIGHT * level as u32;
            Some(((self.size >> shift) / TILE as u64 * TILE as u64 + at as u64) << shift)
        });
        differing.min()
    }

    /// Root of the log.
    pub(crate) fn root(&self) -> Hash {
        let mut incomplete = None;
        for hashes in &self.levels {
            if !hashes.is_empty() || incomplete.is_some() {
                let mut hashes = hashes.clone();
                hashes.extend(incomplete);
                incomplete = Some(root_of(&hashes));
            }
        }
        incomplete.unwrap_or_else(|| root_of(&[]))
    }
}

/// Writes a tile's row.
pub(crate) fn put_tile(batch: &mut Batch, level: u8, number: u64, hashes: &[Hash]) {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
    batch.put(Column::Tiles, tile_key(level, number), bytes);
}

/// The first `width` hashes of a stored tile.
pub(crate) fn read_tile(read: &dyn Read, level: u8, number: u64, width: usize) -> Result<Vec<Hash>, StoreError> {
    let bytes = read.get(Column::Tiles, &tile_key(level, number))?.unwrap_or_default();
    let whole = bytes.len() % 32 == 0 && bytes.len() <= TILE * 32;
    if !whole || bytes.len() < width * 32 {
        return Err(StoreError::Corrupt(format!("log tile {level}/{number} is missing or cut short")));
    }
    let hashes = bytes.chunks_exact(32).take(width);
    Ok(hashes.map(|chunk| Hash(chunk.try_into().expect("invariant: chunks of 32"))).collect())
}

/// A stored log of a given size, for making proofs.
pub(crate) struct Stored<'a> {
    read: &'a dyn Read,
    size: u64,
    /// Tiles read so far: a proof reads each of its few tiles many times.
    tiles: RefCell<HashMap<(u8, u64), Vec<Hash>>>,
}

impl<'a> Stored<'a> {
    /// The log as it was at `size`, which must not exceed what is stored.
    pub(crate) fn new(read: &'a dyn Read, size: u64) -> Stored<'a> {
        Stored { read, size, tiles: RefCell::default() }
    }

    /// Hash of entry `index`.
    pub(crate) fn leaf(&self, index: u64) -> Result<Hash, StoreError> {
        self.node(0, index)
    }

    /// Root over all of it.
    pub(crate) fn root(&self) -> Result<Hash, StoreError> {
        if self.size == 0 { Ok(root_of(&[])) } else { self.range(0, self.size) }
    }

    /// Root of the complete subtree over leaves `number << level .. (number + 1) << level`.
    fn node(&self, level: u32, number: u64) -> Result<Hash, StoreError> {
        let (tile_level, inner) = ((level / HEIGHT) as u8, level % HEIGHT);
        let first = number << inner;
        let (tile, offset) = (first / TILE as u64, (first % TILE as u64) as usize);
        let mut tiles = self.tiles.borrow_mut();
        let hashes = match tiles.entry((tile_level, tile)) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => {
                let nodes = self.size >> (HEIGHT * u32::from(tile_level));
                let width = (nodes - (tile * TILE as u64).min(nodes)).min(TILE as u64) as usize;
                slot.insert(read_tile(self.read, tile_level, tile, width)?)
            }
        };
        let missing = || StoreError::Corrupt(format!("log tile {tile_level}/{tile} is cut short"));
        Ok(root_of(hashes.get(offset..offset + (1 << inner)).ok_or_else(missing)?))
    }

    /// Root over leaves `start..end`, where `start` is a multiple of a power of two at least `end - start`.
    fn range(&self, start: u64, end: u64) -> Result<Hash, StoreError> {
        let count = end - start;
        if count.is_power_of_two() {
            return self.node(count.trailing_zeros(), start / count);
        }
        let middle = start + split(count);
        Ok(Hash::node(&self.range(start, middle)?, &self.range(middle, end)?))
    }

    /// RFC 6962 section 2.1.1; `index` must be below the size.
    pub(crate) fn inclusion(&self, index: u64) -> Result<InclusionProof, StoreError> {
        let (mut start, mut end) = (0, self.size);
        let mut path = Vec::new();
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                path.push(self.range(middle, end)?);
                end = middle;
            } else {
                path.push(self.range(start, middle)?);
                start = middle;
            }
        }
        path.reverse();
        Ok(InclusionProof { index, size: self.size, path })
    }

    /// RFC 6962 section 2.1.2; `old` must not exceed the size.
    pub(crate) fn consistency(&self, old: u64) -> Result<ConsistencyProof, StoreError> {
        let (mut start, mut end) = (0, self.size);
        let mut path = Vec::new();
        if old > 0 && old < self.size {
            // Down to the subtree whose right border is `old`; it needs no mention when it is the whole old tree.
            while end != old {
                let middle = start + split(end - start);
                if old <= middle {
                    path.push(self.range(middle, end)?);
                    end = middle;
                } else {
                    path.push(self.range(start, middle)?);
                    start = middle;
                }
            }
            if start != 0 {
                path.push(self.range(start, end)?);
            }
            path.reverse();
        }
        Ok(ConsistencyProof { old, new: self.size, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Rows;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|number| Hash::leaf(&number.to_le_bytes())).collect()
    }

    /// Appends in uneven steps, as blocks do.
    fn stored(leaves: &[Hash]) -> (Rows, Edge) {
        let (mut rows, mut edge) = (Rows::default(), Edge::default());
        let mut rest = leaves;
        for step in (1..).map(|n: usize| n * 7 % 61 + 1) {
            let (now, later) = rest.split_at(step.min(rest.len()));
            let mut batch = Batch::default();
            edge.append(now, &mut |level, number, hashes| put_tile(&mut batch, level, number, hashes));
            rows.apply(batch);
            rest = later;
            if rest.is_empty() {
                return (rows, edge);
            }
        }
        unreachable!("the leaves run out")
    }

    #[test]
    fn edges_and_tiles_agree_with_the_definition() {
        for count in [0, 1, 2, 3, 255, 256, 257, 511, 512, 700, 65_536 + 300] {
            let leaves = leaves(count);
            let (rows, edge) = stored(&leaves);
            assert_eq!(edge.root(), root_of(&leaves), "{count}");
            assert_eq!(edge.size(), count);
            assert_eq!(Edge::load(&rows, count).unwrap().root(), edge.root(), "{count}");
        }
    }

    #[test]
    fn every_proof_of_every_small_log_verifies() {
        let leaves = leaves(300);
        let (rows, _) = stored(&leaves);
        let roots: Vec<Hash> = (0..=300).map(|size| root_of(&leaves[..size])).collect();
        for size in (1..=70).chain([255, 256, 257, 300]) {
            let log = Stored::new(&rows, size);
            for index in 0..size {
                let proof = log.inclusion(index).unwrap();
                assert!(proof.verify(&leaves[index as usize], &roots[size as usize]), "{index} in {size}");
                assert!(!proof.verify(&roots[0], &roots[size as usize]));
                assert_eq!(log.leaf(index).unwrap(), leaves[index as usize]);
            }
            assert_eq!(log.root().unwrap(), roots[size as usize]);
            for old in 0..=size {
                let proof = log.consistency(old).unwrap();
                assert!(proof.verify(&roots[old as usize], &roots[size as usize]), "{old} to {size}");
                if old > 0 {
                    assert!(!proof.verify(&roots[0], &roots[size as usize]));
                    assert!(!proof.verify(&roots[old as usize], &roots[0]));
                }
            }
        }
    }

    #[test]
    fn a_missing_or_short_tile_is_damage_not_a_panic() {
        let (mut rows, _) = stored(&leaves(300));
        let log = |rows: &Rows| Stored::new(rows, 300).inclusion(7).map(|_| ());
        assert!(log(&rows).is_ok());
        rows.0.insert((Column::Tiles, tile_key(0, 1)), vec![0; 31]);
        assert!(matches!(log(&rows), Err(StoreError::Corrupt(_))));
        rows.0.remove(&(Column::Tiles, tile_key(0, 1)));
        assert!(matches!(log(&rows), Err(StoreError::Corrupt(_))));
        assert!(Edge::load(&rows, 300).is_err());
    }
}
