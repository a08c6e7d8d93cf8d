//! What is in an archive, in memory: one row of 56 bytes, one position of 4 and the bytes of its name for each member.

use crate::stat::Kind;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// Number of the root's row.
pub(crate) const ROOT: u32 = 0;

/// Facts about a row, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks(u8);

impl Marks {
    /// The content is encrypted.
    pub(crate) const ENCRYPTED: Self = Self(1);
    /// A directory with a member of its own, not only implied by what is in it.
    pub(crate) const EXPLICIT: Self = Self(2);
    /// Shown under another name than its own, because that was taken.
    pub(crate) const RENAMED: Self = Self(4);
    /// Its bytes are another member's too, or it claims more content than its bytes can hold.
    pub(crate) const BOMB: Self = Self(8);

    pub(crate) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(crate) fn add(&mut self, mark: Self) {
        self.0 |= mark.0;
    }
}

/// A member, or a directory that members imply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Of a file: where its local header is. Of a directory: its first position in the order of children.
    pub(crate) place: u64,
    /// Of a file: its bytes in the archive. Of a directory: how many children it has.
    pub(crate) packed: u64,
    /// Bytes of content.
    pub(crate) size: u64,
    /// Last modification, nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    /// CRC-32 of the content.
    pub(crate) crc: u32,
    /// The directory it is in.
    pub(crate) parent: u32,
    pub(crate) name_at: u32,
    pub(crate) name_len: u8,
    pub(crate) marks: Marks,
    /// Compression method as the specification numbers them.
    pub(crate) method: u16,
    /// Permission bits.
    pub(crate) mode: u16,
    pub(crate) kind: RowKind,
}

/// The kinds of members that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RowKind {
    File,
    Directory,
    Symlink,
}

impl From<RowKind> for Kind {
    fn from(kind: RowKind) -> Self {
        match kind {
            RowKind::File => Self::File,
            RowKind::Directory => Self::Directory,
            RowKind::Symlink => Self::Symlink,
        }
    }
}

/// All members of an archive as a tree.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) rows: Vec<Row>,
    pub(crate) names: Vec<u8>,
    /// Rows, grouped by directory, in each sorted by name.
    pub(crate) order: Vec<u32>,
    /// Where the central directory begins: no content reaches beyond.
    pub(crate) end_of_content: u64,
    /// Members that are not shown: without a usable path, or neither file, directory nor symbolic link.
    pub(crate) hidden: u64,
    /// Bytes of content of all members.
    pub(crate) bytes: u64,
    /// Encoding of the names that do not tell theirs.
    pub(crate) charset: super::name::Charset,
}

impl Index {
    pub(crate) fn row(&self, number: u32) -> Option<&Row> {
        self.rows.get(number as usize)
    }

    pub(crate) fn name(&self, row: &Row) -> &[u8] {
        let at = row.name_at as usize;
        &self.names[at..at + usize::from(row.name_len)]
    }

    /// Positions of a directory's children in [`Index::order`].
    pub(crate) fn children(&self, dir: &Row) -> Range<usize> {
        if dir.kind != RowKind::Directory {
            return 0..0;
        }
        dir.place as usize..(dir.place + dir.packed) as usize
    }

    /// The row of `name` in the directory `dir`.
    pub(crate) fn find(&self, dir: &Row, name: &[u8]) -> Option<u32> {
        let children = self.order.get(self.children(dir))?;
        let found = children.binary_search_by(|&child| self.name(&self.rows[child as usize]).cmp(name));
        found.ok().map(|at| children[at])
    }

    /// The components of a row's path, joined by `/`.
    pub(crate) fn path(&self, number: u32) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = number;
        while at != ROOT {
            let row = &self.rows[at as usize];
            parts.push(self.name(row));
            at = row.parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// The row at `path`, which has the form of a bucket path.
    pub(crate) fn at<'a>(&self, path: impl Iterator<Item = &'a OsStr>) -> Option<u32> {
        let mut at = ROOT;
        for name in path {
            at = self.find(self.row(at)?, name.as_bytes())?;
        }
        Some(at)
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.names.capacity() + self.order.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_costs_less_than_a_hundred_bytes() {
        // Row and position; names of members are 20 to 40 bytes.
        assert_eq!(size_of::<Row>() + size_of::<u32>(), 60);
    }
}
