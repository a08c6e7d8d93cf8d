//! Mounts of buckets: made, taken away, found dead, detached at the end.

use super::buckets::Promises;
use super::{Node, OpenBucket, Role, mountpoint, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, pasted};
use crate::rest::wire;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wizefs_fs::{AnyBucket, Mount, MountOptions, UnmountError, clear_stale_mount};

/// Threads that answer the kernel, per mount: one more than processors, so that one may wait for a disk.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 1
}

/// A request that takes longer is told of.
const UNANSWERED: Duration = Duration::from_secs(10);

/// A mount of this node.
pub(super) struct Mounted {
    mount: Mount,
    path: PathBuf,
    /// We made the folder and remove it.
    ours: bool,
}

impl Node {
    /// Mount a bucket. A dead mount of a killed node is detached first.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`], [`Kind::BucketImporting`], [`Kind::AlreadyMounted`], [`Kind::Mountpoint`],
    /// [`Kind::MountpointNotEmpty`], [`Kind::Fuse`].
    pub fn mount(&self, name: &BucketName, request: &wire::MountRequest) -> Result<wire::Mounted> {
        let _one_at_a_time = self.lifecycle.lock();
        if self.is_stopping() {
            return Err(Error::new(Kind::Stopping, "the node is about to end"));
        }
        let conf = self.conf(name)?;
        if conf.importing {
            let text = format!("{name} is not wholly imported yet");
            let hint = format!("wizefs create {name} --from {}", pasted(&conf.originpath));
            return Err(Error::new(Kind::BucketImporting, text).hint(hint));
        }
        self.notice_gone(name)?;
        if let (wire::MountState::Mounted, place) = self.mount_state(name) {
            let place = place.unwrap_or_default();
            let text = format!("{name} is already mounted at {}", place.display());
            return Err(Error::new(Kind::AlreadyMounted, text).hint(format!("wizefs unmount {name}")));
        }
        if request.allow_other && !mountpoint::may_allow_other() {
            let error =
                Error::new(Kind::Fuse, format!("{name} cannot be mounted for others: /etc/fuse.conf forbids it"));
            return Err(error.hint(mountpoint::ALLOW_OTHERS));
        }
        let conf = self.with_passfile(conf, request.passfile.as_deref())?;
        let promises =
            Promises { durability: request.durability, read_only: request.read_only, exclusive: request.exclusive };
        let cleared_stale = self.clear_stale(name, request.mountpoint.as_deref())?;
        let place = mountpoint::prepare(&self.root, name, &conf.originpath, request.mountpoint.as_deref())?;
        let options = MountOptions {
            allow_other: request.allow_other,
            read_only: request.read_only,
            noexec: request.noexec,
            name: name.to_string(),
            threads: threads(),
        };
        let bucket = self.show(name, promises, options, &place).inspect_err(|_| {
            remove_folder(&place.path, place.ours);
        })?;
        tracing::info!(bucket = %name, mountpoint = %place.path.display(), "mounted");
        self.events.mounted(self.height(), name, &place.path, bucket.fs()?.is_read_only() || request.read_only);
        Ok(wire::Mounted {
            v: wire::V,
            bucket: name.clone(),
            mountpoint: place.path,
            read_only: bucket.fs()?.is_read_only() || request.read_only,
            pid: std::process::id(),
            cleared_stale,
            recovered: std::mem::take(&mut *bucket.recovered.lock()),
            rest: self.rest_address(),
        })
    }

    /// Open the bucket, note the mountpoint, mount. A noted mountpoint without a mount is forgotten at the next start.
    fn show(
        &self,
        name: &BucketName,
        promises: Promises,
        options: MountOptions,
        place: &mountpoint::Place,
    ) -> Result<Arc<OpenBucket>> {
        let bucket = self.bucket_with(name, Some(promises))?;
        // On a full disk it is noted, too: files are removed through a mount as well.
        self.ledger.ease().map_err(trouble::ledger)?;
        self.registry.lock().set_mountpoint(name, &place.path)?;
        let mounted = bucket.fs()?.mount(&place.path, options);
        match mounted {
            Ok(mount) => {
                *bucket.mount.lock() = Some(Mounted { mount, path: place.path.clone(), ours: place.ours });
                Ok(bucket)
            }
            Err(e) => {
                self.registry.lock().clear_mountpoint(name);
                Err(Error::new(Kind::Fuse, format!("cannot mount {name} at {}: {e}", place.path.display())))
            }
        }
    }

