//! The sparse Merkle map over the state: crate jmt, one version per block, stale nodes dropped with the write that makes
//! them so.

use std::ops::ControlFlow;

use jmt::storage::{LeafNode, Node, NodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue, Version};
use sha2::Sha256;

use crate::codec::encode;
use crate::hash::Hash;
use crate::store::{Batch, Column, Direction, Read, StoreError};

/// Root of a map of nothing.
pub(crate) const EMPTY_ROOT: Hash = Hash(*b"SPARSE_MERKLE_PLACEHOLDER_HASH__");

/// The hasher jmt is to use: its trait's own implementation is for an older `digest`.
pub(crate) struct MapHasher(Sha256);

impl jmt::SimpleHasher for MapHasher {
    fn new() -> Self {
        MapHasher(sha2::Digest::new())
    }

    fn update(&mut self, data: &[u8]) {
        sha2::Digest::update(&mut self.0, data);
    }

    fn finalize(self) -> [u8; 32] {
        sha2::Digest::finalize(self.0).into()
    }
}

/// Nodes as they are stored.
struct Nodes<'a>(&'a dyn Read);

impl TreeReader for Nodes<'_> {
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        match self.0.get(Column::Nodes, &encode(key))? {
            None => Ok(None),
            Some(bytes) => Ok(Some(borsh::from_slice(&bytes)?)),
        }
    }

    /// Values are in [`Column::State`] under their own keys; updates do not read them.
    fn get_value_option(&self, _: Version, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        Ok(None)
    }

    /// Only a restore asks, and there is none.
    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        Ok(None)
    }
}

/// A value set under a key, or the key removed.
pub(crate) type Update = (Hash, Option<Vec<u8>>);

/// Applies a block's updates, one per key, to the map as the block before left it; the new nodes go into `batch`.
pub(crate) fn update(read: &dyn Read, height: u64, updates: Vec<Update>, batch: &mut Batch) -> Result<Hash, StoreError> {
    let nodes = Nodes(read);
    let tree = JellyfishMerkleTree::<_, MapHasher>::new(&nodes);
    let only_sets = updates.iter().all(|(_, value)| value.is_some());
    let done = if only_sets {
        // One walk for all of them; this form knows no removals. The root is the same.
        let sets = updates.into_iter().filter_map(|(key, value)| Some((KeyHash(key.0), value?)));
        tree.batch_put_value_sets(vec![sets.collect()], None, height).map(|(roots, changed)| (roots[0], changed))
    } else {
        tree.put_value_set(updates.into_iter().map(|(key, value)| (KeyHash(key.0), value)), height)
    };
    let (root, changed) = done.map_err(|error| StoreError::Corrupt(format!("state map: {error:#}")))?;
    for (key, node) in changed.node_batch.nodes() {
        batch.put(Column::Nodes, encode(key), encode(node));
    }
    for stale in &changed.stale_node_index_batch {
        batch.delete(Column::Nodes, encode(&stale.node_key));
    }
    Ok(Hash(root.0))
}

/// Key of the root node after block `height`: the empty path.
fn root_key(height: u64) -> NodeKey {
    NodeKey::new(height, std::iter::empty().collect())
}

/// Root of the stored map after block `height`.
pub(crate) fn root(read: &dyn Read, height: u64) -> Result<Hash, StoreError> {
    match read.get(Column::Nodes, &encode(&root_key(height)))? {
        None => Err(StoreError::Corrupt(format!("state map: no root after block {height}"))),
        Some(bytes) => Ok(Hash(node_hash(&bytes)?)),
    }
}

/// Hash of a stored node.
fn node_hash(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    let node: Node = borsh::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("state map: {error}")))?;
    Ok(match node {
        Node::Null => EMPTY_ROOT.0,
        Node::Internal(node) => node.hash::<MapHasher>(),
        Node::Leaf(leaf) => leaf.hash::<MapHasher>(),
    })
}

/// Walks the stored map after block `height`: the root has hash `root`, every node the hash and kind its parent has for it,
/// every leaf is as `leaf` (key, value hash) expects it, and there is no other node. Returns the number of leaves.
pub(crate) fn check(
    read: &dyn Read,
    height: u64,
    root: &Hash,
    leaf: &mut dyn FnMut(&Hash, &Hash) -> bool,
) -> Result<u64, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("state map: {what}"));
    let (mut leaves, mut nodes) = (0, 0u64);
    let mut waiting = vec![(root_key(height), root.0, None)];
    while let Some((key, hash, kind)) = waiting.pop() {
        let bytes = read.get(Column::Nodes, &encode(&key))?.ok_or_else(|| corrupt("a node is missing"))?;
        if node_hash(&bytes)? != hash {
            return Err(corrupt("a node does not have the hash its parent has for it"));
        }
        nodes += 1;
        let node: Node = borsh::from_slice(&bytes).map_err(|_| corrupt("a node is malformed"))?;
        let found = match &node {
            Node::Internal(node) => (false, node.leaf_count()),
            Node::Leaf(_) => (true, 1),
            Node::Null => (false, 0),
        };
        if kind.is_some_and(|kind| kind != found) {
            return Err(corrupt("a node is not of the kind its parent has for it"));
        }
        match node {
            Node::Null => {}
            Node::Leaf(found) => {
                leaves += 1;
                // Key hash, value hash: its whole encoding.
                let value = encode(&found).last_chunk().copied().map(Hash);
                if !value.is_some_and(|value| leaf(&Hash(found.key_hash().0), &value)) {
                    return Err(corrupt("a leaf is not what the chain says"));
                }
            }
            Node::Internal(node) => {
                // Its encoding ends with these two counts, which no hash covers.
                let below: usize = node.children_sorted().map(|(_, child)| child.leaf_count()).sum();
                let counts = [node.children_sorted().count() as u64, below as u64].map(u64::to_le_bytes);
                if !bytes.ends_with(&counts.concat()) {
                    return Err(corrupt("a node miscounts what is below it"));
                }
                for (nibble, child) in node.children_sorted() {
                    let path = key.nibble_path().nibbles().chain(std::iter::once(nibble)).collect();
                    let child_key = NodeKey::new(child.version, path);
                    waiting.push((child_key, child.hash, Some((child.is_leaf(), child.leaf_count()))));
                }
            }
        }
    }
    let mut stored = 0;
    read.scan(Column::Nodes, b"", Direction::Forward, &mut |_, _| {
        stored += 1;
        ControlFlow::Continue(())
    })?;
    if stored != nodes {
        return Err(corrupt("there are nodes outside the tree"));
    }
    Ok(leaves)
}
