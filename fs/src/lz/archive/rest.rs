//! What is left to do once a commit is true.
//!
//! From there on everybody sees it, and it cannot fail any more: who is told that it did would make it once more, of an
//! archive that is another one by now. What the disk refuses then is done later, and the notes say until then what is ours.

use super::record::Record;
use super::table::Table;
use super::{Archive, folder};
use crate::error::FsResult;
use std::path::Path;
use std::sync::Arc;

/// Steps that are not done yet, in their order.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// The archive has the name of another file, which the disk may not know.
    pub(super) is_renamed: bool,
    /// It was cut off, which the disk may not know.
    pub(super) is_cut: bool,
    /// Bytes that belong to nothing and are no zeros: begin and end.
    pub(super) dead: Vec<(u64, u64)>,
    /// The file is the one it was: bytes of it that are kept for pins are dead once these are gone, and the note says so.
    pub(super) is_in_place: bool,
}

impl Archive {
    /// Do `rest`, now or later.
    pub(super) fn leave(&self, rest: Rest) {
        *self.rest.lock() = Some(rest);
        if let Err(error) = self.settle() {
            tracing::warn!(archive = %self.path.display(), %error, "a commit is true and not cleared away");
        }
    }

    /// Do what the last commit left to do: it is durable when this returns, and nothing of what it removed is left.
    ///
    /// # Errors
    /// What the disk answers; it is tried again by the next call, and before the next commit.
    pub fn settle(&self) -> FsResult<()> {
        let mut rest = self.rest.lock();
        let Some(left) = rest.as_mut() else { return Ok(()) };
        let (output, is_any_kept) = {
            let state = self.state.read();
            (state.output.clone(), !state.kept.is_empty())
        };
        if left.is_renamed {
            let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.disk.sync_folder(parent.unwrap_or(Path::new(".")))?;
            left.is_renamed = false;
        }
        if left.is_cut {
            self.disk.sync(&output)?;
            left.is_cut = false;
        }
        while let Some(&(from, to)) = left.dead.last() {
            self.disk.zero(&output, from, to - from)?;
            left.dead.pop();
        }
        if left.is_in_place && is_any_kept {
            self.keep(&[self.stamp()?])?;
        } else {
            if left.is_in_place {
                self.disk.sync(&output)?;
            }
            self.at_rest()?;
        }
        *rest = None;
        Ok(())
    }

    /// The file is what it is to be: what tells of the commit goes when that is noted.
    pub(super) fn at_rest(&self) -> FsResult<()> {
        self.keep(&[self.stamp()?])?;
        Record::remove(&self.disk, &folder::beside(&self.path))
    }

    /// Read the directory again, after a commit failed.
    pub(super) fn reload(&self) -> FsResult<()> {
        let mut state = self.state.write();
        state.table = Arc::new(Table::load(&state.output.file)?);
        self.located.lock().clear();
        self.contents.forget_places();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Edit, Edits, Keeper, NewMember, Policy, Source, Strategy};
    use super::*;
    use crate::path::BucketPath;
    use rustix::io::Errno;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn path(text: &str) -> BucketPath {
        BucketPath::new(text).unwrap()
    }

    fn put(at: &str) -> Edit {
        let source = Source::Bytes(at.into());
        Edit::Put(NewMember { path: path(at), source, mode: 0o644, mtime_ns: 0, blake3: None })
    }

    fn content(archive: &Archive, at: &str) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 10];
        let read = archive.read(archive.find(&path(at))?.id, 0, &mut bytes).unwrap();
        bytes.truncate(read);
        Some(bytes)
    }

    /// A commit in the way of `policy` whose last note the disk does not take is made, and is not made again.
    #[track_caller]
    fn check(policy: Policy, expect: Strategy) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a.zip");
        Archive::create(&place).unwrap();
        let is_full = Arc::new(AtomicBool::new(false));
        let full = Arc::clone(&is_full);
        let keeper: Keeper = Arc::new(move |stamps| match stamps {
            [_] if full.load(Ordering::Relaxed) => Err(Errno::NOSPC.into()),
            _ => Ok(()),
        });
        let open = || Archive::open_kept(&place, policy, None, Some(Arc::clone(&keeper))).unwrap();
        let archive = open();
        archive.commit(&Edits(vec![put("first"), put("a"), put("b")])).unwrap();

        is_full.store(true, Ordering::Relaxed);
        let moved = Edits(vec![Edit::Rename { from: path("a"), to: path("b") }, put("c")]);
        assert_eq!(archive.commit(&moved).unwrap().strategy, expect);
        let is_moved = |archive: &Archive| {
            content(archive, "a").is_none() && content(archive, "b").is_some_and(|bytes| bytes == b"a")
        };
        assert!(is_moved(&archive));
        assert!(archive.settle().is_err() && archive.commit(&moved).is_err());
        assert!(is_moved(&archive), "what cannot be made changes nothing");

        is_full.store(false, Ordering::Relaxed);
        archive.settle().unwrap();
        archive.commit(&Edits(vec![put("d")])).unwrap();
        assert!(is_moved(&archive) && archive.check().unwrap().is_empty());
        is_full.store(true, Ordering::Relaxed);
        archive.commit(&Edits(vec![put("e")])).unwrap();
        drop(archive);
        is_full.store(false, Ordering::Relaxed);
        let archive = open();
        assert_eq!((content(&archive, "e"), is_moved(&archive)), (Some(b"e".to_vec()), true));
        assert!(archive.check().unwrap().is_empty());
    }

    #[test]
    fn a_commit_that_is_true_does_not_fail_any_more() {
        check(Policy { rewrite_below: 0, reflink: false }, Strategy::Extend);
        check(Policy { rewrite_below: u64::MAX, reflink: false }, Strategy::Rewrite);
    }
}
