//! What buckets and the ledger complain of, in the words and numbers of the error table.

use crate::error::{Error, Kind, plain};
use crate::name::BucketName;
use rustix::io::Errno;
use std::path::Path;
use wizefs_fs::{BucketPath, FsError, SinkError};
use wizefs_ledger::store::StoreError;
use wizefs_ledger::{LedgerError, OpenError};

/// A failure of a bucket.
pub(crate) fn fs(error: FsError) -> Error {
    let kind = match &error {
        FsError::Os { errno, .. } => of_errno(*errno),
        FsError::Path(_) => Kind::BadPath,
        FsError::Sink(SinkError::NoSpace(_)) => Kind::NoSpace,
        FsError::Sink(SinkError::Broken(_)) => Kind::LedgerDamaged,
        FsError::State { .. } => Kind::Failed,
        FsError::Archive(_) => Kind::Archive,
        FsError::Damaged(_) => Kind::Damaged,
        FsError::Passphrase(_) => Kind::Passphrase,
        FsError::Busy(_) => Kind::Busy,
        FsError::Interrupted => Kind::Failed,
    };
    let is_denied = matches!(error, FsError::Os { errno: Errno::ACCESS, .. });
    let message = match error {
        FsError::Os { what, errno } => format!("{what}: {}", plain(&errno.into())),
        other => other.to_string(),
    };
    let error = Error::new(kind, message);
    if is_denied { error.hint("check whose it is: what root has made, its user cannot change") } else { error }
}

/// A failure of a bucket, in a sentence that says what was wanted.
pub(super) fn cannot(what: &str, name: &BucketName, path: &BucketPath, error: FsError) -> Error {
    let mut failed = fs(error);
    failed.message = format!("cannot {what} {name}/{path}: {}", failed.message);
    failed
}

fn of_errno(errno: Errno) -> Kind {
    match errno {
        Errno::NOENT => Kind::FileMissing,
        Errno::EXIST | Errno::NOTEMPTY => Kind::FileExists,
        Errno::ISDIR | Errno::NOTDIR | Errno::LOOP => Kind::NotAFile,
        Errno::INVAL | Errno::NAMETOOLONG => Kind::BadPath,
        Errno::OPNOTSUPP => Kind::Unsupported,
        Errno::NOSPC | Errno::DQUOT => Kind::NoSpace,
        Errno::ROFS => Kind::Refused,
        Errno::BUSY | Errno::TXTBSY | Errno::AGAIN => Kind::Busy,
        _ => Kind::Failed,
    }
}

/// A failure of the ledger at work.
pub(crate) fn ledger(error: LedgerError) -> Error {
    let kind = match &error {
        LedgerError::Refused(_) => Kind::Refused,
        LedgerError::Spent(_) => Kind::Spent,
        LedgerError::Store(StoreError::Corrupt(_)) => Kind::LedgerDamaged,
        LedgerError::Store(_) => Kind::Failed,
        LedgerError::Full => Kind::NoSpace,
        LedgerError::Poisoned(_) => Kind::LedgerDamaged,
    };
    Error::new(kind, error.to_string())
}

/// The files of the ledger in `folder` cannot be used.
pub(super) fn store(folder: &Path, error: StoreError) -> Error {
    open_ledger(folder, OpenError::Store(error))
}

/// Why the ledger in `folder` does not open.
pub(super) fn open_ledger(folder: &Path, error: OpenError) -> Error {
    let kind = match &error {
        OpenError::Damaged(_) | OpenError::Store(StoreError::Corrupt(_)) => Kind::LedgerDamaged,
        OpenError::Store(StoreError::Full) => Kind::NoSpace,
        OpenError::Store(StoreError::Locked(_)) => Kind::RootLocked,
        OpenError::WrongKey(_) => Kind::ConfigChange,
        OpenError::Absent | OpenError::Stamp(_) | OpenError::Key(_) | OpenError::Store(_) => Kind::Failed,
    };
    Error::new(kind, format!("cannot open the ledger in {}: {error}", folder.display()))
}
