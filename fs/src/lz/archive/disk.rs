//! Every change of files that a commit makes passes here, so that what a power cut would leave can be tried in tests.

use crate::error::{FsError, FsResult};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What direct writes are aligned to: no device has larger logical blocks.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Zeros written at once where holes cannot be made.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// One change of a file or folder, told before it is made.
#[derive(Debug)]
pub enum Step<'a> {
    /// A new, empty file.
    Create(&'a Path),
    /// The second file has the blocks of the first.
    Clone(&'a Path, &'a Path),
    /// Bytes at a place; a write that ends beyond the end may be torn.
    Write(&'a Path, u64, &'a [u8]),
    /// Bytes beyond the end that are there wholly or not at all.
    Append(&'a Path, u64, &'a [u8]),
    /// Zeros at a place within the file, and how many.
    Zero(&'a Path, u64, u64),
    /// A new length.
    Truncate(&'a Path, u64),
    /// What was written is durable from here on.
    Sync(&'a Path),
    /// A file has another name; one that had it is replaced.
    Rename(&'a Path, &'a Path),
    /// A file has no name any more.
    Remove(&'a Path),
    /// The names in a folder are durable from here on.
    SyncFolder(&'a Path),
}

/// Is told every step.
pub type Observer = Arc<dyn Fn(&Step<'_>) + Send + Sync>;

/// A file being written.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
}

/// The only hand that writes.
#[derive(Default)]
pub(super) struct Disk {
    observer: Option<Observer>,
    written: AtomicU64,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("written", &self.written).finish_non_exhaustive()
    }
}

/// Zeroed bytes that begin at a multiple of [`BLOCK_BYTES`] in memory, as direct writes need them.
pub(super) struct Aligned {
    bytes: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn new(len: usize) -> Self {
        let block = BLOCK_BYTES as usize;
        let bytes = vec![0; len + block];
        let skip = bytes.as_ptr().align_offset(block).min(block);
        Self { bytes, skip, len }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.skip..self.skip + self.len]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skip..self.skip + self.len]
    }
}

fn failed(path: &Path, errno: impl Into<crate::error::ErrnoLike>) -> FsError {
    FsError::os(path.display().to_string(), errno)
}

impl Disk {
    pub(super) fn new(observer: Option<Observer>) -> Self {
        Self { observer, written: AtomicU64::new(0) }
    }

    /// Bytes written since it was made.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn tell(&self, step: &Step<'_>) {
        if let Some(observer) = &self.observer {
            observer(step);
        }
    }

    fn count(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A new file for reading and writing; one that is there is replaced when `replace`.
    ///
    /// # Errors
    /// What the system answers.
    pub(super) fn create(&self, path: &Path, mode: u32, replace: bool) -> FsResult<Output> {
        self.tell(&Step::Create(path));
        let fresh = if replace { OFlags::TRUNC } else { OFlags::EXCL };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | fresh;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(mode)).map_err(|e| failed(path, e))?;
        Ok(Output { file: Arc::new(File::from(fd)), path: path.to_owned() })
    }

    /// # Errors
    /// What the system answers.
    pub(super) fn write(&self, output: &Output, at: u64, bytes: &[u8]) -> FsResult<()> {
        self.tell(&Step::Write(&output.path, at, bytes));
        self.count(bytes.len());
        output.file.write_all_at(bytes, at).map_err(|e| failed(&output.path, e))
    }

    /// Write beyond the end, so that the file has its new length when all bytes are there and not before: the kernel moves
    /// the end of a file once, after the whole of a direct write is on the device (ext4, XFS, btrfs). Where direct writes
    /// are not possible the write may be torn, which recovery mends. `at` and the length are multiples of [`BLOCK_BYTES`].
    ///
    /// # Errors
    /// What the system answers; the file has its old length then.
    pub(super) fn append(&self, output: &Output, at: u64, bytes: &Aligned) -> FsResult<()> {
        let data = bytes.as_slice();
        let length = output.file.metadata()?.len();
        // Whether there is room is found out before the end can move.
        let room = rustix::fs::fallocate(&*output.file, FallocateFlags::KEEP_SIZE, at, data.len() as u64);
        if let Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = room {
            output.file.set_len(length)?;
            return Err(failed(&output.path, errno));
        }
        self.tell(&Step::Append(&output.path, at, data));
        self.count(data.len());
        let direct = self.append_directly(output, at, data);
        let written = match direct {
            Ok(written) => Ok(written),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => output.file.write_all_at(data, at).map(|()| data.len()),
            Err(errno) => Err(errno.into()),
        };
        match written {
            Ok(written) if written == data.len() => Ok(()),
            short => {
                output.file.set_len(length)?;
                Err(short.err().map_or_else(|| failed(&output.path, Errno::NOSPC), |e| failed(&output.path, e)))
            }
        }
    }

    fn append_directly(&self, output: &Output, at: u64, data: &[u8]) -> Result<usize, Errno> {
        let name = format!("/proc/self/fd/{}", output.file.as_raw_fd());
        let direct = rustix::fs::open(name, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::pwrite(&direct, data, at)
    }

    /// Zeros, which take no room where the file system can make holes.
    ///
    /// # Errors
    /// What the system answers.
    pub(super) fn zero(&self, output: &Output, at: u64, len: u64) -> FsResult<()> {
        if len == 0 {
            return Ok(());
        }
        self.tell(&Step::Zero(&output.path, at, len));
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&*output.file, flags, at, len) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(failed(&output.path, errno)),
        }
        let mut done = 0;
        while done < len {
            let count = usize::try_from(len - done).unwrap_or(usize::MAX).min(ZEROS.len());
            output.file.write_all_at(&ZEROS[..count], at + done).map_err(|e| failed(&output.path, e))?;
            self.count(count);
            done += count as u64;
        }
        Ok(())
    }

    /// Let `to` have the content of `from`, whose blocks it shares.
    ///
    /// # Errors
    /// What the system answers, `EOPNOTSUPP` and others where blocks cannot be shared.
    pub(super) fn clone_file(&self, from: &Output, to: &Output) -> FsResult<()> {
        rustix::fs::ioctl_ficlone(&*to.file, &*from.file).map_err(|e| failed(&to.path, e))?;
        self.tell(&Step::Clone(&from.path, &to.path));
        Ok(())
    }

    /// # Errors
    /// What the system answers.
    pub(super) fn truncate(&self, output: &Output, len: u64) -> FsResult<()> {
        self.tell(&Step::Truncate(&output.path, len));
        output.file.set_len(len).map_err(|e| failed(&output.path, e))
    }

    /// # Errors
    /// What the system answers.
    pub(super) fn sync(&self, output: &Output) -> FsResult<()> {
        output.file.sync_all().map_err(|e| failed(&output.path, e))?;
        self.tell(&Step::Sync(&output.path));
        Ok(())
    }

    /// # Errors
    /// What the system answers.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> FsResult<()> {
        self.tell(&Step::Rename(from, to));
        std::fs::rename(from, to).map_err(|e| failed(to, e))
    }

    /// Take a name away, if it is there.
    ///
    /// # Errors
    /// What the system answers.
    pub(super) fn remove(&self, path: &Path) -> FsResult<()> {
        self.tell(&Step::Remove(path));
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(path, error)),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// What the system answers.
    pub(super) fn sync_folder(&self, folder: &Path) -> FsResult<()> {
        let opened = File::open(folder).map_err(|e| failed(folder, e))?;
        opened.sync_all().map_err(|e| failed(folder, e))?;
        self.tell(&Step::SyncFolder(folder));
        Ok(())
    }
}
