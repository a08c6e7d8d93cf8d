//! What the session before left: its intents are replayed, and after an unclean boot the tree is compared with the table.
//!
//! Only what wizefs can answer for is recorded: a difference that an intent covers, or, after a power cut that may have
//! taken intents with it, one whose change time lies inside the session. Everything else is foreign and stays unsigned;
//! `verify` names it.

mod session;
mod tree;

pub use session::{Left, Session};

use crate::change::{Cause, Content, Evidence, Op};
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::intent::{At, Found, Intent};
use crate::path::BucketPath;
use crate::recorder::{Namespace, Recorder};
use crate::stat::{Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use crate::vfs::Ino;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use tree::{Appeared, Differences, Gone};

/// What was found and done at the start of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The session before did not end in order.
    pub unclean: bool,
    /// Names and contents recorded now, or on their way.
    pub recovered: u64,
    /// Differences that wizefs does not answer for.
    pub foreign: u64,
}

/// Replay what is left. Contents found changed are queued for the workers.
///
/// # Errors
/// Reading the backing or the sink.
pub fn recover(recorder: &Arc<Recorder>, found: &[Found], left: &Left) -> FsResult<Recovery> {
    let mut recovery = Recovery { unclean: left.unclean(), ..Recovery::default() };
    if found.is_empty() && !left.machine_went_down() {
        return Ok(recovery);
    }
    let names = recorder.lock_names();
    remove_stages(recorder, found)?;
    let differences = Differences::find(recorder)?;
    let claims = Claims::new(recorder, found, left)?;
    let mut replay = Replay { recorder, names: &names, claims: &claims, recovery: &mut recovery };
    replay.names(differences)?;
    let ids = found.iter().map(|f| f.id).collect();
    recorder.intents.end_after(recorder.stream.last(), ids);
    Ok(recovery)
}

/// Temporary files of a put that did not come to its end are not the user's.
fn remove_stages(recorder: &Arc<Recorder>, found: &[Found]) -> FsResult<()> {
    for Found { intent, .. } in found {
        let Intent::Stage { at: (dir, name) } = intent else {
            continue;
        };
        let Some(dir) = recorder.dir_by_rows(Ino(*dir))? else {
            continue;
        };
        match rustix::fs::unlinkat(&*dir.fd()?, OsStr::from_bytes(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(FsError::os("remove a temporary file", errno)),
        }
    }
    Ok(())
}

/// What wizefs answers for.
struct Claims<'a> {
    names: HashSet<&'a At>,
    /// Inodes that were being written, with the last intent and whether they had been found changed before.
    inodes: HashMap<u64, (u64, bool)>,
    /// Paths of changes whose data may have been lost with the power.
    unsealed: HashSet<BucketPath>,
    left: &'a Left,
}

