//! A commit: in place, in a copy that shares its blocks, or as a whole new file.
//!
//! In place nothing is written over what the present directory speaks of. New members go into holes; the new directory
//! goes below the present one, which is then cut off, or, where there is no room, behind it in one direct write. Both are
//! single steps for the file system, so that the file ends with a directory at every moment.

use super::assemble;
use super::disk::Output;
use super::folder;
use super::lock;
use super::order::{self, Item, MIMETYPE};
use super::plan::{self, Changed, Plan};
use super::rest::Rest;
use super::table::{self, Fit, Table};
use super::writer::{self, COPY_BYTES, Writer};
use super::{Archive, Committed, Edits, Kept, MemberId, Stamp, Strategy};
use crate::error::{FsError, FsResult};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::Arc;

/// The name of a copy beside the archive.
const COPY: &str = "rewrite";
/// Room between directories, so that the next one finds it: this and an eighth of the directory.
pub(super) const SLACK: u64 = 64 * 1024;
/// Of an archive, more than one part in this is dead before it is rewritten, and at least that many bytes.
const DEAD_PART: u64 = 4;
const DEAD_MIN: u64 = 1024 * 1024;

/// What a commit works on.
pub(super) struct Job<'a> {
    pub(super) archive: &'a Archive,
    pub(super) output: Output,
    pub(super) table: Arc<Table>,
    /// Extents in the file that are kept for pins.
    pub(super) pinned: Vec<(u64, u64)>,
    written: u64,
    /// Of the file as it was found.
    stamp: Stamp,
}

/// Whether a whole new file is to take the place of the old one.
enum Wish {
    /// Nothing else will do.
    Must,
    /// It is better so.
    Tidy,
    No,
}

impl Archive {
    fn job(&self) -> FsResult<Job<'_>> {
        self.drop_unpinned()?;
        let state = self.state.read();
        let (output, table) = (state.output.clone(), Arc::clone(&state.table));
        let here = state.kept.values().filter(|kept| Arc::ptr_eq(&kept.output.file, &output.file));
        let pinned = here.map(|kept| kept.extent).collect();
        drop(state);
        let (open, named) = (output.file.metadata()?, std::fs::metadata(&self.path));
        let same = named.is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()));
        if !same || open.len() != table.length {
            return Err(self.is_another());
        }
        let (written, stamp) = (self.disk.written(), Stamp::of(&open));
        Ok(Job { archive: self, output, table, pinned, written, stamp })
    }

    fn is_another(&self) -> FsError {
        FsError::Archive(format!("{}: changed by another program", self.path.display()))
    }

    /// Tell the keeper.
    pub(super) fn keep(&self, stamps: &[Stamp]) -> FsResult<()> {
        self.keeper.as_ref().map_or(Ok(()), |keeper| keeper(stamps))
    }

    pub(super) fn commit_edits(&self, edits: &Edits) -> FsResult<Committed> {
        let _writing = self.writing.lock();
        let job = self.job()?;
        let table = Arc::clone(&job.table);
        let plan = plan::plan(edits, &table)?;
        if plan.is_empty() {
            let ids = assemble::ids(&plan, &[]);
            return Ok(job.committed(Strategy::Nothing, ids));
        }
        if let Fit::Never(why) = table.fit {
            return Err(FsError::Archive(format!("{}: {why}", self.path.display())));
        }
        let tried = match job.wants_rewrite(&plan)? {
            Wish::Must => return job.rewrite(&plan),
            Wish::Tidy => job.rewrite(&plan),
            Wish::No => job.reflink(&plan),
        };
        match tried {
            // There is no room for a second file.
            Err(error) if is_without_reflink(&error) || error.is_full() => job.in_place(&plan),
            done => done,
        }
    }

    pub(super) fn rewrite_all(&self) -> FsResult<Committed> {
        let _writing = self.writing.lock();
        let job = self.job()?;
        if let Fit::Never(why) = job.table.fit {
            return Err(FsError::Archive(format!("{}: {why}", self.path.display())));
        }
        job.rewrite(&Plan::default())
    }

    /// Zero what was kept for pins that are gone, and do what is left to do.
    fn drop_unpinned(&self) -> FsResult<()> {
        self.settle()?;
        let mut state = self.state.write();
        let gone: Vec<MemberId> = state.kept.keys().copied().filter(|id| !self.pins.is_held(*id)).collect();
        let gone: Vec<Kept> = gone.into_iter().filter_map(|id| state.kept.remove(&id)).collect();
        let output = state.output.clone();
        drop(state);
        if gone.is_empty() {
            return Ok(());
        }
        let here = gone.iter().filter(|kept| Arc::ptr_eq(&kept.output.file, &output.file));
        let dead = here.map(|kept| kept.extent).collect();
        self.leave(Rest { dead, is_in_place: true, ..Rest::default() });
        self.settle()
    }
}

