//! The root folder: its layout, and the lock that lets one process at a time be its node.

use crate::error::{Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a command waits for another command to let go of the root.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How often a waiting command looks again.
pub(crate) const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// What can be done with a root on a disk that takes no writes.
const READ_ONLY: &str =
    "copy the root (cp -a) to where it can be written and use that with --root; integrity works on it as it is";

/// The paths below one root folder.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// The layout below `path`, which is absolute.
    pub fn new(path: &Path) -> Root {
        Root(path.to_owned())
    }

    /// The root folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether it is on a disk that takes no writes.
    pub fn is_read_only(&self) -> bool {
        let disk = rustix::fs::statvfs(&self.0);
        disk.is_ok_and(|disk| disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    /// Its owner, when root is at work in somebody else's.
    pub fn other_owner(&self) -> Option<u32> {
        let owner = std::fs::metadata(&self.0).ok()?.uid();
        (rustix::process::geteuid().is_root() && owner != 0).then_some(owner)
    }

    /// The chain, the log and the pending transactions.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// Key files, 0600 in a folder of 0700.
    pub fn wallets(&self) -> PathBuf {
        self.0.join("wallets")
    }

    /// The key that signs checkpoints.
    pub fn log_key(&self) -> PathBuf {
        self.wallets().join("log.key")
    }

    /// One folder per bucket.
    pub fn buckets(&self) -> PathBuf {
        self.0.join("buckets")
    }

    /// Mountpoints that wizefs makes itself.
    pub fn mnt(&self) -> PathBuf {
        self.0.join("mnt")
    }

    /// What a background node says.
    pub fn log_file(&self) -> PathBuf {
        self.0.join("node.log")
    }

    /// Make the folders that are missing. Modes do not depend on the umask of the caller.
    ///
    /// # Errors
    /// [`Kind::Root`] when a folder cannot be made.
    pub fn create(&self) -> Result<()> {
        make_folder(&self.0, 0o755)?;
        make_folder(&self.buckets(), 0o755)?;
        make_folder(&self.mnt(), 0o755)?;
        make_folder(&self.wallets(), 0o700)?;
        make_folder(&self.ledger(), 0o700)
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| Error::io(Kind::Root, format!("cannot make the folder {}", path.display()), &e))
}

/// Held by the node of a root for as long as it lives; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub struct RootLock {
    /// The open file is the lock.
    _held: File,
}

impl RootLock {
    /// Take the lock if nobody holds it. `None` when somebody does.
    ///
    /// # Errors
    /// [`Kind::Root`] when the lock file cannot be opened or written.
    pub fn take(root: &Root) -> Result<Option<RootLock>> {
        let path = lock_path(root);
        let failed = |e: std::io::Error| {
            let error = Error::io(Kind::Root, format!("cannot lock {}", path.display()), &e);
            match e.kind() {
                std::io::ErrorKind::ReadOnlyFilesystem => error.hint(READ_ONLY),
                _ => error,
            }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(failed(e.into())),
        }
        // The process id is for people, and for who waits until another one has it; a full disk must not keep a node from starting.
        let noted =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(e) = noted {
            tracing::warn!(error = %e, "cannot note the process id in node.lock");
        }
        Ok(Some(RootLock { _held: file }))
    }

    /// Wait for the lock, at most [`LOCK_PATIENCE`], as long as `keep_waiting` agrees.
    ///
    /// # Errors
    /// [`Kind::RootLocked`] names the process that holds it.
    pub fn wait(root: &Root, mut keep_waiting: impl FnMut() -> bool) -> Result<RootLock> {
        let start = Instant::now();
        loop {
            if let Some(lock) = RootLock::take(root)? {
                return Ok(lock);
            }
            if start.elapsed() >= LOCK_PATIENCE || !keep_waiting() {
                return Err(locked(root));
            }
            // flock has no timeout, and a signal handler to interrupt it would be worse than looking again.
            std::thread::sleep(LOCK_INTERVAL);
        }
    }

    /// Wait until no process holds the lock, or until `is_next`: one holds it that nobody has to wait for. At most
    /// [`LOCK_PATIENCE`]; true when it is so.
    ///
    /// # Errors
    /// As [`RootLock::take`].
    pub fn wait_until_free(root: &Root, mut is_next: impl FnMut() -> bool) -> Result<bool> {
        let mut next = false;
        let waited = RootLock::wait(root, || {
            next = is_next();
            !next
        });
        match waited {
            Ok(_free) => Ok(true),
            Err(e) if e.kind == Kind::RootLocked => Ok(next),
            Err(e) => Err(e),
        }
    }
}

/// The failure of a second node, naming the first. One that cannot be reached, because it is a command or has lost its socket, is
/// ended by a signal alone.
pub(crate) fn locked(root: &Root) -> Error {
    let holder = lock_holder(root);
    let name = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
    let error = Error::new(Kind::RootLocked, format!("{} is in use by {name}", root.path().display()));
    match (holder, crate::socket::connect(root)) {
        (Some(pid), Ok(None)) => {
            error.hint(format!("it does not listen on node.sock; kill {pid} ends it in good order"))
        }
        _ => error,
    }
}

/// The process that took the lock last.
pub(crate) fn lock_holder(root: &Root) -> Option<u32> {
    let mut text = String::new();
    File::open(lock_path(root)).ok()?.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Wait until another process has taken the lock since this one let go of it.
pub(crate) fn wait_for_user(root: &Root) {
    loop {
        std::thread::sleep(LOCK_INTERVAL);
        // Whoever takes it notes its process id.
        if lock_holder(root) != Some(std::process::id()) {
            return;
        }
    }
}

fn lock_path(root: &Root) -> PathBuf {
    root.path().join("node.lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let lock = RootLock::take(&root).unwrap();
        assert!(lock.is_some());
        assert!(RootLock::take(&root).unwrap().is_none());
        let error = RootLock::wait(&root, || false).unwrap_err();
        assert_eq!(error.kind, Kind::RootLocked);
        assert!(error.message.contains(&std::process::id().to_string()), "{error}");
        let start = Instant::now();
        assert!(RootLock::wait_until_free(&root, || true).unwrap(), "one that is not waited for");
        assert!(start.elapsed() < LOCK_PATIENCE);
        drop(lock);
        assert!(RootLock::wait_until_free(&root, || false).unwrap());
        assert!(RootLock::take(&root).unwrap().is_some());
    }

    #[test]
    fn folders_have_their_modes() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(&dir.path().join("deep/root"));
        root.create().unwrap();
        root.create().unwrap();
        let mode = std::fs::metadata(root.wallets()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
