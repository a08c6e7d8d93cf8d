//! The sparse Merkle map over the state: crate jmt, one version per block. Only the last version is kept: a node has one
//! row by its place in the tree, see [`super::node`].

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use jmt::storage::{LeafNode, Node, NodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue, Version};
use sha2::Sha256;

use super::node;
use crate::codec::encode;
use crate::hash::Hash;
use crate::proof::MapProof;
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

/// Nodes as they are stored, each held to the hash its parent has for it: jmt trusts what it reads, and a root that was
/// built upon damage would be signed.
struct Nodes<'a> {
    read: &'a dyn Read,
    /// The root's, when it is known.
    root: Option<Hash>,
    /// Inner nodes that were read, by their rows' keys: the hashes they have for their children.
    parents: RefCell<HashMap<Vec<u8>, Children>>,
}

/// What an inner node has for its children.
type Children = Vec<(u8, Hash)>;

impl Nodes<'_> {
    /// What a node's parent, or whoever knows the root, has for it; none when its parent was not read.
    fn expected(&self, row: &[u8]) -> Option<Hash> {
        let Some((parent, place)) = node::parent(row) else { return self.root };
        let parents = self.parents.borrow();
        parents.get(&parent)?.iter().find(|(nibble, _)| *nibble == place).map(|(_, hash)| *hash)
    }
}

impl TreeReader for Nodes<'_> {
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        let row = node::key(key.nibble_path());
        let Some(bytes) = self.read.get(Column::Nodes, &row)? else { return Ok(None) };
        let (version, node) = read_node(&bytes)?;
        if version != key.version() {
            return Ok(None);
        }
        if self.expected(&row).is_some_and(|expected| expected != hash(&node)) {
            return Err(corrupt("a node is not the one its parent has").into());
        }
        if let Node::Internal(inner) = &node {
            let children = inner.children_sorted().map(|(nibble, child)| (nibble.into(), Hash(child.hash))).collect();
            self.parents.borrow_mut().insert(row, children);
        }
        Ok(Some(node))
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

/// Applies a block's updates, one per key, to the map as the block before left it, with the root `previous` when that is
/// known; the new nodes go into `batch`.
pub(crate) fn update(
    read: &dyn Read,
    height: u64,
    previous: Option<Hash>,
    updates: Vec<Update>,
    batch: &mut Batch,
) -> Result<Hash, StoreError> {
    let nodes = Nodes { read, root: previous, parents: RefCell::default() };
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
    let mut written = HashSet::new();
    for (key, node) in changed.node_batch.nodes() {
        let row = node::key(key.nibble_path());
        batch.put(Column::Nodes, row.clone(), node::value(key.version(), node));
        written.insert(row);
    }
    for stale in &changed.stale_node_index_batch {
        let row = node::key(stale.node_key.nibble_path());
        if !written.contains(&row) {
            batch.delete(Column::Nodes, row);
        }
    }
    Ok(Hash(root.0))
}

/// Key of the root node after block `height`: the empty path.
fn root_key(height: u64) -> NodeKey {
    NodeKey::new(height, std::iter::empty().collect())
}

/// Root of the stored map after block `height`.
pub(crate) fn root(read: &dyn Read, height: u64) -> Result<Hash, StoreError> {
    let bytes = read.get(Column::Nodes, &node::key(root_key(height).nibble_path()))?;
    let bytes = bytes.ok_or_else(|| corrupt("the root is missing"))?;
    match read_node(&bytes)? {
        (version, root) if version == height => Ok(hash(&root)),
        (version, _) => Err(corrupt(&format!("its root is of block {version}, not {height}"))),
    }
}

/// Hash of a subtree with one key.
pub(crate) fn leaf_hash(key: &Hash, value: &Hash) -> Hash {
    Hash::of(&[b"JMT::LeafNode", &key.0, &value.0])
}

/// Hash of a subtree with more.
pub(crate) fn inner_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::of(&[b"JMT::IntrnalNode", &left.0, &right.0])
}

