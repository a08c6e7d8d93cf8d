//! A node of its own with one mounted bucket.

use crate::Result;
use crate::machine::said;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The bucket of the benchmark.
const BUCKET: &str = "bench";

/// Requests of the kernel, by their names.
pub(crate) type Requests = BTreeMap<String, u64>;

pub(crate) struct Node {
    root: PathBuf,
    pid: u64,
    stopped: bool,
}

impl Node {
    pub(crate) fn start(root: &Path) -> Result<Node> {
        Node::start_over(root, |_| Ok(()))
    }

    /// A node whose bucket has in its backing what `fill` puts there.
    pub(crate) fn start_over(root: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Node> {
        let mut node = Node { root: root.to_owned(), pid: 0, stopped: true };
        node.wizefs(&["create", BUCKET])?;
        fill(&node.backing())?;
        node.wizefs(&["mount", BUCKET, "--listen", "off", "--grpc-listen", "off"])?;
        node.stopped = false;
        node.pid = node.status()?["node"]["pid"].as_u64().ok_or("the status names no process")?;
        Ok(node)
    }

    pub(crate) fn mounted(&self) -> PathBuf {
        self.root.join("mnt").join(BUCKET)
    }

    pub(crate) fn backing(&self) -> PathBuf {
        self.root.join("buckets").join(BUCKET).join("data")
    }

    fn wizefs(&self, args: &[&str]) -> Result<String> {
        said(Command::new(env!("CARGO_BIN_EXE_wizefs")).arg("--root").arg(&self.root).args(args))
    }

    fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.wizefs(&["status", "--json"])?)?)
    }

    /// What the kernel has asked of the mount so far.
    pub(crate) fn requests(&self) -> Result<Requests> {
        Ok(serde_json::from_value(self.status()?["requests"][BUCKET].take())?)
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
        self.memory_field("VmHWM:")
    }

    /// The memory the node holds that is its own and not the kernel's cache of a file, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        self.memory_field("RssAnon:")
    }

    fn memory_field(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("a field of /proc is missing")?;
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
