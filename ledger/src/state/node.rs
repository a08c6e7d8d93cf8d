//! How nodes of the state map are stored: one row per place in the tree, so that a node that changed overwrites itself.
//!
//! Key: number of nibbles on the path from the root (u8), then the nibbles, two to a byte. Value: height of the block that
//! wrote it (u64 big-endian), then 0 for the empty map, 1 for an inner node (bit map of its children, u16 little-endian;
//! for each child its hash, the height that wrote it and its number of leaves, 0 when it is a leaf itself, both LEB128),
//! 2 for a leaf (key hash, value hash). jmt's own encoding repeats what follows from this, in twice the space.

use jmt::Version;
use jmt::storage::{NibblePath, Node};

use crate::codec::encode;

/// Key of the row of the node at `path`.
pub(crate) fn key(path: &NibblePath) -> Vec<u8> {
    let mut key = vec![path.num_nibbles() as u8];
    let mut nibbles = path.nibbles().map(u8::from);
    while let Some(high) = nibbles.next() {
        key.push(high << 4 | nibbles.next().unwrap_or_default());
    }
    key
}

/// Key of the row of the parent, and which of its children this one is; none for the root.
pub(crate) fn parent(key: &[u8]) -> Option<(Vec<u8>, u8)> {
    let (&depth, mut above) = (key.first()?, key.to_vec());
    above[0] = depth.checked_sub(1)?;
    let last = above.last_mut()?;
    if depth % 2 == 0 {
        let place = *last & 15;
        *last &= !15;
        return Some((above, place));
    }
    let place = above.pop()? >> 4;
    Some((above, place))
}

/// Key of the row of the child at this place.
pub(crate) fn child(key: &[u8], place: u8) -> Vec<u8> {
    let mut below = key.to_vec();
    let depth = below.first().copied().unwrap_or_default();
    match below.last_mut().filter(|_| depth % 2 == 1) {
        Some(last) => *last |= place,
        None => below.push(place << 4),
    }
    below[0] = depth + 1;
    below
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = u64::from(*bytes.split_off_first()?);
        number |= (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Value of a node's row.
pub(crate) fn value(version: Version, node: &Node) -> Vec<u8> {
    let mut bytes = version.to_be_bytes().to_vec();
    match node {
        Node::Null => bytes.push(0),
        Node::Leaf(leaf) => {
            bytes.push(2);
            // Key hash, value hash: jmt shows the latter in no other way.
            bytes.extend(encode(leaf));
        }
        Node::Internal(node) => {
            bytes.push(1);
            let map: u16 = node.children_sorted().map(|(nibble, _)| 1 << u8::from(nibble)).sum();
            bytes.extend(map.to_le_bytes());
            for (_, child) in node.children_sorted() {
                bytes.extend(child.hash);
                push_number(&mut bytes, child.version);
                push_number(&mut bytes, if child.is_leaf() { 0 } else { child.leaf_count() as u64 });
            }
        }
    }
    bytes
}

/// The node in a row, and the height that wrote it; none when malformed.
pub(crate) fn parse(value: &[u8]) -> Option<(Version, Node)> {
    let (version, mut rest) = value.split_first_chunk::<8>()?;
    let version = u64::from_be_bytes(*version);
    let node = match rest.split_off_first()? {
        0 if rest.is_empty() => Node::Null,
        1 => inner(rest)?,
        2 if rest.len() == 64 => Node::Leaf(borsh::from_slice(rest).ok()?),
        _ => return None,
    };
    Some((version, node))
}

/// An inner node, by way of jmt's own encoding, which is the only way to make one: tag, 16 optional children (hash, version,
/// kind with its leaves), number of children, number of leaves.
fn inner(mut rest: &[u8]) -> Option<Node> {
    let map = u16::from_le_bytes(*rest.split_off(..2)?.first_chunk()?);
    let mut bytes = vec![1];
    let mut leaves = 0u64;
    for nibble in 0..16 {
        if map & 1 << nibble == 0 {
            bytes.push(0);
            continue;
        }
        bytes.push(1);
        bytes.extend_from_slice(rest.split_off(..32)?);
        bytes.extend(take_number(&mut rest)?.to_le_bytes());
        let below = take_number(&mut rest)?;
        bytes.push(u8::from(below > 0));
        if below > 0 {
            bytes.extend(below.to_le_bytes());
        }
        leaves = leaves.checked_add(below.max(1))?;
    }
    bytes.extend(u64::from(map.count_ones()).to_le_bytes());
    bytes.extend(leaves.to_le_bytes());
    if map == 0 || !rest.is_empty() {
        return None;
    }
    borsh::from_slice(&bytes).ok()
}
