//! A second, independent computation of the state map's root: a path-compressed binary trie in memory.
//!
//! The map's rule (jmt's): a subtree of no leaf has the placeholder's hash, of one leaf that leaf's hash, of more the hash
//! of its two halves.

use crate::hash::Hash;
use crate::state::map::EMPTY_ROOT;
use std::ops::{Index, IndexMut};

/// Set in a reference to a leaf; clear in one to a fork.
const LEAF: u32 = 1 << 31;

/// Where the keys below first differ.
#[derive(Debug, Clone, Copy)]
struct Fork {
    bit: u16,
    halves: [u32; 2],
    /// Hash of the subtree whose root is at depth `bit`; none when something below changed.
    hash: Option<Hash>,
}

/// The trie.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    forks: Arena<Fork>,
    leaves: Arena<(Hash, Hash)>,
    root: Option<u32>,
}

/// Things by number. They never move: a vector of millions would for a while be held twice whenever it grows.
#[derive(Debug)]
struct Arena<T> {
    pages: Vec<Vec<T>>,
    free: Vec<u32>,
}

/// Things in a page.
const PAGE: usize = 1 << 14;

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { pages: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    fn len(&self) -> usize {
        let last = self.pages.last().map_or(0, |page| PAGE - page.len());
        self.pages.len() * PAGE - last - self.free.len()
    }

    fn add(&mut self, thing: T) -> u32 {
        if let Some(free) = self.free.pop() {
            self[free] = thing;
            return free;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let before = (self.pages.len() - 1) * PAGE;
        let page = &mut self.pages[before / PAGE];
        page.push(thing);
        (before + page.len() - 1) as u32
    }

    fn remove(&mut self, number: u32) {
        self.free.push(number);
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.pages[number as usize / PAGE][number as usize % PAGE]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.pages[number as usize / PAGE][number as usize % PAGE]
    }
}

fn bit(key: &Hash, at: u16) -> usize {
    usize::from(key.0[usize::from(at / 8)] >> (7 - at % 8) & 1)
}

fn first_difference(a: &Hash, b: &Hash) -> Option<u16> {
    let byte = a.0.iter().zip(&b.0).position(|(a, b)| a != b)?;
    Some((byte * 8) as u16 + (a.0[byte] ^ b.0[byte]).leading_zeros() as u16)
}

fn inner(left: &Hash, right: &Hash) -> Hash {
    Hash::of(&[b"JMT::IntrnalNode", &left.0, &right.0])
}

impl Trie {
    /// Leaves in it.
    pub(crate) fn len(&self) -> usize {
        self.leaves.len()
    }

    /// The value hash under a key.
    pub(crate) fn get(&self, key: &Hash) -> Option<Hash> {
        let leaf = self.leaves[self.nearest(key)?];
        (leaf.0 == *key).then_some(leaf.1)
    }

    /// Place of the leaf that a search for `key` ends at.
    fn nearest(&self, key: &Hash) -> Option<u32> {
        let mut at = self.root?;
        while at & LEAF == 0 {
            let fork = &self.forks[at];
            at = fork.halves[bit(key, fork.bit)];
        }
        Some(at & !LEAF)
    }

    /// Points the half that `at` hangs from to `to`; `parent` is none for the root.
    fn relink(&mut self, parent: Option<(u32, usize)>, to: u32) {
        match parent {
            None => self.root = Some(to),
            Some((fork, half)) => self.forks[fork].halves[half] = to,
        }
    }

    /// Sets the value hash under a key.
    pub(crate) fn set(&mut self, key: Hash, value: Hash) {
        let Some(nearest) = self.nearest(&key) else {
            self.root = Some(self.leaves.add((key, value)) | LEAF);
            return;
        };
        let differs = first_difference(&key, &self.leaves[nearest].0);
        let stop = differs.unwrap_or(u16::MAX);
        let (mut at, mut parent) = (self.root.unwrap_or_default(), None);
        while at & LEAF == 0 && self.forks[at].bit < stop {
            let fork = &mut self.forks[at];
            fork.hash = None;
            let half = bit(&key, fork.bit);
            parent = Some((at, half));
            at = fork.halves[half];
        }
        let Some(differs) = differs else {
            self.leaves[nearest].1 = value;
            return;
        };
        let leaf = self.leaves.add((key, value)) | LEAF;
        let mut halves = [at, at];
        halves[bit(&key, differs)] = leaf;
        let fork = self.forks.add(Fork { bit: differs, halves, hash: None });
        self.relink(parent, fork);
    }

    /// Removes a key, if it is there.
    pub(crate) fn remove(&mut self, key: &Hash) {
        if self.get(key).is_none() {
            return;
        }
        let (mut at, mut parent, mut grandparent) = (self.root.unwrap_or_default(), None, None);
        while at & LEAF == 0 {
            let fork = &mut self.forks[at];
            fork.hash = None;
            let half = bit(key, fork.bit);
            grandparent = parent;
            parent = Some((at, half));
            at = fork.halves[half];
        }
        self.leaves.remove(at & !LEAF);
        match parent {
            None => self.root = None,
            Some((fork, half)) => {
                let sibling = self.forks[fork].halves[1 - half];
                self.forks.remove(fork);
                self.relink(grandparent, sibling);
            }
        }
    }

    /// Root of the map.
    pub(crate) fn root(&mut self) -> Hash {
        match self.root {
            None => EMPTY_ROOT,
            Some(root) => self.hash(root, 0),
        }
    }

    /// Hash of the subtree at `at` seen from `depth`.
    fn hash(&mut self, at: u32, depth: u16) -> Hash {
        if at & LEAF != 0 {
            let (key, value) = self.leaves[at & !LEAF];
            return Hash::of(&[b"JMT::LeafNode", &key.0, &value.0]);
        }
        let fork = self.forks[at];
        let mut hash = match fork.hash {
            Some(hash) => hash,
            None => {
                let left = self.hash(fork.halves[0], fork.bit + 1);
                let right = self.hash(fork.halves[1], fork.bit + 1);
                let hash = inner(&left, &right);
                self.forks[at].hash = Some(hash);
                hash
            }
        };
        if depth < fork.bit {
            // All keys below agree in these bits.
            let key = self.key_below(at);
            for level in (depth..fork.bit).rev() {
                hash = match bit(&key, level) {
                    0 => inner(&hash, &EMPTY_ROOT),
                    _ => inner(&EMPTY_ROOT, &hash),
                };
            }
        }
        hash
    }

    fn key_below(&self, mut at: u32) -> Hash {
        while at & LEAF == 0 {
            at = self.forks[at].halves[0];
        }
        self.leaves[at & !LEAF].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::map;
    use crate::store::memory::Rows;
    use crate::store::{Batch, Column};
    use proptest::prelude::*;

    /// Few keys and long common prefixes, so that forks are made, deepened and undone.
    fn key() -> impl Strategy<Value = Hash> {
        (0u8..4, 0u8..8).prop_map(|(depth, tail)| {
            let mut key = Hash([0xa5; 32]);
            key.0[usize::from(depth) * 5] = tail;
            key
        })
    }

    #[test]
    fn an_arena_keeps_its_numbers_over_pages() {
        let mut arena = Arena::default();
        let numbers: Vec<u32> = (0..2 * PAGE + 3).map(|thing| arena.add(thing)).collect();
        assert!((0..).zip(&numbers).all(|(thing, number)| arena[*number] == thing));
        arena.remove(numbers[PAGE]);
        assert_eq!(arena.len(), 2 * PAGE + 2);
        assert_eq!(arena.add(7), numbers[PAGE]);
        assert_eq!((arena[numbers[PAGE]], arena.len()), (7, 2 * PAGE + 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_jmt(blocks in prop::collection::vec(
            prop::collection::btree_map(key(), prop::option::of(any::<[u8; 2]>()), 1..6), 1..12,
        )) {
            let (mut rows, mut trie) = (Rows::default(), Trie::default());
            for (height, updates) in (0..).zip(blocks) {
                // As a seal does: what is not there is not removed; and something always changes.
                let mut updates: Vec<(Hash, Option<Vec<u8>>)> = updates.into_iter()
                    .map(|(key, value)| (key, value.map(Vec::from)))
                    .filter(|(key, value)| value.is_some() || trie.get(key).is_some()).collect();
                updates.push((Hash::of(&[b"coinbase", &[height as u8]]), Some(vec![height as u8])));
                let previous = (height > 0).then(|| trie.root());
                for (key, value) in &updates {
                    match value {
                        Some(value) => trie.set(*key, Hash::of(&[value])),
                        None => trie.remove(key),
                    }
                }
                let mut batch = Batch::default();
                let root = map::update(&rows, height, previous, updates, &mut batch).unwrap();
                rows.apply(batch);
                prop_assert_eq!(root, trie.root());
                prop_assert_eq!(root, map::root(&rows, height).unwrap());
                // Stale nodes are gone: what is left is the tree.
                let leaves = map::check(&rows, height, &root, &mut |key, value| trie.get(key) == Some(*value)).unwrap();
                prop_assert_eq!(leaves, trie.len() as u64);
            }
            prop_assert!(rows.0.keys().all(|(column, _)| *column == Column::Nodes));
        }
    }
}
