//! A bucket with its state: opened, recovered, served, synced, closed.

mod accept;
mod doubt;
mod files;
mod folders;
mod put;

pub use files::{ContentCheck, Found, FoundKind};
pub use put::Stored;

use crate::change::ChangeSink;
use crate::content::Outboards;
use crate::error::{FsError, FsResult};
use crate::inode::{InodeTable, Node, Writing};
use crate::intent::Intents;
use crate::lease::{ignore_lease_signal, leases_are_sound};
use crate::loopback::LoopbackFs;
use crate::path::BucketPath;
use crate::recorder::{Parts, Recorder};
use crate::recover::{self, Recovery};
use crate::stream::Stream;
use crate::vfs::{Caller, Kernel, Trust};
use crate::writers::{Heard, Writers};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the heartbeat is written and files that stay open are looked for.
const PULSE: Duration = Duration::from_secs(5);
/// A file open for writing is reported as such at most this often.
const OPEN_REPORT: Duration = Duration::from_secs(60);
/// How long a barrier waits for the release of a file its program has closed.
const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// How long names and attributes of a backing may be trusted that others may change,
const SHARED_TTL: Duration = Duration::from_secs(1);
/// and of one that only the bucket changes. A change behind its back is foreign whenever it is seen.
const OWN_TTL: Duration = Duration::from_secs(3600);

/// What `close(2)` and `fsync(2)` wait for (docs/SEMANTICS.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `close`: the intent. `fsync`: data and intent on the disk.
    #[default]
    Relaxed,
    /// `close` waits for the transaction.
    Close,
    /// `fsync` does too.
    Strict,
}

/// How to open a bucket.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// The directory behind the bucket.
    pub backing: PathBuf,
    /// Where the bucket keeps its intents, inner hashes and session; outside the backing.
    pub state: PathBuf,
    /// The backing is the user's own directory, where others may work too.
    pub adopted: bool,
    /// The owner promises that nobody else works in an adopted backing.
    pub exclusive: bool,
    /// Refuse `put`, `remove` and `accept`.
    pub read_only: bool,
    /// What `close` and `fsync` wait for.
    pub durability: Durability,
}

/// An open bucket.
pub struct Bucket {
    fs: Arc<LoopbackFs>,
    recorder: Arc<Recorder>,
    session: recover::Session,
    threads: Mutex<Vec<JoinHandle<()>>>,
    read_only: bool,
    /// What the kernel may keep.
    trust: Trust,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("recorder", &self.recorder).finish_non_exhaustive()
    }
}

/// What a barrier reached.
#[derive(Debug, Clone, Default)]
pub struct SyncReport {
    /// Every change up to this number is with the ledger.
    pub through: u64,
    /// Files still open for writing, recorded by their size.
    pub open_writers: Vec<BucketPath>,
}

/// The node acting for itself or for a client of its services.
pub(crate) const NODE: Caller = Caller { uid: 0, gid: 0, pid: 0 };

