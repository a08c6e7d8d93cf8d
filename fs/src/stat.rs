//! What `statx` says about a file of the backing.

use crate::error::FsResult;
use parking_lot::RwLock;
use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use std::ffi::OsStr;
use std::os::fd::AsFd;

/// The kinds of files there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl Kind {
    fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => Self::File,
        }
    }

    /// Whether entries of this kind are recorded (docs/SEMANTICS.md).
    pub fn is_recorded(self) -> bool {
        matches!(self, Self::File | Self::Directory | Self::Symlink)
    }
}

/// An inode for as long as it exists: its number and birth, so that a number used again is another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u64);

impl Id {
    /// The root directory of a bucket, whatever directory that is.
    pub const ROOT: Self = Self(1);

    /// The identity of inode `number` born at `btime_ns` nanoseconds since 1970.
    pub fn of(number: u64, btime_ns: i64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&btime_ns.to_le_bytes());
        let hash = blake3::hash(&bytes);
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_bytes()[..8]);
        // 0 is nobody, 1 the root.
        Self(u64::from_le_bytes(id).max(2))
    }
}

/// What the backing lets nobody do with a file, root neither (`chattr(1)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// Nothing.
    No,
    /// Change what is in it, or shorten it: only append.
    AppendOnly,
    /// Change it.
    Immutable,
}

impl Fixed {
    /// Whether it may be opened with these `O_*` flags.
    pub fn allows(self, flags: i32) -> bool {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        match self {
            Self::No => true,
            Self::AppendOnly => flags & libc::O_TRUNC == 0 && (!writes || flags & libc::O_APPEND != 0),
            Self::Immutable => flags & libc::O_TRUNC == 0 && !writes,
        }
    }
}

/// Attributes of a file. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device of the backing file system.
    pub dev: u64,
    /// Inode number there.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Preferred block size for I/O, bytes.
    pub blksize: u32,
    /// Last access.
    pub atime_ns: i64,
    /// Last modification.
    pub mtime_ns: i64,
    /// Last change of content or attributes; the cookie by which change is noticed.
    pub ctime_ns: i64,
    /// Birth, 0 where the backing has none; tells a reused inode number apart.
    pub btime_ns: i64,
    /// What nobody may do with it.
    pub fixed: Fixed,
}

const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl Stat {
    /// Attributes of the open file `fd` (an `O_PATH` one will do).
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn of_fd(fd: impl AsFd) -> FsResult<Self> {
        Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, MASK)?.into())
    }

    /// Attributes of `name` in the directory `dir`, not following a symbolic link.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn of_name(dir: impl AsFd, name: &OsStr) -> FsResult<Self> {
        Ok(rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, MASK)?.into())
    }

    /// As [`Stat::of_name`]; `None` when nothing is there.
    ///
    /// # Errors
    /// What the kernel answers, apart from "no such file".
    pub fn of_name_opt(dir: impl AsFd, name: &OsStr) -> FsResult<Option<Self>> {
        match rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, MASK) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Same file as `other`, seen at another moment or under another name.
    pub fn same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.btime_ns) == (other.dev, other.ino, other.btime_ns)
    }
}

/// Devices on which a file's birth moves while it stays the same file.
static MOVING_BIRTHS: RwLock<Vec<u64>> = RwLock::new(Vec::new());

/// `OVERLAYFS_SUPER_MAGIC` of `linux/magic.h`: a file of a lower layer is born again at the first write to it.
const OVERLAY: i64 = 0x794c_7630;

/// From now on take no file on the device of `of` for another one because it says it was born at another time, where that means
/// nothing. An overlay has devices for its lower layers, too, when these are on other disks.
///
/// # Errors
/// What the kernel answers.
pub fn know_births(of: impl AsFd) -> FsResult<()> {
    let dev = Stat::of_fd(&of)?.dev;
    // The type of this number differs between machines.
    #[allow(clippy::unnecessary_cast, reason = "i64 here, u32 elsewhere")]
    let overlay = rustix::fs::fstatfs(&of)?.f_type as i64 == OVERLAY;
    let mut moving = MOVING_BIRTHS.write();
    moving.retain(|known| *known != dev);
    if overlay {
        moving.push(dev);
    }
    Ok(())
}

fn nanos(time: StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

impl From<Statx> for Stat {
    fn from(s: Statx) -> Self {
        let dev = rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor);
        let fixed = match s.stx_attributes {
            it if it.contains(StatxAttributes::IMMUTABLE) => Fixed::Immutable,
            it if it.contains(StatxAttributes::APPEND) => Fixed::AppendOnly,
            _ => Fixed::No,
        };
        Self {
            fixed,
            dev,
            ino: s.stx_ino,
            kind: Kind::from_mode(u32::from(s.stx_mode)),
            mode: u32::from(s.stx_mode) & 0o7777,
            nlink: s.stx_nlink,
            uid: s.stx_uid,
            gid: s.stx_gid,
            rdev: rustix::fs::makedev(s.stx_rdev_major, s.stx_rdev_minor),
            size: s.stx_size,
            blocks: s.stx_blocks,
            blksize: s.stx_blksize,
            atime_ns: nanos(s.stx_atime),
            mtime_ns: nanos(s.stx_mtime),
            ctime_ns: nanos(s.stx_ctime),
            btime_ns: if MOVING_BIRTHS.read().contains(&dev) { 0 } else { nanos(s.stx_btime) },
        }
    }
}
