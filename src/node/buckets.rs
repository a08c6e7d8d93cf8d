//! Buckets: created, adopted, opened, deleted.

use super::backing::{self, resolve};
use super::described::bucket_id;
use super::{Node, OpenBucket, mountpoint, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::{BucketKind, BucketName};
use crate::notary::Notary;
use crate::registry::{BucketConf, Registry, text_of};
use crate::rest::wire;
use crate::root::Root;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use rustix::io::Errno;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use wizefs_fs::lz::has_stage;
use wizefs_fs::{AnyBucket, Bucket, BucketOptions, Durability, LzBucket, ZipBucket, ZipOptions};
use wizefs_ledger::{BucketId, Draft, Label, Statement};

/// Folders of deleted buckets, until they are gone.
const DELETED: &str = ".deleted-";

/// So long those who use a bucket are waited for that is to be closed or opened anew. An upload lasts as long as its client likes,
/// and whoever waits for it keeps others from the whole node.
const USERS_PATIENCE: Duration = Duration::from_secs(5);

/// What a bucket promises while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promises {
    pub(super) durability: wire::Durability,
    pub(super) read_only: bool,
    pub(super) exclusive: bool,
}

impl Promises {
    /// Without a mount.
    pub(super) const NONE: Promises =
        Promises { durability: wire::Durability::Relaxed, read_only: false, exclusive: false };
}

impl Node {
    /// The names of all buckets, sorted.
    pub fn bucket_names(&self) -> Vec<BucketName> {
        self.registry.lock().names().cloned().collect()
    }

    /// Whether a bucket of that name exists, and whether it is mounted.
    pub fn bucket_state(&self, name: &BucketName) -> (bool, bool) {
        let created = self.registry.lock().contains(name);
        (created, created && self.mount_state(name).0 == wire::MountState::Mounted)
    }

    /// A new bucket; one adopted from a directory or archive is imported, which `progress` may break off: the same call
    /// resumes it.
    ///
    /// # Errors
    /// [`Kind::BucketExists`], [`Kind::FileMissing`] or [`Kind::ConfigChange`] for a directory or archive that cannot be
    /// adopted, [`Kind::Archive`] for one that is none, [`Kind::Passphrase`] for one that is locked.
    pub fn create(
        &self,
        request: &wire::Create,
        progress: &mut dyn FnMut(wire::Progress) -> ControlFlow<()>,
    ) -> Result<wire::Created> {
        let conf = {
            let _one_at_a_time = self.lifecycle.lock();
            match self.resumable(request)? {
                Some(conf) => self.with_passfile(conf, request.passfile.as_deref())?,
                None => self.create_new(request)?,
            }
        };
        self.seal()?;
        let (imported, unread) = if conf.importing { self.import(&conf, progress)? } else { (None, Vec::new()) };
        let id = bucket_id(&conf)?;
        let logged = self.ledger.transaction(&id).map_err(trouble::ledger)?;
        Ok(wire::Created {
            v: wire::V,
            bucket: conf.origin.clone(),
            kind: conf.kind()?,
            txid: id.to_string(),
            block: logged.and_then(|logged| logged.block),
            backing: conf.originpath,
            imported,
            unread,
        })
    }

    /// The bucket whose import an earlier, equal call did not finish.
    fn resumable(&self, request: &wire::Create) -> Result<Option<BucketConf>> {
        if !self.registry.lock().contains(&request.origin) {
            return Ok(None);
        }
        let conf = self.conf(&request.origin)?;
        let same = request.from.as_deref().is_some_and(|from| resolve(from).is_ok_and(|from| from == conf.originpath));
        if conf.importing && same {
            return Ok(Some(conf));
        }
        let error = Error::new(Kind::BucketExists, format!("the bucket {} exists already", request.origin));
        Err(error.hint(format!("choose another name, or delete it first: wizefs delete {}", request.origin)))
    }

