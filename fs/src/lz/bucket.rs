//! A zip archive that is written as a bucket: an ordinary bucket on the stage, and the archive that follows.

use super::archive::{Committed, Problem};
use super::fs::LzFs;
use super::limits::Reach;
use super::plan::Puts;
use super::stage::Stage;
use crate::bucket::{Bucket, BucketOptions, ContentCheck, Found, Stored, SyncReport};
use crate::change::{ChangeSink, Hashes};
use crate::error::{FsError, FsResult};
use crate::hashing;
use crate::inode::Node;
use crate::path::BucketPath;
use crate::recorder::Behind;
use crate::recover::Recovery;
use crate::stat::Kind;
use crate::verified::Verified;
use crate::vfs::{Kernel, Trust};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// An open lz bucket.
#[derive(Debug)]
pub struct LzBucket {
    fs: Arc<LzFs>,
    pub(super) bucket: Arc<Bucket>,
    pub(super) stage: Arc<Stage>,
    state: PathBuf,
    follower: Mutex<Option<JoinHandle<()>>>,
}

impl LzBucket {
    /// Open the archive that is the backing, and go on with what an earlier session left beside it.
    ///
    /// # Errors
    /// As [`Bucket::open`]; [`FsError::Archive`] for what is no archive, or one that cannot be changed;
    /// [`FsError::Busy`] when another process uses it.
    pub fn open(options: BucketOptions, sink: Arc<dyn ChangeSink>) -> FsResult<(Arc<Self>, Recovery)> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Self::open_in_boot(options, sink, boot_id.trim())
    }

    /// As [`LzBucket::open`] in a boot of this name.
    ///
    /// # Errors
    /// As [`LzBucket::open`].
    pub fn open_in_boot(
        options: BucketOptions,
        sink: Arc<dyn ChangeSink>,
        boot_id: &str,
    ) -> FsResult<(Arc<Self>, Recovery)> {
        let stage = Arc::new(Stage::open(&options.backing)?);
        let state = options.state.clone();
        // The archive may be another's; its stage is ours alone.
        let options = BucketOptions { backing: stage.tree(), adopted: false, exclusive: true, ..options };
        let (bucket, recovery) = Bucket::open_prepared(options, sink, boot_id, &mut |recorder| {
            let (unread, hollow, touched) =
                (Arc::downgrade(&stage), Arc::downgrade(&stage), Arc::clone(&stage.touched));
            let behind = Behind {
                is_unread: Box::new(move |dir| unread.upgrade().is_some_and(|stage| stage.is_unread(dir))),
                reported: Box::new(move |ops| ops.iter().for_each(|op| touched.reported(op))),
                complete: Box::new(move |node| hollow.upgrade().map_or(Ok(()), |stage| stage.fill_to_hash(node))),
            };
            // Each recorder is prepared once.
            let _is_new = (stage.recorder.set(Arc::clone(recorder)), recorder.behind.set(behind));
            stage.learn(recorder)
        })?;
        if stage.is_left {
            stage.touched.note(BucketPath::ROOT, true, 0);
        }
        let follower = Arc::clone(&stage);
        let thread = std::thread::Builder::new().name("archive".into()).spawn(move || follower.follow())?;
        let fs = Arc::new(LzFs::new(bucket.vfs(), Arc::clone(&stage)));
        Ok((Arc::new(Self { fs, bucket, stage, state, follower: Mutex::new(Some(thread)) }), recovery))
    }

    /// The file system, for the FUSE adapter.
    pub fn vfs(&self) -> Arc<LzFs> {
        Arc::clone(&self.fs)
    }

    /// The bucket on the stage.
    pub(crate) fn inner(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    pub(crate) fn trust(&self) -> Trust {
        self.bucket.trust()
    }

    pub(crate) fn served_to(&self, kernel: Option<Arc<dyn Kernel>>) {
        self.bucket.served_to(kernel);
    }

    /// As [`LzBucket::reach`], before something is changed at `path`.
    fn reach_to_change(&self, path: &BucketPath, whole: bool) -> FsResult<Option<Arc<Node>>> {
        let found = self.reach(path, whole)?;
        let inodes = &self.stage.recorder()?.inodes;
        let mut dir = inodes.root().clone();
        for name in path.components() {
            match inodes.open_name(&dir, name) {
                Ok((node, _)) if node.kind == Kind::Directory => dir = node,
                _ => break,
            }
        }
        self.stage.keep_filled(&dir)?;
        Ok(found)
    }

    /// Fill the directories on the way to `path`, and that one itself when it is to be listed.
    fn reach(&self, path: &BucketPath, whole: bool) -> FsResult<Option<Arc<Node>>> {
        let recorder = self.stage.recorder()?;
        let mut node = recorder.inodes.root().clone();
        for name in path.components() {
            self.stage.look_into(&node)?;
            node = match recorder.inodes.open_name(&node, name) {
                Ok((node, _)) => node,
                Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => {
                    self.stage.expect_shown(&node, name)?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
        }
        if whole {
            self.stage.look_into(&node)?;
        }
        Ok(Some(node))
    }

    /// As [`Bucket::put`]; the archive has it when this returns.
    ///
    /// # Errors
    /// As there, and as [`LzBucket::sync`].
    pub fn put(&self, path: &BucketPath, mode: Option<u32>, data: &mut dyn Read) -> FsResult<Stored> {
        self.stage.expect_writable()?;
        Reach::of(path).check()?;
        self.reach_to_change(path, true)?;
        let stored = self.bucket.put(path, mode, data)?;
        self.stage.commit()?;
        Ok(stored)
    }

    /// As [`Bucket::remove`]; the archive does not have it any more when this returns.
    ///
    /// # Errors
    /// As there, and as [`LzBucket::sync`].
    pub fn remove(&self, path: &BucketPath) -> FsResult<u64> {
        self.stage.expect_writable()?;
        self.reach_to_change(path, false)?;
        let number = self.bucket.remove(path)?;
        match self.stage.commit() {
            // Something else has no room.
            Err(error) if error.is_full() && !self.stage.touched.contains(path) => {
                tracing::warn!(%error, "the archive lacks what was stored before");
            }
            done => done?,
        }
        Ok(number)
    }

    /// As [`Bucket::accept`].
    ///
    /// # Errors
    /// As there.
    pub fn accept(&self, path: &BucketPath) -> FsResult<u64> {
        self.reach(path, false)?;
        self.bucket.accept(path)
    }

    /// As [`Bucket::make_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn make_dir(&self, path: &BucketPath, mode: u32) -> FsResult<()> {
        self.stage.expect_writable()?;
        Reach::of(path).check()?;
        self.reach_to_change(path, false)?;
        self.bucket.make_dir(path, mode)
    }

    /// As [`Bucket::remove_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_dir(&self, path: &BucketPath) -> FsResult<()> {
        self.stage.expect_writable()?;
        if let Some(node) = self.reach_to_change(path, true)? {
            self.stage.expect_empty(&node)?;
        }
        let _moving = self.stage.moving.read();
        self.bucket.remove_dir(path)?;
        self.stage.touched.note(path.clone(), true, 0);
        Ok(())
    }

    /// As [`Bucket::rename`].
    ///
    /// # Errors
    /// As there.
    pub fn rename(&self, from: &BucketPath, to: &BucketPath) -> FsResult<()> {
        self.stage.expect_writable()?;
        self.reach_to_change(from, false)?;
        if let Some(node) = self.reach_to_change(to, true)? {
            self.stage.expect_empty(&node)?;
        }
        if let Some((dir, name)) = from.split_last()
            && let Some(dir) = self.reach(&dir, true)?
        {
            self.stage.may_move((&dir, name), Reach::of(from), Reach::of(to))?;
        }
        let _moving = self.stage.moving.read();
        self.bucket.rename(from, to)?;
        for path in [from, to] {
            self.stage.touched.note(path.clone(), true, 0);
        }
        Ok(())
    }

    /// As [`Bucket::open_verified`].
    ///
    /// # Errors
    /// As there, and as [`LzBucket::open_file`].
    pub fn open_verified(&self, path: &BucketPath, size: u64, expected: &[u8; 32]) -> FsResult<Verified> {
        let node = self.reach(path, false)?.ok_or_else(|| FsError::os(path.to_string(), Errno::NOENT))?;
        let outboards = &self.stage.recorder()?.outboards;
        Verified::open(self.open_file(path)?, size, *expected, |file| {
            outboards.inner_hashes(node.id.0, file, size, expected)
        })
    }

    /// As [`Bucket::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, path: &BucketPath) -> FsResult<Vec<Found>> {
        self.reach(path, true)?;
        self.bucket.list(path)
    }

    /// As [`Bucket::inspect`].
    ///
    /// # Errors
    /// As there.
    pub fn inspect(&self, path: &BucketPath) -> FsResult<Option<Found>> {
        self.reach(path, false)?;
        self.bucket.inspect(path)
    }

    /// As [`Bucket::open_file`]; what is in the archive alone is unpacked into a file without a name.
    ///
    /// # Errors
    /// As there; what reading the member answers.
    pub fn open_file(&self, path: &BucketPath) -> FsResult<File> {
        let node = self.reach(path, false)?;
        let Some(hollow) = node.and_then(|node| self.stage.hollow(&node)) else { return self.bucket.open_file(path) };
        let is_full = hollow.is_full.read();
        if *is_full {
            return self.bucket.open_file(path);
        }
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = self.state.join(format!("unpacked-{:016x}", u64::from_le_bytes(random)));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(opened.map_err(|e| FsError::os(name.display().to_string(), e))?);
        std::fs::remove_file(&name)?;
        self.stage.archive.read_whole(hollow.member, &mut |bytes| Ok(file.write_all(bytes)?))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// As [`Bucket::check_content`]; content in the archive that differs is named as a whole.
    ///
    /// # Errors
    /// As there; what reading the member answers.
    pub fn check_content(&self, path: &BucketPath, expected: &[u8; 32]) -> FsResult<ContentCheck> {
        let node = self.reach(path, false)?;
        let hollow = node.and_then(|node| self.stage.hollow(&node));
        let Some(hollow) = hollow else { return self.bucket.check_content(path, expected) };
        let is_full = hollow.is_full.read();
        if *is_full {
            return self.bucket.check_content(path, expected);
        }
        let (size, hashes) = self.hash(hollow.member)?;
        let differs = hashes.blake3 != *expected && size > 0;
        let ranges = if differs { vec![(0, size - 1)] } else { Vec::new() };
        Ok(ContentCheck { size, hashes, ranges })
    }

    /// Size and hashes of a content in the archive.
    pub(super) fn hash(&self, member: super::archive::MemberId) -> FsResult<(u64, Hashes)> {
        let mut hashing = hashing::plain();
        self.stage.archive.read_whole(member, &mut |bytes| Ok(hashing.update(bytes)?))?;
        let hashed = hashing.finish()?;
        Ok((hashed.size, hashed.hashes))
    }

    /// As [`Bucket::settle`].
    ///
    /// # Errors
    /// As there.
    pub fn settle(&self, path: &BucketPath) -> FsResult<Stored> {
        self.reach(path, false)?;
        self.bucket.settle(path)
    }

    /// From now on change neither the archive nor the stage: closed afterwards, the bucket leaves what a killed node leaves.
    pub fn abandon(&self) {
        self.stage.give_up("abandoned".into());
    }

    /// As [`Bucket::is_pending`].
    pub fn is_pending(&self, path: &BucketPath) -> bool {
        self.bucket.is_pending(path)
    }

    /// As [`Bucket::sync`], and the archive has everything that is at rest when this returns.
    ///
    /// # Errors
    /// As there; `ENOSPC` and whatever else writing the archive answers; [`FsError::Archive`] when another program changed
    /// it. The stage keeps what is not in the archive.
    pub fn sync(&self) -> FsResult<SyncReport> {
        let report = self.bucket.sync()?;
        self.stage.commit()?;
        Ok(report)
    }

    /// Rewrite the archive without holes, after bringing it up to date.
    ///
    /// # Errors
    /// As [`LzBucket::sync`].
    pub fn compact(&self) -> FsResult<Committed> {
        self.sync()?;
        self.stage.compact()
    }

    /// What is wrong with the archive itself.
    ///
    /// # Errors
    /// What reading it answers.
    pub fn problems(&self) -> FsResult<Vec<Problem>> {
        match self.trouble() {
            Some(what) => Ok(vec![Problem { path: None, what }]),
            None => self.stage.archive.check(),
        }
    }

    /// Whether another program has written the archive since it was opened.
    pub fn is_outdated(&self) -> bool {
        self.stage.is_outdated()
    }

    /// Why nothing can be changed, if so.
    pub fn trouble(&self) -> Option<String> {
        self.stage.trouble().or_else(|| self.is_outdated().then(|| self.stage.written_by_another()))
    }

    /// End, as [`Bucket::close`]. When the archive has everything, the stage goes. What came into the stage and not through
    /// wizefs comes into the archive as it is.
    ///
    /// # Errors
    /// As there, and as [`LzBucket::sync`], but for `ENOSPC`; what is not in the archive then stays in the stage.
    pub fn close(&self) -> FsResult<()> {
        let synced = self.sync();
        self.stage.touched.end();
        if let Some(thread) = self.follower.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows with the archive panicked");
        }
        if synced.is_ok() && self.stage.is_committed() {
            self.stage.leave_unread()?;
        }
        self.bucket.close()?;
        match synced.and_then(|_| self.commit_rest()) {
            // Whoever waits for the archive has asked for that, and was told; the stage keeps what has no room.
            Err(error) if error.is_full() => {
                tracing::warn!(archive = %self.stage.archive.path().display(), %error, "not brought up to date");
                Ok(())
            }
            Ok(()) if self.stage.is_committed() => self.stage.remove(),
            done => done,
        }
    }

    /// Nobody works in the stage any more: what waits there was never reported.
    fn commit_rest(&self) -> FsResult<()> {
        if self.stage.touched.is_empty() || self.bucket.recorder().dirty_count() > 0 {
            return Ok(());
        }
        self.stage.commit_with(Puts::Everything).map(drop)
    }
}
