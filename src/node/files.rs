//! Files of a bucket by path, mounted or not: put, get, remove, list, accept, sync.

use super::conditions::{Conditional, Conditions};
use super::{Node, OpenBucket, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, pasted};
use crate::rest::wire::{self, TxStatus};
use rustix::io::Errno;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use wizefs_fs::{AnyBucket, BucketPath, Found, FoundKind, FsError, PIECE_BYTES, Verified};
use wizefs_ledger::{Content, Entry, EntryNode, Hash, History, Leaf, Logged, Order, TreePath};

/// What the ledger says of a file that is there.
#[derive(Debug)]
pub struct Recorded {
    /// As it is told.
    pub stored: wire::Stored,
    /// Permission bits.
    pub mode: u32,
    /// Its BLAKE3.
    blake3: [u8; 32],
    /// Of the ledger, before it was asked.
    revision: u64,
}

impl Recorded {
    /// Its entity tag.
    pub fn tag(&self) -> String {
        format!("\"{}\"", self.stored.blake3)
    }
}

/// A file that differs from its entry, or has none, is looked at so often before it is called damaged.
const DOUBTS: usize = 3;
/// One that others make and remove is looked at so often until it is there, or not.
const LOOKS: usize = 100;

impl Node {
    /// Store a file, replacing what is there; without a `mode` with the permission bits of that. Final when this returns.
    ///
    /// # Errors
    /// [`Kind::NotAFile`] when a directory is there, [`Kind::NoSpace`], [`Kind::BucketUnknown`].
    pub fn put(
        &self,
        name: &BucketName,
        path: &BucketPath,
        mode: Option<u32>,
        content: &mut dyn Read,
    ) -> Result<wire::Stored> {
        self.put_if(&Conditions::default(), name, path, mode, content)
    }

    /// As [`Node::put`], while the conditions hold.
    ///
    /// # Errors
    /// As there; [`Kind::Precondition`].
    pub fn put_if(
        &self,
        conditions: &Conditions,
        name: &BucketName,
        path: &BucketPath,
        mode: Option<u32>,
        content: &mut dyn Read,
    ) -> Result<wire::Stored> {
        if path.is_root() {
            return Err(Error::new(Kind::BadPath, "the file needs a name in the bucket"));
        }
        let bucket = self.bucket(name)?;
        let fs = bucket.fs()?;
        self.require(conditions, &bucket, &fs, path)?;
        if let Some(found) = fs.inspect(path).map_err(trouble::fs)?
            && found.kind == FoundKind::Directory
        {
            let error = Error::new(Kind::NotAFile, format!("{name}/{path} is a folder"));
            let place = pasted(format!("{name}/{path}/"));
            return Err(error.hint(format!("to store a file in it, end the path with a slash: {place}")));
        }
        let mut turn = None;
        let mut wanted = || {
            turn = (*conditions != Conditions::default()).then(|| self.conditional.lock());
            self.require(conditions, &bucket, &fs, path)
        };
        let mut content = Conditional { content, wanted: &mut wanted, refused: None };
        let stored = fs.put(path, mode, &mut content);
        let stored = stored.map_err(|e| content.refused.unwrap_or_else(|| trouble::cannot("store", name, path, e)))?;
        drop((turn, fs));
        self.seal()?;
        let change = self.change(&bucket, path, stored.number)?;
        Ok(wire::Stored {
            v: wire::V,
            txid: change.as_ref().map(|logged| logged.txid.to_string()),
            status: status_of(change.as_ref()),
            block: change.and_then(|logged| logged.block),
            bucket: name.clone(),
            path: path.into(),
            size: stored.size,
            blake3: wire::hex(&stored.hashes.blake3),
            sha256: wire::hex(&stored.hashes.sha256),
            verified: None,
        })
    }

