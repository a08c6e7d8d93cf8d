//! Writing, flushing and syncing of open files.

use super::LoopbackFs;
use crate::bucket::{Durability, NODE};
use crate::error::FsResult;
use crate::handle::FileHandle;
use crate::privilege::without_fsetid;
use crate::settle::Outcome;
use crate::vfs::{CopyRange, Fh};
use rustix::fs::FallocateFlags;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

/// How often a `close` hashes what another holder of the descriptor goes on writing.
const TRIES: usize = 3;

impl LoopbackFs {
    pub(super) fn write_at(&self, fh: Fh, offset: u64, data: &[u8], drop_set_id: bool) -> FsResult<usize> {
        let handle = self.files.get(fh)?;
        self.written_again(&handle)?;
        let file = handle.file()?;
        if drop_set_id {
            super::drop_set_id(file)?;
        }
        file.write_all_at(data, offset)?;
        Ok(data.len())
    }

    /// A handle that was flushed writes again: a duplicate descriptor, or a mapping after `close`.
    fn written_again(&self, handle: &FileHandle) -> FsResult<()> {
        if !handle.flushed.load(Ordering::Acquire) {
            return Ok(());
        }
        // Counts this handle once more as a writer, which notes an intent if the content was reported meanwhile. Only then may
        // others write through it: of several that come at once each waits for that.
        self.recorder.begin_write(&handle.node, false, NODE)?;
        self.recorder.end_write(&handle.node, handle.flushed.swap(false, Ordering::AcqRel));
        Ok(())
    }

    /// A `close(2)`, of which a file has as many as descriptors.
    pub(super) fn flushed(&self, handle: &FileHandle) -> FsResult<()> {
        if handle.writable() {
            // Counted before anybody finds the mark, and takes it back.
            let mut writing = handle.node.writing.lock();
            writing.flushed += u32::from(!handle.flushed.swap(true, Ordering::AcqRel));
        }
        match self.recorder.durability {
            Durability::Close | Durability::Strict if handle.changes() => self.record_now(handle)?,
            Durability::Relaxed | Durability::Close | Durability::Strict => return Ok(()),
        }
        if handle.writable() && self.passes_through() {
            // A duplicate of the descriptor may write on unseen until the release.
            self.written_again(handle)?;
        }
        Ok(())
    }

    pub(super) fn sync_file(&self, fh: Fh, data_only: bool) -> FsResult<()> {
        let handle = self.files.get(fh)?;
        if data_only {
            handle.file()?.sync_data()?;
        } else {
            handle.file()?.sync_all()?;
        }
        // Also by a descriptor that cannot write: it is the file that is synced.
        self.recorder.intents.sync()?;
        if self.recorder.durability == Durability::Strict {
            self.record_now(&handle)?;
        }
        Ok(())
    }

    /// Have the content on the ledger before returning; an `open-writers` put if others still write.
    fn record_now(&self, handle: &FileHandle) -> FsResult<()> {
        let mut outcome = Outcome::Changed;
        for _ in 0..TRIES {
            if outcome == Outcome::Changed {
                outcome = self.recorder.settle(&handle.node, handle.writable())?;
            }
        }
        if !matches!(outcome, Outcome::Done(_)) {
            self.recorder.report_open(&handle.node)?;
        }
        let number = self.recorder.stream.last();
        self.recorder.stream.wait(number)
    }

    pub(super) fn allocate(&self, fh: Fh, mode: FallocateFlags, offset: u64, len: u64) -> FsResult<()> {
        let handle = self.files.get(fh)?;
        self.written_again(&handle)?;
        let file = handle.file()?;
        Ok(without_fsetid(|| rustix::fs::fallocate(file, mode, offset, len))?)
    }

    pub(super) fn copy(&self, range: CopyRange) -> FsResult<usize> {
        let (from, mut from_at) = (self.files.get(range.from.0)?, range.from.1);
        let (to, mut to_at) = (self.files.get(range.to.0)?, range.to.1);
        self.written_again(&to)?;
        let len = usize::try_from(range.len).unwrap_or(usize::MAX).min(i32::MAX as usize);
        let (from, to) = (from.file()?, to.file()?);
        let copy = || rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), len);
        Ok(without_fsetid(copy)?)
    }
}
