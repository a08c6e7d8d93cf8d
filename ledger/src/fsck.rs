//! Rebuilds everything from genesis and compares: signatures, sequences, stamps, roots, previous hashes, the state and
//! everything derived. Read-only; names the first bad block and transaction.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::Path;

use crate::block::Genesis;
use crate::chain::{GENESIS, tip};
use crate::codec::{decode, decode_versioned};
use crate::hash::{Hash, TxId};
use crate::log::{TILE, read_tile};
use crate::state::{row, stored};
use crate::store::rocks::RocksStore;
use crate::store::{Column, Read, StoreError, scan_prefix};
use crate::transaction::StateUpdate;

mod derived;
mod rebuild;
mod repeats;
mod replay;
mod rows;
mod signatures;
#[cfg(test)]
mod tests;
mod trie;

pub use rebuild::{RebuildError, rebuild_dir};
pub(crate) use rows::sweep;

/// Problems after which a check stops telling more: one broken root breaks all that follow.
const MOST_PROBLEMS: usize = 100;

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Transactions checked.
    pub done: u64,
    /// Transactions there are, as far as known.
    pub total: u64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Height of the last block.
    pub height: u64,
    /// Transactions in the log.
    pub transactions: u64,
    /// How many of them are erased.
    pub erased: u64,
    /// What is wrong, the first place first; empty when nothing is.
    pub problems: Vec<Problem>,
    /// Whether the check was broken off.
    pub cancelled: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Height of the block it concerns.
    pub block: Option<u64>,
    /// Log index of the transaction it concerns.
    pub index: Option<u64>,
    /// What it is.
    pub problem: String,
    /// Whether it is in what follows from the chain, so that [`rebuild_dir`] cures it.
    pub derived: bool,
}

impl Report {
    /// The first problem, as the reason to take no more writes.
    pub(crate) fn verdict(&self) -> Option<String> {
        let first = self.problems.first()?;
        let place = first.block.map_or(String::new(), |block| format!("block {block}: "));
        Some(format!("{place}{}", first.problem))
    }

    pub(crate) fn add(&mut self, block: Option<u64>, index: Option<u64>, problem: impl Into<String>) {
        self.push(Problem { block, index, problem: problem.into(), derived: false });
    }

    /// Adds a problem of what follows from the chain.
    fn add_derived(&mut self, block: Option<u64>, index: Option<u64>, problem: impl Into<String>) {
        self.push(Problem { block, index, problem: problem.into(), derived: true });
    }

    pub(crate) fn push(&mut self, problem: Problem) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Notes a failed read; anything else is passed on.
    fn note<T>(&mut self, block: Option<u64>, index: Option<u64>, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(block, index, error.to_string());
                None
            }
        }
    }
}

impl Report {
    /// Notes a failed read of what follows from the chain; anything else is passed on.
    fn note_derived<T>(&mut self, block: Option<u64>, result: Result<T, StoreError>) -> Option<T> {
        result.map_err(|error| self.add_derived(block, None, error.to_string())).ok()
    }
}

/// Beside the store: what the last check found wrong. While it is there the ledger takes no writes.
const DAMAGE_FILE: &str = "damaged";

/// Remembers beside the ledger in `dir` what a check found, or that it found nothing; on the disk when this returns.
pub(crate) fn note_verdict(dir: &Path, report: &Report) -> std::io::Result<()> {
    let path = dir.join(DAMAGE_FILE);
    match report.verdict() {
        Some(reason) => {
            let mut file = File::create(path)?;
            file.write_all(reason.as_bytes())?;
            file.sync_all()?;
        }
        None if report.cancelled || !path.exists() => return Ok(()),
        None => std::fs::remove_file(path)?,
    }
    File::open(dir)?.sync_all()
}