    fn create_new(&self, request: &wire::Create) -> Result<BucketConf> {
        let name = &request.origin;
        let kind = request.kind.unwrap_or_else(|| BucketKind::of_name(name));
        let state = self.registry.lock().state_dir(name);
        let backing = backing::of_new(request, kind, &self.root, &self.registry.lock())?;
        // Before the ledger is told: it takes nothing back.
        [Some(&backing), request.passfile.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(|path| text_of(path).map(drop))?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&state);
        made.map_err(|e| Error::io(Kind::Root, format!("cannot make the folder of {name}"), &e))?;
        if request.from.is_none() {
            backing::make(kind, &backing)?;
        }
        let mut conf = BucketConf::new(name.clone(), kind, backing, request.from.is_some());
        conf.passfile.clone_from(&request.passfile);
        // Without the registry's lock: a full mempool waits for the sealer, which looks into the registry.
        conf.id = self.register_on_ledger(name, kind)?.to_string();
        self.registry.lock().put_bucket(&conf)?;
        tracing::info!(bucket = %name, "created");
        Ok(conf)
    }

    /// The bucket's id. One that a crash left on the ledger but not in the registry is taken up.
    fn register_on_ledger(&self, name: &BucketName, kind: BucketKind) -> Result<BucketId> {
        if let Some(known) = self.ledger.bucket_named(name.as_str()).map_err(trouble::ledger)? {
            return Ok(known.id);
        }
        let label = Label::new(name.as_str()).map_err(|e| Error::new(Kind::BucketName, e.to_string()))?;
        let kind = match kind {
            BucketKind::Loopback => wizefs_ledger::BucketKind::Loopback,
            BucketKind::Zip => wizefs_ledger::BucketKind::Zip,
            BucketKind::Lz => wizefs_ledger::BucketKind::Lz,
        };
        self.state_on_ledger(Statement::CreateBucket { name: label, kind })
    }

    fn state_on_ledger(&self, statement: Statement) -> Result<BucketId> {
        let draft = Draft { time_us: jiff::Timestamp::now().as_microsecond().unsigned_abs(), statement };
        let txids = self.ledger.submit(&self.wallet, vec![draft], &[]).map_err(trouble::ledger)?;
        txids.first().copied().ok_or_else(|| Error::new(Kind::Internal, "the ledger gave no transaction id"))
    }

    fn import(
        &self,
        conf: &BucketConf,
        progress: &mut dyn FnMut(wire::Progress) -> ControlFlow<()>,
    ) -> Result<(Option<wire::Progress>, Vec<wire::Unread>)> {
        let bucket = self.bucket(&conf.origin)?;
        let (report, unread) = bucket
            .fs()?
            .import(&mut |so_far| progress(wire::Progress { files: so_far.files, bytes: so_far.bytes }))
            .map_err(trouble::fs)?;
        let finished = BucketConf { importing: false, ..conf.clone() };
        self.registry.lock().put_bucket(&finished)?;
        self.seal()?;
        let unread = unread.into_iter().map(|one| wire::Unread { path: (&one.path).into(), problem: one.problem });
        Ok((Some(wire::Progress { files: report.files, bytes: report.bytes }), unread.collect()))
    }

    /// Remember another file with the passphrase; an open bucket is closed, so that it is opened with that.
    pub(super) fn with_passfile(&self, conf: BucketConf, passfile: Option<&Path>) -> Result<BucketConf> {
        let Some(passfile) = passfile else { return Ok(conf) };
        if conf.kind()? != BucketKind::Zip {
            let text = format!("{} has no encrypted members: only zip buckets have", conf.origin);
            return Err(Error::new(Kind::Unsupported, text));
        }
        backing::passphrase(passfile)?;
        self.close_bucket(&conf.origin)?;
        let conf = BucketConf { passfile: Some(passfile.to_owned()), ..conf };
        self.registry.lock().put_bucket(&conf)?;
        Ok(conf)
    }

