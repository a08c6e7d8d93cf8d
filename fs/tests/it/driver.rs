//! A bucket in temporary folders, driven by path through its `Vfs`.

use crate::fold::Fold;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wizefs_fs::lz::Archive;
use wizefs_fs::vfs::{Attr, Caller, Fh, Ino, Opened, SetAttr, Vfs};
use wizefs_fs::{
    AnyBucket, Bucket, BucketOptions, BucketPath, Change, Durability, FoundKind, LzBucket, MemorySink, Op,
};

/// The caller of every operation.
pub(crate) fn me() -> Caller {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Caller { uid, gid, pid: std::process::id() }
}

/// Result of an operation as the kernel would see it.
pub(crate) type Done = Result<(), Errno>;

/// The intents as a power cut would find them.
const ON_DISK: &str = "intents-on-disk";

/// What a crash takes along.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lost {
    /// Intents noted since the file was last synced.
    pub(crate) intents: bool,
    /// Changes that the sink had taken and not sealed.
    pub(crate) unsealed: bool,
}

/// A bucket of kind loopback.
pub(crate) type Driver = Driven<false>;

/// A bucket on a directory, or on an archive (`LZ`).
pub(crate) struct Driven<const LZ: bool> {
    pub(crate) bucket: AnyBucket,
    pub(crate) sink: Arc<MemorySink>,
    pub(crate) vfs: Arc<dyn Vfs>,
    folder: Arc<tempfile::TempDir>,
    state: PathBuf,
    durability: Durability,
    boot: String,
    /// Files that stay open over several steps.
    pub(crate) held: RefCell<Vec<Fh>>,
}

impl<const LZ: bool> Driven<LZ> {
    /// Whether the kind has hard links.
    pub(crate) const LINKS: bool = !LZ;

    pub(crate) fn new() -> Self {
        Self::with(Durability::Relaxed)
    }

