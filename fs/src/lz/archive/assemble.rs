//! A new directory: the records that stay, and those of members that were placed.

use super::plan::Plan;
use super::table::{Fit, Table};
use super::writer::{Placed, head_of};
use super::{MemberId, format};
use crate::error::{FsError, FsResult};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Names are written together anew when more of their bytes than this belong to nothing, and more than half.
const DEAD_NAMES_MAX: usize = 1 << 20;

/// The bytes of a directory, and what it says; places of records count from its beginning until it has one.
pub(super) struct Directory {
    pub(super) bytes: Vec<u8>,
    pub(super) table: Table,
}

impl Directory {
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
    let mut bytes = Vec::with_capacity(old.len() + placed.iter().map(|one| one.record.len()).sum::<usize>());
    let mut entries = Vec::with_capacity(table.entries.len() + placed.len());
    let mut numbers = vec![GONE; table.entries.len()];
    for (number, entry) in table.entries.iter().enumerate() {
        let number = number as u32;
        if plan.leaving.contains(&number) {
            continue;
        }
        numbers[number as usize] = entries.len() as u32;
        let mut entry = entry.clone();
        let from = (entry.record - table.dir.0) as usize;
        let at = bytes.len() as u64;
        match changed.get(&number) {
            None => bytes.extend_from_slice(&old[from..from + entry.record_len as usize]),
            Some(&(mode, mtime_ns)) => {
                let mut head = head_of(file, &entry, table.path(number), Some((mode, mtime_ns)), false)?;
                let header = entry.header_len(file)?;
                let record = head.central(entry.place, usize::try_from(header).unwrap_or(usize::MAX));
                (entry.mode, entry.mtime_ns) = (mode as u16, mtime_ns);
                entry.record_len = record.len() as u32;
                entry.header = header as u32;
                bytes.extend_from_slice(&record);
            }
        }
        entry.record = at;
        entries.push(entry);
    }
    let mut order: Vec<u32> = table.order.iter().map(|&old| numbers[old as usize]).filter(|&new| new != GONE).collect();
    let mut by_id: Vec<u32> = table.by_id.iter().map(|&old| numbers[old as usize]).filter(|&new| new != GONE).collect();
    let mut new = Table {
        entries,
        names: table.names.clone(),
        order: Vec::new(),
        by_id: Vec::new(),
        comment: table.comment.clone(),
        fit: Fit::InPlace,
        dir: (0, 0),
        length: 0,
    };
    let first = new.entries.len() as u32;
    take(&mut new, &mut bytes, placed)?;
    let added: Vec<u32> = (first..new.entries.len() as u32).collect();
    merge(&mut order, &added, |a, b| new.path(a).cmp(new.path(b)));
    merge(&mut by_id, &added, |a, b| new.entries[a as usize].id.cmp(&new.entries[b as usize].id));
    (new.order, new.by_id) = (order, by_id);
    tidy_names(&mut new)?;
    Ok(Directory { bytes, table: new })
}

/// The directory of an archive in which every member was placed.
///
/// # Errors
/// There are too many bytes of names.
pub(super) fn whole(comment: Vec<u8>, placed: Vec<Placed>) -> FsResult<Directory> {
    let mut table = Table {
        entries: Vec::with_capacity(placed.len()),
        names: Vec::new(),
        order: Vec::new(),
        by_id: Vec::new(),
        comment,
        fit: Fit::InPlace,
        dir: (0, 0),
        length: 0,
    };
    let mut bytes = Vec::new();
    take(&mut table, &mut bytes, placed)?;
    table.sort();
    Ok(Directory { bytes, table })
}

fn take(table: &mut Table, bytes: &mut Vec<u8>, placed: Vec<Placed>) -> FsResult<()> {
    for one in placed {
        let mut entry = one.entry;
        entry.path = table.name(&one.path)?;
        entry.record = bytes.len() as u64;
        bytes.extend_from_slice(&one.record);
        table.entries.push(entry);
    }
    if u32::try_from(table.entries.len()).is_ok_and(|count| count < GONE) {
        return Ok(());
    }
    Err(FsError::Archive("more than 4 G members".into()))
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
