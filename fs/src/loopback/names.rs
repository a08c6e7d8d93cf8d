//! Operations on names: link, unlink, directories. Each notes its intent, acts on the backing and numbers its change under the
//! namespace lock, so that ledger order is the order in which things happened.

use super::LoopbackFs;
use crate::bucket::NODE;
use crate::change::{Cause, Content, Evidence, Op, Row};
use crate::error::FsResult;
use crate::inode::{InodeTable, Node, Writing};
use crate::intent::{At, Intent};
use crate::lease::through_procfs;
use crate::path::BucketPath;
use crate::recorder::Namespace;
use crate::stat::{Kind, Stat};
use crate::table::{self, NameRow};
use crate::vfs::{Attr, Caller, Ino};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// A link that the backing has made.
struct Linked<'a> {
    names: &'a Namespace<'a>,
    place: &'a Place<'a>,
    path: BucketPath,
    before: Stat,
    after: Stat,
    id: u64,
}

pub(super) fn at(parent: &Node, name: &OsStr) -> At {
    (parent.id.0, name.as_bytes().to_vec())
}

/// One end of an operation on names: a directory in use, its descriptor and a name in it.
pub(super) struct Place<'a> {
    pub(super) dir: Arc<Node>,
    pub(super) fd: Arc<OwnedFd>,
    pub(super) name: &'a OsStr,
}

impl Place<'_> {
    pub(super) fn at(&self) -> At {
        at(&self.dir, self.name)
    }

    pub(super) fn stat(&self) -> FsResult<Stat> {
        Stat::of_name(&*self.fd, self.name)
    }
}

/// The inode at `place`; none when there is nothing.
pub(super) fn open_place(inodes: &InodeTable, place: &Place<'_>) -> FsResult<Option<(Arc<Node>, Stat)>> {
    match inodes.open_name(&place.dir, place.name) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.errno() == Errno::NOENT => Ok(None),
        Err(error) => Err(error),
    }
}

