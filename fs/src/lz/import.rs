//! Adopting an archive: every member is recorded where it is, without a stage.
//!
//! The table knows inodes. A member that nobody has looked at has none, so it gets a number that is no inode's; when its
//! directory is filled, the rows follow. What is recorded is passed over, so an import that was stopped goes on where it was.

use super::archive::MemberInfo;
use super::bucket::LzBucket;
use super::view::{Number, TOP};
use crate::change::{Cause, Content, Evidence, Op, Put, Row};
use crate::error::{FsError, FsResult};
use crate::import::{ImportProgress, Watch};
use crate::path::BucketPath;
use crate::stat::{Id, Kind};
use crate::stream::now_us;
use crate::table::{self, InodeRow, NameRow, Settled};
use crate::zip::Unread;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

impl LzBucket {
    /// Record every member that is not recorded yet. Returns when the ledger has them pending. Members that cannot be read are
    /// left out and named.
    ///
    /// # Errors
    /// [`FsError::Interrupted`] when `watch` breaks; what the ledger answers.
    pub fn import(&self, watch: Watch<'_>) -> FsResult<(ImportProgress, Vec<Unread>)> {
        let mut import = Import {
            bucket: self,
            progress: ImportProgress::default(),
            unread: Vec::new(),
            next: now_us() as i64,
            dirs: vec![(TOP, Id::ROOT)],
        };
        while let Some((dir, id)) = import.dirs.pop() {
            let children = self.stage.view.lock().children(dir).to_vec();
            for child in children {
                self.stage.recorder()?.stream.admit(false)?;
                import.child(child, id)?;
                if watch(&import.progress).is_break() {
                    self.stage.recorder()?.stream.drain()?;
                    return Err(FsError::Interrupted);
                }
            }
        }
        self.stage.recorder()?.stream.drain()?;
        Ok((import.progress, import.unread))
    }
}

struct Import<'a> {
    bucket: &'a LzBucket,
    progress: ImportProgress,
    unread: Vec<Unread>,
    /// For the next number that is no inode's.
    next: i64,
    /// To be looked into, with what the table knows them by.
    dirs: Vec<(Number, Id)>,
}

impl Import<'_> {
    fn child(&mut self, number: Number, dir: Id) -> FsResult<()> {
        let stage = &self.bucket.stage;
        let (name, kind, path, member, inode) = {
            let view = stage.view.lock();
            let member = view.member(number);
            (view.name(number).to_vec(), view.kind(number), view.path(number)?, member, view.inode(number))
        };
        let recorder = stage.recorder()?;
        if let Some(known) = recorder.name_row(dir, OsStr::from_bytes(&name))? {
            match kind {
                Kind::Directory => self.dirs.push((number, Id(known.id))),
                _ => self.progress.known += 1,
            }
            return Ok(());
        }
        self.next += 1;
        // One that was looked at has an inode already; its change time is not known here, so it is looked at before it is believed.
        let id = inode.unwrap_or_else(|| Id::of(u64::from(number), self.next));
        let info = member.and_then(|member| stage.archive.member(member));
        if kind == Kind::Directory {
            self.dirs.push((number, id));
        }
        let (op, content) = match (kind, &info) {
            (Kind::Directory, info) => {
                let op = info.as_ref().map(|info| Op::Mkdir { path, mode: info.mode });
                (op, Settled::Directory)
            }
            (_, Some(info)) => match self.content(info) {
                Ok((content, settled)) => (Some(Op::Put(put(path, content, info, stage.owner))), settled),
                Err(error) => {
                    self.unread.push(Unread { path, problem: error.to_string() });
                    return Ok(());
                }
            },
            (_, None) => return Ok(()),
        };
        let rows = rows(id, dir, &name, kind, info.as_ref(), content)?;
        let names = recorder.lock_names();
        match op {
            Some(op) => {
                recorder.emit(&names, Cause::Import, op, rows, Vec::new());
            }
            None => recorder.stream.note(rows),
        }
        self.progress.files += u64::from(kind != Kind::Directory);
        Ok(())
    }

    fn content(&mut self, info: &MemberInfo) -> FsResult<(Content, Settled)> {
        if info.kind == Kind::Symlink {
            return Ok((Content::Symlink { target: self.bucket.stage.target(info)? }, Settled::Symlink));
        }
        let (size, hashes) = self.bucket.hash(info.id)?;
        self.progress.bytes += size;
        Ok((Content::File { size, hashes: Some(hashes) }, Settled::Hashed { hashes, lease: true }))
    }
}

fn put(path: BucketPath, content: Content, info: &MemberInfo, owner: (u32, u32)) -> Put {
    let mode = if info.kind == Kind::Symlink { 0o777 } else { info.mode };
    let evidence = Evidence::Lease;
    Put { path, content, mode, uid: owner.0, gid: owner.1, mtime_ns: info.mtime_ns, evidence }
}

fn rows(id: Id, dir: Id, name: &[u8], kind: Kind, info: Option<&MemberInfo>, content: Settled) -> FsResult<Vec<Row>> {
    let row = InodeRow {
        ctime_ns: 0,
        size: info.map_or(0, |info| info.size),
        mode: info.map_or(0o755, |info| info.mode),
        content,
        links: vec![(dir.0, name.to_vec())],
        intent: 0,
    };
    let name_row = NameRow { id: id.0, kind };
    Ok(vec![
        table::set(table::inode_key(id), &row)?,
        table::set(table::name_key(dir, OsStr::from_bytes(name)), &name_row)?,
    ])
}