/// Proves what is under `key` in the stored map after block `height`.
pub(crate) fn prove(read: &dyn Read, height: u64, key: &Hash) -> Result<MapProof, StoreError> {
    let mut siblings = Vec::new();
    let mut at = root_key(height);
    for depth in 0..64 {
        let bytes = read.get(Column::Nodes, &node::key(at.nibble_path()))?;
        let (version, found) = read_node(&bytes.ok_or_else(|| corrupt("a node is missing"))?)?;
        if version != at.version() {
            return Err(corrupt("a node is not the one its parent has"));
        }
        let leaf = match found {
            Node::Null => None,
            Node::Leaf(leaf) => Some(leaf_pair(&leaf)?),
            Node::Internal(inner) => {
                let nibble = key.0[depth / 2] >> if depth % 2 == 0 { 4 } else { 0 } & 15;
                let children: [Option<Child>; 16] = std::array::from_fn(|_| None);
                let mut children = children;
                for (place, child) in inner.children_sorted() {
                    let path = at.nibble_path().nibbles().chain(std::iter::once(place)).collect();
                    children[usize::from(u8::from(place))] =
                        Some((Hash(child.hash), child.is_leaf(), NodeKey::new(child.version, path)));
                }
                match descend(&children, nibble, &mut siblings) {
                    None => None,
                    Some(next) => {
                        at = next.clone();
                        continue;
                    }
                }
            }
        };
        siblings.reverse();
        return Ok(MapProof { leaf, siblings });
    }
    Err(corrupt("the tree is deeper than its keys"))
}

/// A child of an inner node: its hash, whether it is a leaf, and where it is stored.
type Child = (Hash, bool, NodeKey);

/// Goes down the four levels of an inner node towards the child at `nibble`, noting siblings from the top; where it ends,
/// which is early when one leaf is all there is.
fn descend<'a>(children: &'a [Option<Child>], nibble: u8, siblings: &mut Vec<Hash>) -> Option<&'a NodeKey> {
    if let Some((_, _, key)) = alone(children) {
        return Some(key);
    }
    if children.len() == 1 || children.iter().all(Option::is_none) {
        return None;
    }
    let (left, right) = children.split_at(children.len() / 2);
    let goes_right = usize::from(nibble) & (children.len() / 2) != 0;
    let (way, sibling) = if goes_right { (right, left) } else { (left, right) };
    siblings.push(subtree(sibling));
    descend(way, nibble, siblings)
}

/// The one child there is, when it is a leaf or has come down to its own place.
fn alone(children: &[Option<Child>]) -> Option<&Child> {
    let mut there = children.iter().flatten();
    let (first, second) = (there.next()?, there.next());
    (second.is_none() && (first.1 || children.len() == 1)).then_some(first)
}

/// Hash of the part of an inner node that holds these children.
fn subtree(children: &[Option<Child>]) -> Hash {
    if let Some((hash, ..)) = alone(children) {
        return *hash;
    }
    if children.iter().all(Option::is_none) {
        return EMPTY_ROOT;
    }
    let (left, right) = children.split_at(children.len() / 2);
    inner_hash(&subtree(left), &subtree(right))
}

/// Key and value hash of a leaf.
fn leaf_pair(leaf: &LeafNode) -> Result<(Hash, Hash), StoreError> {
    // Key hash, value hash: its whole encoding, and jmt shows the latter in no other way.
    let value = encode(leaf).last_chunk().copied().map(Hash).ok_or_else(|| corrupt("a leaf is malformed"))?;
    Ok((Hash(leaf.key_hash().0), value))
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("state map: {what}"))
}

fn read_node(bytes: &[u8]) -> Result<(Version, Node), StoreError> {
    node::parse(bytes).ok_or_else(|| corrupt("a node is malformed"))
}

fn hash(node: &Node) -> Hash {
    match node {
        Node::Null => EMPTY_ROOT,
        Node::Internal(node) => Hash(node.hash::<MapHasher>()),
        Node::Leaf(leaf) => Hash(leaf.hash::<MapHasher>()),
    }
}

/// Where the stored map is wrong.
#[derive(Debug)]
pub(crate) struct BadNode {
    /// Height of the block that wrote the node, as its parent has it.
    pub(crate) block: u64,
    /// What is wrong.
    pub(crate) error: StoreError,
}