    /// What the ledger says of the file at `path`.
    ///
    /// # Errors
    /// [`Kind::FileMissing`], [`Kind::NotAFile`], [`Kind::Busy`] while it is being written, [`Kind::Damaged`] when it came
    /// from outside wizefs.
    pub fn recorded(&self, name: &BucketName, path: &BucketPath) -> Result<Recorded> {
        let bucket = self.bucket(name)?;
        let fs = bucket.fs()?;
        let (mut doubts, mut looks) = (0, 0);
        let recorded = loop {
            let found = existing(&fs, name, path)?;
            if found.kind != FoundKind::File {
                return Err(Error::new(Kind::NotAFile, format!("{name}/{path} is not a regular file")));
            }
            establish(&fs, path)?;
            let error = match self.told(&bucket, path) {
                Err(error) if error.kind == Kind::Damaged => error,
                told => break told?,
            };
            // Others may have removed it since it was found, or made it since all was established.
            fs.drain().map_err(trouble::fs)?;
            let is_same = fs.inspect(path).map_err(trouble::fs)?.is_some_and(|now| now == found);
            doubts = if is_same && !fs.is_pending(path) { doubts + 1 } else { 0 };
            looks += 1;
            if doubts == DOUBTS {
                return Err(unreadable(&fs, name, path).unwrap_or(error));
            }
            if looks == LOOKS {
                return Err(Error::new(Kind::Busy, format!("{name}/{path} comes and goes")).hint("try again"));
            }
        };
        if recorded.stored.status == TxStatus::Pending {
            // A transaction that a power cut could take back is shown to nobody. A final one is on the disk.
            self.ledger.sync().map_err(trouble::ledger)?;
        }
        Ok(recorded)
    }

    /// What the ledger says of the file at `path`, however little of it is on the disk.
    pub(super) fn told(&self, bucket: &OpenBucket, path: &BucketPath) -> Result<Recorded> {
        let (name, revision) = (&bucket.name, self.ledger.revision());
        let Some((entry, leaf)) = self.leaf(bucket, path)? else {
            let error =
                Error::new(Kind::Damaged, format!("{name}/{path} is not on the ledger: it came from outside wizefs"));
            return Err(error.hint(format!("wizefs accept {} signs it as yours", pasted(format!("{name}/{path}")))));
        };
        let Content::File { size, hashes: Some(hashes) } = leaf.content else {
            return Err(Error::new(Kind::Busy, format!("{name}/{path} is still being written")));
        };
        let logged = self.logged(&entry.content_txid())?;
        let stored = wire::Stored {
            v: wire::V,
            txid: Some(entry.content_txid().to_string()),
            status: status_of(logged.as_ref()),
            block: logged.and_then(|logged| logged.block),
            bucket: name.clone(),
            path: path.into(),
            size,
            blake3: wire::hex(&hashes.blake3),
            sha256: wire::hex(&hashes.sha256),
            verified: Some(true),
        };
        Ok(Recorded { stored, mode: leaf.mode, blake3: hashes.blake3, revision })
    }

    /// The content of a file that [`Node::recorded`] told of, compared with the ledger while it is read; with `check_first`
    /// all of it here already. Should somebody have replaced the file in between, it is the new one, and what the ledger says
    /// of that.
    ///
    /// # Errors
    /// As [`Node::recorded`]; [`Kind::Damaged`] when it is not what the ledger says.
    pub fn open_recorded(
        &self,
        name: &BucketName,
        path: &BucketPath,
        mut recorded: Recorded,
        check_first: bool,
    ) -> Result<(Recorded, Verified)> {
        let bucket = self.bucket(name)?;
        let mut doubts = 0;
        loop {
            let opened = bucket.fs()?.open_verified(path, recorded.stored.size, &recorded.blake3);
            let checked = opened.and_then(|content| {
                if check_first {
                    content.check()?
                } else {
                    content.check_beginning()?
                }
                Ok(content)
            });
            match checked {
                Ok(content) => return Ok((recorded, content)),
                Err(FsError::Damaged(_)) => {}
                Err(error) => return Err(trouble::cannot("read", name, path, error)),
            }
            // Is it a newer content that the ledger has not been told of? What is not established is, then all is handed over.
            let fs = bucket.fs()?;
            establish(&fs, path)?;
            fs.drain().map_err(trouble::fs)?;
            drop(fs);
            let now = self.recorded(name, path)?;
            // Who replaces it again and again may be met at the same place more than once.
            doubts += usize::from(now.stored.txid == recorded.stored.txid);
            if doubts == DOUBTS {
                let text = format!("{name}/{path} is not what the ledger says");
                let hint = format!("wizefs verify {}", pasted(format!("{name}/{path}")));
                return Err(Error::new(Kind::Damaged, text).hint(hint));
            }
            recorded = now;
        }
    }

