//! A [`ChangeSink`] in memory: for tests and examples that need no ledger.

use crate::change::{Change, ChangeSink, Row, RowVisitor, SinkError};
use crate::path::BucketPath;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;

/// Keeps everything it is given.
#[derive(Debug, Default)]
pub struct MemorySink {
    kept: Mutex<Kept>,
    released: Condvar,
}

#[derive(Debug, Default, Clone)]
struct Kept {
    changes: Vec<Change>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    problem: Option<SinkError>,
    held_back: bool,
    /// Changes that are sealed.
    sealed: usize,
    /// What outlasts a power cut.
    lasting: Option<Box<Kept>>,
}

impl Kept {
    /// All of it is on the disk.
    fn last(&mut self) {
        self.lasting = None;
        self.lasting = Some(Box::new(self.clone()));
    }
}

impl MemorySink {
    /// The changes taken so far, oldest first.
    pub fn changes(&self) -> Vec<Change> {
        self.kept.lock().changes.clone()
    }

    /// Refuse everything with `problem` from now on, or take it again.
    pub fn set_problem(&self, problem: Option<SinkError>) {
        self.kept.lock().problem = problem;
        self.released.notify_all();
    }

    /// Take nothing for the time being, as a slow ledger does, or go on.
    pub fn hold_back(&self, hold: bool) {
        self.kept.lock().held_back = hold;
        self.released.notify_all();
    }

    /// Seal what is here, as a block on the disk does; returns the last change's number.
    pub fn seal(&self) -> u64 {
        let mut kept = self.kept.lock();
        kept.sealed = kept.changes.len();
        kept.last();
        kept.changes.last().map_or(0, |change| change.number)
    }

    /// Another sink with what this one has now, as after a kill.
    pub fn after_kill(&self) -> Self {
        Self::with(self.kept.lock().clone())
    }

    /// Another sink as after a power cut, which may have lost what was not sealed. What is there then was on the disk.
    pub fn after_power_cut(&self, lost: bool) -> Self {
        let mut kept = self.kept.lock().clone();
        if lost {
            kept = kept.lasting.map_or_else(Kept::default, |lasting| *lasting);
        }
        kept.last();
        Self::with(kept)
    }

    fn with(mut kept: Kept) -> Self {
        (kept.problem, kept.held_back) = (None, false);
        Self { kept: Mutex::new(kept), released: Condvar::new() }
    }
}

impl ChangeSink for MemorySink {
    fn last_number(&self) -> Result<u64, SinkError> {
        Ok(self.kept.lock().changes.last().map_or(0, |change| change.number))
    }

    fn admits(&self) -> Result<(), SinkError> {
        self.kept.lock().problem.clone().map_or(Ok(()), Err)
    }

    fn submit(&self, changes: &[Change], rows: &[Row]) -> Result<(), SinkError> {
        let mut kept = self.kept.lock();
        while kept.held_back && kept.problem.is_none() {
            self.released.wait(&mut kept);
        }
        if let Some(problem) = &kept.problem {
            return Err(problem.clone());
        }
        let mut next = kept.changes.last().map_or(0, |change| change.number);
        for change in changes {
            next += 1;
            if change.number != next {
                return Err(SinkError::Broken(format!("change {} after {}", change.number, next - 1)));
            }
        }
        kept.changes.extend_from_slice(changes);
        for row in rows {
            match &row.value {
                Some(value) => kept.rows.insert(row.key.clone(), value.clone()),
                None => kept.rows.remove(&row.key),
            };
        }
        Ok(())
    }

    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SinkError> {
        Ok(self.kept.lock().rows.get(key).cloned())
    }

    fn rows(&self, prefix: &[u8], visit: RowVisitor<'_>) -> Result<(), SinkError> {
        let rows: Vec<_> = {
            let kept = self.kept.lock();
            let from = kept.rows.range(prefix.to_vec()..);
            from.take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        for (key, value) in rows {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn unsealed(&self, visit: &mut dyn FnMut(&BucketPath)) -> Result<(), SinkError> {
        let kept = self.kept.lock().clone();
        kept.changes[kept.sealed..].iter().flat_map(|change| change.op.paths()).for_each(visit);
        Ok(())
    }
}
