//! Mounting and unmounting. wizefs mounts and unmounts by itself: fuser 0.18.0 may unmount another file system than its own
//! after somebody else has unmounted it.

use super::acl::Plain;
use super::control::Control;
use super::holders::{Holder, device_of, holders};
use super::listings::Listings;
use super::passthrough::{self, Backings};
use super::replies::Adapter;
use super::running::Running;
use super::watch::{Requests, Unanswered, Watch, Watched};
use crate::any::AnyBucket;
use crate::bucket::Bucket;
use crate::error::{FsError, FsResult};
use crate::vfs::{Ino, Kernel};
use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Shown by `df` and `mount`: the source is `wizefs:NAME`.
    pub name: String,
    /// Other users may enter; the kernel checks permissions.
    pub allow_other: bool,
    /// Nothing can be changed.
    pub read_only: bool,
    /// No program can be run.
    pub noexec: bool,
    /// Threads that answer the kernel.
    pub threads: usize,
}

/// A mounted bucket.
pub struct Mount {
    bucket: AnyBucket,
    mountpoint: PathBuf,
    device: Option<u64>,
    watch: Watch,
    session: Option<BackgroundSession>,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("mountpoint", &self.mountpoint).finish_non_exhaustive()
    }
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Somebody uses it.
    #[error("in use")]
    Busy {
        /// Programs.
        holders: Vec<Holder>,
        /// Places below it where something else is mounted, as mountinfo writes them.
        mounts: Vec<String>,
    },
    /// Another reason.
    #[error(transparent)]
    Failed(#[from] FsError),
}

impl Bucket {
    /// As [`AnyBucket::mount`].
    ///
    /// # Errors
    /// As there.
    pub fn mount(self: &Arc<Self>, mountpoint: &Path, options: MountOptions) -> FsResult<Mount> {
        AnyBucket::Loopback(Arc::clone(self)).mount(mountpoint, options)
    }
}

impl AnyBucket {
    /// Mount at `mountpoint`, which must be an empty directory; usable when this returns.
    ///
    /// # Errors
    /// The kernel or fusermount3 refused.
    pub fn mount(&self, mountpoint: &Path, mut options: MountOptions) -> FsResult<Mount> {
        options.read_only |= self.is_read_only();
        raise_descriptor_limit();
        let watch = Watch::default();
        let session = start(self, watch.clone(), mountpoint, &options)?;
        let device = device_of(mountpoint);
        if let Some(device) = device {
            raise_readahead(device);
        }
        let control = device.and_then(Control::of);
        self.served_to(Some(Arc::new(Mounted { notifier: session.notifier(), control })));
        Ok(Mount { bucket: self.clone(), mountpoint: mountpoint.to_owned(), device, watch, session: Some(session) })
    }
}

/// The kernel behind a mount.
#[derive(Debug)]
struct Mounted {
    notifier: Notifier,
    control: Option<Control>,
}

impl Kernel for Mounted {
    fn name_changed(&self, dir: Ino, name: &OsStr) {
        // Not in the kernel's cache is as good.
        if let Err(error) = self.notifier.inval_entry(INodeNo(dir.0), name) {
            tracing::trace!(%error, "no cached name");
        }
        // A name that the kernel has not looked up is in its listing of the directory all the same.
        self.attributes_changed(dir);
    }

    fn attributes_changed(&self, ino: Ino) {
        // A negative offset: the attributes only, not the content.
        if let Err(error) = self.notifier.inval_inode(INodeNo(ino.0), -1, 0) {
            tracing::trace!(%error, "no cached attributes");
        }
    }

    fn is_busy(&self) -> bool {
        self.control.as_ref().and_then(Control::waiting) != Some(0)
    }
}

