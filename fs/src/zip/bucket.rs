//! A zip archive as a bucket: its members recorded once, then served and compared.

use super::contents::Unreadable;
use super::decoder::Decoder;
use super::index::{Marks, ROOT, RowKind};
use super::member::Member;
use super::{ZipFs, ino_of};
use crate::bucket::{ContentCheck, Found, FoundKind, SyncReport, private};
use crate::change::{Cause, ChangeSink, Content, Evidence, Hashes, Op, Put, Row as SinkRow};
use crate::content::Outboards;
use crate::error::{FsError, FsResult};
use crate::hashing;
use crate::import::{ImportProgress, Watch};
use crate::path::BucketPath;
use crate::read_only::ReadOnly;
use crate::stat::Stat;
use crate::stream::Stream;
use crate::verified::Verified;
use crate::vfs::{Trust, Vfs};
use borsh::{BorshDeserialize, BorshSerialize};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Rows of the bucket's table: the archive as it was recorded, and how far its import has come.
const ARCHIVE_KEY: &[u8] = b"zip-archive";
const NEXT_KEY: &[u8] = b"zip-next";
/// Bytes read at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// The members of an open archive do not change.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How to open a zip bucket.
#[derive(Debug, Clone)]
pub struct ZipOptions {
    /// The archive.
    pub archive: PathBuf,
    /// The bucket's own folder, where members that are fetched are unpacked.
    pub state: PathBuf,
    /// For encrypted members.
    pub passphrase: Option<Vec<u8>>,
}

/// An open zip bucket.
#[derive(Debug)]
pub struct ZipBucket {
    fs: Arc<ZipFs>,
    stream: Arc<Stream>,
    archive: PathBuf,
    state: PathBuf,
    /// There is a passphrase, and it is that of a member.
    has_passphrase: bool,
}

/// What could not be read and is therefore not recorded: a member of an archive, a folder that holds itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Where it is.
    pub path: BucketPath,
    /// Why.
    pub problem: String,
}

/// The archive itself compared with what it was when it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveCheck {
    /// Every byte is the same.
    Same,
    /// BLAKE3 of the file then and now.
    Differs {
        /// Then.
        expected: [u8; 32],
        /// Now.
        found: [u8; 32],
    },
}

/// The archive as it was recorded; borsh.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
struct Recorded {
    size: u64,
    mtime_ns: i64,
    blake3: [u8; 32],
}

/// The file at `path`. A pipe that somebody put there would keep everybody waiting for its other end.
fn open_archive(path: &Path) -> FsResult<File> {
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|e| FsError::os(path.display().to_string(), e))?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(FsError::Archive(format!("{} is not a file", path.display()))),
    }
}

impl ZipBucket {
    /// Open the archive and go on after the sink's last number.
    ///
    /// # Errors
    /// The archive cannot be opened or is none; the passphrase is another one; the sink cannot be read.
    pub fn open(options: ZipOptions, sink: Arc<dyn ChangeSink>) -> FsResult<Arc<Self>> {
        let file = open_archive(&options.archive)?;
        let has_passphrase = options.passphrase.is_some();
        private(&options.state)?;
        let fs = Arc::new(ZipFs::open_with(file, options.passphrase, Some(options.state.clone()))?);
        if has_passphrase {
            fs.check_passphrase()?;
        }
        let stream = Stream::start(sink)?;
        Ok(Arc::new(Self { fs, stream, archive: options.archive, state: options.state, has_passphrase }))
    }

    /// Whether the archive is another one now, or was written, since it was opened: also when it is gone.
    pub fn is_outdated(&self) -> bool {
        let found = open_archive(&self.archive).ok().and_then(|file| Stat::of_fd(&file).ok());
        !found.is_some_and(|found| self.fs.is_as_opened(&found))
    }

    /// What is shown is not what is there any more, in a sentence, if so.
    pub fn trouble(&self) -> Option<String> {
        let archive = self.archive.display();
        self.is_outdated().then(|| format!("{archive} was changed or replaced by another program while it was open"))
    }

