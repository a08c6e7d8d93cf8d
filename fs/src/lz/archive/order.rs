//! The order of members, in the directory and, where all are written anew, in the file.
//!
//! The record of a directory stands before those of what is in it: programs that unpack make a directory when the first member
//! in it comes, and several of them do not give it its mode and time any more when its own record comes later. What replaces a
//! member has its place, because programs look for some members where they are used to be: the manifest of a JAR. The first
//! member of an EPUB or OpenDocument is `mimetype`, stored and without extra fields (OCF 3.3, section 4.3.2).

use super::plan::{Changed, Made, Plan};
use super::table::Table;
use super::writer::Placed;
use crate::stat::Kind;
use std::collections::{BTreeMap, HashMap};

/// The member that tells programs what kind of archive it is, from its place in the file.
pub(super) const MIMETYPE: &[u8] = b"mimetype";

/// A member on its way into a new file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'a> {
    /// An entry that stays what it is.
    Stays(u32),
    /// One with another path, mode or time.
    Moves(&'a Changed),
    /// A new one.
    Makes(&'a Made<'a>),
}

/// Where what is new comes among the entries there are.
pub(super) struct Order<T> {
    /// By the entry that they come before.
    pub(super) before: BTreeMap<u32, Vec<T>>,
    /// Behind all.
    pub(super) last: Vec<T>,
}

impl<T> Order<T> {
    fn among(table: &Table, plan: &Plan<'_>, new: Vec<T>, told: impl Fn(&T) -> (Vec<u8>, bool)) -> Self {
        let mut order = Self { before: BTreeMap::new(), last: Vec::new() };
        for one in new {
            let (path, is_directory) = told(&one);
            let replaced = table.find(&path).filter(|number| plan.leaving.contains(number));
            // Whatever is there now: what replaces it has its place.
            let first_below =
                || table.below(&[&path[..], b"/"].concat()).iter().copied().min().filter(|_| is_directory);
            match replaced.into_iter().chain(first_below()).min() {
                Some(number) => order.before.entry(number).or_default().push(one),
                None => order.last.push(one),
            }
        }
        for together in order.before.values_mut().chain([&mut order.last]) {
            *together = parents_first(std::mem::take(together), &told);
        }
        order
    }
}

impl Order<Placed> {
    /// Of `placed` in the directory that `plan` makes of `table`.
    pub(super) fn of(table: &Table, plan: &Plan<'_>, placed: Vec<Placed>) -> Self {
        Self::among(table, plan, placed, told_of)
    }
}

/// The path of a member, and whether it is a directory.
pub(super) fn told_of(placed: &Placed) -> (Vec<u8>, bool) {
    (placed.path.clone(), placed.entry.kind == Some(Kind::Directory))
}

/// Directories before what is in them, and all else in its order.
pub(super) fn parents_first<T>(items: Vec<T>, told: impl Fn(&T) -> (Vec<u8>, bool)) -> Vec<T> {
    let paths: Vec<(Vec<u8>, bool)> = items.iter().map(told).collect();
    let of_directories = paths.iter().enumerate().filter(|(_, (_, is_directory))| *is_directory);
    let directories: HashMap<&[u8], usize> = of_directories.map(|(at, (path, _))| (&path[..], at)).collect();
    if directories.is_empty() {
        return items;
    }
    let mut left: Vec<Option<T>> = items.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(left.len());
    for (at, (path, _)) in paths.iter().enumerate() {
        if left[at].is_none() {
            continue;
        }
        for cut in (0..path.len()).filter(|&cut| path[cut] == b'/') {
            let parent = directories.get(&path[..cut]).and_then(|&parent| left[parent].take());
            ordered.extend(parent);
        }
        ordered.extend(left[at].take());
    }
    ordered
}

/// All members after `plan`, as they stand in a new file. `is_big`: it is not written as a whole at every commit, so what it
/// begins with should not leave soon. Where the first one leaves, a directory takes its place, or else the oldest.
pub(super) fn of_file<'a>(table: &Table, plan: &'a Plan<'_>, is_big: bool) -> Vec<Item<'a>> {
    let told = |item: &Item<'_>| match item {
        Item::Stays(number) => {
            (table.path(*number).to_vec(), table.entries[*number as usize].kind == Some(Kind::Directory))
        }
        Item::Moves(changed) => {
            let path = changed.path.as_deref().unwrap_or_else(|| table.path(changed.old));
            (path.to_vec(), table.entries[changed.old as usize].kind == Some(Kind::Directory))
        }
        Item::Makes(made) => (made.path.clone(), made.is_directory()),
    };
    let moves = plan.changed.iter().filter(|changed| changed.moves).map(Item::Moves);
    let mut order = Order::among(table, plan, moves.chain(plan.made.iter().map(Item::Makes)).collect(), told);
    let moving: std::collections::BTreeSet<u32> =
        plan.changed.iter().filter(|changed| changed.moves).map(|changed| changed.old).collect();
    let mut items = Vec::with_capacity(table.entries.len() + plan.made.len());
    for (number, entry) in (0..).zip(&table.entries) {
        items.extend(order.before.remove(&number).unwrap_or_default());
        let is_hidden_twin = entry.kind.is_none() && table.find(table.path(number)).is_some();
        if !plan.leaving.contains(&number) && !moving.contains(&number) && !is_hidden_twin {
            items.push(Item::Stays(number));
        }
    }
    items.extend(order.last);
    let mut items = parents_first(items, told);
    if is_big && !matches!(items.first(), Some(Item::Stays(_))) {
        let stays = |item: &Item<'_>| match item {
            Item::Stays(number) => Some(&table.entries[*number as usize]),
            _ => None,
        };
        let directory =
            items.iter().position(|item| stays(item).is_some_and(|entry| entry.kind == Some(Kind::Directory)));
        let oldest = || {
            (0..items.len())
                .filter(|&at| stays(&items[at]).is_some())
                .min_by_key(|&at| stays(&items[at]).map(|entry| entry.mtime_ns))
        };
        let anchor = directory.or_else(oldest);
        anchor.into_iter().for_each(|at| items[..=at].rotate_right(1));
    }
    if let Some(at) = items.iter().position(|item| told(item) == (MIMETYPE.to_vec(), false)) {
        items[..=at].rotate_right(1);
    }
    items
}
