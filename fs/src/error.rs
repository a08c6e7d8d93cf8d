//! Errors of a bucket: an errno for the kernel, a sentence for people.

use crate::change::SinkError;
use crate::path::PathError;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why an operation on a bucket failed, grouped by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A system call on the backing failed.
    #[error("{what}: {errno}")]
    Os {
        /// What was tried, with the path where there is one.
        what: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A path or name is not allowed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The ledger did not take the change.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A file of the bucket's own state is unusable.
    #[error("{path}: {problem}", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The bucket is open elsewhere, or the file is in use.
    #[error("{0}")]
    Busy(String),
    /// An archive cannot be used as one.
    #[error("{0}")]
    Archive(String),
    /// A passphrase is missing or wrong.
    #[error("{0}")]
    Passphrase(String),
    /// The content is not what was recorded.
    #[error("{0}")]
    Damaged(String),
    /// Stopped on request.
    #[error("interrupted")]
    Interrupted,
}

/// Result of bucket operations.
pub type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// What the kernel is told.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Os { errno, .. } => *errno,
            Self::Path(PathError::NameTooLong | PathError::PathTooLong) => Errno::NAMETOOLONG,
            Self::Path(_) => Errno::INVAL,
            Self::Sink(SinkError::NoSpace(_)) => Errno::NOSPC,
            Self::Sink(SinkError::Broken(_)) => Errno::ROFS,
            Self::State { .. } | Self::Archive(_) | Self::Damaged(_) => Errno::IO,
            Self::Passphrase(_) => Errno::ACCESS,
            Self::Busy(_) => Errno::BUSY,
            Self::Interrupted => Errno::INTR,
        }
    }

    /// Whether the process, or the system, may not open more files.
    pub(crate) fn is_exhausted(&self) -> bool {
        matches!(self.errno(), Errno::MFILE | Errno::NFILE)
    }

    /// Whether the disk has no room, or its owner may not have more of it.
    pub fn is_full(&self) -> bool {
        matches!(self.errno(), Errno::NOSPC | Errno::DQUOT)
    }

    /// Whether one thing in the backing cannot be looked at: a folder of somebody else, a mount whose program is gone, a bad block.
    /// There is nothing that the node lacks, so others can be looked at all the same.
    pub fn is_of_one(&self) -> bool {
        let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC, Errno::DQUOT];
        matches!(self, Self::Os { errno, .. } if !lacking.contains(errno))
    }

    /// A failed system call on something that has a name.
    pub fn os(what: impl Into<String>, errno: impl Into<ErrnoLike>) -> Self {
        Self::Os { what: what.into(), errno: errno.into().0 }
    }
}

/// An errno from either of the two shapes the standard library and rustix use.
#[derive(Debug, Clone, Copy)]
pub struct ErrnoLike(Errno);

impl From<Errno> for ErrnoLike {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

impl From<std::io::Error> for ErrnoLike {
    fn from(error: std::io::Error) -> Self {
        Self(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        Self::os("file system call", errno)
    }
}

impl From<std::io::Error> for FsError {
    fn from(error: std::io::Error) -> Self {
        Self::os("input or output", error)
    }
}
