//! Content that is compared with its BLAKE3 while it is read: no byte leaves that was not checked.
//!
//! A small file is read whole before anything of it is given away. A larger one is read in pieces, each a whole subtree of
//! the hash tree, and checked along the path from the root by the inner hashes that were kept when it was recorded. So a
//! part costs its own bytes and a few inner hashes, and memory does not depend on the size.

use crate::error::{FsError, FsResult};
use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of a group, the smallest subtree whose hash is kept.
pub(crate) const GROUP_BYTES: u64 = 16 * 1024;
/// Groups that are read and checked at once.
const PIECE_GROUPS: u64 = 8;
/// The largest piece; files of at most this size are one.
pub const PIECE_BYTES: u64 = PIECE_GROUPS * GROUP_BYTES;
/// Bytes of a pair of inner hashes.
const PAIR: u64 = 64;

/// The inner hashes of a file above its groups, in post-order.
#[derive(Debug)]
pub struct InnerHashes {
    pub(crate) file: File,
    /// Where the first pair is.
    pub(crate) start: u64,
    /// Where the file is, for those who find it damaged.
    pub(crate) path: Option<PathBuf>,
}

/// An open file and the BLAKE3 its content must have.
#[derive(Debug, Clone)]
pub struct Verified(Arc<Source>);

#[derive(Debug)]
struct Source {
    file: File,
    size: u64,
    root: [u8; 32],
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// All of it, checked.
    Whole(Arc<Vec<u8>>),
    /// In pieces.
    Tree(InnerHashes),
}

/// A subtree that is still to be read.
#[derive(Debug, Clone, Copy)]
struct Subtree {
    /// Its first group.
    group: u64,
    /// How many it has.
    groups: u64,
    /// Pairs before its own, in post-order.
    before: u64,
    /// Its hash; the root's is compared otherwise.
    hash: Option<ChainingValue>,
}

fn damaged() -> FsError {
    FsError::Damaged("the content is not what was recorded".into())
}

impl Verified {
    /// `file` as the content with this size and BLAKE3. Small content is checked here; `inner` is asked for only if the
    /// content is larger than a piece.
    ///
    /// # Errors
    /// [`FsError::Damaged`]; what reading answers; what `inner` answers.
    pub fn open(
        file: File,
        size: u64,
        root: [u8; 32],
        inner: impl FnOnce(&File) -> FsResult<InnerHashes>,
    ) -> FsResult<Self> {
        if size <= PIECE_BYTES {
            return Self::open_small(file, size, root);
        }
        if file.metadata()?.len() != size {
            return Err(damaged());
        }
        let content = Content::Tree(inner(&file)?);
        Ok(Self(Arc::new(Source { file, size, root, content })))
    }

    /// As [`Verified::open`], of content that is one piece; more counts as damaged.
    ///
    /// # Errors
    /// [`FsError::Damaged`]; what reading answers.
    pub fn open_small(file: File, size: u64, root: [u8; 32]) -> FsResult<Self> {
        if size > PIECE_BYTES {
            return Err(damaged());
        }
        let bytes = read_all(&file, size)?;
        if blake3::hash(&bytes) != root {
            return Err(damaged());
        }
        Ok(Self(Arc::new(Source { file, size, root, content: Content::Whole(Arc::new(bytes)) })))
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The file, for those who check it by themselves.
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// The bytes `first..=last`, in pieces; `last` is less than the size.
    pub fn pieces(&self, first: u64, last: u64) -> Pieces {
        let groups = self.0.size.div_ceil(GROUP_BYTES);
        let top = Subtree { group: 0, groups, before: 0, hash: None };
        let stack = if first <= last && last < self.0.size { vec![top] } else { Vec::new() };
        Pieces { source: Arc::clone(&self.0), first, last, stack }
    }

    /// All of it, in pieces.
    pub fn all(&self) -> Pieces {
        match self.0.size {
            0 => self.pieces(1, 0),
            size => self.pieces(0, size - 1),
        }
    }

    /// Read and check the first piece, unless all of it was checked already.
    ///
    /// # Errors
    /// As [`Verified::check`].
    pub fn check_beginning(&self) -> FsResult<()> {
        match self.0.content {
            Content::Whole(_) => Ok(()),
            Content::Tree(_) => self.all().next_piece().map(drop),
        }
    }

    /// Read and check all of it.
    ///
    /// # Errors
    /// [`FsError::Damaged`]; what reading answers.
    pub fn check(&self) -> FsResult<()> {
        let mut pieces = self.all();
        if let Content::Tree(_) = self.0.content {
            while pieces.next_piece()?.is_some() {}
        }
        Ok(())
    }

    /// A reader of all of it, which fails where the content is damaged.
    pub fn reader(&self) -> impl Read + Send + use<> {
        Reader { pieces: self.all(), piece: io::Cursor::new(Piece { bytes: Arc::default(), range: 0..0 }) }
    }
}

/// Checked bytes.
#[derive(Debug, Clone)]
pub struct Piece {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Checked pieces of a file, one after the other.
#[derive(Debug)]
pub struct Pieces {
    source: Arc<Source>,
    first: u64,
    last: u64,
    stack: Vec<Subtree>,
}

impl Pieces {
    /// The next piece; none at the end, and after a failure.
    ///
    /// # Errors
    /// [`FsError::Damaged`]; what reading answers.
    pub fn next_piece(&mut self) -> FsResult<Option<Piece>> {
        let piece = self.read_next(ReadWriteFlags::empty());
        if piece.is_err() {
            self.stack.clear();
        }
        piece
    }