impl Bucket {
    /// Open a bucket: recover what an earlier session left, then be ready for programs.
    ///
    /// # Errors
    /// The backing or state cannot be opened, or the sink cannot be read.
    pub fn open(options: BucketOptions, sink: Arc<dyn ChangeSink>) -> FsResult<(Arc<Self>, Recovery)> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Self::open_in_boot(options, sink, boot_id.trim())
    }

    /// As [`Bucket::open`] in a boot of this name: a session that did not end in order in another one is recovered as after
    /// a power cut.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub fn open_in_boot(
        options: BucketOptions,
        sink: Arc<dyn ChangeSink>,
        boot_id: &str,
    ) -> FsResult<(Arc<Self>, Recovery)> {
        Self::open_prepared(options, sink, boot_id, &mut |_| Ok(()))
    }

    /// As [`Bucket::open_in_boot`]; `prepare` sees to the backing before it is compared with what is known of it.
    ///
    /// # Errors
    /// As [`Bucket::open`]; what `prepare` answers.
    pub(crate) fn open_prepared(
        options: BucketOptions,
        sink: Arc<dyn ChangeSink>,
        boot_id: &str,
        prepare: &mut dyn FnMut(&Arc<Recorder>) -> FsResult<()>,
    ) -> FsResult<(Arc<Self>, Recovery)> {
        ignore_lease_signal();
        private(&options.state)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&options.backing, flags, Mode::empty())
            .map_err(|e| FsError::os(options.backing.display().to_string(), e))?;
        let leases_sound = leases_are_sound(&root)?;
        let (session, left) = recover::Session::begin(&options.state, boot_id)?;
        let (intents, found) = Intents::open(&options.state.join("intents"), left.next_intent())?;
        let outboards = Outboards::new(options.state.join("outboards"))?;
        outboards.sweep();
        let inodes = InodeTable::new(root)?;
        inodes.keep_devices(options.state.join("devices"))?;
        let recorder = Arc::new(Recorder::new(Parts {
            inodes,
            stream: Stream::start(sink)?,
            intents,
            outboards,
            writers: Writers::new()?,
            durability: options.durability,
            leases_sound,
        }));
        let exclusive = !options.adopted || options.exclusive;
        prepare(&recorder)?;
        let recovery = recover::recover(&recorder, &found, &left)?;
        recorder.end_sealed()?;
        session.write(&recorder, false)?;
        let bucket = Arc::new(Self {
            fs: Arc::new(LoopbackFs::new(recorder.clone())),
            recorder,
            session,
            threads: Mutex::new(Vec::new()),
            read_only: options.read_only,
            trust: Trust {
                ttl: if exclusive { OWN_TTL } else { SHARED_TTL },
                exclusive,
                close_is_silent: options.durability == Durability::Relaxed,
                immutable: false,
            },
        });
        bucket.start()?;
        Ok((bucket, recovery))
    }

    fn start(self: &Arc<Self>) -> FsResult<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut threads = self.threads.lock();
        for _ in 0..cores.div_ceil(2).max(2) {
            let recorder = self.recorder.clone();
            threads.push(std::thread::Builder::new().name("settle".into()).spawn(move || recorder.work())?);
        }
        let (recorder, session) = (self.recorder.clone(), self.session.clone());
        threads.push(std::thread::Builder::new().name("pulse".into()).spawn(move || beat(&recorder, &session))?);
        Ok(())
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }

    /// The file system, for the FUSE adapter.
    pub fn vfs(&self) -> Arc<LoopbackFs> {
        self.fs.clone()
    }

    /// The bucket is mounted now, or no more.
    pub(crate) fn served_to(&self, kernel: Option<Arc<dyn Kernel>>) {
        *self.recorder.kernel.write() = kernel;
    }

    /// Everything done so far, recorded: hashes what nobody writes, reports the rest by size, and waits until the ledger has
    /// it pending.
    ///
    /// # Errors
    /// The problem that keeps the ledger from taking it.
    pub fn sync(&self) -> FsResult<SyncReport> {
        let mut waiting: Vec<(Arc<Node>, u64)> = Vec::new();
        for node in self.recorder.dirty_nodes() {
            let mut writing = node.writing.lock();
            // Refused before, or unreadable then: what counts is the next try.
            writing.refused = false;
            let reports = writing.reports;
            drop(writing);
            self.recorder.queue.push(&node, true);
            waiting.push((node, reports));
        }
        let release_by = Instant::now() + RELEASE_WAIT;
        let mut open = Vec::new();
        for (node, reports) in waiting {
            if self.stays_open(&node, reports, release_by)? {
                open.push(node);
            }
        }
        let mut open_writers = Vec::new();
        for node in open {
            self.recorder.report_open(&node)?;
            let links = self.recorder.current_links(&node, None)?;
            open_writers.extend(links.into_iter().map(|(_, path)| path));
        }
        open_writers.sort();
        self.recorder.stream.drain()?;
        self.recorder.end_sealed()?;
        Ok(SyncReport { through: self.recorder.stream.delivered(), open_writers })
    }

    /// Wait until the content of `node` is reported once more than `reports` times, or is known to stay open for writing.
    fn stays_open(&self, node: &Arc<Node>, reports: u64, release_by: Instant) -> FsResult<bool> {
        loop {
            let seen = self.recorder.queue.jobs_ended();
            match progress(node, reports, || self.is_kernel_busy(), release_by) {
                Progress::Reported => return Ok(false),
                Progress::Open => return Ok(true),
                Progress::Waiting => self.recorder.queue.push(node, true),
            }
            if let Some(problem) = self.recorder.stream.problem() {
                return Err(problem.into());
            }
            self.recorder.queue.wait_for_job(seen, Duration::from_millis(10));
        }
    }

    fn is_kernel_busy(&self) -> bool {
        self.recorder.kernel().is_some_and(|kernel| kernel.is_busy())
    }

    /// Wait until the ledger has every change established so far; content not settled yet is not waited for.
    ///
    /// # Errors
    /// The problem that keeps the ledger from taking it.
    pub fn drain(&self) -> FsResult<()> {
        // Whoever gives a name away has noted by then what came with it.
        drop(self.recorder.lock_names());
        self.recorder.wait_for_files();
        self.recorder.stream.drain()
    }

    /// Bring the data and names behind all changes so far to the disk: before they are sealed.
    ///
    /// # Errors
    /// What `syncfs` answers.
    pub fn persist(&self) -> FsResult<()> {
        self.recorder.inodes.sync().inspect_err(|_| self.doubt_unsealed())?;
        self.recorder.intents.sync()
    }

    /// Changes up to `number` are in sealed blocks: their intents end.
    pub fn retire(&self, number: u64) {
        self.recorder.intents.retire(number);
    }

    /// Take from the notes of what may change, which name paths, those that have ended.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn erase_ended_intents(&self) -> FsResult<()> {
        self.recorder.intents.erase_ended()
    }

    /// Inodes with unreported content, and changes the ledger has not taken.
    pub fn unsettled(&self) -> u64 {
        let stream = &self.recorder.stream;
        self.recorder.dirty_count() as u64 + stream.last().saturating_sub(stream.delivered())
    }

    /// What keeps changes from the ledger, if anything.
    pub fn problem(&self) -> Option<crate::change::SinkError> {
        self.recorder.stream.problem()
    }

    pub(crate) fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// End: settle what can be settled, hand it over, stop the threads. The node seals and retires before it calls this. A
    /// session that leaves nothing open is marked clean.
    ///
    /// # Errors
    /// The problem that keeps changes from the ledger; their intents stay for the next session.
    pub fn close(&self) -> FsResult<()> {
        let synced = self.sync();
        self.recorder.writers.stop();
        self.recorder.queue.stop();
        self.recorder.stream.stop();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the bucket panicked");
            }
        }
        let clean = synced.is_ok() && self.recorder.dirty_count() == 0;
        if clean {
            // Nothing is on its way any more that an intent could speak for.
            self.recorder.intents.retire(u64::MAX);
        }
        self.session.write(&self.recorder, clean)?;
        synced.map(drop)
    }
}

