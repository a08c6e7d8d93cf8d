//! In which order names are told of: no name before the one it takes is free, and circles undone by exchanges.

use super::replay::{Item, Replay};
use super::tree::{Appeared, Gone};
use crate::change::Op;
use crate::error::FsResult;
use crate::intent::At;
use crate::path::BucketPath;
use crate::stat::{Id, Kind};
use crate::table::{self, InodeRow, NameRow};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What is not told of yet, and what each step must know of all of it.
struct Waiting {
    items: VecDeque<Item>,
    /// Inodes that the ledger does not know: nothing can be told of what is in them.
    untold: HashSet<Id>,
    /// How many come from each reported name.
    froms: HashMap<At, usize>,
}

impl Waiting {
    fn new(items: Vec<Item>) -> Self {
        let mut waiting = Self { items: items.into(), untold: HashSet::new(), froms: HashMap::new() };
        for index in 0..waiting.items.len() {
            waiting.count(index);
        }
        waiting
    }

    fn count(&mut self, index: usize) {
        let item = &self.items[index];
        match &item.from {
            Some(from) => *self.froms.entry(from.clone()).or_default() += 1,
            None => drop(self.untold.insert(item.new.node.id)),
        }
    }

    fn discount(&mut self, index: usize) {
        let item = &self.items[index];
        let Some(from) = &item.from else {
            self.untold.remove(&item.new.node.id);
            return;
        };
        if let Some(count) = self.froms.get_mut(from) {
            *count -= 1;
            if *count == 0 {
                self.froms.remove(from);
            }
        }
    }

    fn take(&mut self, index: usize) -> Option<Item> {
        self.discount(index);
        self.items.remove(index)
    }

    /// The reported name of an item is another one now.
    fn comes_from(&mut self, index: usize, from: Option<At>) {
        self.discount(index);
        self.items[index].from = from;
        self.count(index);
    }

    /// Take out what is reported where it belongs.
    fn take_arrived(&mut self) -> Vec<Item> {
        let mut arrived = Vec::new();
        while let Some(index) = self.items.iter().position(|item| item.from == Some(item.new.at())) {
            arrived.extend(self.take(index));
        }
        arrived
    }
}

