//! An archive that can be changed, and is a whole zip all the while.
//!
//! A change is a list of edits ([`Edits`]) that becomes true at one instant: [`Archive::commit`]. Until then, and for as
//! long as it takes, everybody who opens the archive sees what was there before. Reading goes on during a commit.

mod assemble;
mod check;
mod commit;
mod disk;
mod edits;
pub(super) mod folder;
mod format;
mod in_place;
pub(super) mod lock;
mod order;
mod ours;
mod pack;
mod patch;
mod pin;
mod plan;
mod record;
mod rest;
mod source;
mod stamp;
mod table;
mod writer;

pub use disk::{Observer, Step};
pub use edits::{Edit, Edits, NewMember, Source};
pub use pin::Pin;
pub(super) use plan::DEPTH_MAX;
pub use stamp::{Keeper, Stamp};

use crate::error::{FsError, FsResult};
use crate::path::BucketPath;
use crate::stat::Kind;
use crate::zip::build::claims_too_much;
use crate::zip::contents::Contents;
use crate::zip::member::{self, Claim, Member};
use disk::{Disk, Output};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use pin::Pins;
use rest::Rest;
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use table::{Entry, Table};

/// Archives that are smaller are written as a whole at each commit, and so have no holes.
const REWRITE_BELOW: u64 = 8 * 1024 * 1024;
/// Members whose local header is known to agree with the directory.
const LOCATED_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("invariant: 256 is not 0");
/// Content read at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What names one content of a member for as long as it is in the archive, over commits, renames and restarts. A content
/// that is put has a new one, also under the same name.
///
/// Of a member that another program wrote and that lies where it did: the offset of its local header. Of every other it
/// is in the archive, in the extra field 0x7A57.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

impl MemberId {
    /// The bit that no place in a file has.
    const DRAWN: u64 = 1 << 63;

    /// A new one.
    ///
    /// # Errors
    /// What the kernel answers.
    fn draw() -> FsResult<Self> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(u64::from_le_bytes(random) | Self::DRAWN))
    }

    /// Whether it was drawn by chance, so that it never names another content.
    pub(super) fn is_drawn(self) -> bool {
        self.0 & Self::DRAWN != 0
    }
}

/// What the central directory says of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Names its content.
    pub id: MemberId,
    /// Where it is shown; of directories without the `/` at the end.
    pub path: BucketPath,
    /// File, directory or symbolic link.
    pub kind: Kind,
    /// Bytes of content; of a symbolic link those of its target.
    pub size: u64,
    /// Bytes in the archive.
    pub packed: u64,
    /// CRC-32 of the content.
    pub crc: u32,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Of the content, when the archive has it (extra field 0x7A57).
    pub blake3: Option<[u8; 32]>,
}

/// How a commit was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing was to be done.
    Nothing,
    /// A whole new file in place of the old one.
    Rewrite,
    /// A copy that shares its blocks with the old file, changed and put in its place.
    Reflink,
    /// The new directory was appended to the file.
    Extend,
    /// The new directory was written before the old one, which was cut off.
    Shrink,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Bytes written, of content, headers, directory and commit record; bytes zeroed by making holes do not count.
    pub bytes_written: u64,
    /// How.
    pub strategy: Strategy,
    /// Bytes of the file now.
    pub length: u64,
    /// Bytes within it that belong to nothing.
    pub dead: u64,
    /// Of each [`Edit::Put`], [`Edit::Symlink`] and [`Edit::Directory`], in their order: `None` of one that a later edit of
    /// the list took away. A directory that was there keeps its id.
    pub ids: Vec<Option<MemberId>>,
}

/// Something that [`Archive::check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The member, where it is one's.
    pub path: Option<BucketPath>,
    /// In a sentence.
    pub what: String,
}

/// When archives are written in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Archives of fewer bytes are written as a whole.
    pub rewrite_below: u64,
    /// Copies that share blocks are used where the file system can make them.
    pub reflink: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { rewrite_below: REWRITE_BELOW, reflink: true }
    }
}