impl<'a> Claims<'a> {
    fn new(recorder: &Recorder, found: &'a [Found], left: &'a Left) -> FsResult<Self> {
        let mut claims = Self { names: HashSet::new(), inodes: HashMap::new(), unsealed: HashSet::new(), left };
        for Found { id, intent, .. } in found {
            match intent {
                Intent::Write { ino, at, foreign, .. } => {
                    claims.names.insert(at);
                    let known = claims.inodes.entry(*ino).or_insert((*id, *foreign));
                    *known = (*id, known.1 || *foreign);
                }
                Intent::Create { at } | Intent::Stage { at } => {
                    claims.names.insert(at);
                }
                Intent::Remove { at, ino } | Intent::Link { at, ino } => {
                    claims.names.insert(at);
                    claims.touched(*ino, *id);
                }
                Intent::Rename { from, to, ino } => {
                    claims.names.extend([from, to]);
                    claims.touched(*ino, *id);
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

    fn touched(&mut self, ino: u64, id: u64) {
        let known = self.inodes.entry(ino).or_insert((id, false));
        known.0 = id;
    }

    /// The cause under which a difference at this name may be recorded; `None` leaves it foreign.
    fn name(&self, at: &At, path: &BucketPath, ctime_ns: i64) -> Option<Cause> {
        let ours = self.names.contains(at) || self.unsealed.contains(path);
        (ours || self.left.covers(ctime_ns)).then_some(Cause::Recovered)
    }

    /// The same for changed content of an inode last covered by intent `settled`.
    fn content(&self, ino: u64, settled: u64, path: &BucketPath, ctime_ns: i64) -> Option<Cause> {
        match self.inodes.get(&ino) {
            Some((_, true)) => Some(Cause::Foreign),
            Some((id, false)) if *id > settled => Some(Cause::Recovered),
            _ if self.unsealed.contains(path) || self.left.covers(ctime_ns) => Some(Cause::Recovered),
            _ => None,
        }
    }
}

struct Replay<'a> {
    recorder: &'a Arc<Recorder>,
    names: &'a Namespace<'a>,
    claims: &'a Claims<'a>,
    recovery: &'a mut Recovery,
}

/// A name that is now elsewhere.
struct Move {
    from: At,
    to: Appeared,
}

impl Replay<'_> {
    fn names(&mut self, differences: Differences) -> FsResult<()> {
        let Differences { appeared, mut gone, changed } = differences;
        let mut moves = Vec::new();
        // Parents come before what is in them, so a directory is there when its content is put.
        for new in appeared {
            let path = self.recorder.path(&new.dir, &new.name)?;
            if self.claims.name(&new.at(), &path, new.stat.ctime_ns).is_none() {
                self.recovery.foreign += 1;
                continue;
            }
            match self.moved_from(&new, &mut gone)? {
                Some(from) => moves.push(Move { from, to: new }),
                None => self.appeared(new, path)?,
            }
            self.unblocked(&mut moves, false)?;
        }
        self.unblocked(&mut moves, true)?;
        // Deepest first: a directory goes after what was in it.
        for lost in gone.into_iter().rev() {
            self.gone(lost)?;
        }
        for (node, stat, at) in changed {
            let row = self.recorder.inode_row(node.ino, node.btime_ns)?;
            let settled = row.map_or(0, |row| row.intent);
            let path = self.recorder.path(&at.0, &at.1)?;
            match self.claims.content(node.ino.0, settled, &path, stat.ctime_ns) {
                Some(cause) => self.requeue(&node, cause, &stat),
                None => self.recovery.foreign += 1,
            }
        }
        Ok(())
    }

    /// The reported name `new` came from, if that name is gone or now another inode's.
    fn moved_from(&self, new: &Appeared, gone: &mut Vec<Gone>) -> FsResult<Option<At>> {
        let Some(row) = self.recorder.inode_row(new.node.ino, new.stat.btime_ns)? else {
            return Ok(None);
        };
        let here = new.at();
        for link in row.links.iter().filter(|link| **link != here) {
            if let Some(index) = gone.iter().position(|lost| lost.at == *link) {
                gone.remove(index);
                return Ok(Some(link.clone()));
            }
            let Some(dir) = self.recorder.dir_by_rows(Ino(link.0))? else {
                continue;
            };
            let there = Stat::of_name_opt(&*dir.fd()?, OsStr::from_bytes(&link.1))?;
            let still = there.is_some_and(|s| (s.dev, s.ino) == new.node.id);
            let known = self.recorder.name_row(Ino(link.0), OsStr::from_bytes(&link.1))?;
            if !still && known.is_some_and(|row| row.ino == new.node.ino.0) {
                return Ok(Some(link.clone()));
            }
        }
        Ok(None)
    }

    /// Do the moves whose new name is free of an inode that must itself move. What remains in the end goes in circles, which
    /// exchanges undo one by one.
    fn unblocked(&mut self, moves: &mut Vec<Move>, last: bool) -> FsResult<()> {
        while !moves.is_empty() {
            let free = (0..moves.len()).find(|&i| {
                let target = moves[i].to.at();
                !moves.iter().any(|other| other.from == target)
            });
            match free {
                Some(index) => {
                    let step = moves.remove(index);
                    self.moved(&step, None)?;
                }
                None if last => {
                    let step = moves.remove(0);
                    let target = step.to.at();
                    let other = moves.iter_mut().find(|other| other.from == target);
                    self.moved(&step, other.as_ref().map(|other| &*other.to.node))?;
                    if let Some(other) = other {
                        other.from = step.from;
                    }
                    moves.retain(|m| m.from != m.to.at());
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Record a move; `occupant` is the inode that takes the old name in exchange.
    fn moved(&mut self, step: &Move, occupant: Option<&Node>) -> FsResult<()> {
        let Some(from_path) = self.path_by_rows(&step.from)? else {
            let path = self.recorder.path(&step.to.dir, &step.to.name)?;
            return self.appeared_ref(&step.to, path);
        };
        let to = step.to.at();
        let to_path = self.recorder.path(&step.to.dir, &step.to.name)?;
        let node = &step.to.node;
        let mut rows = vec![table::set(
            table::name_key(Ino(to.0), OsStr::from_bytes(&to.1)),
            &NameRow { ino: node.ino.0, kind: node.kind },
        )?];
        rows.extend(self.relinked(node, &step.from, &to)?);
        let from_key = table::name_key(Ino(step.from.0), OsStr::from_bytes(&step.from.1));
        let op = match occupant {
            Some(other) => {
                let name_row = NameRow { ino: other.ino.0, kind: other.kind };
                rows.push(table::set(from_key, &name_row)?);
                rows.extend(self.relinked(other, &to, &step.from)?);
                Op::Exchange { a: from_path, b: to_path }
            }
            None => {
                rows.push(table::delete(from_key));
                Op::Rename { from: from_path, to: to_path }
            }
        };
        self.recorder.imply_dirs(&step.to.dir, &mut rows)?;
        self.emit(op, rows);
        if node.kind == Kind::File {
            self.requeue(node, Cause::Recovered, &step.to.stat);
        }
        Ok(())
    }

    fn relinked(&self, node: &Node, from: &At, to: &At) -> FsResult<Option<crate::change::Row>> {
        let Some(mut row) = self.recorder.inode_row(node.ino, node.btime_ns)? else {
            return Ok(None);
        };
        row.links.retain(|link| link != from && link != to);
        row.links.push(to.clone());
        Ok(Some(table::set(table::inode_key(node.ino), &row)?))
    }

    fn appeared(&mut self, new: Appeared, path: BucketPath) -> FsResult<()> {
        self.appeared_ref(&new, path)
    }

    fn appeared_ref(&mut self, new: &Appeared, path: BucketPath) -> FsResult<()> {
        if let Some(row) = &new.replaced
            && row.kind != new.node.kind
        {
            let op = match row.kind {
                Kind::Directory => Op::Rmdir { path: path.clone() },
                _ => Op::Remove { path: path.clone() },
            };
            self.emit(op, vec![table::delete(table::inode_key(Ino(row.ino)))]);
        }
        let (node, stat) = (&new.node, &new.stat);
        match node.kind {
            Kind::File => self.requeue(node, Cause::Recovered, stat),
            Kind::Directory => {
                let mut rows = self.recorder.dir_rows(node, &new.dir, &new.name, stat)?;
                self.recorder.imply_dirs(&new.dir, &mut rows)?;
                self.emit(Op::Mkdir { path, mode: stat.mode }, rows);
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&*node.fd()?, "", Vec::new())?.into_bytes();
                let mut rows = self.recorder.rows_of(node.ino, &new.dir, &new.name, stat, Settled::Symlink)?;
                self.recorder.imply_dirs(&new.dir, &mut rows)?;
                let put = table::put(path, Content::Symlink { target }, stat, Evidence::Lease);
                self.emit(Op::Put(put), rows);
            }
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, lost: Gone) -> FsResult<()> {
        let Some(path) = self.path_by_rows(&lost.at)? else {
            return Ok(());
        };
        let claimed = self.claims.name(&lost.at, &path, lost.dir_ctime_ns);
        if claimed.is_none() && !lost.with_parent {
            self.recovery.foreign += 1;
            return Ok(());
        }
        let mut rows = vec![table::delete(table::name_key(Ino(lost.at.0), OsStr::from_bytes(&lost.at.1)))];
        if let Some(bytes) = self.recorder.stream.row(&table::inode_key(Ino(lost.row.ino)))? {
            let mut row: InodeRow = table::decode(&bytes)?;
            row.links.retain(|link| *link != lost.at);
            let key = table::inode_key(Ino(lost.row.ino));
            rows.push(if row.links.is_empty() { table::delete(key) } else { table::set(key, &row)? });
        }
        let op = match lost.row.kind {
            Kind::Directory => Op::Rmdir { path },
            _ => Op::Remove { path },
        };
        self.emit(op, rows);
        Ok(())
    }

    fn requeue(&mut self, node: &Arc<Node>, cause: Cause, stat: &Stat) {
        self.recorder.mark_dirty(node, Vec::new(), cause, stat);
        self.recorder.queue.push(node, true);
        self.recovery.recovered += 1;
    }

    fn emit(&mut self, op: Op, rows: Vec<crate::change::Row>) {
        self.recorder.emit(self.names, Cause::Recovered, op, rows, Vec::new());
        self.recovery.recovered += 1;
    }

    /// The path a reported name has on the ledger now; `None` when it is not reported.
    fn path_by_rows(&self, at: &At) -> FsResult<Option<BucketPath>> {
        if self.recorder.name_row(Ino(at.0), OsStr::from_bytes(&at.1))?.is_none() {
            return Ok(None);
        }
        let mut names = vec![at.1.clone()];
        let mut dir = at.0;
        while dir != Ino::ROOT.0 {
            let Some(bytes) = self.recorder.stream.row(&table::inode_key(Ino(dir)))? else {
                return Ok(None);
            };
            let row: InodeRow = table::decode(&bytes)?;
            let Some((parent, name)) = row.links.into_iter().next() else {
                return Ok(None);
            };
            names.push(name);
            dir = parent;
        }
        names.reverse();
        Ok(Some(BucketPath::new(names.join(&b'/'))?))
    }
}