    /// Unmount, then settle and seal what was done through it.
    ///
    /// # Errors
    /// [`Kind::NotMounted`]; [`Kind::Busy`] names the processes using it, unless `lazy`.
    pub fn unmount(&self, name: &BucketName, lazy: bool) -> Result<wire::Unmounted> {
        let _one_at_a_time = self.lifecycle.lock();
        self.unmount_now(name, lazy)
    }

    /// As [`Node::unmount`], for a caller that holds the lifecycle lock.
    pub(super) fn unmount_now(&self, name: &BucketName, lazy: bool) -> Result<wire::Unmounted> {
        let known = self.registry.lock().mountpoint(name).map(Path::to_owned);
        if !self.registry.lock().contains(name) {
            return Err(Error::new(Kind::BucketUnknown, format!("no bucket is called {name}")));
        }
        let open = self.open.lock().get(name).cloned();
        let taken = open.as_ref().and_then(|bucket| Some((Arc::clone(bucket), bucket.mount.lock().take()?)));
        let Some((bucket, mounted)) = taken else {
            let Some(mountpoint) = known else {
                let error = Error::new(Kind::NotMounted, format!("{name} is not mounted"));
                return Err(error.hint(format!("wizefs mount {name}")));
            };
            // In a copy of a root that was mounted, the note is of its original's mount.
            if !self.clear_stale(name, None)? && mountpoint::mounted_at(&mountpoint)? == mountpoint::Found::Wizefs {
                let text = format!("{name} is not mounted: another node serves {}", mountpoint.display());
                return Err(Error::new(Kind::NotMounted, text).hint(format!("wizefs mount {name}")));
            }
            return Ok(wire::Unmounted {
                v: wire::V,
                bucket: name.clone(),
                mountpoint,
                detached: false,
                node_ends: false,
            });
        };
        let detached = self.take_away(&bucket, mounted, lazy)?;
        let synced = bucket.fs()?.sync().map(drop).map_err(trouble::fs);
        let sealed = self.seal();
        // The archive has everything: what stands beside it goes.
        let is_lz = matches!(&*bucket.fs()?, AnyBucket::Lz(_));
        let synced = match (is_lz, detached) {
            (_, true) => synced,
            (true, false) => synced.and(unless_used(self.close_bucket(name))),
            (false, false) => synced.and(unless_used(self.end_promises(&bucket))),
        };
        drop((bucket, open));
        self.let_go(name);
        let node_ends = self.end_without_mounts();
        synced?;
        sealed?;
        let mountpoint = known.unwrap_or_default();
        Ok(wire::Unmounted { v: wire::V, bucket: name.clone(), mountpoint, detached, node_ends })
    }

    /// What a mount asked for ends with it: files of a bucket that was mounted read-only are stored again. For a caller that holds
    /// the lifecycle lock.
    fn end_promises(&self, bucket: &OpenBucket) -> Result<()> {
        let promises = *bucket.options.lock();
        let narrow = promises.read_only || promises.exclusive;
        if narrow && bucket.mount.lock().is_none() && self.refuse_while_detached(&bucket.name).is_ok() {
            self.bucket_with(&bucket.name, Some(Promises::NONE))?;
        }
        Ok(())
    }

