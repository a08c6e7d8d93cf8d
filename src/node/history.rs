//! The log of transactions and the check of the chain.

use super::described::bucket_id;
use super::{Node, files::tree_path, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::notary::Notary;
use crate::rest::stream::Lines;
use crate::rest::{logged, wire};
use crate::wallets;
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;
use wizefs_fs::BucketPath;
use wizefs_ledger::{BucketId, History, LedgerError, Logged, Order, Report};

/// How long a follower waits for a block before it looks whether its reader is still there.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(1);

/// What of the log is wanted.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
pub struct LogQuery {
    /// At most so many, the newest.
    pub n: Option<usize>,
    /// Oldest first, and go on with those to come.
    pub follow: bool,
    /// Oldest first, only final ones, from this position in the log.
    pub from: Option<u64>,
}

impl Node {
    /// Write the transactions of the whole chain, a bucket, or a path (through renames) to `lines`: newest first, pending
    /// ones included; or with `from` the final ones from there, oldest first; or with `follow` those and the ones to come, until the
    /// reader goes away.
    ///
    /// # Errors
    /// [`crate::error::Kind::BucketUnknown`]; the ledger cannot be read.
    pub fn log(&self, scope: Option<(&BucketName, &BucketPath)>, query: LogQuery, lines: &mut Lines) -> Result<()> {
        let history = self.history_of(scope)?;
        let mut names = Names::default();
        if query.follow || query.from.is_some() {
            return self.follow(&history, query, &mut names, lines);
        }
        let from = if self.may_show_pending()? { None } else { self.ledger.size().checked_sub(1) };
        self.tell(&history, Order::NewestFirst, from, query.n, lines, &mut |logged, lines| {
            Ok(lines.line(&names.line(self, &logged)?))
        })
    }

    /// Put what is pending on the disk: nothing that a power cut could take back is shown. False when the ledger takes no writes
    /// and is only read: what is final may be shown then.
    pub(super) fn may_show_pending(&self) -> Result<bool> {
        match self.ledger.sync() {
            Ok(()) => Ok(true),
            Err(LedgerError::Poisoned(_) | LedgerError::Full) => Ok(false),
            Err(error) => Err(trouble::ledger(error)),
        }
    }

    fn follow(&self, history: &History, query: LogQuery, names: &mut Names, lines: &mut Lines) -> Result<()> {
        let from = query.from.unwrap_or(0);
        let mut next = from;
        if query.n.is_some() {
            next = self.ledger.size();
            self.tell(history, Order::NewestFirst, next.checked_sub(1), query.n, lines, &mut |logged, lines| {
                next = logged.index.unwrap_or(next);
                Ok(lines.are_read())
            })?;
            next = next.max(from);
        }
        let mut blocks = 0;
        loop {
            self.tell(history, Order::OldestFirst, Some(next), None, lines, &mut |logged, lines| {
                // Those that are pending come after all that are not.
                let Some(index) = logged.index else { return Ok(ControlFlow::Break(())) };
                next = index + 1;
                Ok(lines.line(&names.line(self, &logged)?))
            })?;
            if lines.flush().is_break() || self.is_stopping() || !query.follow {
                return Ok(());
            }
            blocks = self.sealer.wait_for_block(blocks, FOLLOW_PATIENCE);
        }
    }

    /// Tell of at most `n` transactions of a history, until `each` breaks, the reader is gone or the node ends.
    fn tell(
        &self,
        history: &History,
        order: Order,
        from: Option<u64>,
        n: Option<usize>,
        lines: &mut Lines,
        each: &mut dyn FnMut(Logged, &mut Lines) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (mut left, mut done) = (n.unwrap_or(usize::MAX), Ok(()));
        if left == 0 {
            return Ok(());
        }
        let visited = self.ledger.visit_history(history, order, from, &mut |logged| {
            self.unless_stopping()?;
            let Some(logged) = logged else { return lines.are_read() };
            left -= 1;
            match each(logged, lines) {
                Ok(ControlFlow::Continue(())) if left > 0 => ControlFlow::Continue(()),
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    done = Err(error);
                    ControlFlow::Break(())
                }
            }
        });
        visited.map_err(trouble::ledger)?;
        done
    }

    /// Erase what a transaction says, or with `dry_run` only find out whether that can be done.
    ///
    /// # Errors
    /// [`Kind::Refused`] for one that is unknown, pending, current or not about a file.
    pub fn forget(&self, txid: &str, dry_run: bool) -> Result<wire::Forgotten> {
        let txid: wizefs_ledger::Hash = txid.parse().map_err(|_| {
            Error::new(Kind::Usage, "a transaction is named by 64 hexadecimal digits")
                .hint("wizefs log --json has them")
        })?;
        let mut gone = self.ledger.may_forget(&txid).map_err(trouble::ledger)?;
        if !dry_run {
            let known = self.ledger.bucket(&gone.bucket).map_err(trouble::ledger)?;
            if known.is_some_and(|known| known.record.closed) {
                // What was left when it was deleted, before the files that hold it are written anew.
                Notary::clear(&self.ledger, &gone.bucket).map_err(trouble::ledger)?;
            }
            gone = self.ledger.forget(&txid).map_err(trouble::ledger)?;
        }
        let wizefs_ledger::Forgotten { index, block, bucket } = gone;
        if !dry_run && let Err(error) = self.erase_ended_intents(&bucket) {
            tracing::warn!(%error, "the notes of its bucket may still have the names of what is erased");
        }
        Ok(wire::Forgotten { v: wire::V, txid: txid.to_string(), index, block, dry_run })
    }

    /// What a bucket noted before its changes has their names; of one that is not open, opening it takes away what has ended.
    fn erase_ended_intents(&self, id: &BucketId) -> Result<()> {
        let Some(known) = self.ledger.bucket(id).map_err(trouble::ledger)?.filter(|known| !known.record.closed) else {
            return Ok(());
        };
        let bucket = self.bucket(&BucketName::new(known.record.name.as_str())?)?;
        let fs = bucket.fs()?;
        fs.erase_ended_intents().map_err(trouble::fs)
    }

    /// A block, by height or hash; the newest without.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such block; the ledger cannot be read.
    pub fn block(&self, which: Option<&str>) -> Result<wire::Block> {
        let found = match which.map(|text| (text.parse::<u64>(), text.parse::<wizefs_ledger::Hash>())) {
            None => Ok(Some(self.ledger.tip())),
            Some((_, Ok(hash))) => self.ledger.block_by_hash(&hash),
            Some((Ok(height), _)) => self.ledger.block(height),
            Some(_) => return Err(Error::new(Kind::Usage, "a block is named by its height or its hash")),
        };
        let missing = || {
            let text = format!("there is no block {}", which.unwrap_or_default());
            Error::new(Kind::NotFound, text).hint("wizefs status tells the height of the newest")
        };
        let block = found.map_err(trouble::ledger)?.ok_or_else(missing)?;
        let (header, mut names) = (&block.header, Names::default());
        let mut transactions = Vec::with_capacity(header.count as usize);
        for index in header.first_index..header.log_size {
            if let Some(logged) = self.ledger.transaction_at(index).map_err(trouble::ledger)? {
                transactions.push(names.line(self, &logged)?);
            }
        }
        Ok(wire::Block {
            v: wire::V,
            height: header.height,
            hash: block.hash().to_string(),
            previous: header.previous.to_string(),
            time: wire::time(i64::try_from(header.time_us).unwrap_or(i64::MAX)),
            sealer: header.sealer.address().to_string(),
            first_index: header.first_index,
            count: header.count,
            log_root: header.log_root.to_string(),
            state_root: header.state_root.to_string(),
            stamp_bits: header.stamp_bits,
            nonce: header.nonce,
            transactions,
        })
    }

    fn history_of(&self, scope: Option<(&BucketName, &BucketPath)>) -> Result<History> {
        let Some((name, path)) = scope else { return Ok(History::All) };
        // Opened, so that what a killed node left is told too; the ledger knows all else without it.
        let opened = self.bucket(name).map(|bucket| bucket.id);
        let id = opened.or_else(|_| bucket_id(&self.conf(name)?))?;
        Ok(if path.is_root() { History::Bucket(id) } else { History::Path(id, tree_path(path)?) })
    }

    /// Check the chain from genesis. `each` hears how far it is.
    ///
    /// # Errors
    /// The check itself could not be made; what it finds is in the reply.
    pub fn integrity(&self, each: &mut dyn FnMut(wire::Replayed) -> ControlFlow<()>) -> Result<wire::Integrity> {
        let report = self.ledger.fsck(&mut |progress| {
            each(replayed(progress))?;
            self.unless_stopping()
        });
        Ok(integrity_of(report.map_err(trouble::ledger)?))
    }

    fn unless_stopping(&self) -> ControlFlow<()> {
        if self.is_stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn replayed(progress: wizefs_ledger::Progress) -> wire::Replayed {
    wire::Replayed { done: progress.done, total: progress.total }
}

/// Check the ledger in `folder`, which nobody has open; works on one that no longer opens. `each` hears how far it is.
///
/// # Errors
/// It is in use, or there is none.
pub fn integrity_of_folder(folder: &Path, each: &mut dyn FnMut(wire::Replayed)) -> Result<wire::Integrity> {
    let report = wizefs_ledger::fsck_dir(folder, &mut |progress| {
        each(replayed(progress));
        ControlFlow::Continue(())
    });
    report.map(integrity_of).map_err(|e| trouble::store(folder, e))
}

/// Make anew what follows from the chain in `folder`, which nobody has open, and check it. `each` hears how far it is.
///
/// # Errors
/// [`Kind::LedgerDamaged`] when what is damaged does not follow from the chain; the folder cannot be written.
pub fn rebuild_folder(folder: &Path, each: &mut dyn FnMut(wire::Replayed)) -> Result<wire::Integrity> {
    let report = wizefs_ledger::rebuild_dir(folder, &mut |progress| {
        each(replayed(progress));
        ControlFlow::Continue(())
    });
    report.map(integrity_of).map_err(|error| match error {
        wizefs_ledger::RebuildError::Store(error) => trouble::store(folder, error),
        damaged => Error::new(Kind::LedgerDamaged, format!("nothing is rebuilt: {damaged}"))
            .hint("restore the folder ledger from a copy"),
    })
}

fn integrity_of(report: Report) -> wire::Integrity {
    let ok = report.problems.is_empty() && !report.cancelled;
    let problems = report.problems.into_iter();
    wire::Integrity {
        v: wire::V,
        ok,
        height: report.height,
        transactions: report.transactions,
        erased: report.erased,
        problems: problems.map(problem_of).collect(),
        exit: if ok { 0 } else { crate::error::Kind::Damaged.exit() },
    }
}

fn problem_of(problem: wizefs_ledger::Problem) -> wire::Problem {
    let wizefs_ledger::Problem { block, index, problem, derived } = problem;
    wire::Problem { block, index, problem, derived }
}

/// Names of buckets, looked up once per reply.
#[derive(Default)]
pub(super) struct Names(HashMap<BucketId, Option<String>>);

impl Names {
    pub(super) fn line(&mut self, node: &Node, logged: &Logged) -> Result<wire::LogLine> {
        let bucket = match logged::bucket_id(logged) {
            Some(id) => self.name(node, id)?,
            None => None,
        };
        let mut line = logged::line(logged, bucket);
        let own = node.wallet.address().to_string();
        line.wallet = (line.author.as_deref() == Some(own.as_str())).then(|| wallets::DEFAULT.to_owned());
        Ok(line)
    }

    fn name(&mut self, node: &Node, id: BucketId) -> Result<Option<String>> {
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let bucket = node.ledger.bucket(&id).map_err(trouble::ledger)?;
        let name = bucket.map(|bucket| bucket.record.name.to_string());
        self.0.insert(id, name.clone());
        Ok(name)
    }
}
