//! The state's rows as replayed: the newest in memory, the rest in a store of their own beside the ledger, so that a
//! check of a large ledger needs little memory. Where none can be made (a read-only disk), all are in memory.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hash::Hash;
use crate::state::{Layered, Overlay, Sealed, View, row};
use crate::store::rocks::RocksStore;
use crate::store::{Batch, Column, Direction, Durability, Read, Store, StoreError, Visitor};

/// Rows in memory before they are written down.
const HELD: usize = 8_192;
/// Rows read back at once.
const PAGE: usize = 1_024;
/// A row that is there: key, value.
type Stored = (Vec<u8>, Vec<u8>);
/// What the folders of such stores begin with.
const PREFIX: &str = "check-";
/// Tells the folders of one process apart.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Rows of the state as replayed.
#[derive(Default)]
pub(super) struct Rows {
    over: Overlay,
    base: Option<Scratch>,
    /// What was read from `base` or written to it lately, the absence of a row too.
    warm: RefCell<HashMap<Vec<u8>, Option<Vec<u8>>>>,
    /// Keys of the map that erased transactions wrote: what their rows hold is not known.
    fog: HashSet<Hash>,
    met_fog: Cell<bool>,
    /// The first failure of `base`.
    failure: RefCell<Option<StoreError>>,
}

/// A store that is gone when its user is.
struct Scratch {
    store: Option<RocksStore>,
    dir: PathBuf,
}

impl Scratch {
    fn make(beside: &Path) -> Result<Scratch, StoreError> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = beside.join(format!("{PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|error| StoreError::Io(error.to_string()))?;
        // Made first, so that it is taken away also when the store does not open.
        let mut scratch = Scratch { store: None, dir };
        scratch.store = Some(RocksStore::open_scratch(&scratch.dir)?);
        Ok(scratch)
    }

    fn store(&self) -> Result<&RocksStore, StoreError> {
        self.store.as_ref().ok_or_else(|| StoreError::Io("the scratch store is closed".into()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.store.take());
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot remove what a check wrote down");
        }
    }
}

/// Removes what checks left that were killed.
pub(crate) fn sweep(ledger: &Path) {
    let Ok(entries) = std::fs::read_dir(ledger) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())) {
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(%error, "cannot remove what a check left");
        }
    }
}

/// A view of nothing.
struct Nothing;

impl View for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: &mut Visitor<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Rows {
    /// None yet; written down in the ledger's folder when there is one and it can be written.
    pub(super) fn new(ledger: Option<&Path>) -> Rows {
        let base = ledger.and_then(|ledger| match Scratch::make(ledger) {
            Ok(scratch) => Some(scratch),
            Err(error) => {
                tracing::debug!(%error, "the check holds the whole state in memory");
                None
            }
        });
        Rows { base, ..Rows::default() }
    }

    /// Sets or removes a row.
    pub(super) fn set(&mut self, row: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        if !self.fog.is_empty()
            && let Some(key) = row::map_key(&row)
        {
            self.fog.remove(&key);
        }
        match (value, &self.base) {
            (None, None) => drop(self.over.remove(&row)),
            (value, _) => drop(self.over.insert(row, (value, 0))),
        }
        if self.over.len() >= HELD { self.write_down() } else { Ok(()) }
    }

    /// Notes that an erased transaction wrote the row with this key in the map.
    pub(super) fn hide(&mut self, key: Hash) {
        self.fog.insert(key);
    }

    /// Whether something unknown was asked for since the last call.
    pub(super) fn took_fog(&self) -> bool {
        self.met_fog.take()
    }