/// Mount, agree with the kernel on what it does itself, and serve.
fn start(bucket: &AnyBucket, watch: Watch, mountpoint: &Path, options: &MountOptions) -> FsResult<BackgroundSession> {
    let adapter = Adapter {
        vfs: bucket.vfs(),
        trust: bucket.trust(),
        checked: is_checked(options),
        backings: Backings::default(),
        listings: Listings::default(),
        running: Running::default(),
        plain: Plain::default(),
    };
    let what = || format!("mount at {}", mountpoint.display());
    let session =
        mounted(Watched { inner: adapter, watch }, mountpoint, options).map_err(|e| FsError::os(what(), e))?;
    let serve = || {
        // Decided before the first file is opened.
        let inner = match bucket {
            AnyBucket::Loopback(bucket) => Some(bucket),
            AnyBucket::Lz(bucket) => Some(bucket.inner()),
            AnyBucket::Zip(_) => None,
        };
        if let Some(bucket) = inner {
            let through = passthrough::is_possible(&session, &*bucket.recorder().inodes.root().fd()?)?;
            // Where a lease does not see mappings, only writes that we see ourselves can be told from rest.
            bucket.vfs().pass_through(through && bucket.recorder().leases_sound);
        }
        session.spawn().map_err(|e| FsError::os(what(), e))
    };
    serve().inspect_err(|_| {
        if let Err(errno) = unmount(mountpoint, true) {
            tracing::warn!(%errno, "half made mount left");
        }
    })
}

/// Whether the kernel checks permissions. It would ask for the attributes of a directory again after each name that is made or removed
/// in it, and root passes all checks: where nobody else may enter, there are none.
fn is_checked(options: &MountOptions) -> bool {
    options.allow_other || !rustix::process::geteuid().is_root()
}

fn mounted(
    served: Watched<Adapter>,
    mountpoint: &Path,
    options: &MountOptions,
) -> std::io::Result<Session<Watched<Adapter>>> {
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = true;
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    if rustix::process::geteuid().is_root() {
        let device = mount_as_root(mountpoint, options)?;
        let acl = config.acl;
        return Session::from_fd(served, device, acl, config).inspect_err(|_| {
            if let Err(errno) = rustix::mount::unmount(mountpoint, UnmountFlags::DETACH) {
                tracing::warn!(%errno, "half made mount left");
            }
        });
    }
    config.mount_options = vec![
        MountOption::FSName(source(options)),
        MountOption::Subtype("wizefs".into()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    if options.noexec {
        config.mount_options.push(MountOption::NoExec);
    }
    Session::new(served, mountpoint, &config)
}

/// A comma in a source would be read as the next option.
fn source(options: &MountOptions) -> String {
    format!("wizefs:{}", options.name.replace(',', "_"))
}

fn mount_as_root(mountpoint: &Path, options: &MountOptions) -> std::io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, 0.into())?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if is_checked(options) {
        data.push_str(",default_permissions");
    }
    let data = CString::new(data)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    if options.noexec {
        flags |= MountFlags::NOEXEC;
    }
    rustix::mount::mount(source(options), mountpoint, "fuse.wizefs", flags, &*data)?;
    Ok(device)
}

/// The threads of a mount that is no longer there end within this time, unless it is still mounted somewhere.
const GONE: Duration = Duration::from_secs(2);

/// Kibibytes the kernel reads ahead on a mount; it offers 128 and lets the mount's owner ask for more.
const READAHEAD_KIB: &str = "1024";

fn raise_readahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    // Only root may; without it large reads are slower and otherwise the same.
    if let Err(error) = std::fs::write(&path, READAHEAD_KIB) {
        tracing::debug!(path, %error, "the kernel's readahead stays");
    }
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(errno) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%errno, "limit of open files stays");
    }
}

impl Mount {
    /// Where it is.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The bucket that is mounted.
    pub fn bucket(&self) -> &AnyBucket {
        &self.bucket
    }

    /// Wait until somebody unmounts it.
    pub fn wait(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.join()
        {
            tracing::debug!(%error, "end of the session");
        }
    }

