//! How an archive is told from what other programs make of it.

use crate::error::{FsError, FsResult};
use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// An archive at rest: length, modification time and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    length: u64,
    mtime: (i64, i64),
    inode: u64,
}

/// Is told the states at rest of which the archive is about to have one, while something else still says that it is ours:
/// the note on a commit, or the file it is a copy of.
pub type Keeper = Arc<dyn Fn(&[Stamp]) -> FsResult<()> + Send + Sync>;

impl Stamp {
    pub(super) fn of(found: &Metadata) -> Self {
        Self { length: found.len(), mtime: (found.mtime(), found.mtime_nsec()), inode: found.ino() }
    }

    /// Of a file that we have made so long: if somebody else has made it longer, this is not its stamp.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn made(file: &File, length: u64) -> FsResult<Self> {
        Ok(Self { length, ..Self::of(&file.metadata()?) })
    }

    /// Of the file at `path`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn at(path: &Path) -> FsResult<Self> {
        let found = std::fs::metadata(path).map_err(|e| FsError::os(path.display().to_string(), e))?;
        Ok(Self::of(&found))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{} {}", self.length, self.mtime.0, self.mtime.1, self.inode)
    }
}
