//! Hashing of files, and finding which bytes differ later.
//!
//! The inner hashes of the BLAKE3 tree, the outboard, are kept beside the bucket so that damage can be narrowed to byte
//! ranges (crate bao-tree).

use crate::change::Hashes;
use crate::error::{FsError, FsResult};
use crate::hashing::{Hashed, Hashing};
use crate::verified::{GROUP_BYTES, InnerHashes};
use bao_tree::io::outboard::PostOrderOutboard;
use bao_tree::io::sync::valid_ranges;
use bao_tree::{BaoTree, BlockSize, ChunkRanges};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Groups of 2^4 chunks of 1 KiB.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);
/// Bytes read at once; between two reads a hash job can be stopped.
const CHUNK_BYTES: usize = 1024 * 1024;
const MAGIC: &[u8; 8] = b"wizob\0\0\x01";
const HEADER_BYTES: u64 = 8 + 32 + 8;
/// Beside the inner hashes, the directory of those being written.
const NEW: &str = "new";

/// Hash `size` bytes of `file`. `keep_going` is asked before each MiB. The inner hashes go to `inner`.
///
/// Returns `None` when stopped or when the file is shorter than `size`.
///
/// # Errors
/// What reading answers; inner hashes that cannot be written are an error too.
pub fn hash<W: Write>(
    file: &File,
    size: u64,
    keep_going: &mut dyn FnMut() -> bool,
    inner: W,
) -> FsResult<Option<Hashed<W>>> {
    let mut hashing = Hashing::new(inner);
    let mut buffer = vec![0; usize::try_from(size).map_or(CHUNK_BYTES, |size| size.min(CHUNK_BYTES))];
    let mut at = 0;
    while at < size {
        if !keep_going() {
            return Ok(None);
        }
        let wanted = usize::try_from(size - at).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        match file.read_at(&mut buffer[..wanted], at) {
            Ok(0) => return Ok(None),
            Ok(read) => {
                hashing.update(&buffer[..read])?;
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(hashing.finish()?))
}

/// Whether content of `size` bytes has any: content of one group has none.
pub fn has_inner_hashes(size: u64) -> bool {
    size > GROUP_BYTES
}

/// The inner hashes of the files of a bucket, one file for each inode.
#[derive(Debug)]
pub struct Outboards {
    dir: PathBuf,
}

impl Outboards {
    /// Kept in `dir`, which is made when missing.
    ///
    /// # Errors
    /// What making the directory answers.
    pub fn new(dir: PathBuf) -> FsResult<Self> {
        std::fs::create_dir_all(dir.join(NEW))?;
        Ok(Self { dir })
    }

    /// Remove what was left by a process that was killed while it hashed. Nobody may hash here meanwhile.
    pub fn sweep(&self) {
        for left in std::fs::read_dir(self.dir.join(NEW)).into_iter().flatten().flatten() {
            discard(&left.path());
        }
    }

    fn path(&self, ino: u64) -> PathBuf {
        self.dir.join(format!("{ino:016x}"))
    }

    /// Hashing whose inner hashes stay aside until [`Outboards::keep`]; one at a time on each thread.
    pub fn hashing(&self) -> Hashing<Aside> {
        Hashing::new(self.aside())
    }

    fn aside(&self) -> Aside {
        // Two threads may hash one inode at the same time.
        Aside { path: self.dir.join(NEW).join(format!("{:?}", std::thread::current().id())), file: None }
    }

    /// Keep the inner hashes of what was hashed for inode `ino`. Losing them (a full disk) costs byte ranges later, and is no
    /// failure.
    pub fn keep(&self, ino: u64, hashed: Hashed<Aside>) {
        let path = self.path(ino);
        if let Err(error) = hashed.inner.place(&hashed.hashes.blake3, hashed.size, &path) {
            tracing::warn!(path = %path.display(), %error, "inner hashes not kept");
        }
    }

    /// Hash as [`hash`], and keep the inner hashes for inode `ino`.
    ///
    /// # Errors
    /// What reading `file` answers.
    pub fn hash(
        &self,
        ino: u64,
        file: &File,
        size: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> FsResult<Option<Hashes>> {
        let hashed = hash(file, size, keep_going, self.aside())?;
        Ok(hashed.map(|hashed| {
            let hashes = hashed.hashes;
            self.keep(ino, hashed);
            hashes
        }))
    }

    /// The inner hashes of `file`, whose content has the BLAKE3 `expected`. Lost ones are made anew, and kept, from content
    /// that is as expected.
    ///
    /// # Errors
    /// [`FsError::Damaged`] when they are lost and the content is not as expected; what reading answers.
    pub fn inner_hashes(&self, ino: u64, file: &File, size: u64, expected: &[u8; 32]) -> FsResult<InnerHashes> {
        let path = self.path(ino);
        if let Some(kept) = kept_for(&path, size, expected) {
            return Ok(InnerHashes { file: kept, start: HEADER_BYTES, path: Some(path) });
        }
        let damaged = || FsError::Damaged("the content is not what was recorded".into());
        let hashed = hash(file, size, &mut || true, self.aside())?;
        let hashed = hashed.filter(|hashed| hashed.hashes.blake3 == *expected).ok_or_else(damaged)?;
        let file = hashed.inner.place(expected, size, &path)?.ok_or_else(damaged)?;
        Ok(InnerHashes { file, start: HEADER_BYTES, path: Some(path) })
    }

    /// Forget what is kept for `ino`, whose content had `size` bytes.
    pub fn forget(&self, ino: u64, size: u64) {
        if !has_inner_hashes(size) {
            return;
        }
        if let Err(error) = std::fs::remove_file(self.path(ino))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(ino, %error, "inner hashes not removed");
        }
    }

    /// What is kept for `from` is of the file that is now `to`.
    pub fn moved(&self, from: u64, to: u64) {
        if let Err(error) = std::fs::rename(self.path(from), self.path(to))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(from, to, %error, "inner hashes not moved");
        }
    }

    /// The byte ranges (both ends inclusive) in which `file` differs from the content with root `expected`. Without kept
    /// hashes that is the whole file.
    ///
    /// # Errors
    /// What reading answers.
    pub fn damaged_ranges(&self, ino: u64, file: &File, expected: &[u8; 32]) -> FsResult<Vec<(u64, u64)>> {
        let size = file.metadata()?.len();
        let Some(tree) = self.load(ino, expected) else {
            return Ok(if size == 0 { vec![] } else { vec![(0, size - 1)] });
        };
        let expected_size = tree.tree.size();
        let end = size.max(expected_size);
        let mut damaged = Vec::new();
        let mut good_until = 0;
        for valid in valid_ranges(tree, Positioned(file), &ChunkRanges::all()) {
            let valid = valid?;
            let (start, stop) = (valid.start.0 * 1024, (valid.end.0 * 1024).min(expected_size));
            if start > good_until {
                damaged.push((good_until, start - 1));
            }
            good_until = good_until.max(stop);
        }
        if good_until < end {
            damaged.push((good_until, end - 1));
        }
        Ok(damaged)
    }

    fn load(&self, ino: u64, root: &[u8; 32]) -> Option<PostOrderOutboard<Vec<u8>>> {
        let bytes = std::fs::read(self.path(ino)).ok()?;
        let (header, data) = bytes.split_at_checked(HEADER_BYTES as usize)?;
        let size = u64::from_le_bytes(header[40..48].try_into().ok()?);
        let tree = BaoTree::new(size, GROUP);
        let matches = &header[..8] == MAGIC && header[8..40] == root[..] && data.len() as u64 == tree.outboard_size();
        matches.then(|| PostOrderOutboard { root: (*root).into(), tree, data: data.to_vec() })
    }
}

/// The open outboard at `path`, if it is of that content.
fn kept_for(path: &Path, size: u64, root: &[u8; 32]) -> Option<File> {
    let file = File::open(path).ok()?;
    let mut header = [0; HEADER_BYTES as usize];
    file.read_exact_at(&mut header, 0).ok()?;
    let expected = HEADER_BYTES + BaoTree::new(size, GROUP).outboard_size();
    let same = &header[..8] == MAGIC && header[8..40] == root[..] && header[40..] == size.to_le_bytes();
    (same && file.metadata().ok()?.len() == expected).then_some(file)
}

/// Inner hashes on their way into a file, which is made for the first of them. Its failure is remembered instead of
/// reported at once, and it is removed unless it was put in its place.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
    file: Option<io::Result<io::BufWriter<File>>>,
}

