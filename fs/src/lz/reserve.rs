//! Space kept beside an archive for when its disk is full: who looks into a directory that nobody has looked into needs some
//! in the stage, and who removes needs some for the new directory of the archive, before there is more.

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const NAME: &str = "reserve";
/// Bytes for notes and the like, those for each member, and the most for all of them.
const LEAST: u64 = 64 * 1024;
const PER_MEMBER: u64 = 256;
const MOST: u64 = 64 * 1024 * 1024;

/// The space, while there is any.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    is_kept: AtomicBool,
}

impl Reserve {
    /// Of an archive with so many members, in the folder of its stage; not kept yet.
    pub(super) fn of(folder: &Path, members: usize) -> Self {
        let bytes = LEAST.saturating_add(PER_MEMBER.saturating_mul(members as u64)).min(MOST);
        Self { path: folder.join(NAME), bytes, is_kept: AtomicBool::new(false) }
    }

    /// Keep the space, if it is not, or as much of it as there is.
    ///
    /// # Errors
    /// `ENOSPC` when there is not even the least of it.
    pub(super) fn keep(&self) -> Result<(), Errno> {
        if self.is_kept.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.take() {
            Ok(()) => self.is_kept.store(true, Ordering::Release),
            Err(errno) => {
                self.remove();
                if matches!(errno, Errno::NOSPC | Errno::DQUOT) {
                    return Err(errno);
                }
                tracing::debug!(%errno, path = %self.path.display(), "no space is kept");
            }
        }
        Ok(())
    }

    fn take(&self) -> Result<(), Errno> {
        // What a session left that did not end in order is kept on.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR)?);
        let mut bytes = self.bytes;
        loop {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::NOSPC | Errno::DQUOT) if bytes > LEAST => bytes = (bytes / 2).max(LEAST),
                taken => return taken,
            }
        }
    }

    /// Let the disk have it; whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let was_kept = self.is_kept.swap(false, Ordering::AcqRel);
        if was_kept {
            self.remove();
        }
        was_kept
    }

    fn remove(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::debug!(%error, path = %self.path.display(), "space that was kept stays");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_there_until_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(dir.path().join(NAME)).map(|found| found.len()).ok();
        let reserve = Reserve::of(dir.path(), 1000);
        assert!(!reserve.give_up());
        reserve.keep().unwrap();
        assert_eq!(length(), Some(LEAST + 1000 * PER_MEMBER));
        assert!(reserve.give_up() && !reserve.give_up());
        assert_eq!(length(), None);
        reserve.keep().unwrap();
        drop(reserve);
        let again = Reserve::of(dir.path(), 1000);
        again.keep().unwrap();
        assert!(again.give_up() && length().is_none());
        assert_eq!(Reserve::of(dir.path(), usize::MAX).bytes, MOST);
    }
}
