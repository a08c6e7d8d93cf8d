//! Accepting: from drafts to signed pending transactions, in one write.

use std::num::NonZero;
use std::thread;

use super::*;
use crate::mempool::{Draft, Statement};
use crate::state::{Look, Memo, Overlay};
use crate::store::{Batch, Durability};
use crate::transaction::{Authored, Body, Envelope, FileBody, Version};
use crate::wallet::Signature;

/// From how many items on a second thread pays for its start.
const WORTH_A_THREAD: usize = 16;

/// Private rows removed in one write.
const CLEARED: usize = 4_096;

/// Maps items on all processors, keeping their order.
pub(crate) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    if items.len() < WORTH_A_THREAD || threads == 1 {
        return items.iter().map(work).collect();
    }
    let work = &work;
    let parts = items.chunks(items.len().div_ceil(threads));
    thread::scope(|scope| {
        let running: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<R>>())).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<R>>| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().flat_map(join).collect()
    })
}

impl Ledger {
    /// Signs and accepts drafts, and writes private rows with them: all in one atomic write that is not synced, or none.
    /// Waits while the mempool is full. Returns the txids in order.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn submit(&self, author: &Wallet, drafts: Vec<Draft>, rows: &[Row]) -> Result<Vec<TxId>> {
        if drafts.is_empty() {
            return self.write_local(rows).map(|()| Vec::new());
        }
        self.revive()?;
        let _writer = self.wait_for_room()?;
        self.check_health()?;
        self.make_room()?;
        let accepted = self.prepare(author, drafts)?;
        let first = self.live.lock().mempool.span().next;
        let mut batch = local_batch(rows);
        for (number, waiting) in (first..).zip(&accepted) {
            batch.put(Column::Mempool, number.to_be_bytes(), waiting.bytes.clone());
        }
        self.store.write(batch, Durability::Buffered).map_err(|error| self.failed(error))?;
        let txids = accepted.iter().map(|waiting| waiting.txid).collect();
        let mut live = self.live.lock();
        accepted.into_iter().for_each(|waiting| live.mempool.push(waiting));
        self.revised();
        self.arrived.notify_all();
        Ok(txids)
    }

    /// The writer's lock, once the mempool has room. Not waited for with the lock held: whoever makes room may need it.
    pub(super) fn wait_for_room(&self) -> Result<parking_lot::MutexGuard<'_, ()>> {
        let is_full = |live: &mut Live| live.trouble().is_none() && live.mempool.span().count() >= self.mempool_limit;
        loop {
            self.room.wait_while(&mut self.live.lock(), is_full);
            let writer = self.writer.lock();
            if !is_full(&mut self.live.lock()) {
                return Ok(writer);
            }
        }
    }

    /// Completes, signs and applies drafts. Signing needs `prior`, and `prior` may name a transaction of the same batch
    /// that is not signed yet; so all are signed as if they did not touch one another, on all processors, and the few
    /// that turn out to are signed again.
    fn prepare(&self, author: &Wallet, drafts: Vec<Draft>) -> Result<Vec<Waiting>> {
        // The caller is the only one who accepts; a seal moves rows, and changes none.
        let current = Current(self);
        let current = Memo::new(&current);
        let look = Look(&current);
        let first = look.sequence(author.public()).map_err(|error| self.unread(error))?;
        let mut guesses = Vec::with_capacity(drafts.len());
        for (sequence, draft) in (first..).zip(drafts) {
            let transaction = self.complete(author, sequence, draft)?;
            guesses.push(self.with_priors(&look, transaction)?);
        }
        let signed = in_parallel(&guesses, |guess| {
            let mut transaction = guess.clone();
            let bytes = transaction.sign(author);
            (transaction, bytes)
        });
        let mut over = Overlay::new();
        let mut accepted = Vec::with_capacity(signed.len());
        for (number, (transaction, bytes)) in (0..).zip(signed) {
            let waiting = self.accept(&Layered { over: &over, base: &current }, author, transaction, bytes)?;
            over.extend(waiting.effects.iter().map(|(row, value)| (row.clone(), (value.clone(), number))));
            accepted.push(waiting);
        }
        Ok(accepted)
    }

    /// Applies one, completing and signing it again when another of its batch changed what it replaces.
    fn accept(&self, view: &dyn View, author: &Wallet, transaction: Transaction, bytes: Vec<u8>) -> Result<Waiting> {
        let txid = Transaction::id(&bytes);
        match apply(view, txid, &transaction) {
            Ok(effects) => Ok(Waiting::new(txid, &transaction, bytes, effects)),
            Err(ApplyError::Store(error)) => Err(self.unread(error)),
            Err(error @ (ApplyError::Refused(_) | ApplyError::Spent(_))) => {
                Err(LedgerError::Refused(error.to_string()))
            }
            Err(ApplyError::Prior) => {
                let mut transaction = self.with_priors(&Look(view), transaction)?;
                let bytes = transaction.sign(author);
                let txid = Transaction::id(&bytes);
                match apply(view, txid, &transaction) {
                    Ok(effects) => Ok(Waiting::new(txid, &transaction, bytes, effects)),
                    Err(ApplyError::Store(error)) => Err(self.unread(error)),
                    Err(other) => Err(LedgerError::Refused(other.to_string())),
                }
            }
        }
    }

    /// A transaction lacking only `prior`, `source` and its signature.
    fn complete(&self, author: &Wallet, sequence: u64, draft: Draft) -> Result<Transaction> {
        let body = match draft.statement {
            Statement::CreateBucket { name, kind } => Body::CreateBucket { name, kind },
            Statement::DeleteBucket { bucket } => Body::DeleteBucket { bucket },
            Statement::File { bucket, change, cause, op } => {
                let body = FileBody { bucket, change, cause, prior: None, source: None, op };
                body.check_shape().map_err(|what| LedgerError::Refused(what.into()))?;
                Body::File(body)
            }
        };
        let salt = random().map_err(|error| LedgerError::Store(StoreError::Io(error.to_string())))?;
        let signature = Signature::UNSIGNED;
        let authored = Authored { author: *author.public(), sequence, time_us: draft.time_us, salt, body, signature };
        Ok(Transaction { version: Version::V1, chain: self.chain, envelope: Envelope::Authored(authored) })
    }

    fn with_priors(&self, look: &Look<'_>, mut transaction: Transaction) -> Result<Transaction> {
        if let Envelope::Authored(Authored { body: Body::File(file), .. }) = &mut transaction.envelope {
            let priors = look.priors(&file.bucket, &file.op);
            (file.prior, file.source) = priors.map_err(|error| self.unread(error))?;
        }
        Ok(transaction)
    }

    /// Writes private rows, unsynced, without a transaction.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn write_local(&self, rows: &[Row]) -> Result<()> {
        self.revive()?;
        self.check_health()?;
        self.make_room()?;
        self.store.write(local_batch(rows), Durability::Buffered).map_err(|error| self.failed(error))
    }

    /// Removes the private rows whose keys start with `prefix`, unsynced and not all at once.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn clear_local(&self, prefix: &[u8]) -> Result<()> {
        let mut from = prefix.to_vec();
        loop {
            let mut rows: Vec<Row> = Vec::new();
            self.read(self.store.scan(Column::Local, &from, Direction::Forward, &mut |key, _| {
                if !key.starts_with(prefix) || rows.len() == CLEARED {
                    return ControlFlow::Break(());
                }
                rows.push((key.to_vec(), None));
                ControlFlow::Continue(())
            }))?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [&last[..], b"\0"].concat();
            self.write_local(&rows)?;
        }
    }

    /// Drops the pending statements from number `from` on and writes `rows` with that, durably. Their sequence and
    /// pending numbers are used again, which is safe as long as nobody was shown them. Transfers among them stay: what
    /// they say does not depend on files, and their authors may have been told.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn truncate_pending(&self, from: u64, rows: &[Row]) -> Result<()> {
        self.revive()?;
        let _writer = self.writer.lock();
        let _sealer = self.sealer.lock();
        self.check_health()?;
        let mut batch = local_batch(rows);
        let (mut next, dropped) = {
            let live = self.live.lock();
            (from.max(live.mempool.span().first), live.mempool.range(from, u64::MAX))
        };
        for (number, waiting) in dropped {
            batch.delete(Column::Mempool, number.to_be_bytes());
            if matches!(waiting.transaction().envelope, Envelope::Transfer(_)) {
                // It moves up, in the same write: there is no moment at which it is nowhere.
                batch.put(Column::Mempool, next.to_be_bytes(), waiting.bytes.clone());
                next += 1;
            }
        }
        self.store.write(batch, Durability::Synced).map_err(|error| self.failed(error))?;
        let live = open::load(&*self.store, &self.genesis).map_err(|error| self.failed(error))?;
        *self.live.lock() = live;
        self.revised();
        self.room.notify_all();
        Ok(())
    }

    /// Puts every accepted transaction and private row on the disk. Must come before a pending one is shown to anybody.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn sync(&self) -> Result<()> {
        self.revive()?;
        self.check_health()?;
        self.store.sync().map_err(|error| self.failed(error))
    }
}

fn local_batch(rows: &[Row]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in rows {
        match value {
            Some(value) => batch.put(Column::Local, key.clone(), value.clone()),
            None => batch.delete(Column::Local, key.clone()),
        }
    }
    batch
}
