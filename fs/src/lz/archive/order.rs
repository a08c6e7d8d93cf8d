//! The order of records in a directory: that of a directory before those of what is in it.
//!
//! Programs that unpack make a directory when the first member in it comes, and several of them do not give it its mode and
//! time any more when its own record comes later.

use super::plan::Plan;
use super::table::Table;
use super::writer::Placed;
use crate::stat::Kind;
use std::collections::{BTreeMap, HashMap};

/// Where placed members come among the entries that stay.
pub(super) struct Order {
    /// By the entry that they come before.
    pub(super) before: BTreeMap<u32, Vec<Placed>>,
    /// Behind all.
    pub(super) last: Vec<Placed>,
}

impl Order {
    /// Of `placed` in the directory that `plan` makes of `table`.
    pub(super) fn of(table: &Table, plan: &Plan<'_>, placed: Vec<Placed>) -> Self {
        let mut order = Self { before: BTreeMap::new(), last: Vec::new() };
        for one in placed {
            match first_below(table, plan, &one) {
                Some(number) => order.before.entry(number).or_default().push(one),
                None => order.last.push(one),
            }
        }
        for together in order.before.values_mut().chain([&mut order.last]) {
            *together = parents_first(std::mem::take(together));
        }
        order
    }
}

/// The first entry that stays in a directory that was placed.
fn first_below(table: &Table, plan: &Plan<'_>, placed: &Placed) -> Option<u32> {
    if placed.entry.kind != Some(Kind::Directory) {
        return None;
    }
    let below = table.below(&[&placed.path[..], b"/"].concat()).iter().copied();
    below.filter(|number| !plan.leaving.contains(number)).min()
}

/// Directories before what is in them, and all else in its order.
pub(super) fn parents_first(placed: Vec<Placed>) -> Vec<Placed> {
    let of_directories = placed.iter().enumerate().filter(|(_, one)| one.entry.kind == Some(Kind::Directory));
    let directories: HashMap<Vec<u8>, usize> = of_directories.map(|(at, one)| (one.path.clone(), at)).collect();
    if directories.is_empty() {
        return placed;
    }
    let mut left: Vec<Option<Placed>> = placed.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(left.len());
    for at in 0..left.len() {
        let Some(path) = left[at].as_ref().map(|one| one.path.clone()) else { continue };
        for cut in (0..path.len()).filter(|&cut| path[cut] == b'/') {
            let parent = directories.get(&path[..cut]).and_then(|&parent| left[parent].take());
            ordered.extend(parent);
        }
        ordered.extend(left[at].take());
    }
    ordered
}
