//! The programs that are compared, each in a process of its own.

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wizefs_fs::{
    AnyBucket, Bucket, BucketOptions, Durability, LzBucket, MemorySink, MountOptions, ZipBucket, ZipOptions,
};

/// The arguments with which this program mounts instead of measuring: an archive to read, one to write, a directory.
pub(crate) const SERVE: &str = "--serve-archive";
pub(crate) const SERVE_LZ: &str = "--serve-lz";
pub(crate) const SERVE_LOOPBACK: &str = "--serve-loopback";
/// The longest that a mount may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that shows an archive as a folder.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    command: PathBuf,
    /// Before the archive and the mountpoint.
    args: &'static [&'static str],
}

/// This program, and those of the others that are installed.
pub(crate) fn contenders() -> Vec<Contender> {
    let mut found = Vec::new();
    if let Ok(own) = std::env::current_exe() {
        found.push(Contender { name: "wizefs", command: own, args: &[SERVE] });
    }
    let others: [(_, &[_]); 3] =
        [("fuse-zip", &["-f", "-r"]), ("mount-zip", &["-f"]), ("ratarmount", &["-f", "--index-file", ":memory:"])];
    for (name, args) in others {
        let there = Command::new("which").arg(name).stdout(Stdio::null()).status();
        if there.is_ok_and(|status| status.success()) {
            found.push(Contender { name, command: name.into(), args });
        }
    }
    found
}

/// This program, and the other one that writes archives, where it is installed.
pub(crate) fn writers() -> Vec<Contender> {
    let mut found = contenders();
    found.retain(|contender| ["wizefs", "fuse-zip"].contains(&contender.name));
    for contender in &mut found {
        contender.args = if contender.name == "wizefs" { &[SERVE_LZ] } else { &["-f"] };
    }
    found
}

/// This program with a directory behind the mount.
pub(crate) fn loopback() -> Result<Contender> {
    Ok(Contender { name: "wizefs loopback", command: std::env::current_exe()?, args: &[SERVE_LOOPBACK] })
}

/// A bucket that is written.
pub(crate) fn writable(how: &str, backing: &Path, state: &Path) -> Result<AnyBucket> {
    let options = BucketOptions {
        backing: backing.to_owned(),
        state: state.to_owned(),
        adopted: false,
        exclusive: true,
        read_only: false,
        durability: Durability::Relaxed,
    };
    let sink = Arc::new(MemorySink::default());
    Ok(match how {
        SERVE_LZ => AnyBucket::Lz(LzBucket::open(options, sink)?.0),
        _ => AnyBucket::Loopback(Bucket::open(options, sink)?.0),
    })
}

/// Mount until it is unmounted, and end in order.
pub(crate) fn serve(how: &str, backing: &Path, mountpoint: &Path) -> Result<()> {
    let state = tempfile::tempdir()?;
    let bucket = if how == SERVE {
        let options = ZipOptions { archive: backing.to_owned(), state: std::env::temp_dir(), passphrase: None };
        AnyBucket::Zip(ZipBucket::open(options, Arc::new(MemorySink::default()))?)
    } else {
        writable(how, backing, state.path())?
    };
    let options =
        MountOptions { name: "bench".into(), allow_other: false, noexec: false, read_only: how == SERVE, threads: 3 };
    bucket.mount(mountpoint, options)?.wait();
    Ok(bucket.close()?)
}

/// A mount of one of them.
pub(crate) struct Mounted {
    child: Child,
    mountpoint: PathBuf,
}

impl Mounted {
    pub(crate) fn new(contender: &Contender, archive: &Path, dir: &Path) -> Result<Self> {
        let mountpoint = dir.join("mnt");
        std::fs::create_dir_all(&mountpoint)?;
        let before = rustix::fs::stat(&mountpoint)?.st_dev;
        let mut command = Command::new(&contender.command);
        let command = command.args(contender.args).arg(archive).arg(&mountpoint);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let begun = Instant::now();
        while rustix::fs::stat(&mountpoint).map_or(before, |stat| stat.st_dev) == before {
            assert!(begun.elapsed() < PATIENCE, "{} does not mount", contender.name);
            std::thread::yield_now();
        }
        Ok(Self { child, mountpoint })
    }

    pub(crate) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The most memory it has had resident, bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// Bytes it has had written to the disk.
    pub(crate) fn written(&self) -> Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:")).ok_or("no write_bytes")?;
        Ok(line.trim().parse()?)
    }

    /// Take it away, and wait for its program.
    pub(crate) fn end(mut self) -> Result<()> {
        let ended = Command::new("fusermount3").arg("-u").arg(&self.mountpoint).status();
        if !ended.is_ok_and(|status| status.success()) {
            rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::empty())?;
        }
        self.child.wait()?;
        Ok(())
    }
}

/// What failed leaves neither a mount nor a process.
impl Drop for Mounted {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::DETACH).ok();
    }
}
