//! A large copy of small files into a mounted bucket: how fast it becomes final, and what of the copy's time recording takes.
//!
//! `cargo bench --bench recording [-- [--files N] [--size BYTES] [--copiers N] [--rounds N] [--dir DIR]]`. The same `cp -r`
//! (with `--copiers`, several at once, each of its part) goes into a plain directory and into the mount, in turns. What recording takes is told twice: as processor time of the threads that hash,
//! sign, seal and store, and as the time from the end of the copy until `wizefs sync` returns. Nothing is asserted but that
//! every file is final: the machine decides the rest.

#[path = "../against_native/machine.rs"]
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What can go wrong is told and ends the run.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Files of one directory.
const FILES_PER_DIRECTORY: u64 = 1_000;
/// The threads of a node that record, as the kernel names them.
const RECORDERS: [&str; 6] = ["settle", "pulse", "deliver", "sealer", "miner", "rocksdb"];
/// Ticks of the kernel's processor time in a second: fixed for what it tells user space.
const TICKS: f64 = 100.0;

struct Options {
    files: u64,
    size: usize,
    copiers: usize,
    rounds: usize,
    dir: PathBuf,
}

fn options() -> Result<Options> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let mut options = Options { files: 100_000, size: 1_024, copiers: 1, rounds: 1, dir };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--files" => options.files = value()?.parse::<u64>()?.max(1),
            "--size" => options.size = value()?.parse::<usize>()?.max(8),
            "--copiers" => options.copiers = value()?.parse::<usize>()?.max(1),
            "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
            "--dir" => options.dir = value()?.into(),
            // Cargo says this to every benchmark.
            "--bench" => {}
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<()> {
    let options = options()?;
    let base = tempfile::Builder::new().prefix("wizefs-recording-").tempdir_in(&options.dir)?;
    let tree = base.path().join("tree");
    make_tree(&tree, &options)?;
    println!("{}.", machine::describe(base.path())?);
    println!("cp -r of {} files of {} bytes, {} at once.\n", options.files, options.size, options.copiers);
    println!(
        "| native copy | copy in | until final | puts/s | lag | recording, CPU | of the copy | node's peak | ledger, bytes/put |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut proofs = Vec::new();
    for round in 0..options.rounds {
        let plain = base.path().join(format!("plain{round}"));
        let native = copy(&tree, &plain, options.copiers)?;
        let root = base.path().join(format!("root{round}"));
        let node = Node::start(&root)?;
        let done = record(&node, &tree, &options)?;
        let (bytes, verify) = stranger(&node, &tree.join("0/0"), base.path())?;
        node.stop()?;
        done.print(native, options.files, &root)?;
        proofs.push((bytes, verify));
        fs::remove_dir_all(&plain)?;
        fs::remove_dir_all(&root)?;
    }
    for (bytes, verify) in proofs {
        println!(
            "\na proof of one of them is {bytes} bytes, and `wizefs verify` without a node takes {:.1} ms",
            verify * 1e3
        );
    }
    Ok(())
}

/// Size of a proof of the file, and the median time of a whole process that verifies it where there is no root.
fn stranger(node: &Node, file: &Path, place: &Path) -> Result<(u64, f64)> {
    let (proof, keys, nowhere) = (place.join("proof"), place.join("keys"), place.join("no/root"));
    node.wizefs(&["proof", "bench/tree/0/0", "-o", &proof.to_string_lossy()])?;
    fs::write(&keys, node.status()?["ledger"]["vkey"].as_str().ok_or("the status tells no key")?)?;
    let mut times = Vec::new();
    for _ in 0..21 {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_wizefs"));
        verify
            .arg("--root")
            .arg(&nowhere)
            .arg("verify")
            .arg(file)
            .arg("--proof")
            .arg(&proof)
            .arg("--policy")
            .arg(&keys);
        let start = Instant::now();
        machine::said(&mut verify)?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let bytes = fs::metadata(&proof)?.len();
    fs::remove_file(&proof)?;
    Ok((bytes, times[times.len() / 2]))
}

fn make_tree(dir: &Path, options: &Options) -> Result<()> {
    let mut content = vec![0x5a; options.size];
    for number in 0..options.files {
        let directory = dir.join((number / FILES_PER_DIRECTORY).to_string());
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&directory)?;
        }
        content[..8].copy_from_slice(&number.to_le_bytes());
        fs::write(directory.join(number.to_string()), &content)?;
    }
    rustix::fs::sync();
    Ok(())
}

