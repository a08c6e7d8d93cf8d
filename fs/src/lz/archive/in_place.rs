//! A commit in the file itself: nothing is written over what the present directory speaks of.

use super::assemble::{self, Directory};
use super::commit::{Job, SLACK, gaps};
use super::disk::Aligned;
use super::folder;
use super::plan::Plan;
use super::record::{self, Record, Side};
use super::rest::Rest;
use super::table::Table;
use super::writer::{MEMORY_MAX, Writer, aligned};
use super::{Committed, Strategy};
use crate::error::FsResult;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What was put where, and the directory that speaks of it.
struct Laid<'w, 'a> {
    writer: Writer<'w>,
    directory: Directory,
    plan: &'a Plan<'a>,
    /// Holes as they were.
    free: Vec<(u64, u64)>,
}

impl Job<'_> {
    /// # Errors
    /// What reading the sources and writing answer.
    pub(super) fn in_place(mut self, plan: &Plan<'_>) -> FsResult<Committed> {
        let done = self.try_in_place(plan);
        if done.is_err() {
            // Whatever was written belongs to nothing, and the file has its old end.
            let archive = self.archive;
            let kept: Vec<(u64, u64)> = archive.state.read().kept.values().map(|kept| kept.extent).collect();
            let was_begun = record::recover(&archive.disk, &self.output, &folder::beside(&archive.path), &kept)?;
            archive.reload()?;
            if was_begun {
                archive.at_rest()?;
            }
        }
        done
    }

    fn try_in_place(&mut self, plan: &Plan<'_>) -> FsResult<Committed> {
        let bound = self.bound(plan)?;
        let mut free = self.free()?;
        if bound > MEMORY_MAX && !free.iter().any(|(from, to)| to - from >= bound) {
            self.make_room(bound)?;
            free = self.free()?;
        }
        let (archive, table) = (self.archive, Arc::clone(&self.table));
        let folder = folder::beside(&archive.path);
        let old = self.old_side(&free)?;
        let begin = || Record { old: old.clone(), new: None }.write(&archive.disk, &folder);
        let mut writer = Writer::new(archive, self.output.clone(), free.clone(), Some(&begin))?;
        let base = aligned(table.length + SLACK + (table.length - table.dir.0) / 8);
        writer.tail = Some((base, Vec::new()));
        self.put(&mut writer, plan)?;
        let placed = std::mem::take(&mut writer.placed);
        let ids = assemble::ids(plan, &placed);
        let directory = assemble::in_place(&table, &self.output.file, plan, placed)?;
        let filled = writer.filled.iter().map(|(_, to)| *to);
        let top = filled.fold(self.live_end()?, u64::max);
        let is_above = writer.tail.as_ref().is_some_and(|(_, tail)| !tail.is_empty());
        let laid = Laid { writer, directory, plan, free };
        let strategy = if !is_above && top + laid.directory.bound() <= table.dir.0 {
            self.shrink(laid, top)?;
            Strategy::Shrink
        } else {
            self.extend(laid)?;
            Strategy::Extend
        };
        Ok(self.committed(strategy, ids))
    }

    /// Holes before the directory.
    fn free(&self) -> FsResult<Vec<(u64, u64)>> {
        Ok(gaps(&self.table.live(&self.output.file, &self.pinned)?, self.table.dir.0))
    }

    /// Where the last member ends.
    fn live_end(&self) -> FsResult<u64> {
        let live = self.table.live(&self.output.file, &self.pinned)?;
        Ok(live.last().map_or(0, |(_, to)| *to))
    }

    fn old_side(&self, free: &[(u64, u64)]) -> FsResult<Side> {
        let end = (self.table.dir.0, self.table.length);
        let mut bytes = vec![0; usize::try_from(end.1 - end.0).unwrap_or(usize::MAX)];
        self.output.file.read_exact_at(&mut bytes, end.0)?;
        Ok(Side { end, hash: blake3::hash(&bytes).into(), dead: [free, &self.pinned].concat() })
    }

    /// The record of what is about to happen, written: that the file will end with `bytes`, and what is dead then.
    fn announce(&self, laid: &mut Laid<'_, '_>, end: (u64, u64), bytes: &[u8], dead: &[(u64, u64)]) -> FsResult<()> {
        let old = self.old_side(&laid.free)?;
        let new = Side { end, hash: blake3::hash(bytes).into(), dead: [dead, &self.pinned].concat() };
        let archive = self.archive;
        Record { old, new: Some(new) }.write(&archive.disk, &folder::beside(&archive.path))?;
        laid.writer.begun();
        Ok(())
    }

    /// The new directory below the present one, which is cut off.
    fn shrink(&mut self, mut laid: Laid<'_, '_>, at: u64) -> FsResult<()> {
        let disk = &self.archive.disk;
        let (bytes, len) = laid.directory.take_bytes(at);
        let length = at + bytes.len() as u64;
        let leaving = self.leaving_extents(laid.plan)?;
        self.announce(&mut laid, (at, length), &bytes, &leaving)?;
        laid.writer.flush()?;
        disk.write(&self.output, at, &bytes)?;
        disk.sync(&self.output)?;
        disk.truncate(&self.output, length)?;
        let table = laid.directory.lay(at, len, length);
        self.conclude(table, laid.plan, Rest { is_cut: true, dead: leaving, ..Rest::default() });
        Ok(())
    }

    /// What fits nowhere, and the new directory, behind the end.
    fn extend(&mut self, mut laid: Laid<'_, '_>) -> FsResult<()> {
        let disk = &self.archive.disk;
        let (base, tail) = laid.writer.tail.take().unwrap_or_default();
        let len = laid.directory.bytes.len();
        let mut end = laid.directory.end_of(base, len);
        let (at, length) = loop {
            let total = aligned((tail.len() + len + end.len()) as u64);
            let at = base + total - (len + end.len()) as u64;
            let told = laid.directory.end_of(at, len);
            let fits = told.len() == end.len();
            end = told;
            if fits {
                break (at, base + total);
            }
        };
        let mut bytes = Aligned::new((length - base) as usize);
        let buffer = bytes.as_mut_slice();
        buffer[..tail.len()].copy_from_slice(&tail);
        let from = (at - base) as usize;
        buffer[from..from + len].copy_from_slice(&laid.directory.bytes);
        buffer[from + len..].copy_from_slice(&end);
        laid.directory.bytes = Vec::new();
        let before = (self.table.dir.0, self.table.length);
        let mut dead = self.leaving_extents(laid.plan)?;
        dead.push(before);
        // All of it: where the write is torn, any part may be missing.
        self.announce(&mut laid, (base, length), bytes.as_slice(), &dead)?;
        if laid.writer.has_pending() {
            laid.writer.flush()?;
        }
        // What was put into holes must be there before a directory speaks of it.
        if !laid.writer.filled.is_empty() {
            disk.sync(&self.output)?;
        }
        disk.append(&self.output, base, &bytes)?;
        // What may not be on the disk does not count: the file ends as it did, and is what it was.
        if let Err(error) = disk.sync(&self.output) {
            disk.truncate(&self.output, self.table.length)?;
            return Err(error);
        }
        let table = laid.directory.lay(at, len, length);
        self.conclude(table, laid.plan, Rest { dead, ..Rest::default() });
        Ok(())
    }

    /// Readers see the new archive, and what is dead is zeroed.
    fn conclude(&mut self, table: Table, plan: &Plan<'_>, mut rest: Rest) {
        let archive = self.archive;
        self.publish(self.output.clone(), table, plan);
        let state = archive.state.read();
        let kept: Vec<(u64, u64)> = state.kept.values().map(|kept| kept.extent).collect();
        self.table = Arc::clone(&state.table);
        drop(state);
        rest.dead.retain(|extent| !kept.contains(extent));
        archive.leave(Rest { is_in_place: true, ..rest });
    }

    /// Move the directory up, so that there are `room` bytes and another directory before it.
    fn make_room(&mut self, room: u64) -> FsResult<()> {
        let plan = Plan::default();
        let directory = assemble::in_place(&self.table, &self.output.file, &plan, Vec::new())?;
        let free = self.free()?;
        let mut writer = Writer::new(self.archive, self.output.clone(), Vec::new(), None)?;
        let above = self.live_end()? + room + 2 * directory.bound() + SLACK;
        writer.tail = Some((aligned(self.table.length.max(above)), Vec::new()));
        self.extend(Laid { writer, directory, plan: &plan, free })?;
        // What is dead now is where members will be put.
        self.archive.settle()
    }
}
