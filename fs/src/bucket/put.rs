//! Storing a file by path: received beside its place, hashed on the way, and put there in one step.

use super::Bucket;
use crate::change::Hashes;
use crate::content::Aside;
use crate::error::{FsError, FsResult};
use crate::hashing::{Hashed, Hashing};
use crate::inode::Node;
use crate::intent::Intent;
use crate::lz::mark;
use crate::path::BucketPath;
use crate::stat::{Kind, Stat};
use crate::vfs::ReadFs;
use rustix::fs::{Advice, AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// Permission bits of a file that replaces none, if nobody says which.
const NEW_MODE: u32 = 0o644;
/// A POSIX access control list.
const ACCESS_LIST: &str = "system.posix_acl_access";
/// Bytes received, written and hashed at once.
const PIECE_BYTES: usize = 128 * 1024;
/// Pieces that may wait to be hashed.
const PIECES_AHEAD: usize = 4;
/// Bytes that are sent to the disk together while more is received.
const WRITTEN_BACK_BYTES: u64 = 16 * 1024 * 1024;

/// What a `put` stored.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Number of the change.
    pub number: u64,
    /// Bytes.
    pub size: u64,
    /// Content.
    pub hashes: Hashes,
}

/// A directory made for a put below it.
struct MadeDir {
    parent: Arc<Node>,
    name: OsString,
    intent: u64,
}

impl Bucket {
    /// Store what `data` gives as `path`, replacing atomically what is there; missing directories are made. Owner, access control
    /// list and extended attributes stay those of the file that is replaced, and without a `mode` its permission bits. Returns
    /// when the ledger has it pending.
    ///
    /// # Errors
    /// `EISDIR` for a directory, `ENOSPC`, what reading `data` answers; the old content stays then.
    pub fn put(&self, path: &BucketPath, mode: Option<u32>, data: &mut dyn Read) -> FsResult<Stored> {
        self.admit_change(false)?;
        let (dir, name) = path.split_last().ok_or(Errno::ISDIR)?;
        let (dir, made) = self.make_dirs(&dir)?;
        let intents = made.iter().map(|made| made.intent).collect();
        let (node, told) = self.put_in(&dir, name, mode, data, intents).inspect_err(|_| self.unmake_dirs(made))?;
        self.tell_kernel(&dir, name);
        let Some(stored) = told else { return self.settled(&node) };
        self.recorder.stream.wait(stored.number)?;
        Ok(stored)
    }

    /// As [`Bucket::put`], in a directory; `intents` end with the put. Says what was stored when it is told already.
    fn put_in(
        &self,
        dir: &Arc<Node>,
        name: &OsStr,
        mode: Option<u32>,
        data: &mut dyn Read,
        mut intents: Vec<u64>,
    ) -> FsResult<(Arc<Node>, Option<Stored>)> {
        let there = match self.recorder.inodes.open_name(dir, name) {
            Err(error) if error.errno() == Errno::NOENT => None,
            there => Some(there?),
        };
        if there.as_ref().is_some_and(|(node, _)| node.kind == Kind::Directory) {
            return Err(FsError::os(name.display().to_string(), Errno::ISDIR));
        }
        let replaced = there.filter(|(node, _)| node.kind == Kind::File);
        let (temporary, stage, hashed) = self.stage(dir, replaced, mode, data)?;
        intents.push(stage);
        let (size, hashes) = (hashed.size, hashed.hashes);
        let replaced = self.fs.replace(dir, &temporary, name, intents, hashed);
        let (node, number) = replaced.inspect_err(|_| self.unstage(dir, &temporary, stage))?;
        Ok((node, number.map(|number| Stored { number, size, hashes })))
    }