/// Walks the stored map after block `height`: the root has hash `root`, every node the hash and kind its parent has for it,
/// every leaf is as `leaf` (key, value hash) expects it, and there is no other node. Returns the number of leaves.
///
/// Rows are ordered by depth and then by path, so the children of all nodes in order are the rows in order: two readers go
/// over them, one for the parents and one for the children.
pub(crate) fn check(
    read: &dyn Read,
    height: u64,
    root: &Hash,
    leaf: &mut dyn FnMut(&Hash, &Hash) -> bool,
) -> Result<u64, BadNode> {
    let at = |block: u64| move |error: StoreError| BadNode { block, error };
    let (mut parents, mut below, mut leaves) = (Pages::new(read), Pages::new(read), 0);
    let mut judge = |expected: &Expected, below: &mut Pages<'_>| {
        let row = below.next().map_err(at(expected.version))?;
        let node = expected.judge(row.as_ref()).map_err(|error| match row {
            Some((found, _)) if found < expected.row => {
                BadNode { block: height, error: corrupt("there are nodes outside the tree") }
            }
            _ => BadNode { block: expected.version, error },
        })?;
        if let Node::Leaf(found) = node {
            leaves += 1;
            let (key, value) = leaf_pair(&found).map_err(at(expected.version))?;
            if !leaf(&key, &value) {
                return Err(at(expected.version)(corrupt("a leaf is not what the chain says")));
            }
        }
        Ok(())
    };
    let row = node::key(root_key(height).nibble_path());
    judge(&Expected { row, version: height, hash: *root, kind: None }, &mut below)?;
    while let Some((row, value)) = parents.next().map_err(at(height))? {
        let (_, node) = read_node(&value).map_err(at(height))?;
        let Node::Internal(inner) = node else { continue };
        for (nibble, child) in inner.children_sorted() {
            let row = node::child(&row, nibble.into());
            let kind = Some((child.is_leaf(), child.leaf_count()));
            let expected = Expected { row, version: child.version, hash: Hash(child.hash), kind };
            judge(&expected, &mut below)?;
        }
    }
    match below.next().map_err(at(height))? {
        Some(_) => Err(at(height)(corrupt("there are nodes outside the tree"))),
        None => Ok(leaves),
    }
}

/// Rows read at once.
const PAGE: usize = 512;

/// Key and value of a node's row.
type StoredNode = (Vec<u8>, Vec<u8>);

/// All rows of nodes in order, a page at a time.
struct Pages<'a> {
    read: &'a dyn Read,
    page: std::vec::IntoIter<StoredNode>,
    /// Where the next page begins; none at the end.
    from: Option<Vec<u8>>,
}

impl<'a> Pages<'a> {
    fn new(read: &'a dyn Read) -> Pages<'a> {
        Pages { read, page: Vec::new().into_iter(), from: Some(Vec::new()) }
    }

    fn next(&mut self) -> Result<Option<StoredNode>, StoreError> {
        if self.page.len() == 0
            && let Some(from) = self.from.take()
        {
            let mut page = Vec::with_capacity(PAGE);
            self.read.scan(Column::Nodes, &from, Direction::Forward, &mut |row, value| {
                page.push((row.to_vec(), value.to_vec()));
                if page.len() < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            // The first key behind the last one of this page.
            self.from = page.get(PAGE - 1).map(|(row, _)| [row, &b"\0"[..]].concat());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}

/// A node as its parent has it.
struct Expected {
    /// Key of its row.
    row: Vec<u8>,
    version: Version,
    hash: Hash,
    /// Whether it is a leaf, and how many are below; none for the root.
    kind: Option<(bool, usize)>,
}

impl Expected {
    fn judge(&self, found: Option<&StoredNode>) -> Result<Node, StoreError> {
        let bytes = found.filter(|(row, _)| *row == self.row).map(|(_, bytes)| bytes);
        let bytes = bytes.ok_or_else(|| corrupt("a node is missing"))?;
        let (version, node) = read_node(bytes)?;
        if version != self.version || hash(&node) != self.hash || node::value(version, &node) != *bytes {
            return Err(corrupt("a node is not the one its parent has"));
        }
        let found = match &node {
            Node::Internal(node) => (false, node.leaf_count()),
            Node::Leaf(_) => (true, 1),
            Node::Null => (false, 0),
        };
        if self.kind.is_some_and(|kind| kind != found) {
            return Err(corrupt("a node is not of the kind its parent has for it"));
        }
        Ok(node)
    }
}