    pub(crate) fn with(durability: Durability) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        if LZ {
            Archive::create(&folder.path().join("backing")).unwrap();
        } else {
            std::fs::create_dir(folder.path().join("backing")).unwrap();
        }
        let state = folder.path().join("state");
        Self::open(folder, state, Arc::default(), durability, "boot")
    }

    /// On what `make` makes.
    pub(crate) fn on(make: impl FnOnce(&Path)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        make(&folder.path().join("backing"));
        let state = folder.path().join("state");
        Self::open(folder, state, Arc::default(), Durability::Relaxed, "boot")
    }

    fn open(
        folder: Arc<tempfile::TempDir>,
        state: PathBuf,
        sink: Arc<MemorySink>,
        durability: Durability,
        boot: &str,
    ) -> Self {
        let options = BucketOptions {
            backing: folder.path().join("backing"),
            state: state.clone(),
            adopted: false,
            exclusive: false,
            read_only: false,
            durability,
        };
        let (bucket, vfs): (AnyBucket, Arc<dyn Vfs>) = if LZ {
            let (bucket, _) = LzBucket::open_in_boot(options, sink.clone(), boot).unwrap();
            (AnyBucket::Lz(bucket.clone()), bucket.vfs())
        } else {
            let (bucket, _) = Bucket::open_in_boot(options, sink.clone(), boot).unwrap();
            (AnyBucket::Loopback(bucket.clone()), bucket.vfs())
        };
        let held = RefCell::default();
        let driver = Self { vfs, bucket, sink, folder, state, durability, boot: boot.to_owned(), held };
        driver.intents_reach_the_disk();
        driver
    }

    /// From now on the kernel reads and writes files itself, as far as the bucket knows: who has one open is not seen by a lease.
    pub(crate) fn pass_through(&self) {
        if let AnyBucket::Loopback(bucket) = &self.bucket {
            bucket.vfs().pass_through(true);
        }
    }

    /// Of how many files the inner hashes are kept.
    pub(crate) fn inner_hashes(&self) -> usize {
        let kept = std::fs::read_dir(self.state.join("outboards")).unwrap();
        kept.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file()).count()
    }

    fn intents_reach_the_disk(&self) {
        std::fs::copy(self.state.join("intents"), self.state.join(ON_DISK)).unwrap();
    }

    /// The same backing after the node was killed: what was on its way to the sink is lost, the intents are not. In another
    /// boot (a power cut) the intents, and what was not sealed, may be lost too.
    pub(crate) fn crash(self, boot: &str, lost: Lost) -> Self {
        let power_cut = boot != self.boot;
        let sink = Arc::new(if power_cut { self.sink.after_power_cut(lost.unsealed) } else { self.sink.after_kill() });
        let number = std::fs::read_dir(self.folder.path()).unwrap().count();
        let state = self.folder.path().join(format!("state-{number}"));
        std::fs::create_dir(&state).unwrap();
        let intents = if lost.intents { ON_DISK } else { "intents" };
        for (from, to) in [(intents, "intents"), ("session", "session")] {
            std::fs::copy(self.state.join(from), state.join(to)).unwrap();
        }
        // The threads of the dead bucket must not go on reporting into the sink of the living one.
        self.sink.set_problem(Some(wizefs_fs::SinkError::Broken("killed".into())));
        if let AnyBucket::Lz(bucket) = &self.bucket {
            bucket.abandon();
        }
        let (folder, durability) = (self.folder.clone(), self.durability);
        drop(self);
        Self::open(folder, state, sink, durability, boot)
    }

    /// The same backing after the node ended in order and was started again.
    pub(crate) fn reopen(self) -> Self {
        self.let_all_go();
        self.sync();
        self.seal();
        self.bucket.close().unwrap();
        self.sink.seal();
        let (folder, state, durability) = (self.folder.clone(), self.state.clone(), self.durability);
        let sink = Arc::new(self.sink.after_kill());
        let boot = self.boot.clone();
        drop(self);
        assert!(!LZ || !folder.path().join("backing.lzfs").exists(), "the archive has everything");
        Self::open(folder, state, sink, durability, &boot)
    }

    pub(crate) fn backing(&self, path: &str) -> PathBuf {
        let tree = if LZ { "backing.lzfs/tree" } else { "backing" };
        self.folder.path().join(tree).join(path)
    }

    pub(crate) fn lookup(&self, path: &str) -> Result<Attr, Errno> {
        let mut attr = self.vfs.getattr(Ino::ROOT).map_err(|e| e.errno())?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.vfs.lookup(attr.ino, OsStr::new(name)).map_err(|e| e.errno())?;
        }
        Ok(attr)
    }

    /// The archive itself.
    pub(crate) fn archive(&self) -> PathBuf {
        self.folder.path().join("backing")
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(Ino, &'a OsStr), Errno> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.lookup(dir)?.ino, OsStr::new(name)))
    }

    pub(crate) fn open_file(&self, path: &str, flags: i32) -> Result<Fh, Errno> {
        let ino = self.lookup(path)?.ino;
        self.vfs.open(ino, flags, me()).map(|o| o.fh).map_err(|e| e.errno())
    }

    pub(crate) fn create(&self, path: &str) -> Result<Fh, Errno> {
        let (dir, name) = self.parent(path)?;
        let made = self.vfs.create(dir, name, 0o644, libc::O_RDWR, me());
        let (_, Opened { fh, .. }) = made.map_err(|e| e.errno())?;
        Ok(fh)
    }

    pub(crate) fn write_fh(&self, fh: Fh, offset: u64, data: &[u8]) {
        assert_eq!(self.vfs.write(fh, offset, data, false).unwrap(), data.len());
    }

    pub(crate) fn close(&self, fh: Fh) {
        self.vfs.flush(fh).unwrap();
        self.vfs.release(fh);
    }

    /// One of several descriptors is closed.
    pub(crate) fn vfs_flush(&self, fh: Fh) {
        self.vfs.flush(fh).unwrap();
    }

    pub(crate) fn fsync(&self, fh: Fh) {
        self.vfs.fsync(fh, false).unwrap();
    }

    /// Create or replace the content, as a shell's `>` does.
    pub(crate) fn write(&self, path: &str, data: &[u8]) -> Done {
        let fh = match self.open_file(path, libc::O_WRONLY | libc::O_TRUNC) {
            Err(Errno::NOENT) => self.create(path)?,
            opened => opened?,
        };
        self.write_fh(fh, 0, data);
        self.close(fh);
        Ok(())
    }

    /// A shell's `>>`: the kernel knows where the end is.
    pub(crate) fn append(&self, path: &str, data: &[u8]) -> Done {
        let fh = self.open_file(path, libc::O_WRONLY | libc::O_APPEND)?;
        self.write_fh(fh, self.lookup(path)?.stat.size, data);
        self.close(fh);
        Ok(())
    }

    /// Open a file, write to it, and keep it open; at most three.
    pub(crate) fn hold(&self, path: &str, byte: u8) -> Done {
        let fh = match self.open_file(path, libc::O_RDWR) {
            Err(Errno::NOENT) => self.create(path)?,
            opened => opened?,
        };
        self.write_fh(fh, 0, &[byte]);
        self.held.borrow_mut().push(fh);
        if self.held.borrow().len() > 3 {
            self.let_go(0);
        }
        Ok(())
    }

    /// Write a byte to each file that is kept open.
    pub(crate) fn write_held(&self, byte: u8) {
        for fh in &*self.held.borrow() {
            self.write_fh(*fh, u64::from(byte % 8), &[byte]);
        }
    }

    /// Close one of the files that are kept open.
    pub(crate) fn let_go(&self, which: usize) {
        let mut held = self.held.borrow_mut();
        if !held.is_empty() {
            let which = which % held.len();
            self.close(held.remove(which));
        }
    }

    pub(crate) fn let_all_go(&self) {
        self.held.borrow_mut().drain(..).for_each(|fh| self.close(fh));
    }

    pub(crate) fn truncate(&self, path: &str, size: u64) -> Done {
        self.set(path, SetAttr { size: Some(size), ..SetAttr::default() })
    }

    pub(crate) fn chmod(&self, path: &str, mode: u32) -> Done {
        self.set(path, SetAttr { mode: Some(mode), ..SetAttr::default() })
    }

    pub(crate) fn set(&self, path: &str, set: SetAttr) -> Done {
        let ino = self.lookup(path)?.ino;
        self.vfs.setattr(ino, None, set, me()).map(drop).map_err(|e| e.errno())
    }

    pub(crate) fn unlink(&self, path: &str) -> Done {
        let (dir, name) = self.parent(path)?;
        self.vfs.unlink(dir, name, me()).map_err(|e| e.errno())
    }

    pub(crate) fn mkdir(&self, path: &str) -> Done {
        let (dir, name) = self.parent(path)?;
        self.vfs.mkdir(dir, name, 0o755, me()).map(drop).map_err(|e| e.errno())
    }

    pub(crate) fn rmdir(&self, path: &str) -> Done {
        let (dir, name) = self.parent(path)?;
        self.vfs.rmdir(dir, name, me()).map_err(|e| e.errno())
    }

    pub(crate) fn symlink(&self, path: &str, target: &str) -> Done {
        let (dir, name) = self.parent(path)?;
        let made = self.vfs.symlink(dir, name, target.as_bytes(), me());
        made.map(drop).map_err(|e| e.errno())
    }

    pub(crate) fn link(&self, from: &str, to: &str) -> Done {
        let ino = self.lookup(from)?.ino;
        let (dir, name) = self.parent(to)?;
        self.vfs.link(ino, dir, name, me()).map(drop).map_err(|e| e.errno())
    }

    pub(crate) fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Done {
        let (from, to) = (self.parent(from)?, self.parent(to)?);
        self.vfs.rename(from, to, flags, me()).map_err(|e| e.errno())
    }

    pub(crate) fn mv(&self, from: &str, to: &str) -> Done {
        self.rename(from, to, RenameFlags::empty())
    }

    pub(crate) fn sync(&self) {
        let report = self.bucket.sync().unwrap();
        assert!(report.open_writers.is_empty(), "open: {:?}", report.open_writers);
    }

    /// Settle one file; the others wait.
    pub(crate) fn settle(&self, path: &str) -> Done {
        let path = wizefs_fs::BucketPath::new(path).unwrap();
        match self.bucket.settle(&path) {
            Ok(_) | Err(wizefs_fs::FsError::Busy(_)) => Ok(()),
            Err(error) => Err(error.errno()),
        }
    }

    /// Stored by the node itself; waits for the sink.
    pub(crate) fn put(&self, path: &str, data: &[u8]) -> Done {
        self.sink.hold_back(false);
        let path = wizefs_fs::BucketPath::new(path).unwrap();
        self.bucket.put(&path, None, &mut &data[..]).map(drop).map_err(|e| e.errno())
    }

    /// Removed by the node itself; waits for the sink.
    pub(crate) fn remove(&self, path: &str) -> Done {
        self.sink.hold_back(false);
        let path = wizefs_fs::BucketPath::new(path).unwrap();
        self.bucket.remove(&path).map(drop).map_err(|e| e.errno())
    }

    /// What the sink has taken is in a sealed block.
    pub(crate) fn seal(&self) {
        let number = self.sink.seal();
        self.bucket.persist().unwrap();
        self.intents_reach_the_disk();
        self.bucket.retire(number);
    }

    /// Changes after a barrier, in short.
    pub(crate) fn told(&self) -> Vec<String> {
        self.bucket.sync().unwrap();
        self.sink.changes().iter().map(short).collect()
    }

    /// Have the sink take nothing for the time being. What of an archive is looked into for the first time waits for the sink, so
    /// all of it is looked into before.
    pub(crate) fn hold_back(&self) {
        if LZ {
            self.look_into(&BucketPath::ROOT);
        }
        self.sink.hold_back(true);
    }

    fn look_into(&self, dir: &BucketPath) {
        for found in self.bucket.list(dir).unwrap() {
            if found.kind == FoundKind::Directory {
                self.look_into(&found.path);
            }
        }
    }

    /// After a barrier, what was told must be what is there.
    pub(crate) fn assert_told_is_there(&self) {
        self.sync();
        let told = Fold::of(&self.sink.changes());
        let there =
            if LZ { Fold::of_archive(&self.folder.path().join("backing")) } else { Fold::of_tree(&self.backing("")) };
        assert_eq!(told, there, "changes: {:#?}", self.told());
    }
}

impl<const LZ: bool> Drop for Driven<LZ> {
    fn drop(&mut self) {
        // Its threads end; what it could not report is the test's affair.
        let _ignored = self.bucket.close();
    }
}

/// `put a`, `rename a b`.
fn short(change: &Change) -> String {
    let cause = match change.cause {
        wizefs_fs::Cause::Mount => String::new(),
        cause => format!("{cause:?} ").to_lowercase(),
    };
    let op = match &change.op {
        Op::Put(put) | Op::Accept(put) => match &put.content {
            wizefs_fs::Content::File { hashes: None, .. } => format!("open {}", put.path),
            _ if matches!(change.op, Op::Accept(_)) => format!("accept {}", put.path),
            _ => format!("put {}", put.path),
        },
        Op::Remove { path } => format!("remove {path}"),
        Op::Rename { from, to } => format!("rename {from} {to}"),
        Op::Exchange { a, b } => format!("exchange {a} {b}"),
        Op::Mkdir { path, .. } => format!("mkdir {path}"),
        Op::Rmdir { path } => format!("rmdir {path}"),
    };
    cause + &op
}

/// The content of a file behind the mount, changed by somebody else.
pub(crate) fn tamper(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
}
