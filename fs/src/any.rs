//! A bucket of any kind, for those who do not care which.

use crate::bucket::{Bucket, ContentCheck, Found, Stored, SyncReport};
use crate::error::{FsError, FsResult};
use crate::import::{ImportProgress, Watch};
use crate::lz::{Committed, LzBucket, Problem};
use crate::path::BucketPath;
use crate::verified::Verified;
use crate::vfs::{Kernel, Trust, Vfs};
use crate::zip::{ArchiveCheck, Unread, ZipBucket};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// An open bucket. What a kind cannot do is `EOPNOTSUPP`.
#[derive(Debug, Clone)]
pub enum AnyBucket {
    /// A directory.
    Loopback(Arc<Bucket>),
    /// A zip archive, read-only.
    Zip(Arc<ZipBucket>),
    /// A zip archive that is written.
    Lz(Arc<LzBucket>),
}

fn read_only<T>() -> FsResult<T> {
    Err(FsError::os("a zip bucket is read-only", Errno::OPNOTSUPP))
}

impl AnyBucket {
    pub(crate) fn vfs(&self) -> Arc<dyn Vfs> {
        match self {
            Self::Loopback(bucket) => bucket.vfs(),
            Self::Zip(bucket) => bucket.vfs(),
            Self::Lz(bucket) => bucket.vfs(),
        }
    }

    pub(crate) fn trust(&self) -> Trust {
        match self {
            Self::Loopback(bucket) => bucket.trust(),
            Self::Zip(bucket) => bucket.trust(),
            Self::Lz(bucket) => bucket.trust(),
        }
    }

    pub(crate) fn served_to(&self, kernel: Option<Arc<dyn Kernel>>) {
        match self {
            Self::Loopback(bucket) => bucket.served_to(kernel),
            Self::Lz(bucket) => bucket.served_to(kernel),
            // Nothing changes in it that the kernel would have to be told of.
            Self::Zip(_) => {}
        }
    }

