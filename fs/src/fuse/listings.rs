//! Directories that the kernel reads without opening them, which spares it two requests for each.
//!
//! Without an open directory there is nothing to count positions from. They are made of the hashes of names instead: a position means
//! the same in every listing of a directory, whatever comes and goes meanwhile and whoever else reads it.

use crate::error::FsResult;
use crate::stat::Kind;
use crate::vfs::{Ino, Vfs};
use parking_lot::Mutex;
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Directories that are being read at a time and need not be listed anew in between,
const KEPT_MAX: usize = 64;
/// and their entries, all in all.
const ENTRIES_MAX: usize = 1 << 21;

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where the kernel goes on behind it.
    pub(super) position: u64,
    /// Inode number.
    pub(super) ino: u64,
    /// File type, when known.
    pub(super) kind: Option<Kind>,
    /// Name.
    pub(super) name: OsString,
}

/// What a directory held when somebody began to read it, by position.
pub(super) type Listing = Arc<Vec<Entry>>;

/// The listings somebody is in the middle of; the one used last is last. One that is given up is made again when it is asked for.
#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<Vec<(Ino, Listing)>>);

impl Listings {
    /// The listing of `ino` to go on with behind position `from`, and the index there; a new one at the beginning.
    ///
    /// # Errors
    /// What reading the directory answers.
    pub(super) fn behind(&self, vfs: &dyn Vfs, ino: Ino, from: u64) -> FsResult<(Listing, usize)> {
        let kept = if from == 0 { None } else { self.take(ino) };
        let listing = match kept {
            Some(listing) => listing,
            None => Arc::new(listed(vfs, ino)?),
        };
        let start = listing.partition_point(|entry| entry.position <= from);
        // Whoever has read to the end does not ask again.
        if start < listing.len() {
            self.keep(ino, listing.clone());
        }
        Ok((listing, start))
    }

    fn take(&self, ino: Ino) -> Option<Listing> {
        let mut kept = self.0.lock();
        let at = kept.iter().position(|(known, _)| *known == ino)?;
        Some(kept.remove(at).1)
    }

    fn keep(&self, ino: Ino, listing: Listing) {
        let mut kept = self.0.lock();
        kept.retain(|(known, _)| *known != ino);
        kept.push((ino, listing));
        let mut entries: usize = kept.iter().map(|(_, listing)| listing.len()).sum();
        while kept.len() > KEPT_MAX || (entries > ENTRIES_MAX && kept.len() > 1) {
            entries -= kept.remove(0).1.len();
        }
    }

    /// The kernel forgets a directory.
    pub(super) fn forgotten(&self, ino: Ino) {
        self.0.lock().retain(|(known, _)| *known != ino);
    }
}

fn listed(vfs: &dyn Vfs, ino: Ino) -> FsResult<Vec<Entry>> {
    let fh = vfs.opendir(ino)?;
    let mut entries = Vec::new();
    let read = vfs.readdir(fh, 0, &mut |entry| {
        let (ino, kind, name) = (entry.ino, entry.kind, entry.name.to_owned());
        entries.push(Entry { position: position(&name), ino, kind, name });
        ControlFlow::Continue(())
    });
    vfs.releasedir(fh);
    read?;
    in_order(&mut entries);
    Ok(entries)
}

/// Sort by position; no two entries share one.
fn in_order(entries: &mut [Entry]) {
    entries.sort_unstable_by(|a, b| a.position.cmp(&b.position).then_with(|| a.name.cmp(&b.name)));
    let mut last = 0;
    for entry in entries {
        entry.position = entry.position.max(last + 1);
        last = entry.position;
    }
}

/// Where a name stands: `.` and `..` first, the others by their hashes. Positions are signed 64-bit numbers for the kernel.
fn position(name: &OsStr) -> u64 {
    if name == "." {
        return 1;
    }
    if name == ".." {
        return 2;
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() >> 2).max(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_and_none_is_shared() {
        let entry = |position, name: &str| Entry { position, ino: 0, kind: None, name: name.into() };
        let mut entries = vec![entry(7, "c"), entry(5, "b"), entry(5, "a"), entry(6, "d"), entry(1, ".")];
        in_order(&mut entries);
        let found: Vec<_> = entries.iter().map(|e| (e.name.to_str().unwrap(), e.position)).collect();
        assert_eq!(found, [(".", 1), ("a", 5), ("b", 6), ("d", 7), ("c", 8)]);
        assert!(position(OsStr::new("x")) < i64::MAX as u64);
        assert_eq!((position(OsStr::new(".")), position(OsStr::new(".."))), (1, 2));
    }
}
