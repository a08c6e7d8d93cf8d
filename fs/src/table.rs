//! The settled table: what was last reported of each name and inode of a bucket.
//!
//! Two kinds of rows, kept by the [`ChangeSink`] in the same batch as the changes they follow from:
//! `n` + directory + name -> [`NameRow`], and `i` + inode -> [`InodeRow`]. Names hang on the identity of their
//! directory, so renaming a directory moves one row. The table is local and can be made anew by importing.

use crate::change::{ChangeSink, Content, Evidence, Hashes, Put, Row, SinkError};
use crate::path::BucketPath;
use crate::stat::{Id, Kind, Stat};
use borsh::{BorshDeserialize, BorshSerialize};
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

/// A reported name.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NameRow {
    /// Identity of the inode it led to.
    pub id: u64,
    /// Kind of that inode.
    pub kind: Kind,
}

/// A reported inode.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct InodeRow {
    /// Change time at the last report, moved along by every operation of ours that moves it.
    pub ctime_ns: i64,
    /// Bytes at the last report.
    pub size: u64,
    /// Permission bits at the last report.
    pub mode: u32,
    /// What was reported.
    pub content: Settled,
    /// Reported names: directory and name.
    pub links: Vec<(u64, Vec<u8>)>,
    /// The last intent this covers; older ones have nothing left to say.
    pub intent: u64,
}

/// Content as last reported.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Settled {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A file whose content was hashed.
    Hashed {
        /// Its hashes.
        hashes: Hashes,
        /// Whether that was under a lease.
        lease: bool,
    },
    /// A file reported while open for writing.
    Open,
}

impl InodeRow {
    /// Whether the inode is as it was left at the last report.
    pub fn matches(&self, stat: &Stat) -> bool {
        self.ctime_ns == stat.ctime_ns && self.size == stat.size && self.mode == stat.mode
    }

    /// Size and change time at the last report.
    pub(crate) fn left(&self) -> (u64, i64) {
        (self.size, self.ctime_ns)
    }

    /// A put of `path` that repeats the reported content with the attributes of `stat`; `None` for directories and for
    /// content that is not known.
    pub fn put_again(&self, path: BucketPath, stat: &Stat) -> Option<Put> {
        let Settled::Hashed { hashes, lease } = self.content else {
            return None;
        };
        let content = Content::File { size: self.size, hashes: Some(hashes) };
        let evidence = if lease { Evidence::Lease } else { Evidence::Stat };
        Some(put(path, content, stat, evidence))
    }
}

/// A put with the attributes of `stat`.
pub fn put(path: BucketPath, content: Content, stat: &Stat, evidence: Evidence) -> Put {
    Put { path, content, mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime_ns: stat.mtime_ns, evidence }
}

/// Key of a name's row.
pub fn name_key(dir: Id, name: &OsStr) -> Vec<u8> {
    let mut key = name_prefix(dir);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Key of an inode's row.
pub fn inode_key(id: Id) -> Vec<u8> {
    [b"i".as_slice(), &id.0.to_be_bytes()].concat()
}

/// What the keys of the names in a directory begin with.
pub(crate) fn name_prefix(dir: Id) -> Vec<u8> {
    [b"n".as_slice(), &dir.0.to_be_bytes()].concat()
}

/// A row that sets `value`.
///
/// # Errors
/// [`SinkError::Broken`] when the value cannot be encoded, which borsh reports for no type used here.
pub fn set(key: Vec<u8>, value: &impl BorshSerialize) -> Result<Row, SinkError> {
    let value = borsh::to_vec(value).map_err(|e| SinkError::Broken(e.to_string()))?;
    Ok(Row { key, value: Some(value) })
}

/// A row that deletes.
pub fn delete(key: Vec<u8>) -> Row {
    Row { key, value: None }
}

/// Decode a row's value.
///
/// # Errors
/// [`SinkError::Broken`] for bytes that are no such row.
pub fn decode<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, SinkError> {
    T::try_from_slice(bytes).map_err(|e| SinkError::Broken(format!("settled table: {e}")))
}

/// The reported names of a directory, in byte order, as the sink has them.
///
/// # Errors
/// What the sink answers.
pub fn names_in(sink: &dyn ChangeSink, dir: Id) -> Result<Vec<(Vec<u8>, NameRow)>, SinkError> {
    let prefix = name_prefix(dir);
    let mut names = Vec::new();
    let mut bad = None;
    sink.rows(&prefix, &mut |key, value| match decode(value) {
        Ok(row) => {
            names.push((key[prefix.len()..].to_vec(), row));
            ControlFlow::Continue(())
        }
        Err(error) => {
            bad = Some(error);
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(names), Err)
}