    /// Delete an unmounted bucket; its history stays on the ledger, an adopted directory is left alone.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`]; [`Kind::AlreadyMounted`] unless `unmount`, then [`Kind::Busy`].
    pub fn delete(&self, name: &BucketName, unmount: bool) -> Result<wire::Deleted> {
        let _one_at_a_time = self.lifecycle.lock();
        let conf = self.conf_or_known(name)?.0;
        let node_ends = match self.mount_state(name) {
            (wire::MountState::Unmounted, _) => false,
            (wire::MountState::Mounted, mountpoint) if !unmount => {
                let place = mountpoint.unwrap_or_default();
                let text = format!("{name} is mounted at {}", place.display());
                let hint = format!("wizefs unmount {name}, or wizefs delete {name} --unmount");
                return Err(Error::new(Kind::AlreadyMounted, text).hint(hint));
            }
            _ => self.unmount_now(name, false)?.node_ends,
        };
        self.refuse_while_detached(name)?;
        self.complete_archive(&conf)?;
        // Until nobody knows it any more: it would be opened again meanwhile.
        let _opened_by_nobody = self.opening.lock();
        self.close_unopened(name)?;
        let id = bucket_id(&conf)?;
        let record = self.ledger.bucket(&id).map_err(trouble::ledger)?;
        let txid = match record {
            Some(bucket) if !bucket.record.closed => self.state_on_ledger(Statement::DeleteBucket { bucket: id })?,
            _ => id,
        };
        self.seal()?;
        let mut registry = self.registry.lock();
        let grave = self.root.buckets().join(format!("{DELETED}{txid}"));
        match std::fs::rename(registry.state_dir(name), &grave) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Error::io(Kind::Failed, format!("cannot remove the folder of {name}"), &e));
            }
            _ => registry.remove_bucket(name)?,
        }
        drop(registry);
        bury(&grave);
        if let Err(error) = Notary::clear(&self.ledger, &id) {
            tracing::warn!(bucket = %name, %error, "what it noted of its files is still in the ledger's folder");
        }
        tracing::info!(bucket = %name, "deleted");
        let released = conf.adopted.then_some(conf.originpath);
        Ok(wire::Deleted { v: wire::V, bucket: name.clone(), txid: txid.to_string(), released, node_ends })
    }

    /// What is beside an adopted archive and not in it goes in, before it is given back.
    fn complete_archive(&self, conf: &BucketConf) -> Result<()> {
        let is_behind = || conf.originpath.is_file() && has_stage(&conf.originpath);
        if !conf.adopted || conf.kind()? != BucketKind::Lz || !is_behind() {
            return Ok(());
        }
        self.bucket(&conf.origin)?.fs()?.sync().map_err(trouble::fs)?;
        self.close_bucket(&conf.origin)?;
        if is_behind() {
            let text =
                format!("{} does not have everything that was stored in {}", conf.originpath.display(), conf.origin);
            return Err(
                Error::new(Kind::Archive, text).hint(format!("wizefs mount {0}; wizefs unmount {0}", conf.origin))
            );
        }
        Ok(())
    }

    /// Structure and mount state, without reading file contents.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`], and configuration that cannot be read.
    pub fn check(&self, name: &BucketName) -> Result<wire::Checked> {
        let status = self.bucket_status(name)?;
        let (conf, problem) = self.conf_or_known(name)?;
        let said = |error: Error| format!("{}: {}", error.message, error.hint.unwrap_or_default());
        let mut problems: Vec<String> = problem.map(said).into_iter().collect();
        if !backing::is_there(&conf)? {
            problems.push(format!("the backing {} is not there", conf.originpath.display()));
        }
        if conf.importing {
            problems.push("the import is not finished".to_owned());
        }
        match self.ledger.bucket(&bucket_id(&conf)?).map_err(trouble::ledger)? {
            None => problems.push("the ledger does not know it".to_owned()),
            Some(known) if known.record.closed => problems.push("the ledger says it was deleted".to_owned()),
            Some(_) => {}
        }
        if let (wire::MountState::Stale, Some(place)) = (status.state, &status.mountpoint) {
            problems.push(format!("a node that was killed left a dead mount at {}", place.display()));
        }
        if let (wire::MountState::Mounted, Some(place)) = (status.state, &status.mountpoint)
            && mountpoint::mounted_at(place)? != mountpoint::Found::Wizefs
        {
            problems.push(format!("the kernel shows no mount of ours at {}", place.display()));
        }
        if let Some(bucket) = self.open.lock().get(name) {
            problems.extend(bucket.fs_at_once().and_then(|fs| fs.trouble()));
        }
        problems.extend(self.problem());
        Ok(wire::Checked { v: wire::V, ok: problems.is_empty(), bucket: status, backing: conf.originpath, problems })
    }

    /// Rewrite the archive of an lz bucket without holes.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for the other kinds; [`Kind::NoSpace`], [`Kind::Archive`].
    pub fn compact(&self, name: &BucketName) -> Result<wire::Compacted> {
        let conf = self.conf(name)?;
        if conf.kind()? != BucketKind::Lz {
            let text = format!("{name} is of kind {}: only lz buckets can be compacted", conf.kind()?.as_str());
            return Err(Error::new(Kind::Unsupported, text));
        }
        let before = std::fs::metadata(&conf.originpath).map_or(0, |found| found.len());
        let bucket = self.bucket(name)?;
        let compacted = bucket.fs()?.compact().map_err(trouble::fs)?;
        self.seal()?;
        Ok(wire::Compacted {
            v: wire::V,
            bucket: name.clone(),
            archive: conf.originpath,
            bytes_before: before,
            bytes: compacted.length,
        })
    }

    /// The bucket, opened at the first need. Opening recovers what a crash left.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`], and what keeps the bucket from opening.
    pub fn bucket(&self, name: &BucketName) -> Result<Arc<OpenBucket>> {
        self.bucket_with(name, None)
    }

    /// The bucket with these promises; opened anew when it is open with others.
    pub(super) fn bucket_with(&self, name: &BucketName, wanted: Option<Promises>) -> Result<Arc<OpenBucket>> {
        let known = self.open.lock().get(name).cloned();
        if wanted.is_none()
            && let Some(bucket) = known.filter(|bucket| !self.is_outdated(bucket))
        {
            return Ok(bucket);
        }
        // Held while opening, so that no bucket is opened twice; not the table's own lock, because the sealer needs that.
        let _one_at_a_time = self.opening.lock();
        // Asked now, when nobody is about to delete it.
        let conf = self.conf(name)?;
        let mut known = self.open.lock().get(name).cloned();
        if known.take_if(|bucket| self.is_outdated(bucket)).is_some()
            && let Err(error) = self.close_unopened(name)
        {
            if self.open.lock().contains_key(name) {
                return Err(error);
            }
            // What waits beside the archive is taken up when it is opened, in a moment.
            tracing::warn!(bucket = %name, %error, "the archive was changed by another program: opened again");
        }
        if let Some(bucket) = known {
            let promises = *bucket.options.lock();
            if let Some(wanted) = wanted.filter(|wanted| *wanted != promises) {
                self.refuse_while_detached(name)?;
                let mut fs = alone(&bucket)?;
                fs.close().map_err(trouble::fs)?;
                *fs = self.open_fs(&conf, wanted, &bucket.recovered)?;
                *bucket.options.lock() = wanted;
            }
            return Ok(bucket);
        }
        let promises = wanted.unwrap_or(Promises::NONE);
        let recovered = Mutex::new(0);
        let fs = self.open_fs(&conf, promises, &recovered)?;
        let bucket = Arc::new(OpenBucket {
            name: name.clone(),
            id: bucket_id(&conf)?,
            fs: RwLock::new(fs),
            adopted: conf.adopted,
            unused: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            options: Mutex::new(promises),
            mount: Mutex::new(None),
            recovered,
        });
        self.open.lock().insert(name.clone(), Arc::clone(&bucket));
        Ok(bucket)
    }

    /// Whether another program has changed the archive of a bucket that is open and not mounted: it is to be opened again.
    fn is_outdated(&self, bucket: &OpenBucket) -> bool {
        let is_mounted = || bucket.mount.try_lock().is_none_or(|mounted| mounted.is_some());
        bucket.fs_at_once().is_some_and(|fs| fs.is_outdated())
            && !is_mounted()
            && self.refuse_while_detached(&bucket.name).is_ok()
    }

    fn open_fs(&self, conf: &BucketConf, promises: Promises, recovered: &Mutex<u64>) -> Result<AnyBucket> {
        if !backing::is_there(conf)? {
            let text = format!("the backing of {} is not there: {}", conf.origin, conf.originpath.display());
            return Err(Error::new(Kind::FileMissing, text).hint("mount or restore it and try again"));
        }
        // Opening writes, and on a full disk nothing could be removed without it.
        self.ledger.ease().map_err(trouble::ledger)?;
        let notary = Notary::new(Arc::clone(&self.ledger), self.wallet.clone(), bucket_id(conf)?);
        let notary = notary.map_err(trouble::ledger)?;
        let sink = self.sealer.sink(self, Arc::new(notary));
        let state = self.registry.lock().state_dir(&conf.origin);
        let passphrase = conf.passfile.as_deref().map(backing::passphrase).transpose()?;
        let archive = ZipOptions { archive: conf.originpath.clone(), state: state.clone(), passphrase };
        if conf.kind()? == BucketKind::Zip {
            return Ok(AnyBucket::Zip(ZipBucket::open(archive, sink).map_err(trouble::fs)?));
        }
        let options = BucketOptions {
            backing: conf.originpath.clone(),
            state,
            adopted: conf.adopted,
            durability: match promises.durability {
                wire::Durability::Relaxed => Durability::Relaxed,
                wire::Durability::Close => Durability::Close,
                wire::Durability::Strict => Durability::Strict,
            },
            read_only: promises.read_only,
            exclusive: promises.exclusive,
        };
        let (fs, recovery) = if conf.kind()? == BucketKind::Lz {
            match LzBucket::open(options, Arc::clone(&sink)) {
                // Where nothing can be written, the archive is read as it is.
                Err(error) if (error.errno() == Errno::ROFS || error.is_full()) && !has_stage(&conf.originpath) => {
                    tracing::warn!(bucket = %conf.origin, %error, "the archive can only be read");
                    return Ok(AnyBucket::Zip(ZipBucket::open(archive, sink).map_err(trouble::fs)?));
                }
                opened => {
                    let (bucket, recovery) = opened.map_err(trouble::fs)?;
                    (AnyBucket::Lz(bucket), recovery)
                }
            }
        } else {
            let (bucket, recovery) = Bucket::open(options, sink).map_err(trouble::fs)?;
            (AnyBucket::Loopback(bucket), recovery)
        };
        *recovered.lock() += recovery.recovered + recovery.foreign;
        Ok(fs)
    }

    /// The open bucket with this id.
    pub(super) fn open_bucket(&self, id: &BucketId) -> Option<Arc<OpenBucket>> {
        self.open.lock().values().find(|bucket| bucket.id == *id).cloned()
    }

    /// Wait for those who use the bucket, record what they did, and close it.
    ///
    /// # Errors
    /// [`Kind::Busy`] when that takes long.
    pub(super) fn close_bucket(&self, name: &BucketName) -> Result<()> {
        let _one_at_a_time = self.opening.lock();
        self.close_unopened(name)
    }

    /// As [`Node::close_bucket`], for a caller that holds the lock under which buckets are opened.
    fn close_unopened(&self, name: &BucketName) -> Result<()> {
        let Some(bucket) = self.open.lock().get(name).cloned() else { return Ok(()) };
        let fs = alone(&bucket)?;
        let closed = fs.close();
        // What an archive could not take waits beside it, and is taken up when the bucket is opened again.
        if closed.is_ok() || matches!(&*fs, AnyBucket::Lz(_)) {
            self.open.lock().remove(name);
            bucket.closed.store(true, Ordering::Release);
        }
        closed.map_err(trouble::fs)
    }
}

