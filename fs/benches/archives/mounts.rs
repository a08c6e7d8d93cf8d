//! The programs that are compared, each in a process of its own.

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wizefs_fs::{AnyBucket, MemorySink, MountOptions, ZipBucket, ZipOptions};

/// The argument with which this program mounts instead of measuring.
pub(crate) const SERVE: &str = "--serve-archive";
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
    for (name, args) in [("fuse-zip", &["-f", "-r"][..]), ("mount-zip", &["-f"][..])] {
        let there = Command::new("which").arg(name).stdout(Stdio::null()).status();
        if there.is_ok_and(|status| status.success()) {
            found.push(Contender { name, command: name.into(), args });
        }
    }
    found
}

/// Mount until it is unmounted.
pub(crate) fn serve(archive: &Path, mountpoint: &Path) -> Result<()> {
    let options = ZipOptions { archive: archive.to_owned(), state: std::env::temp_dir(), passphrase: None };
    let bucket = ZipBucket::open(options, Arc::new(MemorySink::default()))?;
    let options = MountOptions { name: "bench".into(), allow_other: false, read_only: true, threads: 3 };
    AnyBucket::Zip(bucket).mount(mountpoint, options)?.wait();
    Ok(())
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

    pub(crate) fn end(mut self) -> Result<()> {
        let ended = Command::new("fusermount3").arg("-u").arg(&self.mountpoint).status();
        if !ended.is_ok_and(|status| status.success()) {
            rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::empty())?;
        }
        self.child.wait()?;
        Ok(())
    }
}
