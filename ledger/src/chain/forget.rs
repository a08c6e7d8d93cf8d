//! Erasure: a transaction's bytes go, its leaf hash and what it did to the state stay.

use super::index::index_rows;
use super::*;
use crate::state::{Entry, EntryNode, Look, Sealed, View, row, stored};
use crate::store::{Batch, Durability};
use crate::transaction::{Authored, Body, Envelope, Erased, ErasedVersion};

/// Key of the row of [`Column::Meta`] that names the bucket of the erased transaction at a log index, for as long as its
/// bytes may still be in the store's files.
fn unpurged(index: u64) -> Vec<u8> {
    [UNPURGED, &index.to_be_bytes()].concat()
}

/// What the keys of those rows begin with.
const UNPURGED: &[u8] = b"purge";

/// Hears the row of an entry, its value, and what that is.
type EntryVisitor<'a> = dyn FnMut(&[u8], &[u8], &Entry) -> ControlFlow<()> + 'a;

/// An erased transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Its place in the log.
    pub index: u64,
    /// Its block.
    pub block: u64,
    /// The bucket it was about.
    pub bucket: BucketId,
}

impl Ledger {
    /// Erases a transaction about a file for good, here: copies and backups elsewhere are not reached. What it stated must
    /// not be the current state of a path, unless the bucket is deleted. Takes as long as a check of the chain up to it. One
    /// that is erased, whose bytes could not be taken from the disk, is erased once more.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] for one that is unknown, pending, current, or no statement about a file;
    /// [`LedgerError::Full`] when the disk has no room for finding out what it did, which later checks need, or for writing
    /// anew the files that hold it: it is erased then, and to be erased once more.
    pub fn forget(&self, txid: &TxId) -> Result<Forgotten> {
        let refuse = |why: &str| Err(LedgerError::Refused(why.into()));
        self.revive()?;
        if let Some(place) = self.half_erased(txid)? {
            self.purge()?;
            return Ok(place);
        }
        let (place, transaction) = self.final_transaction(txid)?;
        let Envelope::Authored(Authored { author, sequence, time_us, body, .. }) = &transaction.envelope else {
            return refuse("only statements about files are erased");
        };
        let Body::File(file) = body else { return refuse("only statements about files are erased") };
        let updates = self.updates_of(place.index)?;
        let locks = (self.writer.lock(), self.sealer.lock());
        self.check_health()?;
        // Somebody else may have erased it meanwhile.
        self.final_transaction(txid)?;
        self.refuse_current(&file.bucket, txid)?;
        let version = ErasedVersion::V0;
        let kind = body.kind();
        let stub = Erased { version, author: *author, sequence: *sequence, time_us: *time_us, kind, updates };
        let mut batch = Batch::default();
        batch.put(Column::Transactions, place.index.to_be_bytes(), encode(&stub));
        batch.put(Column::Meta, unpurged(place.index), encode(&file.bucket));
        self.hide_entries(&file.bucket, txid, &mut batch)?;
        index_rows(place.index, txid, &transaction, &mut |key, _| {
            // The way from its name to its place stays; that it was about this bucket and path goes.
            if key.first() != Some(&b't') {
                batch.delete(Column::Index, key);
            }
        });
        self.store.write(batch, Durability::Synced).map_err(|error| self.failed(error))?;
        // It is erased. To take it from the disk may be long work, beside which others write.
        drop(locks);
        self.purge()?;
        Ok(place)
    }

    /// Takes from the disk what erased transactions said, as far as that was not done yet: this may have been broken off.
    pub(super) fn purge(&self) -> Result<()> {
        let mut erased = Vec::new();
        self.read(scan_prefix(&*self.store, Column::Meta, UNPURGED, &mut |key, bucket| {
            erased.push((key.to_vec(), bucket.to_vec()));
            ControlFlow::Continue(())
        }))?;
        if erased.is_empty() {
            return Ok(());
        }
        // To write files anew takes room.
        self.make_room()?;
        // Where it was while pending, and what the file system noted with it.
        let mut said = vec![(Column::Mempool, Vec::new()), (Column::Local, Vec::new())];
        let mut done = Batch::default();
        for (key, bucket) in erased {
            said.push((Column::Transactions, key[UNPURGED.len()..].to_vec()));
            // What it made of the bucket.
            said.push((Column::State, row::entry_prefix(&self.read(stored(&bucket))?)));
            done.delete(Column::Meta, key);
        }
        self.store.purge(&said).map_err(|error| match error {
            StoreError::Full => self.failed(error),
            error => self.unread(error),
        })?;
        self.store.write(done, Durability::Synced).map_err(|error| self.failed(error))
    }

