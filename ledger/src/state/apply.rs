//! What a transaction does to the state, and when it may.
//!
//! A statement is refused only when it can never be true: the chain records what happened to files, and a recording that
//! refuses the truth would stop. So a put replaces whatever stood at its path or above it, and a rmdir takes along what
//! is still recorded below.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{
    BucketRecord, Counts, DirectoryId, Effect, Entry, EntryNode, EntryVersion, Leaf, Look, Place, View, directory_id,
    row,
};
use crate::codec::{Label, TreePath, encode};
use crate::hash::{BucketId, Hash, TxId};
use crate::store::{StoreError, Visitor};
use crate::transaction::{
    Authored, Body, BucketKind, Cause, Coinbase, Envelope, FileBody, FileOp, Output, OutputRef, Put, Transaction,
    Transfer,
};
use crate::wallet::PublicKey;

/// Why a transaction does not apply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// It names other entries as replaced than are there.
    #[error("prior is not the entry it replaces")]
    Prior,
    /// It cannot be true.
    #[error("{0}")]
    Refused(String),
    /// It spends an output that is not there.
    #[error("output {}:{} is spent or never was", .0.txid, .0.index)]
    Spent(OutputRef),
    /// The state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn refuse<T>(why: impl Into<String>) -> Result<T, ApplyError> {
    Err(ApplyError::Refused(why.into()))
}

/// What `transaction` does to the state that `view` shows. Signatures and, for a coinbase, its fields are not judged here.
pub(crate) fn apply(view: &dyn View, txid: TxId, transaction: &Transaction) -> Result<Vec<Effect>, ApplyError> {
    let mut step = Step { view, txid, rows: BTreeMap::new() };
    match &transaction.envelope {
        Envelope::Authored(authored) => step.authored(authored)?,
        Envelope::Transfer(transfer) => step.transfer(transfer)?,
        Envelope::Coinbase(coinbase) => step.coinbase(coinbase),
    }
    Ok(step.rows.into_iter().collect())
}

/// One transaction being applied: reads see its own writes.
struct Step<'a> {
    view: &'a dyn View,
    txid: TxId,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl View for Step<'_> {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.rows.get(row) {
            Some(value) => Ok(value.clone()),
            None => self.view.get(row),
        }
    }

    /// Of the state before: only subtrees about to be dropped are scanned, before anything in them is written.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.view.scan(prefix, from, visit)
    }
}

