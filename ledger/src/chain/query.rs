//! Reading: blocks, transactions, entries, buckets, proofs, private rows.

use std::time::Instant;

use super::index::{block_key, first_key, txid_key};
use super::*;
use crate::codec::Label;
use crate::hash::BlockHash;
use crate::log::Stored;
use crate::state::{Bucket, DirectoryId, Entry, EntryNode, Look, stored};

/// A name in a directory, and what is recorded there.
pub type Named = (Vec<u8>, Entry);

impl Ledger {
    /// The last block.
    pub fn tip(&self) -> Block {
        self.live.lock().tip.clone()
    }

    /// Transactions in the log, coinbases among them.
    pub fn size(&self) -> u64 {
        self.live.lock().tip.header.log_size
    }

    /// A number that is another one after every change of what is pending or sealed: what was read after it was asked for
    /// holds as long as it is the same.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// What readers see has changed.
    pub(super) fn revised(&self) {
        self.revision.fetch_add(1, Ordering::Release);
    }

    /// The signed checkpoint of the log at the tip: a C2SP signed note.
    pub fn checkpoint(&self) -> String {
        self.live.lock().checkpoint.clone()
    }

    /// Which transactions are pending.
    pub fn pending(&self) -> Pending {
        self.live.lock().mempool.span()
    }

    /// Waits until at least `count` transactions are pending, or `timeout` has passed.
    pub fn wait_pending(&self, count: u64, timeout: Duration) -> Pending {
        let deadline = Instant::now() + timeout;
        let mut live = self.live.lock();
        let too_few = |live: &mut Live| live.trouble().is_none() && live.mempool.span().count() < count;
        self.arrived.wait_while_until(&mut live, too_few, deadline);
        live.mempool.span()
    }

    /// The pending transactions from number `from` on: number, txid, transaction.
    pub fn pending_from(&self, from: u64) -> Vec<(u64, TxId, Transaction)> {
        let waiting = self.live.lock().mempool.range(from, u64::MAX);
        waiting.into_iter().map(|(number, waiting)| (number, waiting.txid, waiting.transaction())).collect()
    }

    /// The last change number of each bucket that has pending changes below `cut`.
    pub fn pending_changes(&self, cut: u64) -> Vec<(BucketId, u64)> {
        self.live.lock().mempool.changes(cut)
    }