    /// The file system, for the FUSE adapter.
    pub fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::new(ReadOnly(Arc::clone(&self.fs)))
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust { ttl: TTL, exclusive: true, close_is_silent: true, immutable: true }
    }

    /// Record every member that is not recorded yet. Returns when the ledger has them pending. Members that cannot be read
    /// are left out and named, as are those that have another passphrase than the first.
    ///
    /// # Errors
    /// [`FsError::Interrupted`] when `watch` breaks; [`FsError::Passphrase`] for encrypted members without a passphrase;
    /// [`FsError::Archive`] when the archive was changed since an earlier import began.
    pub fn import(&self, watch: Watch<'_>) -> FsResult<(ImportProgress, Vec<Unread>)> {
        self.same_archive()?;
        let done = self.recorded_until()?;
        let mut progress = ImportProgress { special: self.fs.index.hidden, ..ImportProgress::default() };
        let mut unread = Vec::new();
        let mut position = 0_u64;
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            let Some(row) = self.fs.index.row(dir) else { continue };
            for at in self.fs.index.children(row) {
                let child = self.fs.index.order[at];
                position += 1;
                let Some(row) = self.fs.index.row(child) else { continue };
                if row.kind == RowKind::Directory {
                    dirs.push(child);
                }
                if position <= done {
                    progress.known += u64::from(row.kind != RowKind::Directory);
                    continue;
                }
                self.stream.admit(false)?;
                match self.operation(child, &mut progress, &mut *watch) {
                    Ok(op) => self.note(op, position)?,
                    Err(FsError::Interrupted) => return self.stop_import(FsError::Interrupted),
                    Err(error @ FsError::Passphrase(_)) if !self.has_passphrase => return self.stop_import(error),
                    Err(error) => unread.push(Unread { path: self.path(child)?, problem: error.to_string() }),
                }
                if watch(&progress).is_break() {
                    return self.stop_import(FsError::Interrupted);
                }
            }
        }
        self.stream.drain()?;
        Ok((progress, unread))
    }

    fn stop_import<T>(&self, error: FsError) -> FsResult<T> {
        self.stream.drain()?;
        Err(error)
    }

    fn recorded_until(&self) -> FsResult<u64> {
        let row = self.stream.row(NEXT_KEY)?;
        let number = row.map(|row| <[u8; 8]>::try_from(row.as_slice()).map(u64::from_le_bytes)).transpose();
        Ok(number.map_err(|_| Errno::IO)?.unwrap_or(0))
    }

    /// That the archive is the one whose import began earlier; the first time, note what it is.
    fn same_archive(&self) -> FsResult<()> {
        let Stat { size, mtime_ns, .. } = self.fs.archive;
        let Some(row) = self.stream.row(ARCHIVE_KEY)? else {
            let recorded = Recorded { size, mtime_ns, blake3: self.hash_archive()? };
            let value = borsh::to_vec(&recorded).map_err(|_| Errno::IO)?;
            self.stream.note(vec![SinkRow { key: ARCHIVE_KEY.to_vec(), value: Some(value) }]);
            return Ok(());
        };
        let recorded: Recorded = borsh::from_slice(&row).map_err(|_| Errno::IO)?;
        if (recorded.size, recorded.mtime_ns) != (size, mtime_ns) && recorded.blake3 != self.hash_archive()? {
            return Err(FsError::Archive("the archive was changed since its import began".into()));
        }
        Ok(())
    }

    /// BLAKE3 of the file that is there now.
    fn hash_archive(&self) -> FsResult<[u8; 32]> {
        let file = open_archive(&self.archive)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = 0;
        loop {
            let read = file.read_at(&mut buffer, at)?;
            if read == 0 {
                return Ok(hasher.finalize().into());
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
    }

    /// Compare the archive, byte for byte, with what it was when it was recorded. `None` before its import.
    ///
    /// # Errors
    /// What reading it answers.
    pub fn check_archive(&self) -> FsResult<Option<ArchiveCheck>> {
        let Some(row) = self.stream.row(ARCHIVE_KEY)? else { return Ok(None) };
        let recorded: Recorded = borsh::from_slice(&row).map_err(|_| Errno::IO)?;
        let found = self.hash_archive()?;
        let same = found == recorded.blake3;
        Ok(Some(if same { ArchiveCheck::Same } else { ArchiveCheck::Differs { expected: recorded.blake3, found } }))
    }

    /// What is reported of row `number`; nothing of a directory that only its members imply.
    fn operation(&self, number: u32, progress: &mut ImportProgress, watch: Watch<'_>) -> FsResult<Option<Op>> {
        let row = self.fs.index.row(number).ok_or(Errno::NOENT)?;
        let path = self.path(number)?;
        let stat = self.fs.stat(number, row);
        let content = match row.kind {
            RowKind::Directory if row.marks.has(Marks::EXPLICIT) => {
                return Ok(Some(Op::Mkdir { path, mode: stat.mode }));
            }
            RowKind::Directory => return Ok(None),
            RowKind::Symlink => Content::Symlink { target: self.fs.target(number)? },
            RowKind::File => {
                let before = progress.bytes;
                // A member may take hours.
                let mut go_on = |count| {
                    progress.bytes += count;
                    if watch(&*progress).is_break() { Err(FsError::Interrupted) } else { Ok(()) }
                };
                let hashes = self.hash(&self.fs.member(number)?, &mut go_on);
                if hashes.is_err() {
                    progress.bytes = before;
                }
                let hashes = hashes?;
                Content::File { size: row.size, hashes: Some(hashes) }
            }
        };
        if self.fs.is_changed()? {
            return Err(FsError::Archive("the archive is being changed".into()));
        }
        progress.files += 1;
        let Stat { mode, uid, gid, mtime_ns, .. } = stat;
        Ok(Some(Op::Put(Put { path, content, mode, uid, gid, mtime_ns, evidence: Evidence::Stat })))
    }

    fn note(&self, op: Option<Op>, position: u64) -> FsResult<()> {
        let rows = vec![SinkRow { key: NEXT_KEY.to_vec(), value: Some(position.to_le_bytes().to_vec()) }];
        match op {
            Some(op) => {
                self.stream.emit(Cause::Import, vec![op], rows);
            }
            None => self.stream.note(rows),
        }
        Ok(())
    }

    fn path(&self, number: u32) -> FsResult<BucketPath> {
        Ok(BucketPath::new(self.fs.index.path(number))?)
    }

    /// All content in order, to `take`, and the checks at its end.
    fn read_whole(&self, member: &Member, take: &mut dyn FnMut(&[u8]) -> FsResult<()>) -> FsResult<()> {
        let unreadable = |problem: Unreadable| self.fs.unreadable(member.key as u32, problem);
        let mut decoder: Decoder = self.fs.contents.decoder(member).map_err(unreadable)?;
        let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(member.size).unwrap_or(CHUNK_BYTES))];
        while decoder.at < member.size {
            let left = usize::try_from(member.size - decoder.at).unwrap_or(usize::MAX);
            let wanted = buffer.len().min(left);
            let read = decoder.read(&mut buffer[..wanted], false).map_err(|error| unreadable(error.into()))?;
            take(&buffer[..read])?;
        }
        decoder.finish(member, true).map_err(|error| unreadable(error.into()))
    }

    /// `go_on` hears of the bytes that were read.
    fn hash(&self, member: &Member, go_on: &mut dyn FnMut(u64) -> FsResult<()>) -> FsResult<Hashes> {
        let mut hashing = hashing::plain();
        self.read_whole(member, &mut |bytes| {
            hashing.update(bytes)?;
            go_on(bytes.len() as u64)
        })?;
        Ok(hashing.finish()?.hashes)
    }

    fn number_at(&self, path: &BucketPath) -> Option<u32> {
        self.fs.index.at(path.components())
    }

    fn existing(&self, path: &BucketPath) -> FsResult<u32> {
        self.number_at(path).ok_or_else(|| FsError::os(path.to_string(), Errno::NOENT))
    }

    fn member_at(&self, path: &BucketPath) -> FsResult<Member> {
        let number = self.existing(path)?;
        match self.fs.index.row(number).map(|row| row.kind) {
            Some(RowKind::File) => self.fs.member(number),
            Some(RowKind::Directory) => Err(FsError::os(path.to_string(), Errno::ISDIR)),
            _ => Err(FsError::os(path.to_string(), Errno::LOOP)),
        }
    }

    fn found(&self, number: u32) -> FsResult<Found> {
        let row = self.fs.index.row(number).ok_or(Errno::NOENT)?;
        let stat = self.fs.stat(number, row);
        let kind = match row.kind {
            RowKind::File => FoundKind::File,
            RowKind::Directory => FoundKind::Directory,
            RowKind::Symlink => FoundKind::Symlink,
        };
        // One that cannot be read is shown without its target, which no recorded one is.
        let target = (kind == FoundKind::Symlink).then(|| self.fs.target(number).ok()).flatten();
        Ok(Found { path: self.path(number)?, kind, size: stat.size, mode: stat.mode, mtime_ns: stat.mtime_ns, target })
    }

    /// As [`crate::Bucket::list`].
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn list(&self, path: &BucketPath) -> FsResult<Vec<Found>> {
        let (_, dir) = self.fs.directory(ino_of(self.existing(path)?))?;
        let children = &self.fs.index.order[self.fs.index.children(dir)];
        children.iter().map(|&child| self.found(child)).collect()
    }

    /// As [`crate::Bucket::inspect`].
    ///
    /// # Errors
    /// None but what the index cannot answer.
    pub fn inspect(&self, path: &BucketPath) -> FsResult<Option<Found>> {
        self.number_at(path).map(|number| self.found(number)).transpose()
    }

    /// The content at `path`, unpacked into a file without a name.
    ///
    /// # Errors
    /// `ENOENT`; `ELOOP` for a symbolic link; what reading the member answers.
    pub fn open_file(&self, path: &BucketPath) -> FsResult<File> {
        let member = self.member_at(path)?;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = self.state.join(format!("unpacked-{:016x}", u64::from_le_bytes(random)));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(opened.map_err(|e| FsError::os(name.display().to_string(), e))?);
        std::fs::remove_file(&name)?;
        self.read_whole(&member, &mut |bytes| Ok(file.write_all(bytes)?))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// As [`crate::Bucket::open_verified`].
    ///
    /// # Errors
    /// As there.
    pub fn open_verified(&self, path: &BucketPath, size: u64, expected: &[u8; 32]) -> FsResult<Verified> {
        let number = self.existing(path)?;
        Verified::open(self.open_file(path)?, size, *expected, |file| {
            // An archive's members are numbered the same every time, and what is kept names the content it is of.
            Outboards::new(self.state.join("outboards"))?.inner_hashes(u64::from(number), file, size, expected)
        })
    }

    /// As [`crate::Bucket::check_content`]; content that differs is named as a whole.
    ///
    /// # Errors
    /// What reading the member answers.
    pub fn check_content(&self, path: &BucketPath, expected: &[u8; 32]) -> FsResult<ContentCheck> {
        let member = self.member_at(path)?;
        let hashes = self.hash(&member, &mut |_| Ok(()))?;
        let differs = hashes.blake3 != *expected && member.size > 0;
        let ranges = if differs { vec![(0, member.size - 1)] } else { Vec::new() };
        Ok(ContentCheck { size: member.size, hashes, ranges })
    }

    /// Wait until the ledger has every change.
    ///
    /// # Errors
    /// The problem that keeps the ledger from taking it.
    pub fn sync(&self) -> FsResult<SyncReport> {
        self.drain()?;
        Ok(SyncReport { through: self.stream.delivered(), open_writers: Vec::new() })
    }

    /// As [`crate::Bucket::drain`].
    ///
    /// # Errors
    /// As there.
    pub fn drain(&self) -> FsResult<()> {
        self.stream.drain()
    }

    /// The archive to the disk, before its members are sealed.
    ///
    /// # Errors
    /// What `fdatasync` answers.
    pub fn persist(&self) -> FsResult<()> {
        self.fs.file.sync_data().map_err(|e| FsError::os("sync of the archive", e))
    }

    /// Changes the ledger has not taken.
    pub fn unsettled(&self) -> u64 {
        self.stream.last().saturating_sub(self.stream.delivered())
    }

    /// End: hand over what is left, stop the thread.
    ///
    /// # Errors
    /// The problem that keeps changes from the ledger.
    pub fn close(&self) -> FsResult<()> {
        let drained = self.drain();
        self.stream.stop();
        drained
    }
}