/// An archive, open for reading and for changes. One process has it open at a time: whoever opens it holds the lock of
/// its bucket. Notes on an unfinished commit are kept in the folder `NAME.lzfs` beside it (`commit`, `rewrite`), which is
/// made when needed.
pub struct Archive {
    path: PathBuf,
    disk: Disk,
    keeper: Option<Keeper>,
    policy: Policy,
    state: RwLock<State>,
    /// Held for a whole commit.
    writing: Mutex<()>,
    /// What the last one left to do.
    rest: Mutex<Option<Rest>>,
    contents: Contents,
    located: Mutex<LruCache<u64, Arc<Member>>>,
    pins: Arc<Pins>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What readers see.
#[derive(Debug)]
struct State {
    output: Output,
    table: Arc<Table>,
    /// Contents that left and are pinned.
    kept: HashMap<MemberId, Kept>,
}

/// A content that is in no directory any more.
#[derive(Debug)]
struct Kept {
    entry: Entry,
    path: Vec<u8>,
    output: Output,
    /// Where it begins and ends in the file.
    extent: (u64, u64),
}

impl Archive {
    /// Make an archive without members, durably. It belongs to whoever makes it, mode 0644 without the umask.
    ///
    /// # Errors
    /// `EEXIST` when something is there.
    pub fn create(path: &Path) -> FsResult<()> {
        let disk = Disk::new(None);
        let folder = folder::beside(path);
        folder::make(&folder)?;
        let fresh = folder.join("create");
        let output = disk.create(&fresh, 0o644, true)?;
        disk.write(&output, 0, &format::end(0, 0, 0, b""))?;
        disk.sync(&output)?;
        let here = rustix::fs::CWD;
        let named = rustix::fs::renameat_with(here, &fresh, here, path, RenameFlags::NOREPLACE);
        if named.is_err() {
            disk.remove(&fresh)?;
        }
        // Somebody else may use it.
        let _in_use = std::fs::remove_dir(&folder);
        named.map_err(|e| FsError::os(path.display().to_string(), e))?;
        disk.sync_folder(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// Open an archive and, when a commit was interrupted, bring it to an end: what is there afterwards is wholly the old
    /// or the new.
    ///
    /// # Errors
    /// [`FsError::Archive`] when it is none, or one that cannot be changed without loss.
    pub fn open(path: &Path) -> FsResult<Self> {
        Self::open_kept(path, Policy::default(), None, None)
    }

    /// As [`Archive::open`], with another policy, and somebody who is told every write.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(path: &Path, policy: Policy, observer: Option<Observer>) -> FsResult<Self> {
        Self::open_kept(path, policy, observer, None)
    }

    /// As [`Archive::open_with`], with somebody who notes what the archive is when nobody writes it, and has it alone.
    ///
    /// # Errors
    /// As there; what the keeper answers; [`FsError::Busy`] when somebody else has it.
    pub(super) fn open_kept(
        path: &Path,
        policy: Policy,
        observer: Option<Observer>,
        keeper: Option<Keeper>,
    ) -> FsResult<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let file = File::from(opened.map_err(|e| FsError::os(path.display().to_string(), e))?);
        if keeper.is_some() {
            lock::take(&file, path)?;
        }
        let output = Output { file: Arc::new(file), path: path.to_owned() };
        let disk = Disk::new(observer);
        let folder = folder::beside(path);
        if folder::open(&folder)?.is_some() {
            disk.remove(&folder.join("rewrite"))?;
            if record::recover(&disk, &output, &folder, &[])? {
                let length = output.file.metadata()?.len();
                keeper.as_ref().map_or(Ok(()), |keeper| keeper(&[Stamp::made(&output.file, length)?]))?;
                record::Record::remove(&disk, &folder)?;
            }
        }
        let table = Arc::new(Table::load(&output.file)?.writable()?);
        Ok(Self {
            path: path.to_owned(),
            disk,
            keeper,
            policy,
            state: RwLock::new(State { output, table, kept: HashMap::new() }),
            writing: Mutex::new(()),
            rest: Mutex::default(),
            contents: Contents::new(None, path.parent().map(Path::to_owned)),
            located: Mutex::new(LruCache::new(LOCATED_MAX)),
            pins: Arc::default(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its file is now.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn stamp(&self) -> FsResult<Stamp> {
        let state = self.state.read();
        Stamp::made(&state.output.file, state.table.length)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.state.read().table.order.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Show every member, in the order of the central directory, until `visit` breaks.
    ///
    /// # Errors
    /// None today.
    pub fn members(&self, visit: &mut dyn FnMut(MemberInfo) -> ControlFlow<()>) -> FsResult<()> {
        let table = Arc::clone(&self.state.read().table);
        for number in 0..table.entries.len() as u32 {
            if let Some(info) = table.info(number)
                && visit(info).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// What is known of one member, also of one that is only [pinned](Self::pin).
    pub fn member(&self, id: MemberId) -> Option<MemberInfo> {
        let state = self.state.read();
        match state.table.find_id(id) {
            Some(number) => state.table.info(number),
            None => state.kept.get(&id).and_then(|kept| kept.entry.info(&kept.path)),
        }
    }

    /// The member at `path`.
    pub fn find(&self, path: &BucketPath) -> Option<MemberInfo> {
        let table = Arc::clone(&self.state.read().table);
        table.find(path.as_bytes()).and_then(|number| table.info(number))
    }

    /// Content from `offset` on; answers how many bytes, 0 at the end. Big members are not unpacked from their beginning
    /// each time, memory is bounded. May be called by several threads, also during a commit.
    ///
    /// # Errors
    /// `ENOENT` for an unknown member; `EIO` for damaged content.
    pub fn read(&self, id: MemberId, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        // Held while reading: a commit zeroes what was moved or removed when nobody reads it any more.
        let state = self.state.read();
        let gone = || FsError::os(format!("member {}", id.0), Errno::NOENT);
        let (entry, path, file, end) = match state.table.find_id(id) {
            Some(number) => {
                let entry = &state.table.entries[number as usize];
                (entry, state.table.path(number), &state.output.file, state.table.dir.0)
            }
            None => {
                let kept = state.kept.get(&id).ok_or_else(gone)?;
                (&kept.entry, &kept.path[..], &kept.output.file, u64::MAX)
            }
        };
        let left = entry.size.saturating_sub(offset);
        let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        let member = self.locate(entry, path, file, end)?;
        let read = self.contents.read(&member, offset, &mut out[..count]);
        read.map_err(|problem| FsError::os(format!("{}: {problem}", String::from_utf8_lossy(path)), Errno::IO))?;
        Ok(count)
    }

    fn locate(&self, entry: &Entry, path: &[u8], file: &Arc<File>, end_of_content: u64) -> FsResult<Arc<Member>> {
        if let Some(member) = self.located.lock().get(&entry.id.0) {
            return Ok(Arc::clone(member));
        }
        let claim = Claim {
            place: entry.place,
            packed: entry.packed,
            size: entry.size,
            crc: entry.crc,
            method: entry.method,
            encrypted: entry.is_encrypted(),
            end_of_content,
        };
        let impossible = claims_too_much(claim.method, claim.encrypted, claim.packed, claim.size);
        let found =
            if impossible { Err(member::impossible()) } else { member::find(file, &claim, entry.id.0).map(|(m, _)| m) };
        let mut member = found.map_err(|flaw| flaw.of(path))?;
        member.steps.clone_from(&entry.steps);
        let member = Arc::new(member);
        self.located.lock().put(entry.id.0, Arc::clone(&member));
        Ok(member)
    }

    /// Where the content of a member is.
    fn member_of(&self, id: MemberId) -> FsResult<Arc<Member>> {
        let state = self.state.read();
        let gone = || FsError::os(format!("member {}", id.0), Errno::NOENT);
        match state.table.find_id(id) {
            Some(number) => {
                let (entry, path) = (&state.table.entries[number as usize], state.table.path(number));
                self.locate(entry, path, &state.output.file, state.table.dir.0)
            }
            None => {
                let kept = state.kept.get(&id).ok_or_else(gone)?;
                self.locate(&kept.entry, &kept.path, &kept.output.file, u64::MAX)
            }
        }
    }

    /// A content is not where it was.
    fn forget(&self, id: MemberId) {
        self.located.lock().pop(&id.0);
        self.contents.forget(id.0);
    }

    /// All content in order to `take`, with the checks at its end.
    ///
    /// # Errors
    /// As [`Archive::read`]; what `take` answers.
    pub fn read_whole(&self, id: MemberId, take: &mut dyn FnMut(&[u8]) -> FsResult<()>) -> FsResult<()> {
        let _pin = self.pin(id)?;
        let info = self.member(id).ok_or(Errno::NOENT)?;
        let mut crc = crc32fast::Hasher::new();
        let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(info.size).unwrap_or(CHUNK_BYTES))];
        let mut at = 0;
        while at < info.size {
            let read = self.read(id, at, &mut buffer)?;
            crc.update(&buffer[..read]);
            take(&buffer[..read])?;
            at += read as u64;
        }
        if crc.finalize() != info.crc {
            return Err(FsError::os(format!("{}: its checksum does not fit", info.path), Errno::IO));
        }
        Ok(())
    }

    /// Keep a content readable while the [`Pin`] lives, whatever is committed: of an open file that is removed or
    /// replaced. Its bytes are zeroed when the last pin is gone, in the next commit.
    ///
    /// # Errors
    /// `ENOENT` for an unknown member.
    pub fn pin(&self, id: MemberId) -> FsResult<Pin> {
        // Held, so that no commit comes between.
        let state = self.state.read();
        if state.table.find_id(id).is_none() && !state.kept.contains_key(&id) {
            return Err(FsError::os(format!("member {}", id.0), Errno::NOENT));
        }
        Ok(self.pins.hold(id))
    }

    /// Make `edits` true: when this returns, they are in the archive, durably once [`Archive::settle`] returns, which is tried
    /// here. After an error the archive is what it was.
    ///
    /// One commit at a time: others wait. Members that stay are readable meanwhile.
    ///
    /// # Errors
    /// `ENOSPC` and whatever else writing answers; `EINVAL` when an edit makes no sense, as a rename below itself; what
    /// reading the sources answers, `ESTALE` when one is not what it was said to be; [`FsError::Archive`] when the file
    /// was changed by somebody else.
    pub fn commit(&self, edits: &Edits) -> FsResult<Committed> {
        self.commit_edits(edits)
    }

    /// Rewrite the archive without holes, members in the order of the directory.
    ///
    /// # Errors
    /// As [`Archive::commit`].
    pub fn compact(&self) -> FsResult<Committed> {
        self.rewrite_all()
    }

    /// Everything that is wrong with the archive: its form, and content that is not what its checksum or hash says.
    ///
    /// # Errors
    /// What reading the file answers.
    pub fn check(&self) -> FsResult<Vec<Problem>> {
        self.find_problems()
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Not while a note or somebody else's files are in it.
        let _in_use = std::fs::remove_dir(folder::beside(&self.path));
    }
}
