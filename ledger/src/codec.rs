//! Canonical bytes: borsh with closed, versioned enums. One value has one encoding, and everything else is refused.

use std::fmt;
use std::io::{self, Read};

use borsh::{BorshDeserialize, BorshSerialize};

/// Longest encoding of one transaction, in bytes (a C2SP entry bundle has 16-bit lengths).
pub const MAX_TRANSACTION: usize = 65_535;
/// Longest path, in bytes.
pub const MAX_PATH: usize = 16_383;
/// Longest component of a path and longest bucket name, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest symlink target, in bytes (PATH_MAX without its NUL).
pub const MAX_TARGET: usize = 4_095;

/// Why bytes are not a value of the expected format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the format allows.
    #[error("{0} bytes, more than the format allows")]
    Oversize(usize),
    /// The first byte names a version that came later.
    #[error("of version {0}: written by a newer program, or damaged")]
    Version(u8),
    /// Not the encoding of any value: truncated, trailing bytes, unknown version or variant, broken rule.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// Encodes a value that cannot fail to encode (all our formats: no maps, no lengths above `u32`).
pub(crate) fn encode<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("invariant: writing to a Vec does not fail and lengths are bounded")
}

/// Decodes a whole slice; trailing bytes are an error.
pub(crate) fn decode<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, DecodeError> {
    borsh::from_slice(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// As [`decode`], of a format that begins with its version, which is 1 in all of them yet.
pub(crate) fn decode_versioned<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.first() {
        Some(version @ 2..) => Err(DecodeError::Version(*version)),
        _ => decode(bytes),
    }
}

/// An `InvalidData` error, for the hand-written decoders below.
pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A path on the ledger: bytes, relative, components of 1 to 255 bytes joined by `/`, none of them `.` or `..`,
/// no NUL, at most 16,383 bytes. The empty path is the bucket's root directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, BorshSerialize)]
pub struct TreePath(Vec<u8>);

/// Why bytes are not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a path inside a bucket: {0}")]
pub struct BadPath(&'static str);

impl TreePath {
    /// The bucket's root directory.
    pub fn root() -> TreePath {
        TreePath(Vec::new())
    }

    /// Checks and takes the bytes of a path.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<TreePath, BadPath> {
        let bytes = bytes.into();
        if bytes.len() > MAX_PATH {
            return Err(BadPath("longer than 16383 bytes"));
        }
        if bytes.is_empty() {
            return Ok(TreePath(bytes));
        }
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" => return Err(BadPath("an empty component")),
                b"." | b".." => return Err(BadPath("a component is . or ..")),
                _ if name.len() > MAX_NAME => return Err(BadPath("a component is longer than 255 bytes")),
                _ if name.contains(&0) => return Err(BadPath("a NUL byte")),
                _ => {}
            }
        }
        Ok(TreePath(bytes))
    }

    /// The bytes, components joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the bucket's root directory.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// The directory holding this path and the name in it; `None` for the root.
    pub fn split(&self) -> Option<(TreePath, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => Some((TreePath(self.0[..slash].to_vec()), &self.0[slash + 1..])),
            None => Some((TreePath::root(), &self.0)),
        }
    }

    /// `name` inside this directory; `None` when that is no valid path.
    pub fn join(&self, name: &[u8]) -> Option<TreePath> {
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        TreePath::new(bytes).ok().filter(|path| !path.is_root())
    }

    /// What follows `ancestor` in this path: empty when equal, `None` when not at or below it.
    pub fn below(&self, ancestor: &TreePath) -> Option<&[u8]> {
        if ancestor.is_root() {
            return Some(&self.0);
        }
        match self.0.strip_prefix(ancestor.as_bytes())? {
            [] => Some(&[]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }

    /// This path with its prefix `from` replaced by `to`; `None` when not at or below `from` or too long.
    pub(crate) fn rebased(&self, from: &TreePath, to: &TreePath) -> Option<TreePath> {
        let rest = self.below(from)?;
        if rest.is_empty() {
            return Some(to.clone());
        }
        to.join(rest)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl BorshDeserialize for TreePath {
    fn deserialize_reader<R: Read>(reader: &mut R) -> io::Result<TreePath> {
        let bytes = bounded_bytes(reader, MAX_PATH)?;
        TreePath::new(bytes).map_err(|bad| invalid(&bad.to_string()))
    }
}

/// Reads a length-prefixed byte string of at most `max` bytes, before allocating for it.
pub(crate) fn bounded_bytes<R: Read>(reader: &mut R, max: usize) -> io::Result<Vec<u8>> {
    let length = u32::deserialize_reader(reader)? as usize;
    if length > max {
        return Err(invalid("a byte string is longer than the format allows"));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A bucket's name: 1 to 255 bytes of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize)]
pub struct Label(String);

/// Why text is not a bucket name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a bucket name: 1 to 255 of A-Z a-z 0-9 . _ - and no leading . or -")]
pub struct BadLabel;

impl Label {
    /// Checks and takes a name.
    pub fn new(name: impl Into<String>) -> Result<Label, BadLabel> {
        let name = name.into();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with(['.', '-']) || !name.bytes().all(legal) {
            return Err(BadLabel);
        }
        Ok(Label(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl BorshDeserialize for Label {
    fn deserialize_reader<R: Read>(reader: &mut R) -> io::Result<Label> {
        let bytes = bounded_bytes(reader, MAX_NAME)?;
        let text = String::from_utf8(bytes).map_err(|_| invalid("a bucket name is not text"))?;
        Label::new(text).map_err(|bad| invalid(&bad.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_rules() {
        let longest = [b'a'; 255];
        for good in [&b""[..], b"a", b"a/b", b"...", b"\xff\xfe/x", b" ", &longest] {
            assert!(TreePath::new(good).is_ok(), "{good:?}");
        }
        let too_long = [b'a'; 256];
        for bad in [&b"/"[..], b"/a", b"a/", b"a//b", b".", b"a/../b", b"a\0b", &too_long] {
            assert!(TreePath::new(bad).is_err(), "{bad:?}");
        }
        assert!(TreePath::new("ab/".repeat(5461) + "c").is_err());
        assert!(TreePath::new("ab/".repeat(5460) + "abc").is_ok());
    }

    #[test]
    fn paths_split_join_and_rebase() {
        let path = TreePath::new("a/b/c").unwrap();
        assert_eq!(path.split(), Some((TreePath::new("a/b").unwrap(), &b"c"[..])));
        assert_eq!(path.components().count(), 3);
        assert_eq!(TreePath::root().components().count(), 0);
        assert_eq!(TreePath::root().join(b"a").unwrap().join(b"b/c"), Some(path.clone()));
        let (from, to) = (TreePath::new("a").unwrap(), TreePath::new("x/y").unwrap());
        assert_eq!(path.rebased(&from, &to), TreePath::new("x/y/b/c").ok());
        assert_eq!(TreePath::new("ab").unwrap().rebased(&from, &to), None);
        assert_eq!(path.below(&path), Some(&b""[..]));
    }

    #[test]
    fn labels_follow_the_rules() {
        for good in ["docs", "a.zip", "_a.zip", "A-1", &"x".repeat(255)] {
            assert!(Label::new(good).is_ok());
        }
        for bad in ["", ".a", "-a", "../x", "a b", "é", "a\n", &"x".repeat(256)] {
            assert!(Label::new(bad).is_err());
        }
    }
}