    /// Whether nothing in it can change.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Zip(_))
    }

    /// Record what is there already; what cannot be read is named.
    ///
    /// # Errors
    /// As [`Bucket::import`] and [`ZipBucket::import`].
    pub fn import(&self, watch: Watch<'_>) -> FsResult<(ImportProgress, Vec<Unread>)> {
        match self {
            Self::Loopback(bucket) => bucket.import(watch),
            Self::Zip(bucket) => bucket.import(watch),
            Self::Lz(bucket) => bucket.import(watch),
        }
    }

    /// As [`ZipBucket::check_archive`]; `None` where there is no archive.
    ///
    /// # Errors
    /// As there.
    pub fn check_archive(&self) -> FsResult<Option<ArchiveCheck>> {
        match self {
            Self::Loopback(_) | Self::Lz(_) => Ok(None),
            Self::Zip(bucket) => bucket.check_archive(),
        }
    }

    /// As [`LzBucket::problems`]; none where there is no archive that is written.
    ///
    /// # Errors
    /// As there.
    pub fn archive_problems(&self) -> FsResult<Vec<Problem>> {
        match self {
            Self::Lz(bucket) => bucket.problems(),
            Self::Loopback(_) | Self::Zip(_) => Ok(Vec::new()),
        }
    }

    /// As [`LzBucket::trouble`] and [`ZipBucket::trouble`].
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Lz(bucket) => bucket.trouble(),
            Self::Zip(bucket) => bucket.trouble(),
            Self::Loopback(_) => None,
        }
    }

    /// Whether another program has changed its archive since it was opened: opened again, it shows what is there.
    pub fn is_outdated(&self) -> bool {
        match self {
            Self::Lz(bucket) => bucket.is_outdated(),
            Self::Zip(bucket) => bucket.is_outdated(),
            Self::Loopback(_) => false,
        }
    }

    /// As [`LzBucket::compact`].
    ///
    /// # Errors
    /// As there; `EOPNOTSUPP` for the other kinds.
    pub fn compact(&self) -> FsResult<Committed> {
        match self {
            Self::Lz(bucket) => bucket.compact(),
            Self::Loopback(_) | Self::Zip(_) => {
                Err(FsError::os("only an archive that is written can be compacted", Errno::OPNOTSUPP))
            }
        }
    }

    /// As [`Bucket::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put(&self, path: &BucketPath, mode: Option<u32>, data: &mut dyn Read) -> FsResult<Stored> {
        match self {
            Self::Loopback(bucket) => bucket.put(path, mode, data),
            Self::Zip(_) => read_only(),
            Self::Lz(bucket) => bucket.put(path, mode, data),
        }
    }

    /// As [`Bucket::settle`].
    ///
    /// # Errors
    /// As there.
    pub fn settle(&self, path: &BucketPath) -> FsResult<Stored> {
        match self {
            Self::Loopback(bucket) => bucket.settle(path),
            Self::Zip(_) => read_only(),
            Self::Lz(bucket) => bucket.settle(path),
        }
    }

    /// As [`Bucket::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self, path: &BucketPath) -> FsResult<u64> {
        match self {
            Self::Loopback(bucket) => bucket.remove(path),
            Self::Zip(_) => read_only(),
            Self::Lz(bucket) => bucket.remove(path),
        }
    }

    /// As [`Bucket::accept`].
    ///
    /// # Errors
    /// As there.
    pub fn accept(&self, path: &BucketPath) -> FsResult<u64> {
        match self {
            Self::Loopback(bucket) => bucket.accept(path),
            Self::Zip(_) => read_only(),
            Self::Lz(bucket) => bucket.accept(path),
        }
    }

    /// As [`Bucket::make_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn make_dir(&self, path: &BucketPath, mode: u32) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.make_dir(path, mode),
            Self::Zip(_) => read_only(),
            Self::Lz(bucket) => bucket.make_dir(path, mode),
        }
    }

    /// As [`Bucket::remove_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_dir(&self, path: &BucketPath) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.remove_dir(path),
            Self::Zip(_) => read_only(),
            Self::Lz(bucket) => bucket.remove_dir(path),
        }
    }

    /// As [`Bucket::rename`].
    ///
    /// # Errors
    /// As there.
    pub fn rename(&self, from: &BucketPath, to: &BucketPath) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.rename(from, to),
            Self::Zip(_) => read_only(),
            Self::Lz(bucket) => bucket.rename(from, to),
        }
    }

    /// As [`Bucket::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, path: &BucketPath) -> FsResult<Vec<Found>> {
        match self {
            Self::Loopback(bucket) => bucket.list(path),
            Self::Zip(bucket) => bucket.list(path),
            Self::Lz(bucket) => bucket.list(path),
        }
    }

    /// As [`Bucket::inspect`].
    ///
    /// # Errors
    /// As there.
    pub fn inspect(&self, path: &BucketPath) -> FsResult<Option<Found>> {
        match self {
            Self::Loopback(bucket) => bucket.inspect(path),
            Self::Zip(bucket) => bucket.inspect(path),
            Self::Lz(bucket) => bucket.inspect(path),
        }
    }

    /// As [`Bucket::open_file`] and [`ZipBucket::open_file`].
    ///
    /// # Errors
    /// As there.
    pub fn open_file(&self, path: &BucketPath) -> FsResult<File> {
        match self {
            Self::Loopback(bucket) => bucket.open_file(path),
            Self::Zip(bucket) => bucket.open_file(path),
            Self::Lz(bucket) => bucket.open_file(path),
        }
    }

    /// As [`Bucket::open_settled`]; never a member of an archive, which takes its time.
    ///
    /// # Errors
    /// As there.
    pub fn open_settled(&self, path: &BucketPath, most: u64) -> FsResult<Option<File>> {
        match self {
            Self::Loopback(bucket) => bucket.open_settled(path, most),
            Self::Zip(_) | Self::Lz(_) => Ok(None),
        }
    }

    /// As [`Bucket::open_verified`].
    ///
    /// # Errors
    /// As there.
    pub fn open_verified(&self, path: &BucketPath, size: u64, expected: &[u8; 32]) -> FsResult<Verified> {
        match self {
            Self::Loopback(bucket) => bucket.open_verified(path, size, expected),
            Self::Zip(bucket) => bucket.open_verified(path, size, expected),
            Self::Lz(bucket) => bucket.open_verified(path, size, expected),
        }
    }

    /// As [`Bucket::recognize`]; of an archive, whose members have no inodes, nothing has to be.
    ///
    /// # Errors
    /// As there.
    pub fn recognize(&self, path: &BucketPath) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.recognize(path),
            Self::Zip(_) | Self::Lz(_) => Ok(()),
        }
    }

    /// As [`Bucket::check_content`].
    ///
    /// # Errors
    /// As there.
    pub fn check_content(&self, path: &BucketPath, expected: &[u8; 32]) -> FsResult<ContentCheck> {
        match self {
            Self::Loopback(bucket) => bucket.check_content(path, expected),
            Self::Zip(bucket) => bucket.check_content(path, expected),
            Self::Lz(bucket) => bucket.check_content(path, expected),
        }
    }

    /// As [`Bucket::is_pending`].
    pub fn is_pending(&self, path: &BucketPath) -> bool {
        match self {
            Self::Loopback(bucket) => bucket.is_pending(path),
            Self::Zip(_) => false,
            Self::Lz(bucket) => bucket.is_pending(path),
        }
    }

    /// As [`Bucket::is_undelivered`].
    pub fn is_undelivered(&self, path: &BucketPath) -> bool {
        match self {
            Self::Loopback(bucket) => bucket.is_undelivered(path),
            Self::Zip(_) => false,
            Self::Lz(bucket) => bucket.inner().is_undelivered(path),
        }
    }

    /// As [`Bucket::sync`].
    ///
    /// # Errors
    /// As there.
    pub fn sync(&self) -> FsResult<SyncReport> {
        match self {
            Self::Loopback(bucket) => bucket.sync(),
            Self::Zip(bucket) => bucket.sync(),
            Self::Lz(bucket) => bucket.sync(),
        }
    }

    /// As [`Bucket::sync`]; an archive need not have everything when this returns.
    ///
    /// # Errors
    /// As there.
    pub fn record(&self) -> FsResult<SyncReport> {
        match self {
            Self::Lz(bucket) => bucket.inner().sync(),
            Self::Loopback(_) | Self::Zip(_) => self.sync(),
        }
    }

    /// As [`Bucket::drain`].
    ///
    /// # Errors
    /// As there.
    pub fn drain(&self) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.drain(),
            Self::Zip(bucket) => bucket.drain(),
            Self::Lz(bucket) => bucket.inner().drain(),
        }
    }

    /// As [`Bucket::persist`].
    ///
    /// # Errors
    /// As there.
    pub fn persist(&self) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.persist(),
            Self::Zip(bucket) => bucket.persist(),
            Self::Lz(bucket) => bucket.inner().persist(),
        }
    }

    /// As [`Bucket::retire`].
    pub fn retire(&self, number: u64) {
        match self {
            Self::Loopback(bucket) => bucket.retire(number),
            Self::Lz(bucket) => bucket.inner().retire(number),
            Self::Zip(_) => {}
        }
    }

    /// As [`Bucket::erase_ended_intents`].
    ///
    /// # Errors
    /// As there.
    pub fn erase_ended_intents(&self) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.erase_ended_intents(),
            Self::Lz(bucket) => bucket.inner().erase_ended_intents(),
            Self::Zip(_) => Ok(()),
        }
    }

    /// As [`Bucket::unsettled`].
    pub fn unsettled(&self) -> u64 {
        match self {
            Self::Loopback(bucket) => bucket.unsettled(),
            Self::Zip(bucket) => bucket.unsettled(),
            Self::Lz(bucket) => bucket.inner().unsettled(),
        }
    }

    /// As [`Bucket::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> FsResult<()> {
        match self {
            Self::Loopback(bucket) => bucket.close(),
            Self::Zip(bucket) => bucket.close(),
            Self::Lz(bucket) => bucket.close(),
        }
    }
}