    /// The file at `path`, every byte compared with the ledger before this returns, and again while it is read.
    ///
    /// # Errors
    /// As [`Node::open_recorded`].
    pub fn get(&self, name: &BucketName, path: &BucketPath) -> Result<(Recorded, Verified)> {
        let recorded = self.recorded(name, path)?;
        self.open_recorded(name, path, recorded, true)
    }

    /// As [`Node::get`], for a small file of a bucket that is open, of which all is final and as recorded, and which nobody
    /// changes; else none, and that is no failure. Waits for nothing but what the disk has to be asked for. The ledger is not
    /// asked where what is `known` of this file still holds.
    pub fn get_at_once(
        &self,
        name: &BucketName,
        path: &BucketPath,
        known: &Arc<Recorded>,
    ) -> Option<(Arc<Recorded>, Verified)> {
        let bucket = self.open.lock().get(name).cloned()?;
        let fs = bucket.fs_at_once()?;
        let file = fs.open_settled(path, PIECE_BYTES).ok()??;
        let recorded = match known.revision == self.ledger.revision() {
            true => Arc::clone(known),
            false => Arc::new(self.told(&bucket, path).ok()?),
        };
        if recorded.stored.status != TxStatus::Final {
            return None;
        }
        let content = Verified::open_small(file, recorded.stored.size, recorded.blake3).ok()?;
        Some((recorded, content))
    }

    /// Remove a file or symbolic link; final when this returns.
    ///
    /// # Errors
    /// [`Kind::FileMissing`]; [`Kind::NotAFile`] for a directory.
    pub fn remove(&self, name: &BucketName, path: &BucketPath) -> Result<wire::Changed> {
        self.remove_if(&Conditions::default(), name, path)
    }

    /// As [`Node::remove`], while the conditions hold.
    ///
    /// # Errors
    /// As there; [`Kind::Precondition`].
    pub fn remove_if(&self, conditions: &Conditions, name: &BucketName, path: &BucketPath) -> Result<wire::Changed> {
        let bucket = self.bucket(name)?;
        let fs = bucket.fs()?;
        let turn = (*conditions != Conditions::default()).then(|| self.conditional.lock());
        self.require(conditions, &bucket, &fs, path)?;
        let kind = existing(&fs, name, path)?.kind;
        if kind == FoundKind::Directory {
            return Err(Error::new(Kind::NotAFile, format!("{name}/{path} is a folder")));
        }
        let number = fs.remove(path).map_err(|e| trouble::cannot("remove", name, path, e))?;
        drop((turn, fs));
        if kind == FoundKind::Special {
            let (bucket, path) = (name.clone(), path.into());
            return Ok(wire::Changed { v: wire::V, txid: None, status: TxStatus::Final, block: None, bucket, path });
        }
        self.changed(&bucket, path, number)
    }

    /// Sign what is at `path` now as one's own: a file, a directory itself, a symbolic link, or that what the ledger has there is
    /// gone.
    ///
    /// # Errors
    /// [`Kind::FileMissing`] when the ledger has nothing there either; [`Kind::NotAFile`] for what is not recorded;
    /// [`Kind::Busy`] while it is being written.
    pub fn accept(&self, name: &BucketName, path: &BucketPath) -> Result<wire::Changed> {
        let bucket = self.bucket(name)?;
        let fs = bucket.fs()?;
        let accepted = fs.accept(path);
        if let Err(error) = &accepted
            && error.errno() == Errno::NOENT
        {
            existing(&fs, name, path)?;
            let text = format!("{name}/{path} is no file, folder or symbolic link: such things are not recorded");
            return Err(Error::new(Kind::NotAFile, text));
        }
        let number = accepted.map_err(|e| trouble::cannot("accept", name, path, e))?;
        drop(fs);
        self.changed(&bucket, path, number)
    }

