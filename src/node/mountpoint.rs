//! Where a bucket may be mounted, and what the kernel says is mounted there.

use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, pasted};
use crate::root::Root;
use std::fs::DirBuilder;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The type of our mounts in mountinfo.
const FSTYPE: &str = "fuse.wizefs";

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct MountLine {
    mountpoint: PathBuf,
    fstype: String,
}

/// What is mounted at `path` itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A mount of ours, alive or dead.
    Wizefs,
    /// Somebody else's.
    Other,
}

/// What lets ordinary users mount for others.
pub const ALLOW_OTHERS: &str = "if you need it: echo user_allow_other | sudo tee -a /etc/fuse.conf";

/// Whether this user may let others into a mount.
pub fn may_allow_other() -> bool {
    rustix::process::geteuid().is_root()
        || std::fs::read_to_string("/etc/fuse.conf").is_ok_and(|text| lets_others_in(&text))
}

fn lets_others_in(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

/// Ask the kernel what is mounted at `path` itself.
pub(super) fn mounted_at(path: &Path) -> Result<Found> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|e| Error::io(Kind::Fuse, "cannot read /proc/self/mountinfo", &e))?;
    Ok(find(&table, path))
}

/// Every mountpoint of wizefs that this process sees, whoever serves it.
///
/// # Errors
/// The kernel does not tell.
pub fn our_mounts() -> Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|e| Error::io(Kind::Fuse, "cannot read /proc/self/mountinfo", &e))?;
    let lines = table.split(|b| *b == b'\n').filter_map(parse);
    Ok(lines.filter(|line| line.fstype == FSTYPE).map(|line| line.mountpoint).collect())
}

fn find(table: &[u8], path: &Path) -> Found {
    let top = table.split(|b| *b == b'\n').filter_map(parse).rfind(|line| line.mountpoint == path);
    match top {
        None => Found::Nothing,
        Some(line) if line.fstype == FSTYPE => Found::Wizefs,
        Some(_) => Found::Other,
    }
}

fn parse(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|b| *b == b' ');
    let mountpoint = unescape(fields.nth(4)?);
    let fstype = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountLine { mountpoint, fstype: String::from_utf8_lossy(fstype).into_owned() })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| std::str::from_utf8(tail.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// A mountpoint that may be used.
#[derive(Debug)]
pub(super) struct Place {
    /// Absolute and without symbolic links.
    pub(super) path: PathBuf,
    /// We made the folder and remove it at unmount.
    pub(super) ours: bool,
}

/// Check the mountpoint of `bucket`, and make the default one. A dead mount there was cleared before.
///
/// # Errors
/// [`Kind::Mountpoint`], [`Kind::MountpointNotEmpty`] or [`Kind::AlreadyMounted`] say why it cannot be used.
pub(super) fn prepare(root: &Root, bucket: &BucketName, backing: &Path, wanted: Option<&Path>) -> Result<Place> {
    let refused = |kind, text: String| Err(Error::new(kind, text));
    let default = root.mnt().join(bucket.as_str());
    let ours = wanted.is_none_or(|path| path == default);
    let path = wanted.unwrap_or(&default);
    if ours
        && let Err(e) = DirBuilder::new().mode(0o755).create(path)
        && e.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(Error::io(Kind::Mountpoint, format!("cannot make the mountpoint {}", path.display()), &e));
    }
    let real = match std::fs::canonicalize(path) {
        Ok(real) => real,
        Err(e) => {
            let what = format!("the mountpoint {} cannot be used", path.display());
            let error = Error::io(Kind::Mountpoint, what, &e);
            return Err(match e.kind() {
                std::io::ErrorKind::NotFound => error.hint(format!("mkdir -p {}", pasted(path))),
                _ => error,
            });
        }
    };
    if !real.is_dir() {
        return refused(Kind::Mountpoint, format!("the mountpoint {} is not a folder", path.display()));
    }
    if let Some(what) = forbidden(&real, root, backing) {
        return refused(Kind::Mountpoint, format!("the mountpoint {} is {what}", path.display()));
    }
    if mounted_at(&real)? != Found::Nothing {
        return refused(Kind::AlreadyMounted, format!("something is mounted at {} already", path.display()));
    }
    let mut entries = std::fs::read_dir(&real)
        .map_err(|e| Error::io(Kind::Mountpoint, format!("cannot look into the mountpoint {}", path.display()), &e))?;
    if entries.next().is_some() {
        return refused(Kind::MountpointNotEmpty, format!("the mountpoint {} is not empty", path.display()));
    }
    Ok(Place { path: real, ours })
}