fn is_without_reflink(error: &FsError) -> bool {
    matches!(error.errno(), Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS)
}

/// What is between extents, from the beginning of the file to `end`.
pub(super) fn gaps(live: &[(u64, u64)], end: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut at = 0;
    for &(from, to) in live {
        if from > at {
            gaps.push((at, from.min(end)));
        }
        at = at.max(to);
    }
    if at < end {
        gaps.push((at, end));
    }
    gaps
}

impl Job<'_> {
    pub(super) fn committed(&self, strategy: Strategy, ids: Vec<Option<MemberId>>) -> Committed {
        let state = self.archive.state.read();
        let sum = |live: Vec<(u64, u64)>| live.iter().map(|(from, to)| to - from).sum();
        // It is made: a number that nobody can know takes nothing back.
        let live = state.table.live(&state.output.file, &[]).map_or(u64::MAX, sum);
        Committed {
            bytes_written: self.archive.disk.written() - self.written,
            strategy,
            length: state.table.length,
            dead: state.table.dir.0.saturating_sub(live),
            ids,
        }
    }

    /// Whether a whole new file is better than changes in place, or the only way.
    fn wants_rewrite(&self, plan: &Plan<'_>) -> FsResult<Wish> {
        let table = &self.table;
        // The file must begin with a member after the commit too.
        let first = table.entries.iter().position(|entry| entry.place == 0);
        let first_leaves = first.is_none_or(|first| plan.leaving.contains(&(first as u32)));
        if table.fit != Fit::InPlace || first_leaves {
            return Ok(Wish::Must);
        }
        if !self.is_big() || plan.places(MIMETYPE) {
            return Ok(Wish::Tidy);
        }
        let live: u64 = table.live(&self.output.file, &self.pinned)?.iter().map(|(from, to)| to - from).sum();
        let dead = table.dir.0.saturating_sub(live);
        // What directories take turns in is not dead for long.
        let directory = 3 * (table.length - table.dir.0) + SLACK;
        let is_much = dead.saturating_sub(directory) > (table.length / DEAD_PART).max(DEAD_MIN);
        Ok(if is_much { Wish::Tidy } else { Wish::No })
    }

    /// Whether the archive is not written as a whole at every commit.
    fn is_big(&self) -> bool {
        self.table.length >= self.archive.policy.rewrite_below
    }

    pub(super) fn bound(&self, plan: &Plan<'_>) -> FsResult<u64> {
        let mut bound = 0;
        for made in &plan.made {
            bound += writer::made_bound(made)?;
        }
        for changed in plan.changed.iter().filter(|changed| changed.moves) {
            let entry = &self.table.entries[changed.old as usize];
            bound += writer::moved_bound(entry, changed.path.as_ref().map_or(usize::from(entry.path.1), Vec::len));
        }
        Ok(bound)
    }

    pub(super) fn put(&self, writer: &mut Writer<'_>, plan: &Plan<'_>) -> FsResult<()> {
        for changed in plan.changed.iter().filter(|changed| changed.moves) {
            self.move_one(writer, changed)?;
        }
        writer.put_all(&plan.made.iter().collect::<Vec<_>>())
    }

    /// A whole new file in place of the old one.
    fn rewrite(&self, plan: &Plan<'_>) -> FsResult<Committed> {
        let archive = self.archive;
        let (copy, guard) = self.new_copy()?;
        let prefix = self.prefix()?;
        let mut writer = Writer::new(archive, copy.clone(), vec![(prefix, u64::MAX)], None)?;
        writer.copy(&self.output.file, 0, 0, prefix)?;
        self.put_in_order(&mut writer, plan)?;
        writer.flush()?;
        let at = writer.filled.last().map_or(prefix, |(_, to)| *to);
        let placed = std::mem::take(&mut writer.placed);
        let ids = assemble::ids(plan, &placed);
        let mut directory = assemble::whole(self.table.comment.clone(), placed)?;
        let (bytes, len) = directory.take_bytes(at);
        archive.disk.write(&copy, at, &bytes)?;
        let table = directory.lay(at, len, at + bytes.len() as u64);
        self.replace(copy, table, plan)?;
        guard.done();
        Ok(self.committed(Strategy::Rewrite, ids))
    }

    /// Put all members, in the order of the new file; new ones that come together are packed together.
    fn put_in_order(&self, writer: &mut Writer<'_>, plan: &Plan<'_>) -> FsResult<()> {
        let stays = plan.changed.iter().filter(|changed| !changed.moves);
        let attributes: HashMap<u32, (u32, i64)> =
            stays.filter_map(|changed| Some((changed.old, changed.attributes?))).collect();
        let mut together = Vec::new();
        for item in order::of_file(&self.table, plan, self.is_big()) {
            if let Item::Makes(made) = item {
                together.push(made);
                continue;
            }
            writer.put_all(&std::mem::take(&mut together))?;
            match item {
                Item::Stays(number) => {
                    let (path, attributes) = (self.table.path(number), attributes.get(&number).copied());
                    writer.put_moved(&self.table, &self.output.file, number, path, attributes)?;
                }
                Item::Moves(changed) => self.move_one(writer, changed)?,
                Item::Makes(_) => {}
            }
        }
        writer.put_all(&together)
    }

    fn move_one(&self, writer: &mut Writer<'_>, changed: &Changed) -> FsResult<()> {
        let path = changed.path.as_deref().unwrap_or_else(|| self.table.path(changed.old));
        writer.put_moved(&self.table, &self.output.file, changed.old, path, changed.attributes)
    }

    /// Bytes in front of the archive that are none of it, as those of a program that unpacks it.
    fn prefix(&self) -> FsResult<u64> {
        let end = self.table.begin();
        let mut buffer = vec![0; end.min(COPY_BYTES) as usize];
        let mut at = 0;
        while at < end {
            let count = (end - at).min(COPY_BYTES) as usize;
            self.output.file.read_exact_at(&mut buffer[..count], at)?;
            // A hole is nothing.
            if buffer[..count].iter().any(|&byte| byte != 0) {
                return Ok(end);
            }
            at += count as u64;
        }
        Ok(0)
    }

    fn new_copy(&self) -> FsResult<(Output, CopyGuard<'_>)> {
        let folder = folder::beside(&self.archive.path);
        folder::make(&folder)?;
        let path = folder.join(COPY);
        let copy = self.archive.disk.create(&path, 0o600, true)?;
        // It is what we have alone once it has the name.
        if self.archive.keeper.is_some() {
            lock::take(&copy.file, &path)?;
        }
        let before = self.output.file.metadata()?;
        // One who may not give files away keeps its copy.
        let owner = (rustix::fs::Uid::from_raw(before.uid()), rustix::fs::Gid::from_raw(before.gid()));
        if let Err(error) = rustix::fs::fchown(&*copy.file, Some(owner.0), Some(owner.1)) {
            tracing::debug!(%error, "the archive gets another owner");
        }
        copy.file.set_permissions(std::fs::Permissions::from_mode(before.mode() & 0o7777))?;
        Ok((copy.clone(), CopyGuard { archive: self.archive, path, armed: std::cell::Cell::new(true) }))
    }

    /// Put `copy` in the place of the archive.
    fn replace(&self, copy: Output, table: Table, plan: &Plan<'_>) -> FsResult<()> {
        let archive = self.archive;
        archive.disk.sync(&copy)?;
        // What somebody else has put there meanwhile stays.
        if Stamp::at(&archive.path)? != self.stamp {
            return Err(archive.is_another());
        }
        archive.keep(&[self.stamp, Stamp::of(&copy.file.metadata()?)])?;
        archive.disk.rename(&copy.path, &archive.path)?;
        let renamed = Output { path: archive.path.clone(), ..copy };
        self.publish(renamed, table, plan);
        archive.leave(Rest { is_renamed: true, ..Rest::default() });
        Ok(())
    }

    /// From here on readers see the new archive.
    pub(super) fn publish(&self, output: Output, table: Table, plan: &Plan<'_>) {
        let archive = self.archive;
        let mut state = archive.state.write();
        for &number in &plan.leaving {
            let entry = &self.table.entries[number as usize];
            if table.find_id(entry.id).is_none() && archive.pins.is_held(entry.id) {
                // Of one whose header cannot be read nothing can be read either.
                let extent = entry.extent(&self.output.file).unwrap_or((entry.place, entry.place));
                let kept = Kept {
                    entry: entry.clone(),
                    path: self.table.path(number).to_vec(),
                    output: self.output.clone(),
                    extent,
                };
                state.kept.insert(entry.id, kept);
            }
        }
        let moved = !Arc::ptr_eq(&state.output.file, &output.file);
        for &number in &plan.leaving {
            archive.forget(self.table.entries[number as usize].id);
        }
        if moved {
            archive.located.lock().clear();
            archive.contents.forget_places();
        }
        state.output = output;
        state.table = Arc::new(table);
    }

    /// A copy that shares its blocks, changed and put in the place of the archive.
    fn reflink(&self, plan: &Plan<'_>) -> FsResult<Committed> {
        let archive = self.archive;
        if !archive.policy.reflink {
            return Err(Errno::OPNOTSUPP.into());
        }
        let (copy, guard) = self.new_copy()?;
        archive.disk.clone_file(&self.output, &copy)?;
        let live = self.remaining(plan)?;
        let top = live.last().map_or(0, |(_, to)| *to);
        archive.disk.truncate(&copy, top)?;
        let mut free = gaps(&live, top);
        free.push((top, u64::MAX));
        let mut writer = Writer::new(archive, copy.clone(), free, None)?;
        // Nobody reads the copy yet, so what leaves can be zeroed first.
        for (from, to) in self.leaving_extents(plan)? {
            archive.disk.zero(&copy, from, to.min(top).saturating_sub(from))?;
        }
        self.put(&mut writer, plan)?;
        writer.flush()?;
        let at = writer.filled.iter().map(|(_, to)| *to).fold(top, u64::max);
        let placed = std::mem::take(&mut writer.placed);
        let ids = assemble::ids(plan, &placed);
        let mut directory = assemble::in_place(&self.table, &self.output.file, plan, placed)?;
        let (bytes, len) = directory.take_bytes(at);
        archive.disk.write(&copy, at, &bytes)?;
        let table = directory.lay(at, len, at + bytes.len() as u64);
        self.replace(copy, table, plan)?;
        guard.done();
        Ok(self.committed(Strategy::Reflink, ids))
    }

    /// The extents of what stays where it is.
    fn remaining(&self, plan: &Plan<'_>) -> FsResult<Vec<(u64, u64)>> {
        let all = self.table.entries.iter().enumerate();
        let stays = all.filter(|(number, _)| !plan.leaving.contains(&(*number as u32))).map(|(_, entry)| entry);
        Ok(table::live(stays.collect(), self.table.dir.0, &self.output.file, &[])?)
    }

    pub(super) fn leaving_extents(&self, plan: &Plan<'_>) -> FsResult<Vec<(u64, u64)>> {
        let mut extents = Vec::new();
        for &number in &plan.leaving {
            let entry = &self.table.entries[number as usize];
            extents.push(entry.extent(&self.output.file)?);
        }
        Ok(extents)
    }
}

/// Takes an unfinished copy away.
struct CopyGuard<'a> {
    archive: &'a Archive,
    path: std::path::PathBuf,
    armed: std::cell::Cell<bool>,
}

impl CopyGuard<'_> {
    fn done(self) {
        self.armed.set(false);
    }
}

impl Drop for CopyGuard<'_> {
    fn drop(&mut self) {
        if self.armed.get()
            && let Err(error) = self.archive.disk.remove(&self.path)
        {
            tracing::warn!(%error, "an unfinished copy stays");
        }
    }
}