enum Progress {
    Reported,
    Open,
    Waiting,
}

/// `busy`: the kernel may be about to tell of a `close` that a program has returned from.
fn progress(node: &Node, reports: u64, busy: impl FnOnce() -> bool, release_by: Instant) -> Progress {
    let writing = node.writing.lock();
    if writing.dirty.is_none() || writing.reports > reports {
        return Progress::Reported;
    }
    if is_held(&writing, busy, release_by) || (writing.refused && writing.hashing.is_none()) {
        return Progress::Open;
    }
    Progress::Waiting
}

/// Whether a program keeps the file open for writing: one that it has closed is released soon.
fn is_held(writing: &Writing, busy: impl FnOnce() -> bool, release_by: Instant) -> bool {
    let closing = || writing.flushed >= writing.writers || busy();
    writing.writers > 0 && (Instant::now() > release_by || !closing())
}

/// The pulse thread: heartbeat, files that stay open, and writers that went without a release.
fn beat(recorder: &Recorder, session: &recover::Session) {
    let mut next = Instant::now() + PULSE;
    loop {
        match recorder.writers.wait(next) {
            Heard::Stop => return,
            Heard::Closed(nodes) => nodes.iter().for_each(|node| recorder.queue.push(node, true)),
            Heard::Nothing => {}
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + PULSE;
        session.beat();
        recorder.inodes.give_back();
        if let Err(error) = recorder.end_sealed() {
            tracing::warn!(%error, "what is sealed is not known");
        }
        for node in recorder.dirty_nodes() {
            let overdue = {
                let writing = node.writing.lock();
                let busy = writing.writers > 0 || writing.refused;
                busy && writing.dirty.as_ref().is_some_and(|d| d.since.elapsed() >= OPEN_REPORT)
            };
            if overdue && let Err(error) = recorder.report_open(&node) {
                tracing::warn!(ino = node.ino.0, %error, "open file not reported");
            }
        }
    }
}

/// Make the folder of a bucket's state, or take it from everybody else: they could tell us to sign what is theirs.
///
/// # Errors
/// What the system answers.
pub(crate) fn private(state: &Path) -> FsResult<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    let private = made.and_then(|()| std::fs::set_permissions(state, Permissions::from_mode(0o700)));
    private.map_err(|e| FsError::os(state.display().to_string(), e))
}