impl Replay<'_> {
    /// Tell of every item when its turn has come, and right before it of lost directories whose name it takes.
    pub(super) fn work_off(&mut self, items: Vec<Item>, lost_dirs: &mut Vec<Gone>) -> FsResult<()> {
        let mut waiting = Waiting::new(items);
        while !waiting.items.is_empty() {
            if let Some(item) = self.next_free(&mut waiting)? {
                self.make_way(&item.new, lost_dirs)?;
                match &item.from {
                    Some(from) => self.moved(&item.new, from, None)?,
                    None => self.appeared(&item.new)?,
                }
                continue;
            }
            // In circles: one of them changes places with the one whose name it takes, or steps aside.
            if let Some((index, occupant)) = self.exchangeable(&waiting)? {
                let from = waiting.items[index].from.clone();
                if let Some(from) = &from {
                    self.moved(&waiting.items[index].new, from, Some(&waiting.items[occupant].new.node))?;
                }
                waiting.comes_from(occupant, from);
                drop(waiting.take(index));
                // The exchange may have brought the other to where it belongs.
                for item in waiting.take_arrived() {
                    self.arrived(&item.new)?;
                }
                continue;
            }
            let may_step_aside = |item: &Item| item.from.as_ref().is_some_and(|from| *from != item.new.aside());
            match waiting.items.iter().position(may_step_aside) {
                Some(index) => {
                    let aside = self.step_aside(&waiting.items[index])?;
                    waiting.comes_from(index, aside);
                }
                None => {
                    if let Some(item) = waiting.take(0) {
                        self.appeared(&item.new)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// An item and the one whose name it takes, if they can change places: neither is to come into the other, and the
    /// directory of the first is told of.
    fn exchangeable(&self, waiting: &Waiting) -> FsResult<Option<(usize, usize)>> {
        for (index, item) in waiting.items.iter().enumerate() {
            let (Some(from), to) = (&item.from, item.new.at()) else { continue };
            if waiting.untold.contains(&item.new.dir.id) || !waiting.froms.contains_key(&to) {
                continue;
            }
            let occupant = waiting.items.iter().position(|other| other.from.as_ref() == Some(&to));
            let Some(occupant) = occupant.filter(|occupant| *occupant != index) else { continue };
            let other = waiting.items[occupant].new.node.id.0;
            if !self.is_below(to.0, item.new.node.id.0)? && !self.is_below(from.0, other)? {
                return Ok(Some((index, occupant)));
            }
        }
        Ok(None)
    }

    /// Move what goes in circles to a name of its own at the top, so that the others can go on: `mv a t; mkdir a; mv t a/b`
    /// needs a third name in any telling.
    fn step_aside(&mut self, item: &Item) -> FsResult<Option<At>> {
        let Some(from) = &item.from else { return Ok(None) };
        let Some(from_path) = self.path_by_rows(from)? else { return Ok(None) };
        let (node, to) = (&item.new.node, item.new.aside());
        let to_path = BucketPath::new(to.1.clone())?;
        let key = |at: &At| table::name_key(Id(at.0), OsStr::from_bytes(&at.1));
        let mut rows =
            vec![table::set(key(&to), &NameRow { id: node.id.0, kind: node.kind })?, table::delete(key(from))];
        rows.extend(self.relinked(node, from, &to)?);
        self.emit(Op::Rename { from: from_path, to: to_path }, rows);
        Ok(Some(to))
    }

    /// Tell of the lost directories at and below the name that `new` takes, while the table still leads to them.
    fn make_way(&mut self, new: &Appeared, lost_dirs: &mut Vec<Gone>) -> FsResult<()> {
        let at = new.at();
        let occupant = self.recorder.name_row(Id(at.0), OsStr::from_bytes(&at.1))?;
        let Some(occupant) = occupant.filter(|row| row.kind == Kind::Directory) else {
            return Ok(());
        };
        let mut index = lost_dirs.len();
        while index > 0 {
            index -= 1;
            let lost = &lost_dirs[index];
            if lost.at == at || self.is_below(lost.at.0, occupant.id)? {
                let lost = lost_dirs.remove(index);
                self.gone(lost)?;
            }
        }
        Ok(())
    }

    /// Take out the first item whose directory is told of (wherever the ledger has it now: what is in it follows when it moves),
    /// and whose name nobody has who must leave first.
    fn next_free(&self, waiting: &mut Waiting) -> FsResult<Option<Item>> {
        for index in 0..waiting.items.len() {
            if self.is_free(&waiting.items[index], waiting)? {
                return Ok(waiting.take(index));
            }
        }
        Ok(None)
    }

    fn is_free(&self, item: &Item, waiting: &Waiting) -> FsResult<bool> {
        let at = item.new.at();
        let own = usize::from(item.from.as_ref() == Some(&at));
        if waiting.untold.contains(&item.new.dir.id) || waiting.froms.get(&at).is_some_and(|count| *count > own) {
            return Ok(false);
        }
        if item.new.node.kind == Kind::Directory && self.is_below(at.0, item.new.node.id.0)? {
            return Ok(false);
        }
        let occupant = self.recorder.name_row(Id(at.0), OsStr::from_bytes(&at.1))?;
        let Some(occupant) = occupant.filter(|row| row.kind == Kind::Directory) else { return Ok(true) };
        for from in waiting.froms.keys() {
            if self.is_below(from.0, occupant.id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the directory `dir` is `ancestor` or was reported below it.
    pub(super) fn is_below(&self, mut dir: u64, ancestor: u64) -> FsResult<bool> {
        while dir != Id::ROOT.0 {
            if dir == ancestor {
                return Ok(true);
            }
            match self.parent_of(dir)? {
                Some((parent, _)) => dir = parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// The reported name of a directory.
    pub(super) fn parent_of(&self, dir: u64) -> FsResult<Option<At>> {
        let Some(bytes) = self.recorder.stream.row(&table::inode_key(Id(dir)))? else {
            return Ok(None);
        };
        let row: InodeRow = table::decode(&bytes)?;
        Ok(row.links.into_iter().next())
    }
}
