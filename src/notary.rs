//! The notary turns what a bucket reports into signed transactions. It is the only place where file systems and the ledger
//! meet.

use std::sync::Arc;
use wizefs_fs::{BucketPath, Change, ChangeSink, Op, Row, RowVisitor, SinkError};
use wizefs_ledger::{BucketId, Draft, FileOp, Ledger, LedgerError, Space, Statement, TreePath, Wallet};

/// Takes the changes of one bucket.
pub struct Notary {
    ledger: Arc<Ledger>,
    wallet: Wallet,
    bucket: BucketId,
    /// Why the ledger can take no change of this bucket, when so.
    unknown: Option<&'static str>,
}

impl Notary {
    /// The notary of `bucket`, which signs with `wallet`.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn new(ledger: Arc<Ledger>, wallet: Wallet, bucket: BucketId) -> Result<Notary, LedgerError> {
        let unknown = match ledger.bucket(&bucket)? {
            None => Some("the ledger does not know this bucket: it is another root's, or older than the bucket"),
            Some(known) if known.record.closed => Some("the ledger says that this bucket was deleted"),
            Some(_) => None,
        };
        Ok(Notary { ledger, wallet, bucket, unknown })
    }

    /// Removes what a deleted bucket has noted: nobody asks for it any more, and it has the names of files.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn clear(ledger: &Ledger, bucket: &BucketId) -> Result<(), LedgerError> {
        ledger.clear_local(&bucket.0)
    }

    /// Refuses changes that the ledger would refuse one by one, and that would be nowhere then.
    fn check_known(&self) -> Result<(), SinkError> {
        self.unknown.map_or(Ok(()), |why| Err(SinkError::Broken(why.into())))
    }

    /// Rows of a bucket have its id before their keys; the number of the last change is in a row of its own.
    fn key(&self, tag: u8, key: &[u8]) -> Vec<u8> {
        [&self.bucket.0[..], &[tag], key].concat()
    }

    fn draft(&self, change: &Change) -> Result<Draft, SinkError> {
        let statement = Statement::File {
            bucket: self.bucket,
            change: change.number,
            cause: cause(change.cause),
            op: file_op(&change.op)?,
        };
        Ok(Draft { time_us: change.time_us, statement })
    }

    fn rows(&self, last: Option<u64>, rows: &[Row]) -> Vec<wizefs_ledger::Row> {
        let own = rows.iter().map(|row| (self.key(b'r', &row.key), row.value.clone()));
        let last = last.map(|last| (self.key(b'#', &[]), Some(last.to_be_bytes().to_vec())));
        own.chain(last).collect()
    }

    /// A change that can never be true means that table and ledger have come apart, which is a defect. The others are
    /// not lost with it, and `verify` will name what it left different.
    fn submit_singly(&self, changes: &[Change], rows: &[Row]) -> Result<(), SinkError> {
        for change in changes {
            match self.ledger.submit(&self.wallet, vec![self.draft(change)?], &self.rows(Some(change.number), &[])) {
                Ok(_) => {}
                Err(LedgerError::Refused(why)) => {
                    tracing::error!(change = change.number, op = ?change.op, %why, "the ledger refuses a change");
                }
                Err(error) => return Err(trouble(error)),
            }
        }
        let last = changes.last().map(|change| change.number);
        self.ledger.submit(&self.wallet, Vec::new(), &self.rows(last, rows)).map_err(trouble)?;
        Ok(())
    }
}

impl ChangeSink for Notary {
    fn last_number(&self) -> Result<u64, SinkError> {
        let row = self.ledger.local(&self.key(b'#', &[])).map_err(trouble)?;
        let Some(bytes) = row else { return Ok(0) };
        let number = <[u8; 8]>::try_from(bytes.as_slice());
        number.map(u64::from_be_bytes).map_err(|_| SinkError::Broken("the number of the last change is damaged".into()))
    }

    fn admits(&self) -> Result<(), SinkError> {
        self.check_known()?;
        if let Some(why) = self.ledger.poisoned() {
            return Err(SinkError::Broken(why));
        }
        match self.ledger.space() {
            Space::Ample => Ok(()),
            Space::Reserve | Space::Full => Err(SinkError::NoSpace("the disk is full".into())),
        }
    }

