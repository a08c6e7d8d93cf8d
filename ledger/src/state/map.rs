//! The sparse Merkle map over the state: crate jmt, one version per block, stale nodes dropped with the write that makes
//! them so.

use jmt::storage::{LeafNode, Node, NodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue, Version};
use sha2::Sha256;

use crate::codec::encode;
use crate::hash::Hash;
use crate::store::{Batch, Column, Read, StoreError};

/// Root of a map of nothing.
pub const EMPTY_ROOT: Hash = Hash(*b"SPARSE_MERKLE_PLACEHOLDER_HASH__");

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
