//! A root folder for one test, the commands run in it, and what it takes to leave nothing behind.

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The longest that anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A temporary folder with `root/` for wizefs in it. Dropped, it ends the node and takes away the mounts of this root.
pub(crate) struct TestRoot {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code, 128 + n for signal n.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Assert the exit code; the message shows everything.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// The JSON lines on stdout.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The failure reported by `--json` on stderr: its exit code and kind.
    #[track_caller]
    pub(crate) fn error(&self) -> (i64, String) {
        let line = self.stderr.lines().last().unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:#?}"));
        let error = &json["error"];
        assert!(error["message"].is_string(), "{self:#?}");
        (error["exit"].as_i64().unwrap(), error["kind"].as_str().unwrap().to_owned())
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let code = output.status.code().or_else(|| Some(128 + output.status.signal()?)).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl TestRoot {
    pub(crate) fn new() -> TestRoot {
        TestRoot { dir: tempfile::Builder::new().prefix("wizefs-it-").tempdir().unwrap() }
    }

    /// As [`TestRoot::new`] for a test that mounts; `None`, loudly, where there is no /dev/fuse.
    pub(crate) fn with_fuse() -> Option<TestRoot> {
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        if let Err(e) = device {
            assert_ne!(std::env::var("WIZEFS_REQUIRE_FUSE").as_deref(), Ok("1"), "/dev/fuse is required: {e}");
            eprintln!("SKIPPED, this test needs /dev/fuse: {e}");
            return None;
        }
        Some(TestRoot::new())
    }

    /// The folder around the root, for files of the test.
    pub(crate) fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the root folder.
    pub(crate) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("root").join(below)
    }

    /// A path in a bucket mounted at its usual place.
    pub(crate) fn mnt(&self, bucket: &str, below: &str) -> PathBuf {
        self.path("mnt").join(bucket).join(below)
    }

    /// wizefs with these arguments, in this root, on no port.
    pub(crate) fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wizefs"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WIZEFS_")) {
            command.env_remove(name);
        }
        command
            .args(args)
            .current_dir(self.outside())
            .env("HOME", self.outside())
            .env("LC_ALL", "C.UTF-8")
            .env("WIZEFS_ROOT", self.path(""))
            .env("WIZEFS_LISTEN", "off")
            .env("WIZEFS_GRPC_LISTEN", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Run a command line to its end.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`TestRoot::run`], for arguments with spaces.
    #[track_caller]
    pub(crate) fn run_args(&self, args: &[impl AsRef<OsStr>]) -> Ran {
        finish(self.command(args).spawn().unwrap())
    }

    /// Run a command line that may take minutes on a busy machine.
    #[track_caller]
    pub(crate) fn run_long(&self, line: &str) -> Ran {
        finish_within(PATIENCE * 15, self.start(line))
    }

    /// Start a command line that stays.
    pub(crate) fn start(&self, line: &str) -> Child {
        self.command(&line.split_whitespace().collect::<Vec<_>>()).spawn().unwrap()
    }

    /// The process that took the root's lock last.
    pub(crate) fn node(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.path("node.lock")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// Send a signal to the node.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.node().expect("a node"), signal).unwrap();
    }

    /// Kill the node and wait until it is gone.
    pub(crate) fn kill_node(&self) {
        self.signal(Signal::KILL);
        self.expect_no_node();
    }

    /// A node that was told to end, or could not start, is gone in a moment.
    #[track_caller]
    pub(crate) fn expect_no_node(&self) {
        self.wait_for("the end of the node", || !self.is_node_alive());
    }

    /// Whether the process in `node.lock` runs, and is the node of this root: the number of one that is gone may be another's by now.
    pub(crate) fn is_node_alive(&self) -> bool {
        let Some(pid) = self.node() else { return false };
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        if environment.is_empty() {
            // Its memory goes before its sockets do, and its first thread before the others.
            let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
            return tasks.map(|task| fs::read_to_string(task.path().join("stat")).unwrap_or_default()).any(|stat| {
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
            });
        }
        let root = self.path("");
        let ours = [b"WIZEFS_ROOT=", root.as_os_str().as_bytes()].concat();
        environment.split(|byte| *byte == 0).any(|variable| variable == ours)
    }

    /// Look again until it is so.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::yield_now();
        }
    }

    /// The mountpoints in this root's folder that the kernel knows.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let fields = table.lines().filter_map(|line| line.split(' ').nth(4));
        fields.map(PathBuf::from).filter(|path| path.starts_with(self.outside())).collect()
    }
}

/// Wait for a command; one that hangs is killed and fails the test.
#[track_caller]
pub(crate) fn finish(child: Child) -> Ran {
    finish_within(PATIENCE * 3, child)
}

/// As [`finish`], for a command with a lot to do.
#[track_caller]
pub(crate) fn finish_within(patience: Duration, mut child: Child) -> Ran {
    let pid = Pid::from_child(&child);
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if watch.recv_timeout(patience).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill(pid);
        }
    });
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    Ran::from(output)
}

/// A process that ended in the meantime is as good.
fn kill(pid: Pid) {
    if let Err(e) = kill_process(pid, Signal::KILL) {
        eprintln!("not killed: {e}");
    }
}

impl Drop for TestRoot {
    fn drop(&mut self) {
        if self.is_node_alive()
            && let Some(pid) = self.node()
        {
            kill(pid);
        }
        for mountpoint in self.mounts() {
            if rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH).is_err() {
                drop(Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(&mountpoint).output());
            }
        }
    }
}
