//! Where the same work is done: the directory itself, bindfs over one, and a bucket over one.

use crate::Result;
use crate::machine::said;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The bucket of the benchmark.
const BUCKET: &str = "bench";

/// A directory to work in.
pub(crate) enum Place<'a> {
    /// No file system in between.
    Native(PathBuf),
    /// A mount of bindfs, the plainest file system over FUSE; taken away when dropped.
    Bindfs(PathBuf),
    /// A mounted bucket, recording.
    Wizefs(&'a Node),
}

/// Every place that can be had. Without bindfs the table lacks a column.
pub(crate) fn all<'a>(base: &Path, node: &'a Node) -> Result<Vec<Place<'a>>> {
    let native = base.join("native");
    fs::create_dir(&native)?;
    let mut places = vec![Place::Native(native)];
    let (backing, mountpoint) = (base.join("bindfs-backing"), base.join("bindfs"));
    fs::create_dir(&backing)?;
    fs::create_dir(&mountpoint)?;
    match said(Command::new("bindfs").arg(&backing).arg(&mountpoint)) {
        Ok(_) => places.push(Place::Bindfs(mountpoint)),
        Err(e) => eprintln!("without bindfs: {e}"),
    }
    places.push(Place::Wizefs(node));
    Ok(places)
}

impl Place<'_> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Place::Native(_) => "native",
            Place::Bindfs(_) => "bindfs",
            Place::Wizefs(_) => "wizefs",
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        match self {
            Place::Native(dir) | Place::Bindfs(dir) => dir.clone(),
            Place::Wizefs(node) => node.mounted(),
        }
    }

    /// Wait for what goes on behind the work, and tell how long.
    pub(crate) fn settle(&self) -> Result<Duration> {
        match self {
            Place::Native(_) | Place::Bindfs(_) => Ok(Duration::ZERO),
            Place::Wizefs(node) => node.sync(),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Place::Bindfs(mountpoint) = &*self
            && let Err(e) = said(Command::new("fusermount3").arg("-u").arg(mountpoint))
        {
            eprintln!("{} stays mounted: {e}", mountpoint.display());
        }
    }
}

/// A node of its own with one mounted bucket.
pub(crate) struct Node {
    root: PathBuf,
    pid: u64,
    stopped: bool,
}

impl Node {
    pub(crate) fn start(root: &Path) -> Result<Node> {
        let mut node = Node { root: root.to_owned(), pid: 0, stopped: true };
        node.wizefs(&["create", BUCKET])?;
        node.wizefs(&["mount", BUCKET, "--listen", "off", "--grpc-listen", "off"])?;
        node.stopped = false;
        let status: serde_json::Value = serde_json::from_str(&node.wizefs(&["status", "--json"])?)?;
        node.pid = status["node"]["pid"].as_u64().ok_or("the status names no process")?;
        Ok(node)
    }

    pub(crate) fn mounted(&self) -> PathBuf {
        self.root.join("mnt").join(BUCKET)
    }

    fn wizefs(&self, args: &[&str]) -> Result<String> {
        said(Command::new(env!("CARGO_BIN_EXE_wizefs")).arg("--root").arg(&self.root).args(args))
    }

    /// The barrier, and how long it took.
    pub(crate) fn sync(&self) -> Result<Duration> {
        let start = Instant::now();
        self.wizefs(&["sync", BUCKET])?;
        Ok(start.elapsed())
    }

    /// How many different files below `dir` have a final put with hashes.
    pub(crate) fn final_puts_below(&self, dir: &str) -> Result<u64> {
        let mut paths = std::collections::HashSet::new();
        for line in self.wizefs(&["log", &format!("{BUCKET}/{dir}"), "--json"])?.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            if line["op"] == "put" && line["status"] == "final" && line["blake3"].is_string() {
                paths.insert(line["path"].to_string());
            }
        }
        Ok(paths.len() as u64)
    }

    /// Start the count of [`Node::peak_memory`] anew.
    pub(crate) fn forget_peak_memory(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }

    /// The most memory the node ever held, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the kernel tells no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.stopped = true;
        self.wizefs(&["stop"]).map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.stopped
            && let Err(e) = self.wizefs(&["stop"])
        {
            eprintln!("the node stays: {e}");
        }
    }
}