    /// The place of a transaction that is erased, but for what may be left of it on the disk.
    fn half_erased(&self, txid: &TxId) -> Result<Option<Forgotten>> {
        let Some(Logged { index: Some(index), block: Some(block), transaction: None, .. }) = self.transaction(txid)?
        else {
            return Ok(None);
        };
        let noted = self.read(self.store.get(Column::Meta, &unpurged(index)))?;
        let bucket = noted.map(|bucket| self.read(stored(&bucket))).transpose()?;
        Ok(bucket.map(|bucket| Forgotten { index, block, bucket }))
    }

    /// What [`Ledger::forget`] would erase now, without erasing it.
    ///
    /// # Errors
    /// As [`Ledger::forget`].
    pub fn may_forget(&self, txid: &TxId) -> Result<Forgotten> {
        if let Some(place) = self.half_erased(txid)? {
            return Ok(place);
        }
        let (place, _) = self.final_transaction(txid)?;
        self.refuse_current(&place.bucket, txid)?;
        Ok(place)
    }

    /// A transaction about a file that can be undone no more, and is not erased.
    fn final_transaction(&self, txid: &TxId) -> Result<(Forgotten, Transaction)> {
        let refuse = |why: String| Err(LedgerError::Refused(why));
        let Some(logged) = self.transaction(txid)? else { return refuse(format!("there is no transaction {txid}")) };
        let (Some(index), Some(block)) = (logged.index, logged.block) else {
            return refuse("it is still pending: only what is final is erased".into());
        };
        let Some(transaction) = logged.transaction else { return refuse("it is erased already".into()) };
        let Some(bucket) = transaction.file().map(|file| file.bucket) else {
            return refuse("only statements about files are erased".into());
        };
        Ok((Forgotten { index, block, bucket }, transaction))
    }

    /// What the transaction at `index` did to the map; empty when that cannot be known any more.
    fn updates_of(&self, index: u64) -> Result<Vec<crate::transaction::StateUpdate>> {
        let (mut updates, dir) = (Ok(None), self.dir.as_deref());
        let done = self.store.snapshot(&mut |read| updates = crate::fsck::updates_of(read, dir, index));
        self.read(done)?;
        Ok(updates.map_err(super::query::unmade)?.unwrap_or_default())
    }

    /// Refuses when an entry of the bucket, sealed or with what is pending, was stated by `txid`. What a deleted bucket held is
    /// nobody's current state once that is sealed.
    fn refuse_current(&self, bucket: &BucketId, txid: &TxId) -> Result<()> {
        if self.is_closed(bucket)? {
            return Ok(());
        }
        let views: [&dyn View; 2] = [&Current(self), &Sealed(&*self.store)];
        for view in views {
            let mut current = false;
            self.stated_entries(view, bucket, txid, &mut |_, _, entry| {
                // A directory that is only implied says nothing but that something was below it.
                current = !matches!(entry.node, EntryNode::Directory { mode: None, .. });
                if current { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if current {
                let why = "it states what a path holds now: remove or replace that first, and seal";
                return Err(LedgerError::Refused(why.into()));
            }
        }
        Ok(())
    }

    /// Whether a block says that the bucket is deleted: no later one can change anything in it.
    fn is_closed(&self, bucket: &BucketId) -> Result<bool> {
        let record = self.read(Look(&Sealed(&*self.store)).bucket(bucket))?;
        Ok(record.is_some_and(|record| record.closed))
    }

    /// Puts hashes in the place of what a transaction left in a deleted bucket, whose entries stay in the state.
    fn hide_entries(&self, bucket: &BucketId, txid: &TxId, batch: &mut Batch) -> Result<()> {
        if !self.is_closed(bucket)? {
            return Ok(());
        }
        let sealed = Sealed(&*self.store);
        let mut counts = self.read(Look(&sealed).counts(bucket))?;
        self.stated_entries(&sealed, bucket, txid, &mut |row, value, entry| {
            if let Some((key, hash)) = row::in_map(row, value) {
                batch.put(Column::State, row::hidden(&key), hash.0);
                batch.delete(Column::State, row);
                counts.count(entry, -1);
            }
            ControlFlow::Continue(())
        })?;
        batch.put(Column::State, row::counts(bucket), encode(&counts));
        Ok(())
    }

    /// Visits the entries of a bucket that `txid` set, moved or recorded the content of: row, value, and what that is.
    fn stated_entries(
        &self,
        view: &dyn View,
        bucket: &BucketId,
        txid: &TxId,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<()> {
        let (prefix, mut damage) = (row::entry_prefix(bucket), None);
        let scanned = view.scan(&prefix, &prefix, &mut |row, value| match stored::<Entry>(value) {
            Ok(entry) if entry.txid == *txid || entry.content_txid() == *txid => visit(row, value, &entry),
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        });
        self.read(scanned.and_then(|()| damage.map_or(Ok(()), Err)))
    }
}
