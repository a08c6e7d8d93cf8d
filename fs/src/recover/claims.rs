//! Which differences wizefs answers for.

use super::session::Left;
use crate::change::Cause;
use crate::error::FsResult;
use crate::intent::{At, Found, Intent};
use crate::path::BucketPath;
use crate::recorder::Recorder;
use crate::stat::Id;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What wizefs answers for.
pub(super) struct Claims<'a> {
    /// Names, with the last intent.
    names: HashMap<&'a At, u64>,
    /// Inodes that were being written, with the last intent and whether they had been found changed before.
    inodes: HashMap<u64, (u64, bool)>,
    /// Of these, the ones whose content may have been written, with the last such intent.
    written: HashMap<u64, u64>,
    /// Paths of changes whose data may have been lost with the power.
    unsealed: HashSet<BucketPath>,
    left: &'a Left,
}

impl<'a> Claims<'a> {
    pub(super) fn new(recorder: &Recorder, found: &'a [Found], left: &'a Left) -> FsResult<Self> {
        let (names, inodes, written) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut claims = Self { names, inodes, written, unsealed: HashSet::new(), left };
        for Found { id, intent, .. } in found {
            match intent {
                Intent::Write { inode, at, foreign, .. } => {
                    claims.names.insert(at, *id);
                    claims.written.insert(*inode, *id);
                    let known = claims.inodes.entry(*inode).or_insert((*id, *foreign));
                    *known = (*id, known.1 || *foreign);
                }
                Intent::Create { at } | Intent::Stage { at } => {
                    claims.names.insert(at, *id);
                }
                Intent::Remove { at, inode } | Intent::Link { at, inode } => {
                    claims.names.insert(at, *id);
                    claims.touched(*inode, *id);
                }
                Intent::Rename { from, to, inode } => {
                    claims.names.extend([(from, *id), (to, *id)]);
                    claims.touched(*inode, *id);
                    // What the rename replaced lost a name, which moves the change time of its others.
                    if let Some(row) = recorder.name_row(Id(to.0), OsStr::from_bytes(&to.1))? {
                        claims.touched(row.id, *id);
                    }
                }
            }
        }
        if left.machine_went_down() {
            recorder.stream.sink().unsealed(&mut |path| {
                claims.unsealed.insert(path.clone());
            })?;
        }
        Ok(claims)
    }

    /// Whether the content of an inode that intent `settled` covered last may be another, though its times say that it is not: an
    /// overwrite and its `fdatasync` may have reached the disk before the power went, and the change time not. A disk whose times
    /// are coarse says no more about one that happened right after the last report.
    pub(super) fn may_be_written(&self, inode: u64, settled: u64) -> bool {
        self.written.get(&inode).is_some_and(|id| *id > settled)
    }

    /// Paths of changes whose data may have been lost with the power.
    pub(super) fn unsealed(&self) -> impl Iterator<Item = &BucketPath> {
        self.unsealed.iter()
    }

    /// Whether something may be claimed that no intent speaks of.
    pub(super) fn go_by_time(&self) -> bool {
        self.left.machine_went_down()
    }

    fn touched(&mut self, ino: u64, id: u64) {
        let known = self.inodes.entry(ino).or_insert((id, false));
        known.0 = id;
    }

    /// The cause under which a difference at this name may be recorded; `None` leaves it foreign.
    pub(super) fn name(&self, at: &At, path: &BucketPath, ctime_ns: i64) -> Option<Cause> {
        let ours = self.names.contains_key(at) || self.unsealed.contains(path);
        (ours || self.left.covers(ctime_ns)).then_some(Cause::Recovered)
    }

    /// The same for changed content of an inode, found at this name and last covered by intent `settled`. A file reported while its
    /// creator had it open is claimed by its name alone.
    pub(super) fn content(&self, ino: u64, at: &At, settled: u64, path: &BucketPath, ctime_ns: i64) -> Option<Cause> {
        let since = |id: &u64| *id > settled;
        match self.inodes.get(&ino) {
            Some((_, true)) => Some(Cause::Foreign),
            Some((id, false)) if since(id) => Some(Cause::Recovered),
            _ if self.names.get(at).is_some_and(since) => Some(Cause::Recovered),
            _ if self.unsealed.contains(path) || self.left.covers(ctime_ns) => Some(Cause::Recovered),
            _ => None,
        }
    }
}