impl LoopbackFs {
    pub(super) fn place<'a>(&self, parent: Ino, name: &'a OsStr) -> FsResult<Place<'a>> {
        let dir = self.node(parent)?;
        let fd = dir.fd()?;
        Ok(Place { dir, fd, name })
    }

    /// Note `intent`, do `act`, and end the intent at once when that failed.
    pub(super) fn with_intent<T>(
        &self,
        intent: Intent,
        who: Caller,
        act: impl FnOnce() -> FsResult<T>,
    ) -> FsResult<(u64, T)> {
        let id = self.recorder.intents.note(intent, who.uid, who.pid)?;
        match act() {
            Ok(done) => Ok((id, done)),
            Err(error) => {
                self.recorder.intents.end_now(&[id]);
                Err(error)
            }
        }
    }

    pub(super) fn make_link(&self, ino: Ino, parent: Ino, name: &OsStr, who: Caller) -> FsResult<Attr> {
        self.recorder.stream.admit(false)?;
        let node = self.node(ino)?;
        let place = self.place(parent, name)?;
        let names = self.recorder.lock_names();
        let path = self.recorder.path(&place.dir, name)?;
        // Held until the table follows: a writer that begins in between would see the change time ahead of it.
        let mut writing = node.writing.lock();
        let before = node.stat()?;
        let intent = Intent::Link { at: place.at(), inode: node.id.0 };
        let (id, ()) = self.with_intent(intent, who, || {
            let follow = AtFlags::SYMLINK_FOLLOW;
            let link = |from: &Path| rustix::fs::linkat(rustix::fs::CWD, from, &*place.fd, name, follow);
            Ok(through_procfs(node.fd()?, link)?)
        })?;
        node.add_name(&place.dir, name);
        let after = node.stat()?;
        let link = Linked { names: &names, place: &place, path, before, after, id };
        self.report_link(&link, &node, &mut writing)?;
        drop(writing);
        self.recorder.inodes.hold(&node);
        Ok(Self::attr(&node, after))
    }

    /// A new name of a clean file repeats what is known of it; of any other file it comes with its content.
    fn report_link(&self, link: &Linked<'_>, node: &Arc<Node>, writing: &mut Writing) -> FsResult<()> {
        let Linked { names, place, path, before, after, id } = link;
        let row = self.recorder.inode_row(node.id)?;
        let clean = writing.dirty.is_none();
        // A symbolic link is what it was made as; only its times may have moved on, as in a recovery.
        let known = row.filter(|row| node.kind == Kind::Symlink || (clean && row.matches(before)));
        let put = match (node.kind, &known) {
            (Kind::Symlink, Some(_)) => {
                let content = Content::Symlink { target: self.target(node)? };
                Some(table::put(path.clone(), content, after, Evidence::Lease))
            }
            (Kind::File, Some(row)) => row.put_again(path.clone(), after),
            _ => None,
        };
        if let (Some(mut row), Some(put)) = (known, put) {
            row.ctime_ns = after.ctime_ns;
            row.links.push(place.at());
            let name_row = NameRow { id: node.id.0, kind: node.kind };
            let mut rows = vec![
                table::set(table::inode_key(node.id), &row)?,
                table::set(table::name_key(place.dir.id, place.name), &name_row)?,
            ];
            self.recorder.imply_dirs(&place.dir, &mut rows)?;
            self.recorder.emit(names, Cause::Mount, Op::Put(put), rows, vec![*id]);
        } else if node.kind == Kind::File {
            let cause = if clean { Cause::Foreign } else { Cause::Mount };
            self.recorder.mark_dirty(node, writing, vec![*id], cause, after);
            self.recorder.queue.push_locked(node, writing);
        } else {
            // Special files, and links made behind the mount, of which another name says nothing new.
            self.recorder.intents.end_now(&[*id]);
        }
        Ok(())
    }

    pub(super) fn target(&self, node: &Node) -> FsResult<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&*node.fd()?, "", Vec::new())?.into_bytes())
    }

    /// Remove `name` in `dir` for another cause than a program in the mount.
    ///
    /// # Errors
    /// `EISDIR` for a directory; what the kernel answers.
    pub fn remove_in(&self, dir: &Arc<Node>, name: &OsStr, cause: Cause) -> FsResult<u64> {
        let place = Place { dir: dir.clone(), fd: dir.fd()?, name };
        if place.stat()?.kind == Kind::Directory {
            return Err(Errno::ISDIR.into());
        }
        self.remove_at(&place, cause, NODE)
    }

    pub(super) fn remove_name(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.remove_at(&self.place(parent, name)?, Cause::Mount, who).map(drop)
    }

    fn remove_at(&self, place: &Place<'_>, cause: Cause, who: Caller) -> FsResult<u64> {
        let name = place.name;
        self.recorder.stream.admit(true)?;
        let names = self.recorder.lock_names();
        // Of what is too deep to be recorded the ledger knows nothing, and is not told when it goes.
        let path = self.recorder.path_told(&place.dir, name)?;
        // Opened before it goes: what is left under other names must be looked at afterwards.
        let (node, before) = self.recorder.inodes.leaving(&place.dir, name)?;
        let mut writing = node.writing.lock();
        let intent = Intent::Remove { at: place.at(), inode: node.id.0 };
        let (id, ()) =
            self.with_intent(intent, who, || Ok(rustix::fs::unlinkat(&*place.fd, name, AtFlags::empty())?))?;
        node.drop_name(place.dir.ino, name);
        let mut rows = vec![table::delete(table::name_key(place.dir.id, name))];
        rows.extend(self.unlinked(&node, &mut writing, place, &before)?);
        if cause != Cause::Mount {
            // Not by the kernel, which knows its other names with one link more.
            self.recorder.attributes_changed(&node);
        }
        if let Some(path) = path.filter(|_| node.kind.is_recorded()) {
            return Ok(self.recorder.emit(&names, cause, Op::Remove { path }, rows, vec![id]));
        }
        self.recorder.note(rows, vec![id]);
        Ok(self.recorder.stream.last())
    }

    /// What the table says of `node` after it lost the name at `place`. `before` is from before that.
    pub(super) fn unlinked(
        &self,
        node: &Arc<Node>,
        writing: &mut Writing,
        place: &Place<'_>,
        before: &Stat,
    ) -> FsResult<Option<Row>> {
        let Some(after) = node.stat_named()? else {
            // Of what is not recorded yet nobody knows how large it was when it was.
            let recorded = if writing.dirty.is_some() { u64::MAX } else { before.size };
            self.recorder.outboards.forget(node.id.0, recorded);
            self.recorder.drop_content(node, writing);
            return Ok(Some(table::delete(table::inode_key(node.id))));
        };
        let Some(mut row) = self.recorder.inode_row(node.id)? else {
            return Ok(None);
        };
        if row.matches(before) {
            row.ctime_ns = after.ctime_ns;
        }
        let gone = place.at();
        row.links.retain(|link| *link != gone);
        Ok(Some(table::set(table::inode_key(node.id), &row)?))
    }

    pub(super) fn remove_dir(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.recorder.stream.admit(true)?;
        let place = self.place(parent, name)?;
        let names = self.recorder.lock_names();
        let path = self.recorder.path_told(&place.dir, name)?;
        let (node, _) = self.recorder.inodes.open_name(&place.dir, name)?;
        let known = self.recorder.name_row(place.dir.id, name)?;
        let intent = Intent::Remove { at: place.at(), inode: node.id.0 };
        let (id, ()) =
            self.with_intent(intent, who, || Ok(rustix::fs::unlinkat(&*place.fd, name, AtFlags::REMOVEDIR)?))?;
        node.drop_name(place.dir.ino, name);
        if known.is_none() {
            self.recorder.intents.end_now(&[id]);
            return Ok(());
        }
        let rows = vec![table::delete(table::name_key(place.dir.id, name)), table::delete(table::inode_key(node.id))];
        if let Some(path) = path {
            self.recorder.emit(&names, Cause::Mount, Op::Rmdir { path }, rows, vec![id]);
        } else {
            self.recorder.note(rows, vec![id]);
        }
        Ok(())
    }
}