/// The file system of a bucket, while nobody else uses it.
fn alone(bucket: &OpenBucket) -> Result<RwLockWriteGuard<'_, AnyBucket>> {
    bucket.fs.try_write_for(USERS_PATIENCE).ok_or_else(|| {
        let error = Error::new(Kind::Busy, format!("{} is in use: files are being stored in it", bucket.name));
        error.hint("try again when whoever sends them has ended")
    })
}

/// Finish deletes that a crash interrupted.
pub(super) fn sweep(root: &Root, registry: &mut Registry) -> Result<()> {
    let folder = root.buckets();
    let entries = std::fs::read_dir(&folder)
        .map_err(|e| Error::io(Kind::Root, format!("cannot read {}", folder.display()), &e))?;
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(DELETED)) {
        let conf = std::fs::read(entry.path().join("wizefs.conf")).ok();
        let conf = conf.and_then(|text| serde_json::from_slice::<BucketConf>(&text).ok());
        if let Some(BucketConf { origin, .. }) = conf
            && registry.contains(&origin)
            && !registry.state_dir(&origin).exists()
        {
            registry.remove_bucket(&origin)?;
        }
        bury(&entry.path());
    }
    Ok(())
}

fn bury(grave: &Path) {
    if let Err(e) = std::fs::remove_dir_all(grave) {
        tracing::warn!(error = %e, folder = %grave.display(), "cannot remove a deleted bucket; tried again at the next start");
    }
}