    fn changed(&self, bucket: &OpenBucket, path: &BucketPath, number: u64) -> Result<wire::Changed> {
        self.seal()?;
        let change = self.change(bucket, path, number)?;
        let change = change.ok_or_else(|| Error::new(Kind::Internal, "the change is not on the ledger"))?;
        Ok(wire::Changed {
            v: wire::V,
            txid: Some(change.txid.to_string()),
            status: status_of(Some(&change)),
            block: change.block,
            bucket: bucket.name.clone(),
            path: path.into(),
        })
    }

    /// What is in the directory at `path`, or the one entry that is there.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`], [`Kind::FileMissing`].
    pub fn list(&self, name: &BucketName, path: &BucketPath) -> Result<wire::Entries> {
        let bucket = self.bucket(name)?;
        let fs = bucket.fs()?;
        let found = if path.is_root() { None } else { Some(existing(&fs, name, path)?) };
        let (found, recorded) = match found {
            Some(one) if one.kind != FoundKind::Directory => {
                let entry = self.ledger.entry(&bucket.id, &tree_path(path)?).map_err(trouble::ledger)?;
                let last = path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
                (vec![one], entry.map(|entry| (last, entry)).into_iter().collect())
            }
            _ => {
                let recorded = self.ledger.list(&bucket.id, &tree_path(path)?).map_err(trouble::ledger)?;
                (fs.list(path).map_err(trouble::fs)?, recorded.unwrap_or_default())
            }
        };
        let entries = found.iter().map(|found| self.entry(found, &recorded)).collect::<Result<_>>()?;
        Ok(wire::Entries { v: wire::V, entries })
    }

    /// `recorded` is sorted by name bytes, as the ledger gives it.
    pub(super) fn entry(&self, found: &Found, recorded: &[(Vec<u8>, Entry)]) -> Result<wire::Entry> {
        let name = found.path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
        let known = recorded.binary_search_by(|(other, _)| other.as_slice().cmp(name)).ok();
        let known = known.map(|at| &recorded[at].1);
        let block = match known {
            Some(entry) => self.logged(&entry.content_txid())?.and_then(|logged| logged.block),
            None => None,
        };
        let blake3 = match known.map(|entry| &entry.node) {
            Some(EntryNode::Leaf(Leaf { content: Content::File { hashes: Some(hashes), .. }, .. })) => {
                Some(wire::hex(&hashes.blake3))
            }
            _ => None,
        };
        let modified = jiff::Timestamp::from_nanosecond(found.mtime_ns.into()).unwrap_or_default();
        Ok(wire::Entry {
            path: (&found.path).into(),
            kind: kind_name(found.kind).to_owned(),
            size: found.size,
            mode: found.mode,
            modified: modified.to_string(),
            blake3,
            block,
            target: found.target.as_deref().map(|target| wire::text_and_bytes(target).0),
        })
    }

    /// The barrier: everything that programs did in one bucket, or in all, is final when this returns, but for files that
    /// are still being written. One bucket that cannot keeps no other from it.
    ///
    /// # Errors
    /// [`Kind::Busy`] names those files when `strict`; [`Kind::BucketUnknown`]; what keeps a bucket from it.
    pub fn sync(&self, name: Option<&BucketName>, strict: bool) -> Result<wire::Synced> {
        let (mut open_writers, mut failed) = (Vec::new(), None);
        match name {
            Some(name) => open_writers = self.sync_bucket(name)?,
            // Those not open may hold what a killed node left.
            None => {
                for name in self.bucket_names() {
                    match self.sync_bucket(&name) {
                        Ok(writers) => open_writers.extend(writers),
                        // Deleted at this moment.
                        Err(error) if error.kind == Kind::BucketUnknown => {}
                        Err(error) => failed = failed.or(Some(error)),
                    }
                }
            }
        }
        self.seal()?;
        if let Some(error) = failed {
            return Err(error);
        }
        if strict && !open_writers.is_empty() {
            let text = format!("still being written: {}", open_writers.join(", "));
            return Err(Error::new(Kind::Busy, text));
        }
        let (height, transactions) = (self.ledger.tip().header.height, self.ledger.size());
        Ok(wire::Synced { v: wire::V, height, transactions, open_writers })
    }

