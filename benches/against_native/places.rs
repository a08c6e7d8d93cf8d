//! Where the same work is done: the directory itself, other file systems over FUSE, and a bucket.

use crate::Result;
use crate::machine::said;
use crate::node::Node;
use rustix::fs::IFlags;
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Names a built `passthrough_hp`.
const PASSTHROUGH_HP: &str = "WIZEFS_BENCH_PASSTHROUGH_HP";

/// A directory to work in.
pub(crate) enum Place<'a> {
    /// No file system in between.
    Native(PathBuf),
    /// A mount of another file system over FUSE.
    Other(Other),
    /// A mounted bucket, recording.
    Wizefs(&'a Node),
}

/// Mounts a backing at a mountpoint.
type Mounter = fn(&Path, &Path) -> Result<()>;

/// A mount that is taken away when dropped.
pub(crate) struct Other {
    name: &'static str,
    backing: PathBuf,
    mountpoint: PathBuf,
}

/// Every place that can be had. What is not installed is missing in the tables.
pub(crate) fn all<'a>(base: &Path, node: &'a Node) -> Result<Vec<Place<'a>>> {
    let native = base.join("native");
    fs::create_dir(&native)?;
    let mut places = vec![Place::Native(native)];
    let others: [(&'static str, Mounter); 3] =
        [("bindfs", bindfs), ("gocryptfs", gocryptfs), ("passthrough_hp", passthrough_hp)];
    for (name, mount) in others {
        let (backing, mountpoint) = (base.join(format!("{name}-backing")), base.join(name));
        fs::create_dir(&backing)?;
        fs::create_dir(&mountpoint)?;
        match mount(&backing, &mountpoint) {
            Ok(()) => places.push(Place::Other(Other { name, backing, mountpoint })),
            Err(e) => eprintln!("SKIPPED: no {name} to compare with: {e}"),
        }
    }
    places.push(Place::Wizefs(node));
    for place in &places {
        spread(&place.backing())?;
    }
    Ok(places)
}

/// Have ext4 put each new directory in `dir` and what is in it into a part of the disk of its own. It is slow, for minutes, to
/// give out inodes where others were freed, and what is removed in one place would slow down the next.
fn spread(dir: &Path) -> Result<()> {
    let dir = fs::File::open(dir)?;
    match rustix::fs::ioctl_getflags(&dir).and_then(|flags| rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR)) {
        // Other file systems have no such flag.
        Ok(()) | Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The plainest file system over FUSE.
fn bindfs(backing: &Path, mountpoint: &Path) -> Result<()> {
    said(Command::new("bindfs").arg(backing).arg(mountpoint)).map(drop)
}

/// Encrypts; with a passphrase that costs no time.
fn gocryptfs(backing: &Path, mountpoint: &Path) -> Result<()> {
    let gocryptfs = || {
        let mut command = Command::new("gocryptfs");
        command.args(["-quiet", "-extpass", "echo bench"]);
        command
    };
    said(gocryptfs().args(["-init", "-scryptn", "10"]).arg(backing))?;
    said(gocryptfs().arg(backing).arg(mountpoint)).map(drop)
}

/// libfuse's own example of passthrough by the kernel, in the way it is fastest.
fn passthrough_hp(backing: &Path, mountpoint: &Path) -> Result<()> {
    let program = std::env::var_os(PASSTHROUGH_HP).ok_or(format!("{PASSTHROUGH_HP} names no program"))?;
    said(Command::new(program).arg("--clone-fd").arg(backing).arg(mountpoint)).map(drop)
}

impl Place<'_> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Place::Native(_) => "native",
            Place::Other(other) => other.name,
            Place::Wizefs(_) => "wizefs",
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        match self {
            Place::Native(dir) | Place::Other(Other { mountpoint: dir, .. }) => dir.clone(),
            Place::Wizefs(node) => node.mounted(),
        }
    }

    /// Where its files are in the end.
    fn backing(&self) -> PathBuf {
        match self {
            Place::Native(dir) | Place::Other(Other { backing: dir, .. }) => dir.clone(),
            Place::Wizefs(node) => node.backing(),
        }
    }

    /// Wait for what goes on behind the work, and tell how long. Everything is on the disk then, whatever the place.
    pub(crate) fn settle(&self) -> Result<Duration> {
        match self {
            Place::Native(_) | Place::Other(_) => {
                rustix::fs::syncfs(fs::File::open(self.backing())?)?;
                Ok(Duration::ZERO)
            }
            Place::Wizefs(node) => node.sync(),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Err(e) = said(Command::new("fusermount3").arg("-u").arg(&self.mountpoint)) {
            eprintln!("{} stays mounted: {e}", self.mountpoint.display());
        }
    }
}
