//! Turning differences into changes, in an order that is true at every step.
//!
//! Files that are gone come first; then new and moved names, parents before what is in them and no name before the one it
//! takes is free; directories that are gone come last, or before what takes their name. What moved in circles is told as exchanges.

use super::Recovery;
use super::claims::Claims;
use super::tree::{Appeared, Differences, Gone};
use crate::bucket::NODE;
use crate::change::{Cause, Content, Evidence, Op, Row};
use crate::error::FsResult;
use crate::inode::Node;
use crate::intent::{At, Intent};
use crate::path::BucketPath;
use crate::recorder::{Namespace, Recorder, at_of};
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A name that is there now; `from` is the reported one it came from.
struct Item {
    new: Appeared,
    from: Option<At>,
}

pub(super) struct Replay<'a> {
    recorder: &'a Arc<Recorder>,
    names: &'a Namespace<'a>,
    claims: &'a Claims<'a>,
    recovery: &'a mut Recovery,
    /// Intents noted for what no intent had claimed.
    pub(super) answered: Vec<u64>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        recorder: &'a Arc<Recorder>,
        names: &'a Namespace<'a>,
        claims: &'a Claims<'a>,
        recovery: &'a mut Recovery,
    ) -> Self {
        Self { recorder, names, claims, recovery, answered: Vec::new() }
    }

    pub(super) fn run(&mut self, differences: Differences) -> FsResult<()> {
        let Differences { dirs, appeared, mut gone, changed } = differences;
        let (mut items, mut left) = (Vec::new(), HashSet::new());
        for new in appeared {
            let path = self.recorder.path(&new.dir, &new.name)?;
            if self.claims.name(&new.at(), &path, new.stat.ctime_ns).is_none() {
                self.recovery.foreign += 1;
                continue;
            }
            self.answer_for(Intent::Create { at: new.at() })?;
            let from = self.moved_from(&new, &dirs, &mut gone, &left)?;
            left.extend(from.clone());
            items.push(Item { new, from });
        }
        self.claim_gone(&items, &mut gone)?;
        let (mut lost_dirs, lost_files): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|lost| lost.row.kind == Kind::Directory);
        for lost in lost_files {
            self.gone(lost)?;
        }
        self.replaced(&items, &mut lost_dirs)?;
        self.work_off(items, &mut lost_dirs)?;
        // Deepest first: a directory goes after what was in it.
        for lost in lost_dirs.into_iter().rev() {
            self.gone(lost)?;
        }
        for (node, stat, at) in changed {
            let row = self.recorder.inode_row(node.id)?;
            let settled = row.map_or(0, |row| row.intent);
            let path = self.recorder.path(&at.0, &at.1)?;
            match self.claims.content(node.id.0, settled, &path, stat.ctime_ns) {
                Some(_) if node.kind == Kind::Directory => {
                    let sealed = Some((stat.size, stat.ctime_ns));
                    self.answer_for(Intent::Write {
                        inode: node.id.0,
                        at: (at.0.id.0, at.1.as_bytes().to_vec()),
                        sealed,
                        foreign: false,
                    })?;
                    self.new_mode(&node, path, &stat)?;
                }
                Some(cause) => self.requeue(&node, cause, &stat)?,
                None => self.recovery.foreign += 1,
            }
        }
        Ok(())
    }

    /// Note what is told now and was not claimed by an intent but by its time, so that a second crash finds an intent.
    fn answer_for(&mut self, intent: Intent) -> FsResult<()> {
        if self.claims.go_by_time() {
            self.answered.push(self.recorder.intents.note(intent, NODE.uid, NODE.pid)?);
        }
        Ok(())
    }

    /// Which of what is gone wizefs answers for: a claimed name, and what was in a directory that went or was replaced so.
    fn claim_gone(&mut self, items: &[Item], gone: &mut [Gone]) -> FsResult<()> {
        let mut ours: HashSet<u64> =
            items.iter().filter_map(|item| item.new.replaced.as_ref()).map(|row| row.id).collect();
        // Parents come before what was in them.
        for lost in gone {
            let path = self.path_by_rows(&lost.at)?;
            let claimed = path.is_some_and(|path| self.claims.name(&lost.at, &path, lost.dir_ctime_ns).is_some());
            lost.ours = claimed || (lost.with_parent && ours.contains(&lost.at.0));
            if lost.ours {
                ours.insert(lost.row.id);
                self.answer_for(Intent::Remove { at: lost.at.clone(), inode: lost.row.id })?;
            }
        }
        Ok(())
    }

    /// Names that are now of another kind: what they were is gone, unless it moved.
    fn replaced(&mut self, items: &[Item], lost_dirs: &mut Vec<Gone>) -> FsResult<()> {
        for item in items {
            let Some(row) = item.new.replaced.as_ref().filter(|row| row.kind != item.new.node.kind) else {
                continue;
            };
            let at = item.new.at();
            if items.iter().any(|other| other.from.as_ref() == Some(&at)) {
                continue;
            }
            let lost = Gone { at, row: row.clone(), dir_ctime_ns: 0, with_parent: true, ours: true };
            if row.kind == Kind::Directory {
                lost_dirs.insert(0, lost);
            } else {
                self.gone(lost)?;
            }
        }
        Ok(())
    }

    /// The reported name `new` came from, if that name is gone or now another inode's, and no other name of the inode (a hard
    /// link) came from there: those in `left`.
    fn moved_from(
        &self,
        new: &Appeared,
        dirs: &HashMap<Id, Arc<Node>>,
        gone: &mut Vec<Gone>,
        left: &HashSet<At>,
    ) -> FsResult<Option<At>> {
        let Some(row) = self.recorder.inode_row(new.node.id)? else {
            return Ok(None);
        };
        let here = new.at();
        // A directory has one name: wherever that was lost, this is it.
        if new.node.kind == Kind::Directory
            && let Some(index) = gone.iter().position(|lost| lost.row.id == new.node.id.0)
        {
            return Ok(Some(gone.remove(index).at));
        }
        for link in row.links.iter().filter(|link| **link != here && !left.contains(*link)) {
            if let Some(index) = gone.iter().position(|lost| lost.at == *link) {
                gone.remove(index);
                return Ok(Some(link.clone()));
            }
            // Found in the tree by identity: it may have moved itself.
            let Some(dir) = dirs.get(&Id(link.0)) else {
                continue;
            };
            let there = Stat::of_name_opt(&*dir.fd()?, OsStr::from_bytes(&link.1))?;
            let still = there.is_some_and(|s| (s.dev, s.ino) == new.node.backing);
            let known = self.recorder.name_row(Id(link.0), OsStr::from_bytes(&link.1))?;
            if !still && known.is_some_and(|row| row.id == new.node.id.0) {
                return Ok(Some(link.clone()));
            }
        }
        Ok(None)
    }

    /// Tell of every item when its turn has come, and right before it of lost directories whose name it takes.
    fn work_off(&mut self, mut items: Vec<Item>, lost_dirs: &mut Vec<Gone>) -> FsResult<()> {
        while !items.is_empty() {
            if let Some(index) = self.next_free(&items)? {
                let item = items.remove(index);
                self.make_way(&item.new, lost_dirs)?;
                match &item.from {
                    Some(from) => self.moved(&item.new, from, None)?,
                    None => self.appeared(&item.new)?,
                }
                continue;
            }
            // In circles: one of them changes places with the one whose name it takes, or steps aside.
            if let Some((index, occupant)) = self.exchangeable(&items)? {
                let from = items[index].from.clone();
                if let Some(from) = &from {
                    self.moved(&items[index].new, from, Some(&items[occupant].new.node))?;
                }
                items[occupant].from = from;
                items.remove(index);
                // The exchange may have brought the other to where it belongs.
                for item in items.extract_if(.., |item| item.from == Some(item.new.at())) {
                    self.arrived(&item.new)?;
                }
                continue;
            }
            match items.iter_mut().find(|item| item.from.as_ref().is_some_and(|from| *from != item.new.aside())) {
                Some(item) => self.step_aside(item)?,
                None => {
                    let item = items.remove(0);
                    self.appeared(&item.new)?;
                }
            }
        }
        Ok(())
    }

    /// An item and the one whose name it takes, if they can change places: neither is to come into the other, and the
    /// directory of the first is told of.
    fn exchangeable(&self, items: &[Item]) -> FsResult<Option<(usize, usize)>> {
        for (index, item) in items.iter().enumerate() {
            let (Some(from), to) = (&item.from, item.new.at()) else { continue };
            let untold = |other: &Item| other.from.is_none() && other.new.node.id == item.new.dir.id;
            let occupant = items.iter().position(|other| other.from.as_ref() == Some(&to));
            let Some(occupant) = occupant.filter(|_| !items.iter().any(untold)) else { continue };
            let other = items[occupant].new.node.id.0;
            if occupant != index && !self.is_below(to.0, item.new.node.id.0)? && !self.is_below(from.0, other)? {
                return Ok(Some((index, occupant)));
            }
        }
        Ok(None)
    }

    /// Move what goes in circles to a name of its own at the top, so that the others can go on: `mv a t; mkdir a; mv t a/b`
    /// needs a third name in any telling.
    fn step_aside(&mut self, item: &mut Item) -> FsResult<()> {
        let Some(from) = item.from.take() else { return Ok(()) };
        let Some(from_path) = self.path_by_rows(&from)? else { return Ok(()) };
        let (node, to) = (&item.new.node, item.new.aside());
        let to_path = BucketPath::new(to.1.clone())?;
        let key = |at: &At| table::name_key(Id(at.0), OsStr::from_bytes(&at.1));
        let mut rows =
            vec![table::set(key(&to), &NameRow { id: node.id.0, kind: node.kind })?, table::delete(key(&from))];
        rows.extend(self.relinked(node, &from, &to)?);
        self.emit(Op::Rename { from: from_path, to: to_path }, rows);
        item.from = Some(to);
        Ok(())
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

    /// The first item whose directory is told of (wherever the ledger has it now: what is in it follows when it moves), and
    /// whose name nobody has who must leave first.
    fn next_free(&self, items: &[Item]) -> FsResult<Option<usize>> {
        'items: for (index, item) in items.iter().enumerate() {
            let at = item.new.at();
            if self.is_below(at.0, item.new.node.id.0)? {
                continue;
            }
            let occupant = self.recorder.name_row(Id(at.0), OsStr::from_bytes(&at.1))?;
            for other in items {
                let Some(from) = &other.from else {
                    if other.new.node.id == item.new.dir.id {
                        continue 'items;
                    }
                    continue;
                };
                let takes_its_name = *from == at && !std::ptr::eq(other, item);
                let is_inside = match &occupant {
                    Some(row) if row.kind == Kind::Directory => self.is_below(from.0, row.id)?,
                    _ => false,
                };
                if takes_its_name || is_inside {
                    continue 'items;
                }
            }
            return Ok(Some(index));
        }
        Ok(None)
    }

    /// Whether the directory `dir` is `ancestor` or was reported below it.
    fn is_below(&self, mut dir: u64, ancestor: u64) -> FsResult<bool> {
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
    fn parent_of(&self, dir: u64) -> FsResult<Option<At>> {
        let Some(bytes) = self.recorder.stream.row(&table::inode_key(Id(dir)))? else {
            return Ok(None);
        };
        let row: InodeRow = table::decode(&bytes)?;
        Ok(row.links.into_iter().next())
    }

    /// Tell of a move; `occupant` is the inode that takes the old name in exchange.
    fn moved(&mut self, new: &Appeared, from: &At, occupant: Option<&Node>) -> FsResult<()> {
        let Some(from_path) = self.path_by_rows(from)? else {
            return self.appeared(new);
        };
        let to = new.at();
        let to_path = self.place(new)?;
        let node = &new.node;
        let to_key = table::name_key(Id(to.0), OsStr::from_bytes(&to.1));
        let from_key = table::name_key(Id(from.0), OsStr::from_bytes(&from.1));
        let mut rows = vec![table::set(to_key, &NameRow { id: node.id.0, kind: node.kind })?];
        rows.extend(self.relinked(node, from, &to)?);
        let op = match occupant {
            Some(other) => {
                rows.push(table::set(from_key, &NameRow { id: other.id.0, kind: other.kind })?);
                rows.extend(self.relinked(other, &to, from)?);
                Op::Exchange { a: from_path, b: to_path }
            }
            None => {
                rows.extend(self.displaced(&to, node)?);
                rows.push(table::delete(from_key));
                Op::Rename { from: from_path, to: to_path }
            }
        };
        self.imply_dirs(new, &mut rows)?;
        self.emit(op, rows);
        self.arrived(new)
    }

    /// What moved is told of: now what it holds.
    fn arrived(&mut self, new: &Appeared) -> FsResult<()> {
        let (node, stat) = (&new.node, &new.stat);
        match node.kind {
            Kind::File => self.requeue(node, Cause::Recovered, stat)?,
            Kind::Directory => self.new_mode(node, self.place(new)?, stat)?,
            _ => {}
        }
        Ok(())
    }

    /// Tell of the permission bits of a reported directory if they are new.
    fn new_mode(&mut self, node: &Node, path: BucketPath, stat: &Stat) -> FsResult<()> {
        if let Some(mut row) = self.recorder.inode_row(node.id)?
            && row.mode != stat.mode
        {
            row.mode = stat.mode;
            let rows = vec![table::set(table::inode_key(node.id), &row)?];
            self.emit(Op::Mkdir { path, mode: stat.mode }, rows);
        }
        Ok(())
    }

    /// A directory that a rename took the name of has no row any more.
    fn displaced(&self, to: &At, node: &Node) -> FsResult<Option<Row>> {
        let row = self.recorder.name_row(Id(to.0), OsStr::from_bytes(&to.1))?;
        let other = row.filter(|row| row.kind == Kind::Directory && row.id != node.id.0);
        Ok(other.map(|row| table::delete(table::inode_key(Id(row.id)))))
    }

    fn relinked(&self, node: &Node, from: &At, to: &At) -> FsResult<Option<Row>> {
        let Some(mut row) = self.recorder.inode_row(node.id)? else {
            return Ok(None);
        };
        row.links.retain(|link| link != from && link != to);
        row.links.push(to.clone());
        Ok(Some(table::set(table::inode_key(node.id), &row)?))
    }

    fn appeared(&mut self, new: &Appeared) -> FsResult<()> {
        let path = self.place(new)?;
        let (node, stat) = (&new.node, &new.stat);
        match node.kind {
            Kind::File => self.requeue(node, Cause::Recovered, stat)?,
            Kind::Directory => {
                let mut rows = self.recorder.dir_rows(node, &new.dir, &new.name, stat)?;
                self.imply_dirs(new, &mut rows)?;
                self.emit(Op::Mkdir { path, mode: stat.mode }, rows);
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&*node.fd()?, "", Vec::new())?.into_bytes();
                let mut rows = self.recorder.rows_of(node.id, &new.dir, &new.name, stat, Settled::Symlink)?;
                self.imply_dirs(new, &mut rows)?;
                let put = table::put(path, Content::Symlink { target }, stat, Evidence::Lease);
                self.emit(Op::Put(put), rows);
            }
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, lost: Gone) -> FsResult<()> {
        let key = table::name_key(Id(lost.at.0), OsStr::from_bytes(&lost.at.1));
        let Some(path) = self.path_by_rows(&lost.at)? else {
            // Its directory went with what took its place.
            self.recorder.stream.note(vec![table::delete(key)]);
            return Ok(());
        };
        if !lost.ours {
            self.recovery.foreign += 1;
            return Ok(());
        }
        let mut rows = vec![table::delete(key)];
        if let Some(bytes) = self.recorder.stream.row(&table::inode_key(Id(lost.row.id)))? {
            let mut row: InodeRow = table::decode(&bytes)?;
            row.links.retain(|link| *link != lost.at);
            let key = table::inode_key(Id(lost.row.id));
            rows.push(if row.links.is_empty() { table::delete(key) } else { table::set(key, &row)? });
        }
        let op = match lost.row.kind {
            Kind::Directory => Op::Rmdir { path },
            _ => Op::Remove { path },
        };
        self.emit(op, rows);
        Ok(())
    }

    /// Have the content of `node` looked at. That may take longer than the names that were found with it, whose intents end
    /// with this recovery, so it has one of its own.
    fn requeue(&mut self, node: &Arc<Node>, cause: Cause, stat: &Stat) -> FsResult<()> {
        let row = self.recorder.inode_row(node.id)?;
        let id = self.recorder.note_write(node, row.as_ref(), cause == Cause::Foreign, NODE)?;
        let mut ids = vec![id];
        for name in node.names().iter().skip(1) {
            let intent = Intent::Link { at: at_of(name), inode: node.id.0 };
            ids.push(self.recorder.intents.note(intent, NODE.uid, NODE.pid)?);
        }
        self.recorder.mark_dirty(node, &mut node.writing.lock(), ids, cause, stat);
        self.recorder.queue.push(node, true);
        self.recovery.recovered += 1;
        Ok(())
    }

    fn emit(&mut self, op: Op, rows: Vec<Row>) {
        self.recorder.emit(self.names, Cause::Recovered, op, rows, Vec::new());
        self.recovery.recovered += 1;
    }

    /// The path of `new` in its directory where the ledger has that now.
    fn place(&self, new: &Appeared) -> FsResult<BucketPath> {
        match self.dir_by_rows(new.dir.id.0)? {
            Some(dir) => Ok(dir.join(&new.name)?),
            None => self.recorder.path(&new.dir, &new.name),
        }
    }

    /// Rows of the directories that `new` implies, when its own is not on the ledger.
    fn imply_dirs(&self, new: &Appeared, rows: &mut Vec<Row>) -> FsResult<()> {
        match self.dir_by_rows(new.dir.id.0)? {
            Some(_) => Ok(()),
            None => self.recorder.imply_dirs(&new.dir, rows),
        }
    }

    /// The path a reported name has on the ledger now; `None` when it is not reported.
    fn path_by_rows(&self, at: &At) -> FsResult<Option<BucketPath>> {
        let name = OsStr::from_bytes(&at.1);
        if self.recorder.name_row(Id(at.0), name)?.is_none() {
            return Ok(None);
        }
        let dir = self.dir_by_rows(at.0)?;
        Ok(dir.map(|dir| dir.join(name)).transpose()?)
    }

    /// The path a reported directory has on the ledger now.
    fn dir_by_rows(&self, mut dir: u64) -> FsResult<Option<BucketPath>> {
        let mut names = Vec::new();
        while dir != Id::ROOT.0 {
            let Some((parent, name)) = self.parent_of(dir)? else {
                return Ok(None);
            };
            names.push(name);
            dir = parent;
        }
        names.reverse();
        Ok(Some(BucketPath::new(names.join(&b'/'))?))
    }
}
