//! Files that nobody but the kernel refers to, in a few bytes each: after a walk over a large tree they are most of what is known.

use super::Node;
use crate::stat::Kind;
use crate::vfs::Ino;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Inode number to what a node is made of again: parent `u64`, birth `i64`, lookups `u32`, device `u16` (an index), kind `u8`, name;
/// numbers little-endian.
#[derive(Debug, Default)]
pub(super) struct Resting(BTreeMap<Ino, Box<[u8]>>);

/// Bytes before the name.
const FIXED: usize = 8 + 8 + 4 + 2 + 1;
const LOOKUPS: std::ops::Range<usize> = 16..20;

/// A resting file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) parent: Ino,
    pub(super) name: OsString,
    pub(super) kind: Kind,
    /// Device and number in the backing.
    pub(super) backing: (u64, u64),
    pub(super) btime_ns: i64,
    pub(super) lookups: u64,
}

/// Kinds that rest. A directory does not: its children refer to it.
const KINDS: [Kind; 6] = [Kind::File, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];

impl Resting {
    pub(super) fn has(&self, ino: Ino) -> bool {
        self.0.contains_key(&ino)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Take over what is known of `node`, which nobody but the kernel refers to. `false` when there is more to know of it than is kept
    /// here.
    pub(super) fn take_over(&mut self, node: &Node, lookups: u64, devices: &[u64]) -> bool {
        let Some(bytes) = encode(node, lookups, devices) else { return false };
        self.0.insert(node.ino, bytes);
        true
    }

    pub(super) fn get(&self, ino: Ino, devices: &[u64]) -> Option<Rest> {
        decode(ino, self.0.get(&ino)?, devices)
    }

    /// The kernel gives lookups back; `true` when those were the last.
    pub(super) fn forget(&mut self, ino: Ino, lookups: u64) -> bool {
        let Some(bytes) = self.0.get_mut(&ino) else { return false };
        let left = lookups_of(bytes).map_or(0, |held| u64::from(held).saturating_sub(lookups));
        if left == 0 {
            self.0.remove(&ino);
            return true;
        }
        // Not more than it was, which fits.
        bytes[LOOKUPS].copy_from_slice(&(left as u32).to_le_bytes());
        false
    }
}

fn lookups_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(LOOKUPS)?.try_into().ok()?))
}

fn encode(node: &Node, lookups: u64, devices: &[u64]) -> Option<Box<[u8]>> {
    let kind = KINDS.iter().position(|kind| *kind == node.kind)?;
    let device = devices.iter().position(|device| *device == node.backing.0)?;
    if node.fd.lock().is_some() || number(node.backing.1, device) != node.ino || !node.writing.lock().is_at_rest() {
        return None;
    }
    let names = node.names.lock();
    let [name] = &names[..] else { return None };
    let mut bytes = Vec::with_capacity(FIXED + name.name.len());
    bytes.extend_from_slice(&name.parent.ino.0.to_le_bytes());
    bytes.extend_from_slice(&node.btime_ns.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(lookups).ok()?.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(device).ok()?.to_le_bytes());
    bytes.push(u8::try_from(kind).ok()?);
    bytes.extend_from_slice(name.name.as_bytes());
    Some(bytes.into_boxed_slice())
}

fn decode(ino: Ino, bytes: &[u8], devices: &[u64]) -> Option<Rest> {
    let (parent, rest) = bytes.split_first_chunk::<8>()?;
    let (birth, rest) = rest.split_first_chunk::<8>()?;
    let (lookups, rest) = rest.split_first_chunk::<4>()?;
    let (device, rest) = rest.split_first_chunk::<2>()?;
    let (kind, name) = rest.split_first()?;
    let device = usize::from(u16::from_le_bytes(*device));
    Some(Rest {
        parent: Ino(u64::from_le_bytes(*parent)),
        name: OsString::from_vec(name.to_vec()),
        kind: *KINDS.get(usize::from(*kind))?,
        backing: (*devices.get(device)?, number(ino.0, device).0),
        btime_ns: i64::from_le_bytes(*birth),
        lookups: u64::from(u32::from_le_bytes(*lookups)),
    })
}

/// The number towards the kernel of the backing's `number` on the device of this index, and back. Not so for the numbers that stand
/// aside (see `InodeTable::ino_of`): such files do not rest.
fn number(number: u64, device: usize) -> Ino {
    Ino(number ^ ((device as u64) << 48))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::{InodeTable, Name};
    use std::ffi::OsStr;
    use std::sync::Arc;

    fn node(table: &InodeTable, ino: u64, name: &str) -> Node {
        let names = vec![Name { parent: table.root().clone(), name: name.into() }];
        Node::with((Ino(ino), Kind::File), (7, ino), -5, (None, names), &Arc::default())
    }

    #[test]
    fn what_rests_is_found_again_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let table = InodeTable::new(std::fs::File::open(dir.path()).unwrap().into()).unwrap();
        let mut resting = Resting::default();
        assert!(resting.take_over(&node(&table, 9, "a name"), 3, &[7]));
        let rest = resting.get(Ino(9), &[7]).unwrap();
        let found = (rest.parent, rest.name.to_str().unwrap(), rest.kind, rest.backing, rest.btime_ns, rest.lookups);
        assert_eq!(found, (Ino::ROOT, "a name", Kind::File, (7, 9), -5, 3));
        assert!(!resting.forget(Ino(9), 2) && resting.has(Ino(9)));
        assert!(resting.forget(Ino(9), 1) && !resting.has(Ino(9)));
        assert!(!resting.forget(Ino(9), 1));
    }

    #[test]
    fn what_somebody_writes_or_has_two_names_does_not_rest() {
        let dir = tempfile::tempdir().unwrap();
        let table = InodeTable::new(std::fs::File::open(dir.path()).unwrap().into()).unwrap();
        let mut resting = Resting::default();
        let written = node(&table, 9, "a");
        written.writing.lock().writers = 1;
        let linked = node(&table, 10, "b");
        linked.add_name(table.root(), OsStr::new("c"));
        let elsewhere = node(&table, 11, "d");
        assert!(!resting.take_over(&written, 1, &[7]));
        assert!(!resting.take_over(&linked, 1, &[7]));
        assert!(!resting.take_over(&elsewhere, 1, &[8]));
        assert_eq!(resting.len(), 0);
    }
}