    /// A private row.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn local(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read(self.store.get(Column::Local, key))
    }

    /// Visits the private rows whose keys start with `prefix`, in order.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn local_scan(&self, prefix: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        self.read(scan_prefix(&*self.store, Column::Local, prefix, visit))
    }

    /// The block at a height.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn block(&self, height: u64) -> Result<Option<Block>> {
        let bytes = self.read(self.store.get(Column::Blocks, &height.to_be_bytes()))?;
        let block = bytes.map(|bytes| Block::from_bytes(&bytes)).transpose();
        self.read(block.map_err(|error| StoreError::Corrupt(format!("block {height}: {error}"))))
    }

    /// The block with a hash.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn block_by_hash(&self, hash: &BlockHash) -> Result<Option<Block>> {
        let Some(height) = self.indexed(&block_key(hash))? else { return Ok(None) };
        Ok(self.block(height)?.filter(|block| block.hash() == *hash))
    }

    /// The block that holds entry `index` of the log.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn block_of(&self, index: u64) -> Result<Option<Block>> {
        match self.height_of(index)? {
            Some(height) => self.block(height),
            None => Ok(None),
        }
    }

    /// Height of the block that holds entry `index` of the log.
    pub(super) fn height_of(&self, index: u64) -> Result<Option<u64>> {
        if index >= self.size() {
            return Ok(None);
        }
        let mut found = None;
        let scanned = self.store.scan(Column::Index, &first_key(index), Direction::Backward, &mut |key, value| {
            found = key.starts_with(b"f").then(|| value.to_vec());
            ControlFlow::Break(())
        });
        self.read(scanned)?;
        found.map(|height| self.read(stored(&height))).transpose()
    }

    fn indexed(&self, key: &[u8]) -> Result<Option<u64>> {
        let value = self.read(self.store.get(Column::Index, key))?;
        value.map(|value| self.read(stored(&value))).transpose()
    }

    /// A transaction by name, sealed or pending.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn transaction(&self, txid: &TxId) -> Result<Option<Logged>> {
        if let Some(waiting) = self.live.lock().mempool.get(txid) {
            return Ok(Some(Logged::pending(&waiting)));
        }
        let Some(index) = self.indexed(&txid_key(txid))? else { return Ok(None) };
        Ok(self.transaction_at(index)?.filter(|logged| logged.txid == *txid))
    }

    /// Entry `index` of the log.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn transaction_at(&self, index: u64) -> Result<Option<Logged>> {
        let Some(block) = self.block_of(index)? else { return Ok(None) };
        Ok(Some(self.logged(index, &block)?))
    }

    /// Entry `index` of the log, which is in `block`.
    pub(super) fn logged(&self, index: u64, block: &Block) -> Result<Logged> {
        let bytes = self.read(self.store.get(Column::Transactions, &index.to_be_bytes()))?;
        let corrupt = |what: String| StoreError::Corrupt(format!("transaction {index}: {what}"));
        let Some(bytes) = bytes else { return self.read(Err(corrupt("missing".into()))) };
        let height = block.header.height;
        if bytes.first() == Some(&0) {
            let stub: crate::transaction::Erased = self.read(stored(&bytes))?;
            let txid = self.read(Stored::new(&*self.store, block.header.log_size).leaf(index))?;
            let time_us = stub.time_us;
            return Ok(Logged { txid, index: Some(index), block: Some(height), time_us, transaction: None });
        }
        let transaction = self.read(Transaction::from_bytes(&bytes).map_err(|error| corrupt(error.to_string())))?;
        Ok(Logged {
            txid: Transaction::id(&bytes),
            index: Some(index),
            block: Some(height),
            time_us: transaction.time_us().unwrap_or(block.header.time_us),
            transaction: Some(transaction),
        })
    }

    /// What is recorded at a path, pending transactions included. The root has no entry.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn entry(&self, bucket: &BucketId, path: &TreePath) -> Result<Option<Entry>> {
        let place = self.read(Look(&Current(self)).place(bucket, path))?;
        Ok(place.entry)
    }

    fn directory(&self, bucket: &BucketId, path: &TreePath) -> Result<Option<DirectoryId>> {
        if path.is_root() {
            return Ok(self.bucket(bucket)?.map(|bucket| bucket.id));
        }
        Ok(self.entry(bucket, path)?.and_then(|entry| match entry.node {
            EntryNode::Directory { id, .. } => Some(id),
            EntryNode::Leaf(_) => None,
        }))
    }

    /// Names and entries in a directory, sorted by name bytes; none when it is no directory.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn list(&self, bucket: &BucketId, directory: &TreePath) -> Result<Option<Vec<Named>>> {
        match self.directory(bucket, directory)? {
            Some(id) => Ok(Some(self.children(bucket, &id, b"", usize::MAX)?)),
            None => Ok(None),
        }
    }

    /// At most `limit` names in a directory, from the name `from` on.
    fn children(&self, bucket: &BucketId, directory: &DirectoryId, from: &[u8], limit: usize) -> Result<Vec<Named>> {
        let mut children = Vec::new();
        let scanned = Look(&Current(self)).children(bucket, directory, from, &mut |name, entry| {
            children.push((name.to_vec(), entry));
            if children.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.read(scanned)?;
        Ok(children)
    }

    /// Visits every entry of a bucket: a directory before what is in it, siblings sorted by name bytes.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn entries(
        &self,
        bucket: &BucketId,
        visit: &mut dyn FnMut(&TreePath, &Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut stack = vec![Walk::new(TreePath::root(), *bucket)];
        while let Some(walk) = stack.last_mut() {
            if walk.page.len() == 0 && !walk.done {
                let page = self.children(bucket, &walk.id, &walk.from, PAGE)?;
                walk.done = page.len() < PAGE;
                // The first name after the last one of this page.
                walk.from = page.last().map_or_else(Vec::new, |(name, _)| [name, &b"\0"[..]].concat());
                walk.page = page.into_iter();
            }
            let Some((name, entry)) = walk.page.next() else {
                stack.pop();
                continue;
            };
            let Some(path) = walk.directory.join(&name) else {
                let what = format!("an entry in {:?} has no valid name", walk.directory);
                return self.read(Err(StoreError::Corrupt(what)));
            };
            if visit(&path, &entry).is_break() {
                break;
            }
            if let EntryNode::Directory { id, .. } = entry.node {
                stack.push(Walk::new(path, id));
            }
        }
        Ok(())
    }

    /// A bucket, open or deleted, pending ones included.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn bucket(&self, id: &BucketId) -> Result<Option<Bucket>> {
        let current = Current(self);
        let look = Look(&current);
        let Some(record) = self.read(look.bucket(id))? else { return Ok(None) };
        let counts = self.read(look.counts(id))?;
        Ok(Some(Bucket { id: *id, record, counts }))
    }

    /// The open bucket of a name.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn bucket_named(&self, name: &str) -> Result<Option<Bucket>> {
        let Ok(name) = Label::new(name) else { return Ok(None) };
        match self.read(Look(&Current(self)).named(&name))? {
            Some(id) => self.bucket(&id),
            None => Ok(None),
        }
    }

    /// The open buckets, sorted by name.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn buckets(&self) -> Result<Vec<Bucket>> {
        let mut ids = Vec::new();
        let scanned = Current(self).scan(b"n", b"n", &mut |_, id| {
            ids.push(id.to_vec());
            ControlFlow::Continue(())
        });
        self.read(scanned)?;
        let mut buckets = Vec::with_capacity(ids.len());
        for id in ids {
            let id: BucketId = self.read(stored(&id))?;
            buckets.extend(self.bucket(&id)?);
        }
        Ok(buckets)
    }

    /// Checks the whole chain from genesis on a snapshot; the ledger stays in use meanwhile.
    ///
    /// # Errors
    /// The check could not be made: the store cannot be read at all, or the disk has no room for what a check writes down.
    /// Damage is in the report.
    pub fn fsck(
        &self,
        progress: &mut dyn FnMut(crate::fsck::Progress) -> ControlFlow<()>,
    ) -> Result<crate::fsck::Report> {
        let (mut report, dir) = (Ok(crate::fsck::Report::default()), self.dir.as_deref());
        let done = self.store.snapshot(&mut |read| report = crate::fsck::check(read, dir, progress));
        self.read(done)?;
        let mut report = report.map_err(unmade)?;
        if let Some(dir) = &self.dir {
            let _nobody_seals = self.sealer.lock();
            self.read(tip::check(dir, &*self.store))?.into_iter().for_each(|problem| report.push(problem));
        }
        if let Some(dir) = &self.dir
            && let Err(error) = crate::fsck::note_verdict(dir, &report)
        {
            tracing::warn!(%error, "cannot remember what the check of the ledger found");
        }
        // One that was broken off takes nothing back.
        let verdict = report.verdict();
        if verdict.is_some() || !report.cancelled {
            self.judge(verdict);
        }
        // Met in service, it may be over when the ledger is opened again: it is told and not noted.
        if report.problems.is_empty()
            && let Some(reason) = self.poisoned()
        {
            report.add(None, None, reason);
        }
        Ok(report)
    }

    /// Passes a read on; damage poisons, for the next write would build on it.
    pub(super) fn read<T>(&self, result: std::result::Result<T, StoreError>) -> Result<T> {
        result.map_err(|error| self.unread(error))
    }
}

/// A replay that could not be made: no word about the ledger.
pub(super) fn unmade(error: StoreError) -> LedgerError {
    if error == StoreError::Full { LedgerError::Full } else { LedgerError::Store(error) }
}

/// Entries read at once by a walk: a directory may hold more than memory should.
const PAGE: usize = 1_024;

/// A directory being walked.
struct Walk {
    directory: TreePath,
    id: DirectoryId,
    page: std::vec::IntoIter<Named>,
    /// Name the next page starts at.
    from: Vec<u8>,
    /// Whether there is no next page.
    done: bool,
}

impl Walk {
    fn new(directory: TreePath, id: DirectoryId) -> Walk {
        Walk { directory, id, page: Vec::new().into_iter(), from: Vec::new(), done: false }
    }
}

impl Logged {
    pub(super) fn pending(waiting: &Waiting) -> Logged {
        let transaction = waiting.transaction();
        let time_us = transaction.time_us().unwrap_or_default();
        Logged { txid: waiting.txid, index: None, block: None, time_us, transaction: Some(transaction) }
    }
}