/// A mount over the backing or over the root's own folders would hide what it needs.
fn forbidden(real: &Path, root: &Root, backing: &Path) -> Option<&'static str> {
    let resolved = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (root_path, mnt, backing) = (resolved(root.path()), resolved(&root.mnt()), resolved(backing));
    if real.starts_with(&backing) {
        Some("inside the bucket's own backing")
    } else if backing.starts_with(real) {
        Some("above the bucket's own backing")
    } else if root_path.starts_with(real) {
        Some("above the root folder")
    } else if real.starts_with(&root_path) && (!real.starts_with(&mnt) || real == mnt) {
        Some("inside the root folder, where only mnt/ORIGIN may be used")
    } else {
        None
    }
}

/// Whether a folder's path is one that we make and remove ourselves.
pub(super) fn is_default(root: &Root, path: &Path) -> bool {
    let mnt = std::fs::canonicalize(root.mnt()).unwrap_or_else(|_| root.mnt());
    path.parent().is_some_and(|parent| parent == mnt && !path.as_os_str().as_bytes().ends_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_conf_is_understood() {
        fn check(conf: &str, expect: bool) {
            assert_eq!(lets_others_in(conf), expect, "{conf:?}");
        }
        check("", false);
        check("# user_allow_other\nmount_max = 10\n", false);
        check("mount_max = 10\nuser_allow_other \n", true);
    }

    #[test]
    fn mountinfo_is_understood() {
        let table = b"36 35 98:0 / /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw\n\
            40 35 0:50 / /home/me/docs rw - fuse.wizefs wizefs:docs rw,user_id=0\n\
            41 35 0:51 / /over rw - ext4 /dev/x rw\n42 41 0:52 / /over rw shared:3 - fuse.wizefs wizefs:a rw\n\nodd line\n";
        fn check(table: &[u8], path: &str, expect: Found) {
            assert_eq!(find(table, Path::new(path)), expect, "{path}");
        }
        check(table, "/mnt two", Found::Other);
        check(table, "/home/me/docs", Found::Wizefs);
        check(table, "/over", Found::Wizefs);
        check(table, "/home/me", Found::Nothing);
        assert_eq!(unescape(b"a\\134b\\01"), PathBuf::from("a\\b\\01"));
    }

    #[test]
    fn places_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        let root = Root::new(&top.join("root"));
        root.create().unwrap();
        let name = BucketName::new("docs").unwrap();
        let backing = top.join("backing");
        for folder in ["backing/inside", "free", "full/x", "root/mnt/other"] {
            std::fs::create_dir_all(top.join(folder)).unwrap();
        }
        std::fs::write(top.join("file"), "").unwrap();
        let check = |wanted: Option<&str>, expect: Option<Kind>| {
            let wanted = wanted.map(|path| top.join(path));
            let place = prepare(&root, &name, &backing, wanted.as_deref());
            assert_eq!(place.as_ref().err().map(|e| e.kind), expect, "{wanted:?} {place:?}");
        };
        check(None, None);
        check(Some("free"), None);
        check(Some("root/mnt/other"), None);
        check(Some("none"), Some(Kind::Mountpoint));
        check(Some("file"), Some(Kind::Mountpoint));
        check(Some("full"), Some(Kind::MountpointNotEmpty));
        check(Some("backing"), Some(Kind::Mountpoint));
        check(Some("backing/inside"), Some(Kind::Mountpoint));
        check(Some(""), Some(Kind::Mountpoint));
        check(Some("root"), Some(Kind::Mountpoint));
        check(Some("root/mnt"), Some(Kind::Mountpoint));
        check(Some("root/ledger"), Some(Kind::Mountpoint));
        assert!(prepare(&root, &name, &backing, None).unwrap().ours);
        assert!(is_default(&root, &std::fs::canonicalize(root.mnt()).unwrap().join("docs")));
    }
}