    /// Returns whether the mount was only detached.
    fn take_away(&self, bucket: &OpenBucket, mounted: Mounted, lazy: bool) -> Result<bool> {
        let Mounted { mount, path, ours } = mounted;
        let name = &bucket.name;
        let detached = match mount.unmount().map_err(|failed| *failed) {
            Ok(None) => false,
            Ok(Some(mount)) => {
                tracing::info!(bucket = %name, "still mounted elsewhere, by mount --bind or in another namespace");
                self.detached.lock().push((name.clone(), mount));
                true
            }
            Err((mount, UnmountError::Busy { .. })) if lazy => {
                mount.detach().map_err(|e| Error::new(Kind::Fuse, format!("cannot detach {name}: {e}")))?;
                self.detached.lock().push((name.clone(), mount));
                true
            }
            Err((mount, error)) => {
                *bucket.mount.lock() = Some(Mounted { mount, path, ours });
                return Err(match error {
                    UnmountError::Busy { holders, mounts } => busy(name, &holders, &mounts),
                    UnmountError::Failed(e) => Error::new(Kind::Fuse, format!("cannot unmount {name}: {e}")),
                });
            }
        };
        remove_folder(&path, ours);
        self.registry.lock().clear_mountpoint(name);
        tracing::info!(bucket = %name, detached, "unmounted");
        self.events.unmounted(self.height(), name, &path, detached);
        Ok(detached)
    }

    /// Take all mounts away at the end; those in use are detached.
    pub fn unmount_all(&self) {
        let _one_at_a_time = self.lifecycle.lock();
        for bucket in self.open_buckets() {
            let Some(mounted) = bucket.mount.lock().take() else { continue };
            if let Err(e) = self.take_away(&bucket, mounted, true) {
                tracing::error!("at the end: {e}");
            }
        }
    }

    /// Whether the bucket is mounted, and where.
    pub(super) fn mount_state(&self, name: &BucketName) -> (wire::MountState, Option<PathBuf>) {
        let open = self.open.lock().get(name).cloned();
        if let Some(bucket) = open
            && let Some(mounted) = &*bucket.mount.lock()
        {
            return (wire::MountState::Mounted, Some(mounted.path.clone()));
        }
        match self.registry.lock().mountpoint(name) {
            Some(path) => (wire::MountState::Stale, Some(path.to_owned())),
            None => (wire::MountState::Unmounted, None),
        }
    }

    /// What the kernel has asked of each mount.
    pub(super) fn requests(&self) -> BTreeMap<BucketName, BTreeMap<String, u64>> {
        let of = |bucket: &Arc<OpenBucket>| {
            let requests = bucket.mount.try_lock()?.as_ref()?.mount.requests();
            Some((bucket.name.clone(), requests.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()))
        };
        self.open_buckets().iter().filter_map(of).collect()
    }

    /// A request that a mount has not answered for long, for people. Its program waits and cannot be killed.
    pub(super) fn unanswered(&self) -> Option<String> {
        self.open_buckets().iter().find_map(|bucket| {
            let slot = bucket.mount.try_lock()?;
            let request = slot.as_ref()?.mount.unanswered(UNANSWERED)?;
            let (operation, pid, time) = (request.operation, request.pid, request.since.elapsed().as_secs());
            Some(format!("{}: {operation} for process {pid} is not answered for {time} s", bucket.name))
        })
    }

    /// Look after mounts that somebody else unmounted, and detached ones whose last user is gone.
    ///
    /// # Errors
    /// What was done through them could not be recorded.
    pub fn look_after_mounts(&self) -> Result<()> {
        let Some(_one_at_a_time) = self.lifecycle.try_lock() else { return Ok(()) };
        let mut detached = self.detached.lock();
        let gone: Vec<_> = detached.extract_if(.., |(_, mount)| mount.is_gone()).collect();
        drop(detached);
        let mut ended = Vec::new();
        for (name, mut mount) in gone {
            mount.wait();
            let bucket = self.open.lock().get(&name).cloned();
            bucket.map_or(Ok(()), |bucket| self.end_promises(&bucket))?;
            ended.push(name);
        }
        for bucket in self.open_buckets() {
            let mut slot = bucket.mount.lock();
            if let Some(mounted) = slot.take_if(|mounted| mounted.mount.is_gone()) {
                drop(slot);
                tracing::info!(bucket = %bucket.name, "unmounted by another program");
                self.take_away(&bucket, mounted, false)?;
                self.end_promises(&bucket)?;
                ended.push(bucket.name.clone());
            }
        }
        if !ended.is_empty() {
            // What cannot be recorded now keeps no node without mounts: the next one takes it up.
            let synced = self.sync(None, false);
            ended.iter().for_each(|name| self.let_go(name));
            self.end_without_mounts();
            synced?;
        }
        self.let_unused_go();
        Ok(())
    }

