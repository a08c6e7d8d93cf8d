//! A new directory: the records that stay, and those of members that were placed.

use super::order::{Order, parents_first, told_of};
use super::plan::Plan;
use super::table::{Entry, Fit, Table};
use super::writer::{Placed, head_of};
use super::{MemberId, format};
use crate::error::{FsError, FsResult};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Names are written together anew when more of their bytes than this belong to nothing, and more than half.
const DEAD_NAMES_MAX: usize = 1 << 20;

/// The bytes of a directory, and what it says; places of records count from its beginning until it has one.
pub(super) struct Directory {
    pub(super) bytes: Vec<u8>,
    pub(super) table: Table,
}

impl Directory {
    /// One without members.
    fn of((comment, names): (Vec<u8>, Vec<u8>), capacity: usize) -> Self {
        let table = Table {
            entries: Vec::with_capacity(capacity),
            names,
            order: Vec::new(),
            by_id: Vec::new(),
            comment,
            fit: Fit::InPlace,
            dir: (0, 0),
            length: 0,
        };
        Self { bytes: Vec::new(), table }
    }

    /// Add what was placed; its numbers.
    fn take(&mut self, placed: Vec<Placed>) -> FsResult<Range<u32>> {
        let first = self.table.entries.len() as u32;
        for one in placed {
            let mut entry = one.entry;
            entry.path = self.table.name(&one.path)?;
            entry.record = self.bytes.len() as u64;
            self.bytes.extend_from_slice(&one.record);
            self.table.entries.push(entry);
        }
        match u32::try_from(self.table.entries.len()) {
            Ok(count) if count < GONE => Ok(first..count),
            _ => Err(FsError::Archive("more than 4 G members".into())),
        }
    }

    /// What follows the records, of `len` bytes, when they begin at `at`.
    pub(super) fn end_of(&self, at: u64, len: usize) -> Vec<u8> {
        format::end(self.table.entries.len() as u64, at, len as u64, &self.table.comment)
    }

    /// Bytes of records and end, at most.
    pub(super) fn bound(&self) -> u64 {
        (self.bytes.len() + format::END_MAX + self.table.comment.len()) as u64
    }

    /// The table of the archive whose directory of `len` bytes is at `at`.
    pub(super) fn lay(mut self, at: u64, len: usize, length: u64) -> Table {
        for entry in &mut self.table.entries {
            entry.record += at;
        }
        self.table.dir = (at, at + len as u64);
        self.table.length = length;
        self.table
    }

    /// Records and end as they stand at `at`, taken out.
    pub(super) fn take_bytes(&mut self, at: u64) -> (Vec<u8>, usize) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let len = bytes.len();
        bytes.extend_from_slice(&self.end_of(at, len));
        (bytes, len)
    }
}

/// Numbers of new entries by the old ones; `GONE` of those that left.
const GONE: u32 = u32::MAX;