/// What an earlier check found wrong with the ledger in `dir`.
pub(crate) fn noted_damage(dir: &Path) -> Option<String> {
    match std::fs::read(dir.join(DAMAGE_FILE)) {
        Ok(reason) => Some(String::from_utf8_lossy(&reason).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        // It is there, whatever it says.
        Err(error) => Some(format!("a check found damage, and what it was cannot be read: {error}")),
    }
}

/// Checks the ledger in `dir`, which no process may have open, without writing; works on one too damaged to open.
///
/// # Errors
/// There is none; or the check could not be made for want of space for what it writes down meanwhile.
pub fn fsck_dir(dir: &Path, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Report, StoreError> {
    if !RocksStore::exists(dir) && !dir.is_dir() {
        return Err(StoreError::Io(format!("no ledger in {}", dir.display())));
    }
    match RocksStore::open_read_only(dir) {
        Ok(read) => {
            let mut report = check(&read, Some(dir), progress)?;
            match tip::check_dir(dir) {
                Ok(problem) => problem.into_iter().for_each(|problem| report.push(problem)),
                // What keeps it from opening may have been told already.
                Err(error) if report.problems.is_empty() => report.add(None, None, error.to_string()),
                Err(_) => {}
            }
            Ok(report)
        }
        Err(error) => {
            let mut report = Report::default();
            report.add(None, None, format!("the store does not open: {error}"));
            Ok(report)
        }
    }
}

/// What a transaction did to the state map, found by replaying the chain up to it. None when that cannot be known any more,
/// because of an erased one before it.
///
/// # Errors
/// It could not be found out: the replay could not be made, or met damage.
pub(crate) fn updates_of(
    read: &dyn Read,
    dir: Option<&Path>,
    index: u64,
) -> Result<Option<Vec<StateUpdate>>, StoreError> {
    let genesis: Genesis = stored(&read.get(Column::Meta, GENESIS)?.unwrap_or_default())?;
    let mut report = Report::default();
    let mut run = replay::Run { read, genesis: &genesis, scratch: dir, wanted: Some(index) };
    let replayed = run.replay(&mut report, &mut |_| ControlFlow::Continue(()));
    if let Some(failure) = replayed.rows.failure() {
        return Err(failure);
    }
    let Some(effects) = replayed.wanted else {
        let unknown = || StoreError::Io(format!("what it did is not known: {}", report.verdict().unwrap_or_default()));
        return if replayed.fogged { Ok(None) } else { Err(unknown()) };
    };
    let updates = effects.into_iter().filter_map(|(row, value)| {
        let key = row::map_key(&row)?;
        Some(StateUpdate { key, value: value.map(|value| Hash::of(&[&value])) })
    });
    Ok(Some(updates.collect()))
}

/// Checks everything that `read` shows. What does not fit into memory is written down in `dir` meanwhile.
///
/// # Errors
/// What was written down failed, the disk being full for one: that is no finding about the ledger.
pub(crate) fn check(
    read: &dyn Read,
    dir: Option<&Path>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let genesis = report.note(None, None, read.get(Column::Meta, GENESIS)).flatten();
    let genesis: Genesis = match genesis.map(|bytes| decode_versioned(&bytes)) {
        Some(Ok(genesis)) => genesis,
        found => {
            let what = found.and_then(Result::err).map_or_else(|| "missing".to_owned(), |error| error.to_string());
            report.add(Some(0), None, format!("the genesis parameters are {what}"));
            return Ok(report);
        }
    };
    let replayed = replay::Run { read, genesis: &genesis, scratch: dir, wanted: None }.replay(&mut report, progress);
    if let Some(failure) = replayed.rows.failure() {
        return Err(failure);
    }
    // What goes with an end that was not reached cannot be judged.
    let complete = replayed.complete;
    if complete {
        derived::compare(read, &genesis, replayed, &mut report)?;
    }
    // Tables that nothing above looked into must be readable too: the next write may need them.
    if !complete || !report.problems.is_empty() {
        readable(read, &Column::ALL, &mut report);
    }
    // Signatures are judged beside the replay: put all in the order of the chain, what has no place last.
    report.problems.sort_by_key(|problem| (problem.block.unwrap_or(u64::MAX), problem.index.unwrap_or(u64::MAX)));
    Ok(report)
}

/// Whether all rows of these columns can be read, whatever they hold.
fn readable(read: &dyn Read, columns: &[Column], report: &mut Report) {
    for column in columns {
        if let Err(error) = every(read, *column, &mut |_, _| {}) {
            let problem = format!("the column {} cannot be read: {error}", column.name());
            report.push(Problem { block: None, index: None, problem, derived: column.is_derived() });
        }
    }
}

/// Key of the row of [`Column::Meta`] in which a rebuild keeps the leaf hash of the erased transaction at a log index while
/// the tiles are made anew, which alone have it.
fn kept_leaf(index: u64) -> Vec<u8> {
    [b"leaf", &index.to_be_bytes()[..]].concat()
}

/// The leaf hash of the erased transaction at `index`: from its tile, or as a rebuild that was broken off has kept it.
fn erased_leaf(read: &dyn Read, index: u64) -> Result<TxId, StoreError> {
    let lost = match read_tile(read, 0, index / TILE as u64, (index % TILE as u64) as usize + 1) {
        Ok(leaves) => return leaves.last().copied().ok_or_else(|| StoreError::Corrupt("an empty tile".into())),
        Err(error) => error,
    };
    let kept = read.get(Column::Meta, &kept_leaf(index))?;
    kept.and_then(|bytes| decode(&bytes).ok()).ok_or(lost)
}

/// Visits every row of a column.
fn every(read: &dyn Read, column: Column, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
    scan_prefix(read, column, b"", &mut |key, value| {
        visit(key, value);
        ControlFlow::Continue(())
    })
}