impl Aside {
    fn create(&self) -> io::Result<io::BufWriter<File>> {
        let options = File::options().read(true).write(true).create(true).truncate(true).to_owned();
        let mut file = io::BufWriter::new(options.open(&self.path)?);
        file.write_all(&[0; HEADER_BYTES as usize])?;
        Ok(file)
    }

    /// Give them to `path`; none came of content that is one group.
    fn place(mut self, root: &[u8; 32], size: u64, path: &Path) -> io::Result<Option<File>> {
        let Some(file) = self.file.take() else { return Ok(None) };
        let place = || {
            let mut file = file?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(MAGIC)?;
            file.write_all(root)?;
            file.write_all(&size.to_le_bytes())?;
            let file = file.into_inner()?;
            std::fs::rename(&self.path, path)?;
            Ok(Some(file))
        };
        place().inspect_err(|_| discard(&self.path))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.file.is_some() {
            discard(&self.path);
        }
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            self.file = Some(self.create());
        }
        if let Some(Ok(file)) = &mut self.file
            && let Err(error) = file.write_all(bytes)
        {
            self.file = Some(Err(error));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn discard(temporary: &Path) {
    if let Err(error) = std::fs::remove_file(temporary) {
        tracing::debug!(%error, "no temporary file to remove");
    }
}

/// Reads past the end fail as "unexpected end", which the tree takes as "not valid".
struct Positioned<'a>(&'a File);

impl positioned_io::ReadAt for Positioned<'_> {
    fn read_at(&self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self.0, buf, pos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 % 251) as u8).collect()
    }

    fn check(size: usize, edit: impl Fn(&mut Vec<u8>), expect: &[(u64, u64)]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut bytes = content(size);
        std::fs::write(&path, &bytes).unwrap();
        let boards = Outboards::new(dir.path().join("outboards")).unwrap();
        let file = File::open(&path).unwrap();
        let hashes = boards.hash(7, &file, size as u64, &mut || true).unwrap().unwrap();
        assert_eq!(hashes.blake3, *blake3::hash(&bytes).as_bytes());
        edit(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let found = boards.damaged_ranges(7, &file, &hashes.blake3).unwrap();
        assert_eq!(found, expect, "size {size}");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let boards = Outboards::new(dir.path().into()).unwrap();
        std::fs::write(dir.path().join("f"), content(100_000)).unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        let hashes = boards.hash(7, &file, 100_000, &mut || true).unwrap().unwrap();
        std::fs::write(dir.path().join(NEW).join("ThreadId(9)"), "half").unwrap();
        boards.sweep();
        assert_eq!(std::fs::read_dir(dir.path().join(NEW)).unwrap().count(), 0);
        assert_eq!(boards.damaged_ranges(7, &file, &hashes.blake3).unwrap(), []);
    }

    #[test]
    fn names_the_damaged_ranges() {
        check(0, |_| {}, &[]);
        check(5, |b| b[2] ^= 1, &[(0, 4)]);
        check(100_000, |b| b[50_000] ^= 1, &[(49_152, 65_535)]);
        check(100_000, |b| b.truncate(99_999), &[(98_304, 99_999)]);
        check(100_000, |b| b.push(0), &[(100_000, 100_000)]);
        check(3_000_000, |b| (b[0], b[2_999_999]) = (9, 9), &[(0, 16_383), (2_998_272, 2_999_999)]);
    }

    #[test]
    fn stops_when_told_or_when_the_file_is_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, content(10)).unwrap();
        let file = File::open(&path).unwrap();
        assert!(hash(&file, 10, &mut || false, io::sink()).unwrap().is_none());
        assert!(hash(&file, 11, &mut || true, io::sink()).unwrap().is_none());
    }
}