impl Step<'_> {
    fn look(&self) -> Look<'_> {
        Look(self)
    }

    fn set(&mut self, row: Vec<u8>, value: Vec<u8>) {
        self.rows.insert(row, Some(value));
    }

    fn remove(&mut self, row: Vec<u8>) {
        self.rows.insert(row, None);
    }

    fn authored(&mut self, authored: &Authored) -> Result<(), ApplyError> {
        let next = self.look().sequence(&authored.author)?;
        if authored.sequence != next {
            return refuse(format!("sequence number {} where {next} is due", authored.sequence));
        }
        self.set(row::author(&authored.author), encode(&(next + 1)));
        match &authored.body {
            Body::CreateBucket { name, kind } => self.create_bucket(name, *kind, &authored.author),
            Body::DeleteBucket { bucket } => {
                let mut record = self.open_bucket(bucket, &authored.author)?;
                record.closed = true;
                self.remove(row::name(&record.name));
                self.set(row::bucket(bucket), encode(&record));
                Ok(())
            }
            Body::File(file) => self.file(file, &authored.author),
        }
    }

    fn create_bucket(&mut self, name: &Label, kind: BucketKind, owner: &PublicKey) -> Result<(), ApplyError> {
        if self.look().named(name)?.is_some() {
            return refuse(format!("bucket {name} exists"));
        }
        let version = EntryVersion::V1;
        let record = BucketRecord { version, name: name.clone(), kind, owner: *owner, mode: None, closed: false };
        let id = self.txid;
        self.set(row::name(name), encode(&id));
        self.set(row::counts(&id), encode(&Counts::default()));
        self.set(row::bucket(&id), encode(&record));
        Ok(())
    }

    fn open_bucket(&self, id: &BucketId, author: &PublicKey) -> Result<BucketRecord, ApplyError> {
        match self.look().bucket(id)? {
            None => refuse(format!("no bucket {id}")),
            Some(record) if record.closed => refuse(format!("bucket {} is deleted", record.name)),
            Some(record) if record.owner != *author => {
                refuse(format!("bucket {} belongs to another wallet", record.name))
            }
            Some(record) => Ok(record),
        }
    }

    fn file(&mut self, body: &FileBody, author: &PublicKey) -> Result<(), ApplyError> {
        let bucket = &body.bucket;
        let mut record = self.open_bucket(bucket, author)?;
        if self.look().priors(bucket, &body.op)? != (body.prior, body.source) {
            return Err(ApplyError::Prior);
        }
        let mut tree = Tree { counts: self.look().counts(bucket)?, bucket: *bucket, step: self };
        match &body.op {
            FileOp::Put(put) | FileOp::Accept(put) => tree.put(put, body.cause)?,
            FileOp::Remove { path } | FileOp::Rmdir { path } => tree.take(path)?,
            FileOp::Rename { from, to } => tree.rename(from, to)?,
            FileOp::Exchange { a, b } => tree.exchange(a, b)?,
            FileOp::Mkdir { path, mode } if path.is_root() => {
                record.mode = Some(*mode);
                tree.step.set(row::bucket(bucket), encode(&record));
            }
            FileOp::Mkdir { path, mode } => tree.mkdir(path, *mode)?,
        }
        let counts = encode(&tree.counts);
        self.set(row::counts(bucket), counts);
        Ok(())
    }

    fn transfer(&mut self, transfer: &Transfer) -> Result<(), ApplyError> {
        let owner = transfer.author.address();
        let mut spent: u128 = 0;
        for input in &transfer.inputs {
            match self.look().row::<Output>(&row::output(input))? {
                None => return Err(ApplyError::Spent(*input)),
                Some(output) if output.address != owner => return refuse("an input belongs to another wallet"),
                Some(output) => spent += u128::from(output.amount),
            }
            self.remove(row::output(input));
        }
        let made: u128 = transfer.outputs.iter().map(|output| u128::from(output.amount)).sum();
        if made != spent {
            return refuse(format!("inputs hold {spent} coins, outputs {made}"));
        }
        for (index, output) in (0..).zip(&transfer.outputs) {
            self.set(row::output(&OutputRef { txid: self.txid, index }), encode(output));
        }
        Ok(())
    }

    fn coinbase(&mut self, coinbase: &Coinbase) {
        if coinbase.reward > 0 {
            let output = Output { amount: coinbase.reward, address: coinbase.address };
            self.set(row::output(&OutputRef { txid: self.txid, index: 0 }), encode(&output));
        }
    }
}

/// The tree of one bucket while one transaction changes it.
struct Tree<'s, 'a> {
    step: &'s mut Step<'a>,
    bucket: BucketId,
    counts: Counts,
}

impl Tree<'_, '_> {
    fn write(&mut self, directory: &DirectoryId, name: &[u8], node: EntryNode) {
        let entry = Entry { version: EntryVersion::V1, txid: self.step.txid, node };
        self.counts.count(&entry, 1);
        self.step.set(row::entry(&self.bucket, directory, name), encode(&entry));
    }

    /// Takes an entry out; a directory with all below it.
    fn drop_entry(&mut self, directory: &DirectoryId, name: &[u8], entry: &Entry) -> Result<(), StoreError> {
        self.detach(directory, name, entry);
        let EntryNode::Directory { id, .. } = entry.node else { return Ok(()) };
        let mut below = vec![id];
        while let Some(id) = below.pop() {
            let mut children = Vec::new();
            self.step.look().children(&self.bucket, &id, b"", &mut |name, entry| {
                children.push((name.to_vec(), entry));
                ControlFlow::Continue(())
            })?;
            for (name, entry) in children {
                self.detach(&id, &name, &entry);
                if let EntryNode::Directory { id, .. } = entry.node {
                    below.push(id);
                }
            }
        }
        Ok(())
    }

    /// Takes out one row.
    fn detach(&mut self, directory: &DirectoryId, name: &[u8], entry: &Entry) {
        self.counts.count(entry, -1);
        self.step.remove(row::entry(&self.bucket, directory, name));
    }