    /// Why the rows are not known any more: they could not be written down or read back. That says nothing of the ledger.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    /// Passes on what `base` answered, and remembers a failure.
    fn answered<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        answer.inspect_err(|error| {
            self.failure.borrow_mut().get_or_insert_with(|| error.clone());
        })
    }

    fn write_down(&mut self) -> Result<(), StoreError> {
        let Some(base) = &self.base else { return Ok(()) };
        let warm = self.warm.get_mut();
        warm.clear();
        let mut batch = Batch::default();
        for (row, (value, _)) in std::mem::take(&mut self.over) {
            match &value {
                Some(value) => batch.put(Column::State, row.clone(), value.clone()),
                None => batch.delete(Column::State, row.clone()),
            }
            warm.insert(row, value);
        }
        self.answered(base.store().and_then(|store| store.write(batch, Durability::Buffered)))
    }

    /// Compares with the rows of `read`, which are in order: the first that differs or is missing on either side.
    pub(super) fn first_difference(&mut self, read: &dyn Read) -> Result<Option<Vec<u8>>, StoreError> {
        self.write_down()?;
        let mut ours = Pages { rows: self, page: Vec::new().into_iter(), from: Vec::new(), done: false };
        let (mut differs, mut failed) = (None, None);
        read.scan(Column::State, b"", Direction::Forward, &mut |key, value| {
            match ours.next() {
                Ok(Some((row, expected))) if row == key && expected == value => return ControlFlow::Continue(()),
                // The smaller of the two is the one that the other side lacks.
                Ok(Some((row, _))) => differs = Some(row.min(key.to_vec())),
                Ok(None) => differs = Some(key.to_vec()),
                Err(error) => failed = Some(error),
            }
            ControlFlow::Break(())
        })?;
        match (failed, differs) {
            (Some(error), _) => Err(error),
            (None, Some(row)) => Ok(Some(row)),
            (None, None) => Ok(ours.next()?.map(|(row, _)| row)),
        }
    }

    fn page(&self, from: &[u8]) -> Result<Vec<Stored>, StoreError> {
        let mut page = Vec::new();
        self.every(b"", from, &mut |row, value| {
            page.push((row.to_vec(), value.to_vec()));
            if page.len() < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(page)
    }

    fn every(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        match &self.base {
            Some(base) => {
                let store = self.answered(base.store())?;
                self.answered(Layered { over: &self.over, base: &Sealed(store) }.scan(prefix, from, visit))
            }
            None => Layered { over: &self.over, base: &Nothing }.scan(prefix, from, visit),
        }
    }
}

/// All rows in order, a page at a time.
struct Pages<'a> {
    rows: &'a Rows,
    page: std::vec::IntoIter<Stored>,
    from: Vec<u8>,
    done: bool,
}

impl Pages<'_> {
    fn next(&mut self) -> Result<Option<Stored>, StoreError> {
        if self.page.len() == 0 && !self.done {
            let page = self.rows.page(&self.from)?;
            self.done = page.len() < PAGE;
            // The first key after the last one of this page.
            self.from = page.last().map_or_else(Vec::new, |(row, _)| [row, &b"\0"[..]].concat());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}

impl View for Rows {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.fog.is_empty() && row::map_key(row).is_some_and(|key| self.fog.contains(&key)) {
            self.met_fog.set(true);
            return Err(StoreError::Corrupt("what is there was stated by an erased transaction".into()));
        }
        match (self.over.get(row), &self.base) {
            (Some((value, _)), _) => Ok(value.clone()),
            (None, Some(base)) => {
                if let Some(value) = self.warm.borrow().get(row) {
                    return Ok(value.clone());
                }
                let value = self.answered(base.store().and_then(|store| store.get(Column::State, row)))?;
                let mut warm = self.warm.borrow_mut();
                if warm.len() >= 2 * HELD {
                    warm.clear();
                }
                warm.insert(row.to_vec(), value.clone());
                Ok(value)
            }
            (None, None) => Ok(None),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        if !self.fog.is_empty() {
            // One of the hidden rows may be among them.
            self.met_fog.set(true);
            return Err(StoreError::Corrupt("what is there may have been stated by an erased transaction".into()));
        }
        self.every(prefix, from, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Rows as StoredRows;
    use std::collections::BTreeMap;

    #[test]
    fn rows_on_disk_are_those_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, mut memory) = (Rows::new(Some(dir.path())), Rows::new(None));
        let mut expected = BTreeMap::new();
        for number in 0..(HELD as u32 * 3) {
            let row = (number.wrapping_mul(2_654_435_761) % 30_000).to_be_bytes().to_vec();
            let value = (number % 5 != 0).then(|| number.to_be_bytes().to_vec());
            disk.set(row.clone(), value.clone()).unwrap();
            memory.set(row.clone(), value.clone()).unwrap();
            match value {
                Some(value) => expected.insert(row, value),
                None => expected.remove(&row),
            };
        }
        assert!(disk.base.is_some() && disk.over.len() < HELD);
        for row in [0u32, 7, 29_999, 30_000].map(u32::to_be_bytes) {
            assert_eq!(disk.get(&row).unwrap().as_ref(), expected.get(&row[..]));
            assert_eq!(memory.get(&row).unwrap().as_ref(), expected.get(&row[..]));
        }
        let mut stored = StoredRows::default();
        let mut batch = Batch::default();
        expected.iter().for_each(|(row, value)| batch.put(Column::State, row.clone(), value.clone()));
        stored.apply(batch);
        for rows in [&mut disk, &mut memory] {
            assert_eq!(rows.first_difference(&stored).unwrap(), None);
            for row in
                [expected.keys().next().unwrap(), expected.keys().nth(1500).unwrap(), expected.keys().last().unwrap()]
            {
                let mut altered = stored.clone();
                altered.0.remove(&(Column::State, row.clone()));
                assert_eq!(rows.first_difference(&altered).unwrap().as_ref(), Some(row));
                altered.0.insert((Column::State, row.clone()), b"other".to_vec());
                assert_eq!(rows.first_difference(&altered).unwrap().as_ref(), Some(row));
            }
        }
        drop(disk);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
