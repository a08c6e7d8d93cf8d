//! Erasure: a transaction's bytes go, its leaf hash and what it did to the state stay.

use super::index::index_rows;
use super::*;
use crate::state::{Entry, EntryNode, Sealed, View, row, stored};
use crate::store::{Batch, Durability};
use crate::transaction::{Authored, Body, Envelope, Erased, ErasedVersion};

/// An erased transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Its place in the log.
    pub index: u64,
    /// Its block.
    pub block: u64,
}

impl Ledger {
    /// Erases a transaction about a file for good, here: copies and backups elsewhere are not reached. What it stated must
    /// not be the current state of a path. Takes as long as a check of the chain up to it.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] for one that is unknown, pending, current, or no statement about a file;
    /// [`LedgerError::Full`] when the disk has no room for finding out what it did, which later checks need.
    pub fn forget(&self, txid: &TxId) -> Result<Forgotten> {
        let refuse = |why: String| Err(LedgerError::Refused(why));
        let (Forgotten { index, block }, transaction) = self.final_transaction(txid)?;
        let Envelope::Authored(Authored { author, sequence, time_us, body, .. }) = &transaction.envelope else {
            return refuse("only statements about files are erased".into());
        };
        let Body::File(file) = body else { return refuse("only statements about files are erased".into()) };
        self.revive()?;
        let updates = self.updates_of(index)?;
        let locks = (self.writer.lock(), self.sealer.lock());
        self.check_health()?;
        self.refuse_current(&file.bucket, txid)?;
        let version = ErasedVersion::V0;
        let kind = body.kind();
        let stub = Erased { version, author: *author, sequence: *sequence, time_us: *time_us, kind, updates };
        let mut batch = Batch::default();
        batch.put(Column::Transactions, index.to_be_bytes(), encode(&stub));
        index_rows(index, txid, &transaction, &mut |key, _| {
            // The way from its name to its place stays; that it was about this bucket and path goes.
            if key.first() != Some(&b't') {
                batch.delete(Column::Index, key);
            }
        });
        self.store.write(batch, Durability::Synced).map_err(|error| self.failed(error))?;
        // It is erased. To take it from the disk may be long work, beside which others write.
        drop(locks);
        // Where it was while pending, what it made of the bucket, and what the file system noted with it.
        let said = [
            (Column::Transactions, index.to_be_bytes().to_vec()),
            (Column::Mempool, Vec::new()),
            (Column::State, row::entry_prefix(&file.bucket)),
            (Column::Local, Vec::new()),
        ];
        self.store.purge(&said).map_err(|error| self.unread(error))?;
        Ok(Forgotten { index, block })
    }

    /// What [`Ledger::forget`] would erase now, without erasing it.
    ///
    /// # Errors
    /// As [`Ledger::forget`].
    pub fn may_forget(&self, txid: &TxId) -> Result<Forgotten> {
        let (place, transaction) = self.final_transaction(txid)?;
        let Some(file) = transaction.file() else {
            return Err(LedgerError::Refused("only statements about files are erased".into()));
        };
        self.refuse_current(&file.bucket, txid)?;
        Ok(place)
    }

    /// A transaction that can be undone no more, and is not erased.
    fn final_transaction(&self, txid: &TxId) -> Result<(Forgotten, Transaction)> {
        let refuse = |why: String| Err(LedgerError::Refused(why));
        let Some(logged) = self.transaction(txid)? else { return refuse(format!("there is no transaction {txid}")) };
        let (Some(index), Some(block)) = (logged.index, logged.block) else {
            return refuse("it is still pending: only what is final is erased".into());
        };
        let Some(transaction) = logged.transaction else { return refuse("it is erased already".into()) };
        Ok((Forgotten { index, block }, transaction))
    }

    /// What the transaction at `index` did to the map; empty when that cannot be known any more.
    fn updates_of(&self, index: u64) -> Result<Vec<crate::transaction::StateUpdate>> {
        let (mut updates, dir) = (Ok(None), self.dir.as_deref());
        let done = self.store.snapshot(&mut |read| updates = crate::fsck::updates_of(read, dir, index));
        self.read(done)?;
        Ok(updates.map_err(super::query::unmade)?.unwrap_or_default())
    }

    /// Refuses when an entry of the bucket, sealed or with what is pending, was stated by `txid`.
    fn refuse_current(&self, bucket: &BucketId, txid: &TxId) -> Result<()> {
        let is_open = self.bucket(bucket)?.is_some_and(|bucket| !bucket.record.closed);
        let prefix = row::entry_prefix(bucket);
        let views: [&dyn View; 2] = [&Current(self), &Sealed(&*self.store)];
        for view in views.into_iter().filter(|_| is_open) {
            let (mut current, mut damage) = (false, None);
            let scanned = view.scan(&prefix, &prefix, &mut |_, value| {
                match stored::<Entry>(value) {
                    Ok(entry) => {
                        // A directory that is only implied says nothing but that something was below it.
                        let says = !matches!(entry.node, EntryNode::Directory { mode: None, .. });
                        current = says && (entry.txid == *txid || entry.content_txid() == *txid);
                    }
                    Err(error) => damage = Some(error),
                }
                if current || damage.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            self.read(scanned.and_then(|()| damage.map_or(Ok(()), Err)))?;
            if current {
                let why = "it states what a path holds now: remove or replace that first, and seal";
                return Err(LedgerError::Refused(why.into()));
            }
        }
        Ok(())
    }
}
