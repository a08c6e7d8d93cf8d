//! The kernel's own view of a connection (fusectl).

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::io::Read;
use std::os::fd::OwnedFd;

/// Where it is mounted by custom; not everywhere.
const CUSTOMARY: &str = "/sys/fs/fuse/connections";

/// The control directory of one connection.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    /// Of the mount with this device number; none where the kernel shows it to us neither privately nor in sysfs.
    pub(super) fn of(device: u64) -> Option<Self> {
        let connections = private().or_else(|_| open_dir(rustix::fs::CWD, CUSTOMARY)).ok()?;
        let connection = rustix::fs::minor(device).to_string();
        open_dir(&connections, &connection).map(Self).ok()
    }

    /// Requests of the kernel that are on their way to us or not answered yet.
    pub(super) fn waiting(&self) -> Option<u64> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::openat(&self.0, "waiting", flags, Mode::empty()).ok()?);
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}

/// A mount that is nowhere in the tree and goes with the descriptor.
fn private() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn open_dir(at: impl std::os::fd::AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}