/// The directory after `plan`, whose members with other places are `placed`.
///
/// # Errors
/// What reading the old directory answers.
pub(super) fn in_place(table: &Table, file: &File, plan: &Plan<'_>, placed: Vec<Placed>) -> FsResult<Directory> {
    let mut old = vec![0; usize::try_from(table.dir.1 - table.dir.0).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut old, table.dir.0)?;
    let stays = plan.changed.iter().filter(|changed| !changed.moves);
    let changed: HashMap<u32, (u32, i64)> =
        stays.filter_map(|changed| Some((changed.old, changed.attributes?))).collect();
    let mut new = Directory::of((table.comment.clone(), table.names.clone()), table.entries.len() + placed.len());
    new.bytes.reserve(old.len() + placed.iter().map(|one| one.record.len()).sum::<usize>());
    let mut order = Order::of(table, plan, placed);
    let mut added: Vec<u32> = Vec::new();
    let mut numbers = vec![GONE; table.entries.len()];
    for (number, entry) in (0..).zip(&table.entries) {
        if let Some(parents) = order.before.remove(&number) {
            added.extend(new.take(parents)?);
        }
        if plan.leaving.contains(&number) {
            continue;
        }
        numbers[number as usize] = new.table.entries.len() as u32;
        let mut entry = entry.clone();
        let from = (entry.record - table.dir.0) as usize;
        let at = new.bytes.len() as u64;
        match changed.get(&number) {
            None => new.bytes.extend_from_slice(&old[from..from + entry.record_len as usize]),
            Some(&attributes) => new.bytes.extend(changed_record(file, &mut entry, table.path(number), attributes)?),
        }
        entry.record = at;
        new.table.entries.push(entry);
    }
    added.extend(new.take(order.last)?);
    let renumbered =
        |old: &[u32]| -> Vec<u32> { old.iter().map(|&old| numbers[old as usize]).filter(|&new| new != GONE).collect() };
    let (mut order, mut by_id) = (renumbered(&table.order), renumbered(&table.by_id));
    merge(&mut order, &added, |a, b| new.table.path(a).cmp(new.table.path(b)));
    merge(&mut by_id, &added, |a, b| new.table.entries[a as usize].id.cmp(&new.table.entries[b as usize].id));
    (new.table.order, new.table.by_id) = (order, by_id);
    tidy_names(&mut new.table)?;
    Ok(new)
}

/// The record of a member that stays where it is, with other attributes.
fn changed_record(file: &File, entry: &mut Entry, path: &[u8], (mode, mtime_ns): (u32, i64)) -> FsResult<Vec<u8>> {
    let mut head = head_of(file, entry, path, Some((mode, mtime_ns)), false)?;
    let header = entry.header_len(file)?;
    let record = head.central(entry.place, usize::try_from(header).unwrap_or(usize::MAX));
    (entry.mode, entry.mtime_ns) = (mode as u16, mtime_ns);
    entry.record_len = record.len() as u32;
    entry.header = header as u32;
    Ok(record)
}

/// The directory of an archive in which every member was placed. What the file begins with may be in a directory that stands
/// behind it there, not here.
///
/// # Errors
/// There are too many bytes of names.
pub(super) fn whole(comment: Vec<u8>, placed: Vec<Placed>) -> FsResult<Directory> {
    let mut new = Directory::of((comment, Vec::new()), placed.len());
    new.take(parents_first(placed, told_of))?;
    new.table.sort();
    Ok(new)
}

/// Put `added` in their places in the sorted `into`.
fn merge(into: &mut Vec<u32>, added: &[u32], mut compare: impl FnMut(u32, u32) -> std::cmp::Ordering) {
    let mut added = added.to_vec();
    added.sort_by(|&a, &b| compare(a, b));
    let old = std::mem::take(into);
    into.reserve_exact(old.len() + added.len());
    let mut left = added.into_iter().peekable();
    for number in old {
        while let Some(next) = left.next_if(|&next| compare(next, number).is_lt()) {
            into.push(next);
        }
        into.push(number);
    }
    into.extend(left);
}

fn tidy_names(table: &mut Table) -> FsResult<()> {
    let used: usize = table.entries.iter().map(|entry| usize::from(entry.path.1)).sum();
    let dead = table.names.len().saturating_sub(used);
    if dead <= DEAD_NAMES_MAX || dead <= used {
        return Ok(());
    }
    let old = std::mem::take(&mut table.names);
    for number in 0..table.entries.len() {
        let (at, len) = table.entries[number].path;
        table.entries[number].path = table.name(&old[at as usize..at as usize + usize::from(len)])?;
    }
    Ok(())
}

/// The ids of what the edits made, in their order.
pub(super) fn ids(plan: &Plan<'_>, placed: &[Placed]) -> Vec<Option<MemberId>> {
    let mut ids = vec![None; plan.makers];
    for &(number, id) in &plan.stays {
        ids[number] = Some(id);
    }
    for one in placed {
        if let Some(id) = one.number.and_then(|number| ids.get_mut(number)) {
            *id = Some(one.entry.id);
        }
    }
    ids
}
