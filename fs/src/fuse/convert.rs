//! FUSE's words for ours, both ways.

use crate::error::FsError;
use crate::handle::changes;
use crate::stat::Kind;
use crate::vfs::{Attr, Caller, SetTime, Trust};
use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, Request, TimeOrNow};
use std::time::{Duration, SystemTime};

/// The attributes of no file.
pub(super) const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
    crtime: SystemTime::UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn code(error: &FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

pub(super) fn time(nanos: i64) -> SystemTime {
    let offset = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 { SystemTime::UNIX_EPOCH + offset } else { SystemTime::UNIX_EPOCH - offset }
}

/// Nanoseconds since 1970 of a time the kernel sent; `None` for one that 64 bits do not hold. Seconds and nanoseconds are those of
/// the kernel, which counts the second on from the first also before 1970, where fuser 0.18.0 counts both back.
fn nanos(time: SystemTime) -> Option<i64> {
    let (before, apart) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (false, after),
        Err(before) => (true, before.duration()),
    };
    let seconds = i64::try_from(apart.as_secs()).ok()?;
    let seconds = if before { -seconds } else { seconds };
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(apart.subsec_nanos()))
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: stat.size,
        blocks: stat.blocks,
        atime: time(stat.atime_ns),
        mtime: time(stat.mtime_ns),
        ctime: time(stat.ctime_ns),
        crtime: time(stat.btime_ns),
        kind: file_type(stat.kind),
        perm: stat.mode as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev as u32,
        blksize: stat.blksize,
        flags: 0,
    }
}

/// A time to be set, if any, as the kernel sent it.
///
/// # Errors
/// `EINVAL` for a time before 1678 or after 2261, which would be shown and recorded as another one.
pub(super) fn set_time(time: Option<TimeOrNow>) -> Result<Option<SetTime>, Errno> {
    Ok(match time {
        None => None,
        Some(TimeOrNow::Now) => Some(SetTime::Now),
        Some(TimeOrNow::SpecificTime(at)) => Some(SetTime::At(nanos(at).ok_or(Errno::EINVAL)?)),
    })
}

/// What the kernel may do with a file opened with these `O_*` flags.
pub(super) fn open_flags(trust: &Trust, flags: i32) -> FopenFlags {
    // A file that was neither written nor made nor emptied has nothing to say at `close`.
    let silent = trust.close_is_silent || !changes(flags);
    let kept = if trust.immutable { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
    if silent { kept | FopenFlags::FOPEN_NOFLUSH } else { kept }
}

/// The same of a file that the kernel could read and write itself. It opens that with the flags of the `open`, and does not hear of an
/// `O_DIRECT` that `fcntl` takes away later, as dd(1) does for an end that is no whole block: such a handle asks for each read and
/// write, and only what it maps is the backing's.
pub(super) fn through_flags(trust: &Trust, flags: i32) -> FopenFlags {
    let asks = flags & libc::O_DIRECT != 0;
    open_flags(trust, flags) | if asks { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() }
}

/// What the kernel may do with an opened directory.
pub(super) fn dir_flags(trust: &Trust) -> FopenFlags {
    if trust.exclusive { FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time as fuser 0.18.0 makes it of what the kernel sends.
    fn check(seconds: i64, nanoseconds: u32, expect: Option<i64>) {
        let apart = Duration::new(seconds.unsigned_abs(), nanoseconds);
        let sent = if seconds < 0 { SystemTime::UNIX_EPOCH - apart } else { SystemTime::UNIX_EPOCH + apart };
        assert_eq!(nanos(sent), expect, "{seconds} s + {nanoseconds} ns");
    }

    #[test]
    fn times_before_1970_count_on_from_their_second() {
        check(0, 5, Some(5));
        check(7, 999_999_999, Some(7_999_999_999));
        check(-1, 0, Some(-1_000_000_000));
        check(-1, 500_000_000, Some(-500_000_000));
        check(-2, 999_999_999, Some(-1_000_000_001));
    }

    #[test]
    fn times_that_64_bits_do_not_hold_are_none() {
        check(9_223_372_036, 854_775_807, Some(i64::MAX));
        check(9_223_372_036, 854_775_808, None);
        check(-9_223_372_037, 0, None);
        check(1 << 60, 0, None);
    }
}