    fn submit(&self, changes: &[Change], rows: &[Row]) -> Result<(), SinkError> {
        if !changes.is_empty() {
            self.check_known()?;
        }
        let drafts = changes.iter().map(|change| self.draft(change)).collect::<Result<Vec<_>, _>>()?;
        let last = changes.last().map(|change| change.number);
        match self.ledger.submit(&self.wallet, drafts, &self.rows(last, rows)) {
            Ok(_) => Ok(()),
            Err(LedgerError::Refused(why)) => {
                tracing::warn!(%why, "a batch is refused; its changes are submitted one by one");
                self.submit_singly(changes, rows)
            }
            Err(error) => Err(trouble(error)),
        }
    }

    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SinkError> {
        self.ledger.local(&self.key(b'r', key)).map_err(trouble)
    }

    fn rows(&self, prefix: &[u8], visit: RowVisitor<'_>) -> Result<(), SinkError> {
        let head = self.key(b'r', &[]).len();
        let prefix = self.key(b'r', prefix);
        self.ledger.local_scan(&prefix, &mut |key, value| visit(&key[head..], value)).map_err(trouble)
    }

    fn unsealed(&self, visit: &mut dyn FnMut(&BucketPath)) -> Result<(), SinkError> {
        for (_, _, transaction) in self.ledger.pending_from(self.ledger.pending().first) {
            let Some(file) = transaction.file().filter(|file| file.bucket == self.bucket) else { continue };
            let (path, other) = file.op.paths();
            for path in [Some(path), other].into_iter().flatten() {
                if let Ok(path) = BucketPath::new(path.as_bytes()) {
                    visit(&path);
                }
            }
        }
        Ok(())
    }
}

fn trouble(error: LedgerError) -> SinkError {
    match error {
        LedgerError::Full => SinkError::NoSpace(error.to_string()),
        LedgerError::Poisoned(_) | LedgerError::Store(_) | LedgerError::Refused(_) | LedgerError::Spent(_) => {
            SinkError::Broken(error.to_string())
        }
    }
}

fn tree_path(path: &BucketPath) -> Result<TreePath, SinkError> {
    TreePath::new(path.as_bytes()).map_err(|e| SinkError::Broken(format!("{path}: {e}")))
}

fn file_op(op: &Op) -> Result<FileOp, SinkError> {
    Ok(match op {
        Op::Put(new) => FileOp::Put(put(new)?),
        Op::Accept(new) => FileOp::Accept(put(new)?),
        Op::Remove { path } => FileOp::Remove { path: tree_path(path)? },
        Op::Rename { from, to } => FileOp::Rename { from: tree_path(from)?, to: tree_path(to)? },
        Op::Exchange { a, b } => FileOp::Exchange { a: tree_path(a)?, b: tree_path(b)? },
        Op::Mkdir { path, mode } => FileOp::Mkdir { path: tree_path(path)?, mode: *mode },
        Op::Rmdir { path } => FileOp::Rmdir { path: tree_path(path)? },
    })
}

fn put(put: &wizefs_fs::Put) -> Result<wizefs_ledger::Put, SinkError> {
    Ok(wizefs_ledger::Put {
        path: tree_path(&put.path)?,
        content: match &put.content {
            wizefs_fs::Content::File { size, hashes } => wizefs_ledger::Content::File {
                size: *size,
                hashes: hashes.map(|h| wizefs_ledger::Hashes { blake3: h.blake3, sha256: h.sha256 }),
            },
            wizefs_fs::Content::Symlink { target } => wizefs_ledger::Content::Symlink { target: target.clone() },
        },
        mode: put.mode,
        uid: put.uid,
        gid: put.gid,
        mtime_ns: put.mtime_ns,
        evidence: match put.evidence {
            wizefs_fs::Evidence::Lease => wizefs_ledger::Evidence::Lease,
            wizefs_fs::Evidence::Stat => wizefs_ledger::Evidence::Stat,
            wizefs_fs::Evidence::OpenWriters => wizefs_ledger::Evidence::OpenWriters,
        },
    })
}

fn cause(cause: wizefs_fs::Cause) -> wizefs_ledger::Cause {
    match cause {
        wizefs_fs::Cause::Mount => wizefs_ledger::Cause::Mount,
        wizefs_fs::Cause::Put => wizefs_ledger::Cause::Put,
        wizefs_fs::Cause::Import => wizefs_ledger::Cause::Import,
        wizefs_fs::Cause::Recovered => wizefs_ledger::Cause::Recovered,
        wizefs_fs::Cause::Foreign => wizefs_ledger::Cause::Foreign,
    }
}