    /// The next piece, if it can be had without waiting for a disk.
    ///
    /// # Errors
    /// `EAGAIN` when it cannot, and then it is still to come; else as [`Pieces::next_piece`].
    pub fn next_piece_at_once(&mut self) -> FsResult<Option<Piece>> {
        let stack = self.stack.clone();
        let piece = self.read_next(ReadWriteFlags::NOWAIT);
        match &piece {
            Ok(_) => {}
            Err(error) if error.errno() == Errno::AGAIN => self.stack = stack,
            Err(_) => self.stack.clear(),
        }
        piece
    }

    /// Whether it is known that none follows.
    pub fn is_at_end(&self) -> bool {
        self.stack.is_empty()
    }

    fn read_next(&mut self, how: ReadWriteFlags) -> FsResult<Option<Piece>> {
        while let Some(subtree) = self.stack.pop() {
            let start = subtree.group * GROUP_BYTES;
            let end = (start + subtree.groups * GROUP_BYTES).min(self.source.size);
            if end <= self.first || start > self.last {
                continue;
            }
            match &self.source.content {
                Content::Whole(bytes) => return Ok(Some(self.cut(Arc::clone(bytes), start))),
                Content::Tree(_) if subtree.groups <= PIECE_GROUPS => {
                    let bytes = read(&self.source.file, start, end - start, how)?;
                    let found = Hasher::new().set_input_offset(start).update(&bytes).finalize_non_root();
                    if subtree.hash != Some(found) {
                        return Err(damaged());
                    }
                    return Ok(Some(self.cut(Arc::new(bytes), start)));
                }
                Content::Tree(inner) => {
                    let [left, right] = self.source.halves(inner, &subtree, how)?;
                    self.stack.extend([right, left]);
                }
            }
        }
        Ok(None)
    }

    /// What is wanted of a piece that begins at `start`.
    fn cut(&self, bytes: Arc<Vec<u8>>, start: u64) -> Piece {
        let end = bytes.len().min(usize::try_from(self.last - start + 1).unwrap_or(usize::MAX));
        let first = self.first.saturating_sub(start) as usize;
        Piece { bytes, range: first..end }
    }
}

impl Source {
    /// The two subtrees of a subtree, whose hashes are checked against its own.
    fn halves(&self, inner: &InnerHashes, subtree: &Subtree, how: ReadWriteFlags) -> FsResult<[Subtree; 2]> {
        let Subtree { group, groups, before, hash } = *subtree;
        // The left one is the largest whole tree that leaves something to the right.
        let left = groups.next_power_of_two() / 2;
        let right = groups - left;
        let at = inner.start + (before + groups - 2) * PAIR;
        let pair = read(&inner.file, at, PAIR, how).map_err(|error| match error.errno() {
            Errno::AGAIN => error,
            _ => inner.distrust(),
        })?;
        let (one, two) = pair.split_at(32);
        let hashes: [ChainingValue; 2] =
            [one.try_into().map_err(|_| damaged())?, two.try_into().map_err(|_| damaged())?];
        let matches = match hash {
            Some(hash) => merge_subtrees_non_root(&hashes[0], &hashes[1], Mode::Hash) == hash,
            None => merge_subtrees_root(&hashes[0], &hashes[1], Mode::Hash) == self.root,
        };
        if !matches {
            return Err(inner.distrust());
        }
        Ok([
            Subtree { group, groups: left, before, hash: Some(hashes[0]) },
            Subtree { group: group + left, groups: right, before: before + left - 1, hash: Some(hashes[1]) },
        ])
    }
}

impl InnerHashes {
    /// They contradict the root: whoever opens the content next makes them anew from the content.
    fn distrust(&self) -> FsError {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), %error, "damaged inner hashes were gone already");
        }
        FsError::Damaged("the kept inner hashes of the content are damaged; they are made anew".into())
    }
}

/// So many bytes of a file from `start` on.
///
/// # Errors
/// Damage where the file ends before; with [`ReadWriteFlags::NOWAIT`] `EAGAIN` when not all of it is in the kernel's memory.
fn read(file: &File, start: u64, length: u64, how: ReadWriteFlags) -> FsResult<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| damaged())?];
    let mut filled = 0;
    while filled < bytes.len() {
        let mut room = [io::IoSliceMut::new(&mut bytes[filled..])];
        match rustix::io::preadv2(file, &mut room, start + filled as u64, how) {
            Ok(0) => return Err(damaged()),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Not every file system can tell.
            Err(Errno::OPNOTSUPP) => return Err(Errno::AGAIN.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(bytes)
}

/// All of a file, which must have this length.
fn read_all(file: &File, length: u64) -> FsResult<Vec<u8>> {
    let length = usize::try_from(length).map_err(|_| damaged())?;
    // Room for one more finds out whether anything is behind, with no call of its own.
    let mut bytes = Vec::with_capacity(length + 1);
    while more(file, 0, &mut bytes)? > 0 && bytes.len() < length {}
    if bytes.len() == length { Ok(bytes) } else { Err(damaged()) }
}

/// Read into what room there is behind `bytes`, which begin at `start`; how many came.
fn more(file: &File, start: u64, bytes: &mut Vec<u8>) -> FsResult<usize> {
    loop {
        let at = start + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(bytes), at) {
            Err(Errno::INTR) => {}
            read => return Ok(read?),
        }
    }
}

struct Reader {
    pieces: Pieces,
    piece: io::Cursor<Piece>,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(out)?;
            if count > 0 || out.is_empty() {
                return Ok(count);
            }
            match self.pieces.next_piece() {
                Ok(Some(piece)) => self.piece = io::Cursor::new(piece),
                Ok(None) => return Ok(0),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