    /// The directory `path` is in and its name there; directories missing above it are implied.
    fn parent<'p>(&mut self, path: &'p TreePath) -> Result<(DirectoryId, &'p [u8]), ApplyError> {
        let mut directory = self.bucket;
        let mut names = path.components().peekable();
        let mut depth = 0;
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return Ok((directory, name));
            }
            depth += 1;
            let entry = self.step.look().child(&self.bucket, &directory, name)?;
            directory = match entry.as_ref().map(|entry| &entry.node) {
                Some(EntryNode::Directory { id, .. }) => *id,
                _ => {
                    if let Some(entry) = &entry {
                        self.drop_entry(&directory, name, entry)?;
                    }
                    let id = directory_id(&self.step.txid, depth);
                    self.write(&directory, name, EntryNode::Directory { id, mode: None });
                    id
                }
            };
        }
        refuse("the root directory is not an entry")
    }

    /// Makes room for a new entry at `path`: where it goes, and what was there.
    fn clear<'p>(&mut self, path: &'p TreePath) -> Result<(DirectoryId, &'p [u8], Option<Entry>), ApplyError> {
        let (directory, name) = self.parent(path)?;
        let entry = self.step.look().child(&self.bucket, &directory, name)?;
        if let Some(entry) = &entry {
            self.drop_entry(&directory, name, entry)?;
        }
        Ok((directory, name, entry))
    }

    fn put(&mut self, put: &Put, cause: Cause) -> Result<(), ApplyError> {
        let (directory, name, _) = self.clear(&put.path)?;
        let leaf = Leaf {
            put: None,
            cause,
            content: put.content.clone(),
            mode: put.mode,
            uid: put.uid,
            gid: put.gid,
            mtime_ns: put.mtime_ns,
            evidence: put.evidence,
        };
        self.write(&directory, name, EntryNode::Leaf(leaf));
        Ok(())
    }

    fn take(&mut self, path: &TreePath) -> Result<(), ApplyError> {
        let Some((_, name)) = path.split() else { return refuse("the root directory is not an entry") };
        if let Place { directory: Some(directory), entry: Some(entry) } = self.step.look().place(&self.bucket, path)? {
            self.drop_entry(&directory, name, &entry)?;
        }
        Ok(())
    }

    fn mkdir(&mut self, path: &TreePath, mode: u32) -> Result<(), ApplyError> {
        let (directory, name) = self.parent(path)?;
        let entry = self.step.look().child(&self.bucket, &directory, name)?;
        let id = match entry {
            Some(Entry { node: EntryNode::Directory { id, .. }, .. }) => {
                self.counts.directories = self.counts.directories.wrapping_sub(1);
                id
            }
            other => {
                if let Some(entry) = &other {
                    self.drop_entry(&directory, name, entry)?;
                }
                directory_id(&self.step.txid, path.components().count() as u32)
            }
        };
        self.write(&directory, name, EntryNode::Directory { id, mode: Some(mode) });
        Ok(())
    }

    fn rename(&mut self, from: &TreePath, to: &TreePath) -> Result<(), ApplyError> {
        let Some(moved) = self.detach_at(from)? else {
            return refuse(format!("nothing is recorded at {from:?}, so it cannot have been renamed"));
        };
        let (directory, name, _) = self.clear(to)?;
        self.write(&directory, name, moved);
        Ok(())
    }

    fn exchange(&mut self, a: &TreePath, b: &TreePath) -> Result<(), ApplyError> {
        let (at_a, at_b) = (self.detach_at(a)?, self.detach_at(b)?);
        if at_a.is_none() && at_b.is_none() {
            return refuse(format!("nothing is recorded at {a:?} and {b:?}, so they cannot have been exchanged"));
        }
        for (path, node) in [(b, at_a), (a, at_b)] {
            if let Some(node) = node {
                let (directory, name) = self.parent(path)?;
                self.write(&directory, name, node);
            }
        }
        Ok(())
    }

    /// Takes the entry at `path` out, keeping what is below a directory, ready to be written elsewhere.
    fn detach_at(&mut self, path: &TreePath) -> Result<Option<EntryNode>, ApplyError> {
        let Some((_, name)) = path.split() else { return refuse("the root directory is not an entry") };
        let place = self.step.look().place(&self.bucket, path)?;
        let Place { directory: Some(directory), entry: Some(entry) } = place else { return Ok(None) };
        self.detach(&directory, name, &entry);
        let content: Hash = entry.content_txid();
        Ok(Some(match entry.node {
            EntryNode::Leaf(leaf) => EntryNode::Leaf(Leaf { put: Some(content), ..leaf }),
            directory => directory,
        }))
    }
}