    /// Take away what umount(8) has unmounted already, for a caller that holds the lifecycle lock: `umount` and then `mount` in a
    /// script are quicker than the next look.
    fn notice_gone(&self, name: &BucketName) -> Result<()> {
        let Some(bucket) = self.open.lock().get(name).cloned() else { return Ok(()) };
        let mut slot = bucket.mount.lock();
        // What another program mounted on top of it hides it only.
        let unmounted = match slot.as_ref() {
            Some(mounted) => mountpoint::mounted_at(&mounted.path)? == mountpoint::Found::Nothing,
            None => false,
        };
        let gone = slot.take_if(|_| unmounted);
        drop(slot);
        let Some(mounted) = gone else { return Ok(()) };
        self.take_away(&bucket, mounted, false)?;
        self.end_promises(&bucket)
    }

    /// A node that was started by a mount ends with its last one. True when it does.
    fn end_without_mounts(&self) -> bool {
        let mounted = self.open_buckets().iter().any(|bucket| bucket.mount.lock().is_some());
        let ends = self.role == Role::Mounts && !mounted && self.detached.lock().is_empty();
        if ends {
            self.request_stop();
        }
        ends
    }

    /// Refuse what would pull the bucket away under programs that still use a detached mount of it.
    pub(super) fn refuse_while_detached(&self, name: &BucketName) -> Result<()> {
        if self.detached.lock().iter().any(|(other, mount)| other == name && !mount.is_gone()) {
            let text = format!("programs still use {name} through a mount that was detached");
            return Err(Error::new(Kind::Busy, text));
        }
        Ok(())
    }

    /// Detach what a killed node left at the noted and at the wanted mountpoint. True when there was something.
    fn clear_stale(&self, name: &BucketName, wanted: Option<&Path>) -> Result<bool> {
        let noted = self.registry.lock().mountpoint(name).map(Path::to_owned);
        let default = self.root.mnt().join(name.as_str());
        let mut cleared = false;
        for path in [noted.as_deref(), Some(wanted.unwrap_or(&default))].into_iter().flatten() {
            cleared |= clear_stale_mount(path).map_err(trouble::fs)?;
        }
        if let Some(path) = noted {
            remove_folder(&path, mountpoint::is_default(&self.root, &path));
            self.registry.lock().clear_mountpoint(name);
        }
        Ok(cleared)
    }

    /// At the start: forget noted mounts that the kernel no longer has, for instance after a reboot.
    pub(super) fn forget_gone_mounts(&self) -> Result<()> {
        let mut registry = self.registry.lock();
        let names: Vec<BucketName> = registry.names().cloned().collect();
        for name in names {
            let Some(path) = registry.mountpoint(&name).map(Path::to_owned) else { continue };
            if mountpoint::mounted_at(&path)? != mountpoint::Found::Wizefs {
                remove_folder(&path, mountpoint::is_default(&self.root, &path));
                registry.clear_mountpoint(&name);
            }
        }
        Ok(())
    }
}

/// A bucket that somebody still stores a file in is unmounted all the same, and stays open as it is.
fn unless_used(ended: Result<()>) -> Result<()> {
    ended.or_else(|error| if error.kind == Kind::Busy { Ok(()) } else { Err(error) })
}

fn busy(name: &BucketName, holders: &[wizefs_fs::Holder], mounts: &[String]) -> Error {
    let programs = holders.iter().map(|holder| format!("{} ({})", holder.command, holder.pid));
    let listed: Vec<String> = programs.chain(mounts.iter().map(|place| format!("the mount at {place}"))).collect();
    let who = if listed.is_empty() { "a program".to_owned() } else { listed.join(", ") };
    Error::new(Kind::Busy, format!("{name} is in use by {who}"))
        .hint(format!("close them, or detach the folder at once: wizefs unmount {name} --lazy"))
}

/// A mountpoint that we made goes away with its mount. It is empty, else it stays.
fn remove_folder(path: &Path, ours: bool) {
    if ours && let Err(e) = std::fs::remove_dir(path) {
        tracing::debug!(error = %e, mountpoint = %path.display(), "the mountpoint stays");
    }
}