    /// Write `data` to a new file in `dir` that nobody sees as the user's, with what is kept of the file it replaces.
    fn stage(
        &self,
        dir: &Arc<Node>,
        replaced: Option<(Arc<Node>, Stat)>,
        mode: Option<u32>,
        data: &mut dyn Read,
    ) -> FsResult<(OsString, u64, Hashed<Aside>)> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = OsString::from(format!(".wizefs-put-{:016x}", u64::from_le_bytes(random)));
        let at = (dir.id.0, name.as_bytes().to_vec());
        let id = self.recorder.intents.note(Intent::Stage { at }, 0, 0)?;
        let mut write = || -> FsResult<Hashed<Aside>> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            // Whoever writes a file takes its set-id bits away.
            let kept = replaced.as_ref().map(|(_, stat)| stat.mode & 0o777);
            let wanted = Mode::from_raw_mode(mode.or(kept).unwrap_or(NEW_MODE) & 0o7777);
            let mut file = File::from(rustix::fs::openat(&*dir.fd()?, &name, flags, wanted)?);
            if let Some((node, stat)) = &replaced {
                let mode = if mode.is_none() { stat.mode & 0o777 } else { Stat::of_fd(&file)?.mode };
                self.take_after(&file, node, stat, mode)?;
            }
            receive(data, &mut file, self.recorder.outboards.hashing())
        };
        let hashed = write().inspect_err(|_| self.unstage(dir, &name, id))?;
        Ok((name, id, hashed))
    }

    /// Give `file` the permission bits `mode`, and else what `node` has: the owner as far as the node may, access control list and
    /// extended attributes.
    fn take_after(&self, file: &File, node: &Node, stat: &Stat, mode: u32) -> FsResult<()> {
        match rustix::fs::fchown(file, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid))) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(FsError::os("keep the owner", errno)),
        }
        // The directory may have given it another one.
        match rustix::fs::fremovexattr(file, ACCESS_LIST) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(FsError::os("keep the access control list", errno)),
        }
        let names = match self.fs.listxattr(node.ino) {
            Err(error) if error.errno() == Errno::OPNOTSUPP => Vec::new(),
            names => names?,
        };
        // To set one takes the right to write, whatever the bits will be.
        rustix::fs::fchmod(file, Mode::RUSR | Mode::WUSR)?;
        for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
            let value = self.fs.getxattr(node.ino, OsStr::from_bytes(name))?;
            let set = rustix::fs::fsetxattr(file, OsStr::from_bytes(name), &value, XattrFlags::empty());
            set.map_err(|errno| FsError::os(format!("keep {}", String::from_utf8_lossy(name)), errno))?;
        }
        // Last: a list sets the bits of the group.
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
    }

    fn unstage(&self, dir: &Node, name: &OsStr, id: u64) {
        let removed = dir.fd().and_then(|fd| Ok(rustix::fs::unlinkat(&*fd, name, AtFlags::empty())?));
        match removed {
            Ok(()) => self.recorder.intents.end_now(&[id]),
            Err(error) => tracing::debug!(%error, "temporary file of a put left for recovery"),
        }
    }

    /// The directory `path`, and those made for it where it or its parents were missing.
    fn make_dirs(&self, path: &BucketPath) -> FsResult<(Arc<Node>, Vec<MadeDir>)> {
        let mut made = Vec::new();
        match self.make_missing(path, &mut made) {
            Ok(dir) => Ok((dir, made)),
            Err(error) => {
                self.unmake_dirs(made);
                Err(error)
            }
        }
    }

    fn make_missing(&self, path: &BucketPath, made: &mut Vec<MadeDir>) -> FsResult<Arc<Node>> {
        let mut at = self.recorder.inodes.root().clone();
        for name in path.components() {
            at = match self.recorder.inodes.open_name(&at, name) {
                Ok((node, _)) => node,
                Err(error) if error.errno() == Errno::NOENT => match self.fs.make_parent(&at, name) {
                    Ok((intent, node)) => {
                        made.push(MadeDir { parent: at.clone(), name: name.to_owned(), intent });
                        self.tell_kernel(&at, name);
                        node
                    }
                    // Another put needed the same directory, and was faster.
                    Err(error) if error.errno() == Errno::EXIST => self.recorder.inodes.open_name(&at, name)?.0,
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            };
            if at.kind != Kind::Directory {
                return Err(FsError::os(path.to_string(), Errno::NOTDIR));
            }
        }
        Ok(at)
    }

    /// Remove what was made for a put that failed. One that somebody uses by now stays, and is implied by what is put there.
    fn unmake_dirs(&self, made: Vec<MadeDir>) {
        for MadeDir { parent, name, intent } in made.into_iter().rev() {
            let removed = parent.fd().and_then(|fd| Ok(rustix::fs::unlinkat(&*fd, &name, AtFlags::REMOVEDIR)?));
            if let Err(error) = removed {
                tracing::debug!(%error, "a directory made for a put stays");
            }
            self.tell_kernel(&parent, &name);
            self.recorder.intents.end_now(&[intent]);
        }
    }
}

/// Extended attributes that outlast the content: not what the system says of it, nor what a stage notes of its own.
fn is_kept(name: &[u8]) -> bool {
    !name.is_empty() && !name.starts_with(b"security.") && !name.starts_with(mark::PREFIX.as_bytes())
}

/// Write what `data` gives to `file` and hash it; all but a small content is hashed while more is received.
fn receive(data: &mut dyn Read, file: &mut File, mut hashing: Hashing<Aside>) -> FsResult<Hashed<Aside>> {
    let mut piece = vec![0; PIECE_BYTES];
    let (mut size, mut on_its_way) = (0, 0);
    let mut take = |piece: &mut Vec<u8>| -> io::Result<bool> {
        piece.resize(PIECE_BYTES, 0);
        let count = fill(data, piece)?;
        piece.truncate(count);
        file.write_all(piece)?;
        size += count as u64;
        if size - on_its_way >= WRITTEN_BACK_BYTES {
            start_writing_back(file, on_its_way, size);
            on_its_way = size;
        }
        Ok(count == PIECE_BYTES)
    };
    if !take(&mut piece)? {
        hashing.update(&piece)?;
        return Ok(hashing.finish()?);
    }
    let (to_hash, received) = sync_channel::<Vec<u8>>(PIECES_AHEAD);
    let (give_back, used) = sync_channel::<Vec<u8>>(PIECES_AHEAD);
    std::thread::scope(|scope| {
        let hash = move || -> io::Result<Hashed<Aside>> {
            for piece in received {
                hashing.update(&piece)?;
                // When the other end has enough of them, this one is not needed any more.
                drop(give_back.try_send(piece));
            }
            hashing.finish()
        };
        let hasher = std::thread::Builder::new().name("hash".into()).spawn_scoped(scope, hash)?;
        let mut more = true;
        // Whoever hashes fails only together with its result below.
        while to_hash.send(piece).is_ok() && more {
            piece = used.try_recv().unwrap_or_default();
            more = take(&mut piece)?;
        }
        drop(to_hash);
        hasher.join().unwrap_or_else(|_| Err(io::Error::other("hashing ended early"))).map_err(FsError::from)
    })
}

/// Let the kernel begin to bring these bytes to the disk, where they must be before the transaction is final.
fn start_writing_back(file: &File, from: u64, to: u64) {
    let length = NonZeroU64::new(to - from);
    // Pages that are not on the disk are not given up, whatever the name says.
    if let Err(error) = rustix::fs::fadvise(file, from, length, Advice::DontNeed) {
        tracing::debug!(%error, "not written back early");
    }
}

/// As much of `data` as there is room for; less only at its end.
fn fill(data: &mut dyn Read, room: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < room.len() {
        match data.read(&mut room[count..]) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