    /// What is still being written in a bucket of which the rest is settled now.
    fn sync_bucket(&self, name: &BucketName) -> Result<Vec<String>> {
        let bucket = self.bucket(name)?;
        // One that was closed meanwhile was synced then.
        let Ok(fs) = bucket.fs() else { return Ok(Vec::new()) };
        let report = fs.sync().map_err(trouble::fs)?;
        Ok(report.open_writers.iter().map(|path| format!("{name}/{path}")).collect())
    }

    /// What the ledger has at a path, if it is a file or symbolic link.
    fn leaf(&self, bucket: &OpenBucket, path: &BucketPath) -> Result<Option<(Entry, Leaf)>> {
        let entry = self.ledger.entry(&bucket.id, &tree_path(path)?).map_err(trouble::ledger)?;
        Ok(entry.and_then(|entry| match entry.node.clone() {
            EntryNode::Leaf(leaf) => Some((entry, leaf)),
            EntryNode::Directory { .. } => None,
        }))
    }

    /// The transaction of the newest change up to this number at this path.
    fn change(&self, bucket: &OpenBucket, path: &BucketPath, number: u64) -> Result<Option<Logged>> {
        let history = History::Path(bucket.id, tree_path(path)?);
        let is_it = |logged: &Logged| {
            logged.transaction.as_ref().and_then(|tx| tx.file()).is_some_and(|file| file.change <= number)
        };
        // Others may have changed the same path in the meantime, however often.
        let mut found = None;
        let mut look = |logged: Option<Logged>| {
            found = logged.filter(is_it);
            if found.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.ledger.visit_history(&history, Order::NewestFirst, None, &mut look).map_err(trouble::ledger)?;
        Ok(found)
    }

    fn logged(&self, txid: &Hash) -> Result<Option<Logged>> {
        self.ledger.transaction(txid).map_err(trouble::ledger)
    }
}

/// Why a member of an archive is not on the ledger: nobody can read it, and nobody can accept it.
fn unreadable(fs: &AnyBucket, name: &BucketName, path: &BucketPath) -> Option<Error> {
    let problem = if fs.is_read_only() { fs.open_file(path).err()? } else { return None };
    let mut error = trouble::cannot("read", name, path, problem);
    if error.kind == Kind::Failed {
        error = Error::new(Kind::Damaged, error.message).without_hint();
    }
    Some(error)
}

/// Let the ledger have what is at `path` now.
pub(super) fn establish(fs: &AnyBucket, path: &BucketPath) -> Result<()> {
    if fs.is_pending(path) {
        fs.record().map_err(trouble::fs)?;
    } else if fs.is_undelivered(path) {
        fs.drain().map_err(trouble::fs)?;
    }
    Ok(())
}

pub(super) fn existing(fs: &AnyBucket, name: &BucketName, path: &BucketPath) -> Result<Found> {
    let found = fs.inspect(path).map_err(|e| trouble::cannot("look at", name, path, e))?;
    found.ok_or_else(|| {
        let error = Error::new(Kind::FileMissing, format!("there is no {path} in {name}"));
        error.hint(format!("wizefs list {name} shows what is there"))
    })
}

/// The same path in the words of the ledger.
pub(super) fn tree_path(path: &BucketPath) -> Result<TreePath> {
    TreePath::new(path.as_bytes()).map_err(|e| Error::new(Kind::BadPath, e.to_string()))
}

fn status_of(logged: Option<&Logged>) -> TxStatus {
    if logged.is_some_and(|logged| logged.index.is_some()) { TxStatus::Final } else { TxStatus::Pending }
}

fn kind_name(kind: FoundKind) -> &'static str {
    match kind {
        FoundKind::File => "file",
        FoundKind::Symlink => "symlink",
        FoundKind::Directory => "directory",
        FoundKind::Special => "special",
        FoundKind::Unreadable => "unreadable",
    }
}