/// Copies the directories of a tree, by `copiers` processes at once; with nothing of it in memory, where that may be done.
fn copy(from: &Path, to: &Path, copiers: usize) -> Result<Duration> {
    let mut parts = vec![Vec::new(); copiers];
    for (number, directory) in fs::read_dir(from)?.enumerate() {
        parts[number % copiers].push(directory?.path());
    }
    let _is_cold = machine::drop_caches()?;
    let start = Instant::now();
    fs::create_dir(to)?;
    let mut running = Vec::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        running.push(Command::new("cp").arg("-r").arg("-t").arg(to).args(part).spawn()?);
    }
    for mut copier in running {
        let status = copier.wait()?;
        if !status.success() {
            return Err(format!("cp: {status}").into());
        }
    }
    Ok(start.elapsed())
}

/// One copy into the mount.
struct Done {
    copy: Duration,
    lag: Duration,
    /// Processor seconds of the threads that record: during the copy, and in all.
    busy: f64,
    busy_in_all: f64,
    peak: u64,
}

fn record(node: &Node, tree: &Path, options: &Options) -> Result<Done> {
    let files = options.files;
    let before = node.processor_seconds()?;
    let puts = node.transactions()?;
    let copy = copy(tree, &node.root.join("mnt/bench/tree"), options.copiers)?;
    let busy = node.processor_seconds()? - before;
    let start = Instant::now();
    node.wizefs(&["sync", "bench"])?;
    let lag = start.elapsed();
    let busy_in_all = node.processor_seconds()? - before;
    let made = node.transactions()? - puts;
    if made < files {
        return Err(format!("{made} transactions are final of {files} files").into());
    }
    let found = node.wizefs(&["verify", "bench", "--json"])?;
    let summary: serde_json::Value = serde_json::from_str(found.lines().last().unwrap_or_default())?;
    if summary["exit"] != 0 || summary["files"].as_u64() < Some(files) {
        return Err(format!("verify says {summary}").into());
    }
    Ok(Done { copy, lag, busy, busy_in_all, peak: node.peak_memory()? })
}

impl Done {
    fn print(&self, native: Duration, files: u64, root: &Path) -> Result<()> {
        let (copy, lag) = (self.copy.as_secs_f64(), self.lag.as_secs_f64());
        println!(
            "| {:.2} s | {copy:.2} s | {:.2} s | {:.0} | {lag:.2} s | {:.2} s ({:.2} in all) | {:.0} % | {} MB | {} |",
            native.as_secs_f64(),
            copy + lag,
            files as f64 / (copy + lag),
            self.busy,
            self.busy_in_all,
            100.0 * self.busy / copy,
            self.peak / 1_000_000,
            folder_bytes(&root.join("ledger"))? / files,
        );
        Ok(())
    }
}

/// Bytes of the files in a ledger's folder, without what is kept for the day the disk is full.
fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() != "reserve" {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// A node of its own with one mounted bucket.
struct Node {
    root: PathBuf,
    pid: u64,
    stopped: bool,
}

impl Node {
    fn start(root: &Path) -> Result<Node> {
        let mut node = Node { root: root.to_owned(), pid: 0, stopped: true };
        node.wizefs(&["create", "bench"])?;
        node.wizefs(&["mount", "bench", "--listen", "off", "--grpc-listen", "off"])?;
        node.stopped = false;
        node.pid = node.status()?["node"]["pid"].as_u64().ok_or("the status names no process")?;
        Ok(node)
    }

    fn wizefs(&self, args: &[&str]) -> Result<String> {
        machine::said(Command::new(env!("CARGO_BIN_EXE_wizefs")).arg("--root").arg(&self.root).args(args))
    }

    fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.wizefs(&["status", "--json"])?)?)
    }

    fn transactions(&self) -> Result<u64> {
        self.status()?["ledger"]["transactions"].as_u64().ok_or_else(|| "the status counts no transactions".into())
    }

    /// Processor time of the threads that record, of those that ended as well: all of the process's but what the others took.
    fn processor_seconds(&self) -> Result<f64> {
        let mut ticks = ticks(&fs::read_to_string(format!("/proc/{}/stat", self.pid))?)?;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let task = task?.path();
            let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
            if !RECORDERS.iter().any(|recorder| name.starts_with(recorder)) {
                ticks = ticks.saturating_sub(self::ticks(&fs::read_to_string(task.join("stat")).unwrap_or_default())?);
            }
        }
        Ok(ticks as f64 / TICKS)
    }

    /// The most memory the node ever held, in bytes.
    fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the kernel tells no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    fn stop(mut self) -> Result<()> {
        self.stopped = true;
        self.wizefs(&["stop"]).map(drop)
    }
}

/// User and system time in a line of `/proc/PID/stat`: fields 14 and 15, counted behind the name in parentheses.
fn ticks(stat: &str) -> Result<u64> {
    let Some((_, fields)) = stat.rsplit_once(") ") else { return Ok(0) };
    let mut fields = fields.split(' ').skip(11);
    let mut next = || fields.next().unwrap_or_default().parse::<u64>();
    Ok(next()? + next()?)
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