    /// The request of the kernel that has been unanswered for the longest time, if that is at least `patience`.
    pub fn unanswered(&self, patience: Duration) -> Option<Unanswered> {
        self.watch.oldest(patience)
    }

    /// What the kernel has asked for since it was mounted: reads and writes past the node are not among it.
    pub fn requests(&self) -> Requests {
        self.watch.requests()
    }

    /// Whether somebody else has unmounted it.
    pub fn is_gone(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Hide a mount that is in use. It is served on until its last user is gone, then [`Mount::is_gone`] says so.
    ///
    /// # Errors
    /// What the kernel or fusermount3 answers.
    pub fn detach(&self) -> FsResult<()> {
        match unmount(&self.mountpoint, true) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(errno) => Err(FsError::os(format!("detach {}", self.mountpoint.display()), errno)),
        }
    }

    /// Whether it ends in a moment, now that it is unmounted: it does not while it is mounted elsewhere too, by `mount --bind` or
    /// in another namespace.
    fn ends_soon(&self) -> bool {
        let start = Instant::now();
        while !self.is_gone() && start.elapsed() < GONE {
            // A thread can be joined or asked whether it has ended, not waited for with an end.
            std::thread::sleep(Duration::from_millis(1));
        }
        self.is_gone()
    }

    /// Unmount. One that is mounted elsewhere too comes back and is served on, as after [`Mount::detach`].
    ///
    /// # Errors
    /// [`UnmountError::Busy`]; the mount comes back with the error, as it was.
    pub fn unmount(mut self) -> Result<Option<Self>, Box<(Self, UnmountError)>> {
        if !self.is_gone() {
            match unmount(&self.mountpoint, false) {
                // Not mounted any more, by somebody else, is as good.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(Errno::BUSY) => {
                    let holders = self.device.map_or_else(Vec::new, |dev| holders(&self.mountpoint, dev));
                    let mounts = mounts_below(&self.mountpoint);
                    return Err(Box::new((self, UnmountError::Busy { holders, mounts })));
                }
                Err(errno) => {
                    let what = format!("unmount {}", self.mountpoint.display());
                    return Err(Box::new((self, FsError::os(what, errno).into())));
                }
            }
        }
        if !self.ends_soon() {
            return Ok(Some(self));
        }
        self.bucket.served_to(None);
        self.wait();
        Ok(None)
    }
}

/// What is mounted in a folder, as mountinfo writes it; nothing where the kernel does not tell.
fn mounts_below(folder: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = format!("{}/", escaped(folder));
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places.filter(|place| place.starts_with(&below)).map(str::to_owned).collect()
}

fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), Errno> {
    if rustix::process::geteuid().is_root() {
        let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        return rustix::mount::unmount(mountpoint, flags | UnmountFlags::NOFOLLOW);
    }
    let mut command = std::process::Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    match command.arg("--").arg(mountpoint).output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) if String::from_utf8_lossy(&done.stderr).contains("busy") => Err(Errno::BUSY),
        Ok(_) => Err(Errno::INVAL),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Detach a mount of ours whose daemon is gone. Returns whether there was one at `mountpoint`.
///
/// # Errors
/// What the kernel answers.
pub fn clear_stale_mount(mountpoint: &Path) -> FsResult<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = escaped(mountpoint);
    let ours = table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted) && line.contains(" - fuse.wizefs "));
    // statfs always asks the daemon; attributes would be answered from the kernel's cache for a while. One that dies while
    // it is asked aborts the connection.
    let dead = || matches!(rustix::fs::statfs(mountpoint), Err(Errno::NOTCONN | Errno::CONNABORTED));
    if !ours || !dead() {
        return Ok(false);
    }
    unmount(mountpoint, true)
        .map_err(|errno| FsError::os(format!("detach the dead mount at {}", mountpoint.display()), errno))?;
    Ok(true)
}

/// A path as mountinfo writes it.
pub(super) fn escaped(path: &Path) -> String {
    let mut text = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend(format!("\\{byte:03o}").into_bytes()),
            _ => text.push(byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
