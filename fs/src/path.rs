//! A path inside a bucket: bytes, relative, never able to leave the bucket.

use crate::error::FsResult;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// The longest path, in bytes.
pub const PATH_MAX_BYTES: usize = 16_383;
/// The longest component, in bytes; what Linux file systems allow.
pub const NAME_MAX_BYTES: usize = 255;

/// A checked path: components of 1 to 255 bytes joined by `/`, none of them empty, `.` or `..`, and no NUL byte.
/// The empty path is the bucket's root and is meant only where a directory is.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketPath(Vec<u8>);

/// Why bytes are not a [`BucketPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is empty, `.` or `..`, or the path starts or ends with `/`.
    #[error("a path is relative, without empty, `.` or `..` components")]
    Component,
    /// A component is longer than 255 bytes.
    #[error("a name has at most 255 bytes")]
    NameTooLong,
    /// The path is longer than 16,383 bytes.
    #[error("a path has at most 16383 bytes")]
    PathTooLong,
    /// The path contains a NUL byte.
    #[error("a path has no NUL byte")]
    Nul,
}

/// `None` for a path that is too long.
pub(crate) fn if_short(path: Result<BucketPath, PathError>) -> FsResult<Option<BucketPath>> {
    match path {
        Err(PathError::PathTooLong) => Ok(None),
        path => Ok(Some(path?)),
    }
}

impl BucketPath {
    /// The bucket's root directory.
    pub const ROOT: Self = Self(Vec::new());

    /// Check `bytes`; the empty path is the root.
    ///
    /// # Errors
    /// [`PathError`] names the rule that is broken.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.len() > PATH_MAX_BYTES {
            return Err(PathError::PathTooLong);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        if !bytes.is_empty() {
            for name in bytes.split(|&b| b == b'/') {
                match name {
                    b"" | b"." | b".." => return Err(PathError::Component),
                    name if name.len() > NAME_MAX_BYTES => return Err(PathError::NameTooLong),
                    _ => {}
                }
            }
        }
        Ok(Self(bytes))
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// As [`BucketPath::new`]; `name` must be one component.
    pub fn join(&self, name: &OsStr) -> Result<Self, PathError> {
        let name = name.as_bytes();
        if name.contains(&b'/') {
            return Err(PathError::Component);
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        if !self.0.is_empty() {
            bytes.extend_from_slice(&self.0);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// The bytes, without a leading or trailing `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the bucket's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &OsStr> {
        self.0.split(|&b| b == b'/').filter(|name| !name.is_empty()).map(OsStr::from_bytes)
    }

    /// The directory and the last component; `None` for the root.
    pub fn split_last(&self) -> Option<(Self, &OsStr)> {
        if self.0.is_empty() {
            return None;
        }
        let cut = self.0.iter().rposition(|&b| b == b'/');
        let (parent, name) = match cut {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[][..], &self.0[..]),
        };
        Some((Self(parent.to_vec()), OsStr::from_bytes(name)))
    }
}

impl fmt::Display for BucketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for BucketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expect: Result<(), PathError>) {
        assert_eq!(BucketPath::new(bytes).map(drop), expect, "{bytes:?}");
    }

    #[test]
    fn accepts_only_paths_that_stay_inside() {
        check(b"", Ok(()));
        check(b"a", Ok(()));
        check(b"a/b.txt", Ok(()));
        check(b"\xff\xfe/..x", Ok(()));
        check(b"/a", Err(PathError::Component));
        check(b"a/", Err(PathError::Component));
        check(b"a//b", Err(PathError::Component));
        check(b"..", Err(PathError::Component));
        check(b"a/../b", Err(PathError::Component));
        check(b"./a", Err(PathError::Component));
        check(b"a\0b", Err(PathError::Nul));
        check(&[b'x'; 255], Ok(()));
        check(&[b'x'; 256], Err(PathError::NameTooLong));
        check(&b"abc/".repeat(4096), Err(PathError::PathTooLong));
    }

    #[test]
    fn splits_and_joins() {
        let path = BucketPath::new("a/b/c").unwrap();
        let (parent, name) = path.split_last().unwrap();
        assert_eq!(parent, BucketPath::new("a/b").unwrap());
        assert_eq!(parent.join(name).unwrap(), path);
        assert_eq!(BucketPath::ROOT.join(OsStr::new("a")).unwrap().as_bytes(), b"a");
        assert_eq!(BucketPath::ROOT.join(OsStr::new("a/b")), Err(PathError::Component));
        assert_eq!(path.components().count(), 3);
        assert_eq!(BucketPath::ROOT.components().count(), 0);
    }
}
