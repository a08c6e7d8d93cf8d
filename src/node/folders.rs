//! Folders of a bucket by path, mounted or not: made, removed, moved. For WebDAV.

use super::files::existing;
use super::{Node, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::wire;
use wizefs_fs::{BucketPath, FoundKind};

impl Node {
    /// What is at `path`.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`], [`Kind::FileMissing`].
    pub fn entry_at(&self, name: &BucketName, path: &BucketPath) -> Result<wire::Entry> {
        let bucket = self.bucket(name)?;
        let found = existing(&*bucket.fs()?, name, path)?;
        if found.kind == FoundKind::Directory {
            return self.entry(&found, &[]);
        }
        let listed = self.list(name, path)?;
        listed.entries.into_iter().next().ok_or_else(|| Error::new(Kind::FileMissing, format!("there is no {path}")))
    }

    /// Make a folder; final when this returns.
    ///
    /// # Errors
    /// [`Kind::FileExists`], [`Kind::FileMissing`] without its parent, [`Kind::Unsupported`].
    pub fn make_dir(&self, name: &BucketName, path: &BucketPath) -> Result<()> {
        let bucket = self.bucket(name)?;
        let made = bucket.fs()?.make_dir(path, 0o755);
        made.map_err(|e| trouble::cannot("make", name, path, e))?;
        self.seal()
    }

    /// Remove an empty folder; final when this returns.
    ///
    /// # Errors
    /// [`Kind::FileMissing`], [`Kind::FileExists`] when it is not empty, [`Kind::NotAFile`] when it is no folder.
    pub fn remove_dir(&self, name: &BucketName, path: &BucketPath) -> Result<()> {
        let bucket = self.bucket(name)?;
        let removed = bucket.fs()?.remove_dir(path);
        removed.map_err(|e| trouble::cannot("remove", name, path, e))?;
        self.seal()
    }

    /// Move a file or folder within a bucket; final when this returns.
    ///
    /// # Errors
    /// [`Kind::FileMissing`]; [`Kind::FileExists`], [`Kind::NotAFile`] for a target that cannot be replaced.
    pub fn rename(&self, name: &BucketName, from: &BucketPath, to: &BucketPath) -> Result<()> {
        let bucket = self.bucket(name)?;
        let moved = bucket.fs()?.rename(from, to);
        moved.map_err(|e| trouble::cannot("move", name, from, e))?;
        self.seal()
    }
}
